"""Records on their way out, sent in batches and awaited together."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from stream.clock import unix_now
from stream.wire.outgoing import OutgoingRecord

_RECORDS_AT_A_TIME = 2000


class Outbox:
    """Sends whole batches: a tenth of the cost of sending record by record."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(self, records: Iterable[OutgoingRecord]) -> list[tuple[RecordMetadata, int]]:
        """Returns once all are acknowledged, with metadata and count of each batch in order. Raises KafkaError."""
        now_ms = int(unix_now() * 1000)  # our topics replace it by the append time
        batches: dict[tuple[str, int], BatchBuilder] = {}
        sent: list[tuple[Any, int]] = []
        for number, record in enumerate(records):
            if number % _RECORDS_AT_A_TIME == 0:
                await asyncio.sleep(0)  # there may be a hundred thousand, and others have work to do
            if record.partition is None:
                sent.append((await self._send_alone(record, now_ms), 1))
                continue
            place = (record.topic, record.partition)
            batch = batches.get(place)
            if batch is None:
                batch = batches[place] = self._producer.create_batch()
            if self._append(batch, record, now_ms):
                continue
            if batch.record_count():
                sent.append(await self._send_batch(place, batch))
                batch = batches[place] = self._producer.create_batch()
                if self._append(batch, record, now_ms):
                    continue
            sent.append((await self._send_alone(record, now_ms), 1))
        for place, batch in batches.items():
            if batch.record_count():
                sent.append(await self._send_batch(place, batch))
        futures = [future for future, _ in sent]
        if futures:
            await asyncio.wait(futures)
        return [(future.result(), count) for future, count in sent]

    @staticmethod
    def _append(batch: BatchBuilder, record: OutgoingRecord, now_ms: int) -> bool:
        appended = batch.append(timestamp=now_ms, key=record.key, value=record.value, headers=list(record.headers))
        return appended is not None

    async def _send_batch(self, place: tuple[str, int], batch: BatchBuilder) -> tuple[Any, int]:
        count = batch.record_count()
        batch.close()
        topic, partition = place
        return await self._producer.send_batch(batch, topic, partition=partition), count

    async def _send_alone(self, record: OutgoingRecord, now_ms: int) -> Any:
        """Without a partition, or larger than a batch; the broker's limit, not ours, decides about it."""
        return await self._producer.send(
            record.topic,
            value=record.value,
            key=record.key,
            partition=record.partition,
            timestamp_ms=now_ms,
            headers=list(record.headers),
        )
