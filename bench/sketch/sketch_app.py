# ruff: noqa
# mypy: ignore-errors
"""A worker around the sketch: chunked, state in memory, aligned, no SQL.

The measured sketch of the engine, cut down to the one mode that is compared and told by arguments instead of the
environment; what happens to an event is unchanged. `naive` (stock Faust) is in bench/peers/stock_faust.py.
"""

import mode.loop

mode.loop.use("uvloop")
import asyncio
import os
import sys
import time
import traceback

import faust
from bench.peers.job import FirstRecord, read_job
from bench.sketch import sketch as cf
from bench.sketch import sketch_logic as logic
from bench.sketch.sketch_state import ChunkTable, MemStore
from bench.sketch.sketch_logic import apply_events, new_state

CHUNK, QUEUE, DEPTH = 1000, 16, 4
job = read_job()
first = FirstRecord()
clicks, convs = job.clicks, job.conversions


class App_(cf.ChunkApp): ...


app = App_(
    id=job.group,
    broker="kafka://" + job.kafka,
    web_enabled=False,
    topic_disable_leader=True,
    datadir=job.folder,
    topic_partitions=job.partitions,
    topic_replication_factor=1,
    table_standby_replicas=0,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    broker_request_timeout=30.0,
    broker_rebalance_timeout=20.0,
    producer_linger=0.005,
    producer_compression_type="lz4",
    producer_request_timeout=30.0,
    consumer_max_fetch_size=1 << 20,
    processing_guarantee="at_least_once",
    store="memory://",
    stream_buffer_maxsize=QUEUE,
    broker_max_poll_records=CHUNK,
    broker_commit_interval=1.0,
    broker_commit_every=None,
    producer_max_batch_size=900_000,
    stream_wait_empty=True,
)
cf.ChunkConsumer.align = (clicks, convs)
ChunkTable.store_class = MemStore
app.conf.Table = ChunkTable
state_table = app.Table("st", partitions=job.partitions, key_type=bytes, value_type=bytes, recovery_buffer_size=4)
assert isinstance(state_table, ChunkTable), type(state_table)


def die(msg):
    sys.stderr.write("DIE " + msg + "\n")
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


class Engine:
    def __init__(self):
        self.sem = asyncio.Semaphore(DEPTH)
        self.tail = {}
        self.tick = time.monotonic()
        self.tickt = asyncio.ensure_future(self.ticker())
        state_table.fence = self.fence

    async def ticker(self):
        while True:
            self.fence()  # the ticker may be the first to run after SIGCONT
            self.tick = time.monotonic()
            await asyncio.sleep(0.1)

    def fence(self):
        gap = time.monotonic() - self.tick
        if gap > 6.0 * 0.5:
            die(f"zombie guard: loop was paused {gap:.1f}s")

    async def process(self, chunks, ev):
        chunk = ev.value
        p = chunk.tp.partition
        ti = 0 if chunk.tp.topic == clicks else 1
        await self.sem.acquire()
        try:
            if not first.is_told:
                first.tell()
            groups = {}
            for r in chunk.records:
                g = groups.get(r.key)
                if g is None:
                    groups[r.key] = [(r.offset, r.value)]
                else:
                    g.append((r.offset, r.value))
            load = state_table.data.get
            loads, dumps = logic.loads, logic.dumps
            changes = {}
            for key, evs in groups.items():
                raw = load(p, key)
                st = loads(raw) if raw is not None else new_state()
                apply_events(st, ti, evs)
                changes[key] = dumps(st)
            state_table.put_chunk(p, changes)
            futs = await state_table.send_chunk(p, changes)
            prev = self.tail.get(p)
            self.tail[p] = asyncio.ensure_future(self.finish(chunks, ev, p, changes, futs, prev))
        except Exception:
            die("process")

    async def finish(self, chunks, ev, p, changes, futs, prev):
        try:
            await state_table.barrier(p, changes, futs)
            if prev is not None:
                await prev
            await chunks.ack(ev)
        except BaseException:
            die("barrier")
        finally:
            self.sem.release()


@app.agent(app.topic(clicks, convs, schema=cf.ChunkSchema()))
async def proc(chunks):
    eng = Engine()
    async for ev in chunks.noack().events():
        if app.consumer.admit(ev.value):
            await eng.process(chunks, ev)
        else:
            app.consumer._unacked_messages.discard(ev.message)  # else the loop variable keeps it 'unacked'


if __name__ == "__main__":
    sys.argv[1:] = []
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False, daemon=True, quiet=True).execute_from_commandline()
