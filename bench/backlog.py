"""Puts the traffic into the topics, once, and knows where they end."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from bench.traffic import Event
from stream.core.keys import partition_of, record_key

BATCH_BYTES = 64 * 1024
EVENTS_A_FLUSH = 20_000  # both topics are appended to at the same pace, so that append times lie like event times

Topics = tuple[str, str]  # of clicks, of conversions
Ends = Mapping[TopicPartition, int]


class _Batches:
    """One batch under construction for each partition; far cheaper than a future for each record."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[TopicPartition, BatchBuilder] = {}
        self._sent: list[Any] = []

    async def add(self, tp: TopicPartition, key: bytes, value: bytes) -> None:
        batch = self._open.get(tp)
        if batch is None:
            batch = self._open[tp] = self._producer.create_batch()
        if batch.append(timestamp=None, key=key, value=value) is None:
            await self._send(tp)
            batch = self._open[tp] = self._producer.create_batch()
            assert batch.append(timestamp=None, key=key, value=value) is not None, "an event larger than a batch"

    async def _send(self, tp: TopicPartition) -> None:
        self._sent.append(await self._producer.send_batch(self._open.pop(tp), tp.topic, partition=tp.partition))

    async def flush(self) -> None:
        for tp in list(self._open):
            await self._send(tp)
        for future in self._sent:
            await future
        self._sent.clear()


async def produce(kafka: str, topics: Topics, partitions: int, events: Iterable[Event]) -> Ends:
    """In the order of the events; returns the ends of the topics afterwards."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, acks="all", compression_type="lz4", max_batch_size=BATCH_BYTES, linger_ms=0
    )
    await producer.start()
    batches = _Batches(producer)
    ends: dict[TopicPartition, int] = defaultdict(int)
    try:
        for index, (is_click, user_id, campaign_id, value) in enumerate(events):
            partition = partition_of(user_id, campaign_id, partitions)
            tp = TopicPartition(topics[0] if is_click else topics[1], partition)
            await batches.add(tp, record_key(user_id, campaign_id), value)
            ends[tp] += 1
            if index % EVENTS_A_FLUSH == 0:
                await batches.flush()
        await batches.flush()
    finally:
        await producer.stop()
    return dict(ends)


async def read_ends(kafka: str, ends: Ends) -> Ends:
    """Where these partitions end now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        found: Ends = await consumer.end_offsets(list(ends))
    finally:
        await consumer.stop()
    return found
