# ruff: noqa
# mypy: ignore-errors
"""Prototype: chunked delivery + batched changelog on Faust 0.15.3 (subclasses only, no monkeypatching).

The measured sketch of the engine, as it was, but for its RocksDB store, which no contestant uses; its state is in sketch_state.py.
"""

import asyncio, os, time, logging, sys
from collections import defaultdict
import faust
from faust import App
from faust.events import Event
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as drv
from faust.transport.drivers.aiokafka import ConsumerStoppedError
from faust.types import TP, ConsumerMessage

log = logging.getLogger("chunkfaust")


class Chunk:
    __slots__ = ("tp", "records", "start", "next", "gen")

    def __init__(self, tp, records, start, next, gen=0):
        self.tp, self.records, self.start, self.next, self.gen = tp, records, start, next, gen


class ChunkSchema(Schema):
    """No decode: event.value is the Chunk."""

    def compile(self, app, **kw):
        create = app.create_event

        async def decode(message, *, propagate=False):
            return create(None, message.value, None, message)

        return decode


class ChunkThread(drv.AIOKafkaConsumerThread):
    async def _fetch_records(self, consumer, active_partitions, timeout=None, max_records=None):
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError()
        sub = fetcher._subscriptions.subscription
        asg = sub.assignment if sub is not None else None
        before = {}
        if asg is not None:
            for tp in asg.tps:
                st = asg.state_value(tp)
                before[tp] = st._position if st is not None else None
        with fetcher._subscriptions.fetch_context():
            recs = await fetcher.fetched_records(active_partitions, timeout=timeout, max_records=max_records)
        out = {}
        # Stamp at RETURN: aiokafka hands out records of the current Assignment only, but a call that began before a
        # rebalance may return records read after it.  Never discard here: position has already moved.
        gen = self.app.consumer_generation_id
        asg2 = fetcher._subscriptions.subscription.assignment
        for tp, rs in recs.items():
            st = asg2.state_value(tp)
            nxt = st._position if st is not None else rs[-1].offset + 1
            start = before.get(tp)
            if start is None or asg2 is not asg:
                start = rs[0].offset
            t = TP(tp.topic, tp.partition)
            out[t] = Chunk(t, rs, start, nxt, gen)
        return out

    def at_end(self, tp):
        """True if all fetched data of tp was handed out and position is at the last known highwater."""
        c = self._consumer
        sub = c._fetcher._subscriptions.subscription
        if sub is None or sub.assignment is None:
            return False
        st = sub.assignment.state_value(tp)
        if st is None or st._position is None or st.highwater is None:
            return False
        return st._position >= st.highwater


