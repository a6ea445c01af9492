"""Records as a fetch would bring them, reduced to what the engine looks at."""

from collections.abc import Mapping, Sequence

from aiokafka.structs import ConsumerRecord

from stream.engine.chunk import Arrival, Chunk, SourceRecord

A, B = "clicks", "conversions"


def record(
    topic: str, offset: int, *, partition: int = 0, key: bytes = b"k", value: bytes | None = b"v"
) -> SourceRecord:
    return ConsumerRecord(topic, partition, offset, 1_000 * offset, 1, key, value, None, 0, 0, ())


def arrival(topic: str, offset: int, at: int = 0, *, partition: int = 0, content: object = None) -> Arrival:
    return Arrival(record(topic, offset, partition=partition), at, content)


def chunk(
    *places: tuple[str, int], partition: int = 0, generation: int = 1, next_offsets: Mapping[str, int] | None = None
) -> Chunk:
    """A chunk of these topics and offsets, ending right behind them."""
    behind = {topic: offset + 1 for topic, offset in places}
    arrivals = [arrival(topic, offset, partition=partition) for topic, offset in places]
    return Chunk(partition, generation, arrivals, next_offsets or {A: 0, B: 0} | behind)


def places(arrivals: Sequence[Arrival]) -> list[tuple[str, int]]:
    return [(each.record.topic, each.record.offset) for each in arrivals]
