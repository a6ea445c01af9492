"""The ceiling: a loop around aiokafka with orjson and a dict. No changelog, no alignment, nothing survives a crash."""

import asyncio
import signal
import time

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer

from bench.peers.job import FirstRecord, Job, read_job

KEPT_CLICKS, JOURNEY_CLICKS = 50, 25
COMMIT_SECONDS = 1.0

Clicks = list[tuple[int, int]]


async def read(job: Job) -> None:
    consumer = AIOKafkaConsumer(
        job.clicks,
        job.conversions,
        bootstrap_servers=job.kafka,
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await consumer.start()
    kept: dict[bytes, Clicks] = {}
    journeys: dict[int, list[int]] = {}
    first = FirstRecord()
    committed_at = time.monotonic()
    while not stopping.is_set():
        fetched = await consumer.getmany(timeout_ms=100)
        if fetched and not first.is_told:
            first.tell()
        for tp, records in fetched.items():
            for record in records:
                event = orjson.loads(record.value)
                clicks = kept.setdefault(record.key, [])
                if tp.topic == job.clicks:
                    clicks.append((event["click_time"], event["click_id"]))
                    del clicks[:-KEPT_CLICKS]
                else:
                    until = event["conv_time"]
                    newest = [click_id for at, click_id in clicks if at <= until]
                    journeys[event["conv_id"]] = newest[-JOURNEY_CLICKS:]
        if not fetched or time.monotonic() - committed_at > COMMIT_SECONDS:
            await consumer.commit()
            committed_at = time.monotonic()
    await consumer.stop()


if __name__ == "__main__":
    uvloop.run(read(read_job()))