class ChunkConsumer(drv.Consumer):
    align = None  # (leader_topic, follower_topic) for time alignment

    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        self.expected = {}  # tp -> next offset that must be delivered (continuity check)
        self.stats = defaultdict(int)
        self._lead_ts = {}  # partition -> max event time delivered of leader topic
        self._seeking = {}
        self.cl_expected = {}
        self._held = {}  # tp -> Chunk held back

    def _new_consumer_thread(self):
        return ChunkThread(self, loop=self.loop, beacon=self.beacon)

    # --- delivery -------------------------------------------------------
    def _msg(self, tp, chunk, gen):
        r = chunk.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            chunk.next - 1,
            r.timestamp / 1000.0,
            r.timestamp_type,
            None,
            None,
            chunk,
            None,
            0,
            0,
            tp,
            generation_id=chunk.gen,
        )

    async def getmany(self, timeout):
        if self._held:
            timeout = 0.1
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        # generation is stamped in the consumer thread at fetch time: sampling it before the wait above
        # would drop (and lose) the first changelog chunk after a rebalance
        gen = next(iter(records.values())).gen if records else self.app.consumer_generation_id
        if not self.flow_active or gen != self.app.consumer_generation_id:
            # flow stopped: a rebalance/stop is running and will seek to committed by itself
            self.stats["dropped_fetch"] += len(records)
            self._held.clear()
            return
        if self._held:
            for tp, held in list(self._held.items()):
                if tp in records:  # merge behind what is held
                    held.records.extend(records[tp].records)
                    held.next = records[tp].next
                    records[tp] = held
                else:
                    records[tp] = held
            self._held.clear()
        order = records
        al = self.align
        if al:
            order = sorted(records, key=lambda tp: tp.topic != al[0])
        for tp in order:
            chunk = records[tp]
            if not self.flow_active or gen != self.app.consumer_generation_id:
                self.stats["dropped_fetch"] += 1
                self._held.clear()
                break
            if tp.topic in self.app.topics.acking_topics:
                if al and tp.topic == al[1]:
                    chunk = self._eligible(tp, chunk)
                    if chunk is None:
                        continue
                if al and tp.topic == al[0]:
                    self._lead_ts[tp.partition] = max(self._lead_ts.get(tp.partition, 0), chunk.records[-1].timestamp)
            yield tp, self._msg(tp, chunk, gen)

    def _eligible(self, tp, chunk):
        """Time alignment: hand out only follower records not ahead of the leader's event time."""
        ltp = TP(self.align[0], tp.partition)
        if self._thread.at_end(ltp):
            return chunk
        lim = self._lead_ts.get(tp.partition, -1)
        rs = chunk.records
        if rs[-1].timestamp <= lim:
            return chunk
        n = 0
        while n < len(rs) and rs[n].timestamp <= lim:
            n += 1
        self.stats["held"] += 1
        if n == 0:
            self._held[tp] = chunk
            return None
        cut = rs[n].offset
        self._held[tp] = Chunk(tp, rs[n:], cut, chunk.next, chunk.gen)
        return Chunk(tp, rs[:n], chunk.start, cut, chunk.gen)

    def _get_active_partitions(self):
        act = super()._get_active_partitions()
        if self._held:
            # stop fetching a held follower once enough is buffered (back-pressure)
            big = {tp for tp, c in self._held.items() if len(c.records) > 4000}
            if big:
                return act - big
        return act

    # back-pressure is the blocking queue put, never the 1 s sleep of _wait_next_records
    def on_buffer_full(self, tp): ...
    def on_buffer_drop(self, tp): ...
    # --- offsets --------------------------------------------------------
    async def _add_gap(self, tp, offset_from, offset_to): ...
    def _new_offset(self, tp):
        acked = self._acked[tp]  # chunks are acked strictly in order per tp
        if not acked:
            return None
        top = max(acked) + 1
        acked.clear()
        self._acked_index[tp].clear()
        return top

    async def perform_seek(self):
        """Explicit position for EVERY source tp.  Faust/aiokafka only seek where committed > 0 (aiokafka
        consumer.py:901), so records read ahead before the first commit would silently be lost."""
        await super().perform_seek()
        self._held.clear()
        src = [tp for tp in self.assignment() if tp.topic in self.app.topics.acking_topics]
        none = [tp for tp in src if not self._committed_offset.get(tp)]
        pos = {tp: self._committed_offset[tp] for tp in src if tp not in none}
        if none:
            early = await self.earliest_offsets(*none)
            for tp in none:
                pos[tp] = early[tp] or 0
            # seek_wait runs in the consumer thread.  Consumer.seek() does NOT (drivers/aiokafka.py AIOKafkaConsumerThread.seek)
            # and loses a race with a fetch that is updating the position: the partition then stalls for ever.
            await self._thread.seek_wait({tp: pos[tp] for tp in none})
        self.expected.update(pos)

    async def _seek_back(self, tp, off):
        self._held.pop(tp, None)
        try:
            await self._thread.seek_wait({tp: off})
        except Exception as exc:  # unassigned meanwhile: the next rebalance seeks explicitly
            log.warning("seek back %r -> %s failed: %r", tp, off, exc)
            self._seeking.pop(tp, None)

    async def seek_wait(self, partitions):
        """Recovery seeks changelogs through here: remember where reading must start."""
        for tp, off in partitions.items():
            self.cl_expected[TP(tp.topic, tp.partition)] = off
        await super().seek_wait(partitions)

    def admit_changelog(self, chunk):
        exp = self.cl_expected.get(chunk.tp)
        if exp is None or chunk.start > exp + 1:  # +1: Faust re-reads and skips the last seen record
            sys.stderr.write(f"DIE changelog gap {chunk.tp} expected {exp} got {chunk.start}\n")
            sys.stderr.flush()
            os._exit(1)
        self.cl_expected[chunk.tp] = chunk.next

    def admit(self, chunk):
        """Called by the agent: True only if chunk continues exactly where processing of its tp stands."""
        tp = chunk.tp
        exp = self.expected.get(tp)
        if exp is not None and chunk.gen == self.app.consumer_generation_id:
            if chunk.start == exp:
                self.expected[tp] = chunk.next
                self._seeking.pop(tp, None)
                return True
            if chunk.start > exp:
                if self._seeking.get(tp) != (exp, chunk.gen):  # one seek per gap, not one per queued chunk
                    self._seeking[tp] = (exp, chunk.gen)
                    self.stats["gap"] += 1
                    log.error("CONTINUITY gap %r expected %s got %s: seek back", tp, exp, chunk.start)
                    asyncio.ensure_future(self._seek_back(tp, exp))
                return False
            self.stats["rewind"] += 1
            return False
        self.stats["early"] += 1
        return False

    # --- rebalance ------------------------------------------------------
    async def on_partitions_revoked(self, revoked):
        if revoked and not self.app.should_stop:
            self.stop_flow()
            self.app.flow_control.suspend()
            self.app.flow_control.clear()
            t0 = time.monotonic()
            while self._unacked_messages and time.monotonic() - t0 < self.app.conf.broker_session_timeout * 0.5:
                self._clean_unacked_messages()
                if not self._unacked_messages:
                    break
                await asyncio.sleep(0.005)
            src = {tp: o for tp, o in self.expected.items() if tp in revoked}
            left = len(self._unacked_messages)
            try:
                await asyncio.wait_for(self.commit(), 10)
                ok = True
                val = {tp: self._committed_offset[tp] for tp in src if self._committed_offset[tp]}
                if val:  # validates membership: fails if we were expelled from the group
                    ok = await asyncio.wait_for(self._commit(val), 10)
            except Exception as exc:
                log.exception("commit on revoke: %r", exc)
                ok = False
            if self._thread._consumer._coordinator.generation < 0:
                ok = False  # expelled: generation was reset
            log.warning(
                "REVOKE waited %.3fs unacked_left=%s membership_ok=%s gen=%s val=%s",
                time.monotonic() - t0,
                left,
                ok,
                getattr(self._thread._consumer._coordinator, "generation", None),
                {f"{t.topic[-5:]}{t.partition}": o for t, o in val.items()} if ok else None,
            )
            for t in self.app.tables.values():
                if hasattr(t, "on_revoked"):
                    t.on_revoked(clean=ok and not left)
        self.expected.clear()
        self._held.clear()
        await super().on_partitions_revoked(revoked)


class ChunkTransport(drv.Transport):
    Consumer = ChunkConsumer


class ChunkApp(App):
    def _new_transport(self):
        return ChunkTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self):
        return ChunkTransport(self.conf.broker_producer, self)
