"""Reads a range of the source topics of one partition, merged by time, without a group: nothing is committed."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Chunk, Reader

CHUNK_RECORDS = 2000
_BUFFERED_AT_MOST = 4 * CHUNK_RECORDS
_WAIT_MS = 500


@dataclass(frozen=True, slots=True)
class LogRange:
    """Offsets by topic, ends excluded."""

    partition: int
    starts: Mapping[str, int]
    ends: Mapping[str, int]

    @property
    def records(self) -> int:
        """At most: some offsets hold none."""
        return sum(max(0, self.ends[topic] - start) for topic, start in self.starts.items())


async def read_range(consumer: AIOKafkaConsumer, part: LogRange, read: Reader) -> AsyncIterator[Chunk]:
    """Chunks in order, the last one ending at `ends`. Raises KafkaError, also where records were removed meanwhile.

    `consumer` is new, has no group, resets no offset by itself and reads committed records.
    """
    topics = {TopicPartition(topic, part.partition): topic for topic in part.starts}
    consumer.assign(list(topics))
    for place, topic in topics.items():
        consumer.seek(place, part.starts[topic])
    intake = PartitionIntake(part.partition, 0, part.starts, is_aligned=True)
    passed = dict(part.starts)
    while any(passed[topic] < end for topic, end in part.ends.items()):
        wanted = [
            place
            for place, topic in topics.items()
            if intake.expected(topic) < part.ends[topic] and intake.waiting(topic) < _BUFFERED_AT_MOST
        ]
        fetched = await consumer.getmany(*wanted, timeout_ms=_WAIT_MS) if wanted else {}
        for place in wanted:
            expected, end = intake.expected(place.topic), part.ends[place.topic]
            records = [record for record in fetched.get(place, ()) if expected <= record.offset < end]
            intake.add(place.topic, map(read, records), min(await consumer.position(place), end))
        intake.mark_ends({topic: intake.expected(topic) >= part.ends[topic] for topic in part.starts})
        while (chunk := intake.next_chunk(CHUNK_RECORDS, 0.0)) is not None:
            passed = dict(chunk.next_offsets)
            yield chunk
