"""The consumer thread's half: whole fetches with the positions they span, instead of single records."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.transport.drivers.aiokafka import ConsumerStoppedError  # type: ignore[attr-defined]
from faust.types import TP

from stream.engine.chunk import SourceRecord
from stream.engine.header_names import read_any_header_name


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one topic partition for the offsets [start, next); some of these may hold no record."""

    tp: TP
    records: Sequence[SourceRecord]
    start: int
    next: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """What one round gave. `generation` is read when the records are handed out, in the consumer thread: a call that
    began before a rebalance may return records of after it."""

    generation: int
    parts: Sequence[Fetched]
    ends: Mapping[TP, bool]  # position has reached the last stable offset, as far as the last fetch knew
    answers_ms: Mapping[TP, int]  # when a broker last answered a fetch of it, unix milliseconds; 0: never


NOTHING_FETCHED = Fetch(-1, (), {}, {})


class ChunkThread(driver.AIOKafkaConsumerThread):
    """Fetches for `ChunkConsumer`. Touches private parts of aiokafka; tests/engine/test_private_parts.py pins them."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        read_any_header_name()
        consumer = super()._create_worker_consumer(transport)
        # Faust asks for read_uncommitted; records of aborted transactions are no events.
        consumer._isolation_level = "read_committed"
        # Faust asks the broker to wait 1.5 s; a topic's end is known no sooner than its fetch returns.
        consumer._fetch_max_wait_ms = 250
        return consumer

    async def on_thread_stop(self) -> None:
        """A rebalance under way is given up first.

        Its callbacks wait for the main loop and that for calls into this thread, which ends them as cancelled; aiokafka
        would pass that on to whoever stops it, and mode wait for this thread for ever.
        """
        if self._consumer is not None and self._consumer._coordinator is not None:
            coordination = self._consumer._coordinator._coordination_task
            coordination.cancel()
            await asyncio.wait([coordination])
        await super().on_thread_stop()

    async def _fetch_records(  # type: ignore[override]
        self, consumer: aiokafka.AIOKafkaConsumer, active_partitions: set[TP], timeout: float, max_records: int
    ) -> Fetch:
        if not self.consumer.flow_active:
            return NOTHING_FETCHED
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        before = self._positions(consumer)
        with fetcher._subscriptions.fetch_context():
            records = await fetcher.fetched_records(active_partitions, timeout=timeout, max_records=max_records)
        after = self._positions(consumer)
        parts = []
        for tp, position in after.items():
            fetched = records.get(tp, ())
            start = before.get(tp)
            if start is None or start > position or (fetched and fetched[0].offset < start):  # sought meanwhile
                start = fetched[0].offset if fetched else position
            if fetched or start != position:
                parts.append(Fetched(TP(tp.topic, tp.partition), fetched, start, position))
        return Fetch(self.app.consumer_generation_id, parts, self._ends(consumer), self._answers_ms(consumer))

    async def rest(self, seconds: float) -> None:
        """Fetch nothing for a while, and still count as one who polls.

        aiokafka leaves the group for good where nobody has fetched for `broker_max_poll_interval`: a worker that waits
        for partitions would never get any, and one that waits for the database would lose its own.
        """
        await self.call_thread(self._rest, self._ensure_consumer(), seconds)

    @staticmethod
    async def _rest(consumer: aiokafka.AIOKafkaConsumer, seconds: float) -> None:
        with consumer._fetcher._subscriptions.fetch_context():
            await asyncio.sleep(seconds)

    @staticmethod
    def _states(consumer: aiokafka.AIOKafkaConsumer) -> dict[Any, Any]:
        subscription = consumer._fetcher._subscriptions.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        return {tp: state for tp in assignment.tps if (state := assignment.state_value(tp)) is not None}

    def _positions(self, consumer: aiokafka.AIOKafkaConsumer) -> dict[Any, int]:
        return {tp: state._position for tp, state in self._states(consumer).items() if state._position is not None}

    def _answers_ms(self, consumer: aiokafka.AIOKafkaConsumer) -> dict[TP, int]:
        return {TP(tp.topic, tp.partition): state.timestamp or 0 for tp, state in self._states(consumer).items()}

    def _ends(self, consumer: aiokafka.AIOKafkaConsumer) -> dict[TP, bool]:
        return {
            TP(tp.topic, tp.partition): state._position is not None
            and state.lso is not None
            and state._position >= state.lso
            for tp, state in self._states(consumer).items()
        }
