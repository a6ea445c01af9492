"""How far the workers are, seen from outside: the log's ends and what SQL says was stored, twice a second."""

import asyncio
import contextlib
import sqlite3
import time
from threading import Event, Thread
from typing import NamedTuple

import pymysql
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from tests.faults.installation import SOURCES, Installation
from tests.faults.matrix.flow import Flow

EVERY_SECONDS = 0.5
PATIENCE_SECONDS = 3


class Sample(NamedTuple):
    """`end`: records in both topics; `stored`: those of them whose effects are committed."""

    at: float
    end: int
    stored: int


class Watch:
    """A thread samples; what does not answer keeps its last number."""

    def __init__(self, installation: Installation, flow: Flow) -> None:
        self._installation = installation
        self._flow = flow
        self._is_over = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._sample_all()), daemon=True)
        self._end = self._stored = 0
        self.samples: list[Sample] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def progress(self) -> float:
        self._ask_sql()
        return self._stored / max(1, self._end + self._flow.unsent)

    def longest_lag(self) -> float:
        """Seconds: how long it took at most until all that was in the log at one moment was stored."""
        longest, ahead = 0.0, 0
        for sample in self.samples:
            while ahead < len(self.samples) - 1 and self.samples[ahead].stored < sample.end:
                ahead += 1
            longest = max(longest, self.samples[ahead].at - sample.at)
        return longest

    def seconds_to_catch_up(self, since: float) -> float | None:
        """From a moment until all that was in the log then was stored; None: not yet."""
        later = [sample for sample in self.samples if sample.at >= since]
        found = (sample.at for sample in later if sample.stored >= later[0].end)
        at = next(found, None)
        return None if at is None else at - since

    def _ask_sql(self) -> None:
        # Away, or not there yet: that is what some faults are for.
        with contextlib.suppress(pymysql.Error, sqlite3.Error):
            self._stored = sum(self._installation.stored_offsets().values())

    async def _sample_all(self) -> None:
        consumer: AIOKafkaConsumer | None = None
        while not self._is_over.is_set():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    consumer = consumer or await self._connected()
                    self._end = await self._ends(consumer)
            except (KafkaError, TimeoutError, OSError):
                await self._leave(consumer)
                consumer = None
            self._ask_sql()
            self.samples.append(Sample(time.monotonic(), self._end, self._stored))
            await asyncio.sleep(EVERY_SECONDS)
        await self._leave(consumer)

    async def _connected(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._installation.kafka)
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _ends(self, consumer: AIOKafkaConsumer) -> int:
        to = self._installation
        places = [TopicPartition(to.topic(name), number) for name in SOURCES for number in range(to.partitions)]
        return sum((await consumer.end_offsets(places)).values())

    @staticmethod
    async def _leave(consumer: AIOKafkaConsumer | None) -> None:
        if consumer is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await consumer.stop()
        except (KafkaError, TimeoutError, OSError):
            pass  # it is given up either way
