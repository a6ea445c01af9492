"""A chunk: the next records of all co-partitioned topics of one partition, in one order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from aiokafka.structs import ConsumerRecord

SourceRecord: TypeAlias = "ConsumerRecord[bytes, bytes]"  # key and value may be None all the same


class Arrival(NamedTuple):
    """A record as it was fetched, with what was read from it."""

    record: SourceRecord
    ordered_at: int  # min(event time, append time), unix seconds: its place among the records of other topics
    content: Any  # what the reader made of it; the engine does not look inside


Reader = Callable[[SourceRecord], Arrival]


@dataclass(frozen=True, slots=True)
class Chunk:
    """`next_offsets`, by topic, is where processing stands once all arrivals are done; it may skip empty offsets.

    A chunk without arrivals that moves no offset is a tick: time has passed.
    """

    partition: int
    generation: int
    arrivals: Sequence[Arrival]
    next_offsets: Mapping[str, int]
    is_last: bool = False  # nothing lay behind it when it was handed out: all topics had been read to their ends

    def halves(self) -> tuple["Chunk", "Chunk"]:
        """Two chunks that give the same when processed one after the other. Needs two arrivals at least."""
        middle = len(self.arrivals) // 2
        second = self.arrivals[middle:]
        first_offsets = dict(self.next_offsets)
        for arrival in reversed(second):
            first_offsets[arrival.record.topic] = arrival.record.offset
        return (
            Chunk(self.partition, self.generation, self.arrivals[:middle], first_offsets),
            replace(self, arrivals=second),
        )

    def with_content(self, content: Any) -> "Chunk":
        """The same chunk of a single arrival, read as something else."""
        (arrival,) = self.arrivals
        return replace(self, arrivals=(arrival._replace(content=content),))
