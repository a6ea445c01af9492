"""A broker in memory: partitions, offsets and append times, compaction, groups with generations, fenced producers."""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import ConsumerRecord, TopicPartition

from stream.engine.chunk import SourceRecord

SESSION_SECONDS = 10.0
REBALANCE_SECONDS = 20.0


Content = tuple[bytes | None, bytes | None, Sequence[Any]]  # key, value, headers


class Partition:
    """Offsets grow and never come back; some hold no record (markers, compaction)."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.records: list[SourceRecord] = []
        self.end = 0

    def append(self, content: Content, append_ms: int) -> int:
        key, value, headers = content
        record: Any = ConsumerRecord(
            self.topic, self.number, self.end, append_ms, 1, key, value, None, 0, 0, tuple(headers)
        )
        self.records.append(record)
        self.end += 1
        return self.end - 1

    def skip(self) -> None:
        """An offset without a record, as the marker of a transaction takes one."""
        self.end += 1

    def fetch(self, start: int, most: int) -> tuple[list[SourceRecord], int]:
        """Records from an offset on, and the offset behind them."""
        first = bisect_left(self.records, start, key=lambda record: record.offset)
        found = self.records[first : first + most]
        return found, self.records[first + most].offset if first + most < len(self.records) else self.end

    def compact(self, before_ms: int) -> int:
        """Of each key the last record is left, and of tombstones those since `before_ms`. Returns how many went."""
        last = {record.key: record.offset for record in self.records}
        kept = [
            each
            for each in self.records
            if last[each.key] == each.offset and (each.value is not None or each.timestamp >= before_ms)
        ]
        gone = len(self.records) - len(kept)
        self.records = kept
        return gone


@dataclass(slots=True, eq=False)
class Member:
    """One consumer in a group. `generation` is what it believes; -1: it knows that it was expelled."""

    name: str
    generation: int = -1
    heard_at: float = 0.0
    has_joined: bool = False
    assigned: tuple[int, ...] = ()


@dataclass(slots=True)
class Group:
    """A consumer group of co-partitioned topics, and its coordinator."""

    topics: tuple[str, ...]
    partitions: int
    generation: int = 0
    members: list[Member] = field(default_factory=list)
    is_rebalancing: bool = False
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    ends_at: float = 0.0
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    before_commit: Callable[[int, Mapping[str, int]], None] = lambda _partition, _offsets: None

    def is_current(self, member: Member) -> bool:
        """As the coordinator sees it, whatever the member believes."""
        return member in self.members and member.generation == self.generation

    def begin_rebalance(self, now: float) -> None:
        """Every member has to join again; those that do not in time are out."""
        if not self.is_rebalancing:
            self.is_rebalancing = True
            self.joined = asyncio.Event()
            self.ends_at = now + REBALANCE_SECONDS
            for member in self.members:
                member.has_joined = False

    def look(self, now: float) -> list[Member]:
        """What the coordinator does by the clock. Returns the members that it has just expelled."""
        silent = [each for each in self.members if now - each.heard_at > SESSION_SECONDS]
        if self.is_rebalancing and now >= self.ends_at:
            silent += [each for each in self.members if not each.has_joined and each not in silent]
        for member in silent:
            self.members.remove(member)
        if silent:
            self.begin_rebalance(now)
        if self.is_rebalancing and all(member.has_joined for member in self.members):
            self._assign(now)
        return silent

    def _assign(self, now: float) -> None:
        self.is_rebalancing = False
        self.generation += 1
        for place, member in enumerate(self.members):
            member.generation = self.generation
            member.heard_at = now
            member.assigned = tuple(range(place, self.partitions, len(self.members)))
        self.joined.set()

    def join(self, member: Member, now: float) -> None:
        if member not in self.members:
            self.members.append(member)
        self.begin_rebalance(now)
        member.heard_at = now
        member.has_joined = True
        self.look(now)

    def leave(self, member: Member, now: float) -> None:
        if member in self.members:
            self.members.remove(member)
            self.begin_rebalance(now)
            self.look(now)

    def commit(self, member: Member, offsets: Mapping[TopicPartition, int]) -> bool:
        """False where the coordinator does not know the member under its generation."""
        if not self.is_current(member):
            return False
        by_partition: dict[int, dict[str, int]] = defaultdict(dict)
        for tp, offset in offsets.items():
            by_partition[tp.partition][tp.topic] = offset
        for partition, found in by_partition.items():
            self.before_commit(partition, found)
        self.committed.update({(tp.topic, tp.partition): offset for tp, offset in offsets.items()})
        return True


class Broker:
    """All topics and groups; `now_ms` is its own clock, in unix milliseconds."""

    def __init__(self, counts: Mapping[str, int], now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.topics = {name: [Partition(name, number) for number in range(count)] for name, count in counts.items()}
        self.groups: dict[str, Group] = {}
        self.senders: dict[str, object] = {}  # the producer that took a transactional id last
        self.after_append: Callable[[Partition, SourceRecord], None] = lambda _partition, _record: None
        self._waiting: list[asyncio.Event] = []

    def append(self, topic: str, number: int, content: Content) -> int:
        partition = self.topics[topic][number]
        offset = partition.append(content, self.now_ms())
        self.after_append(partition, partition.records[-1])
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.set()
        return offset

    async def wait_for_records(self, seconds: float) -> None:
        """Until anything arrives anywhere, or the time is over."""
        arrived = asyncio.Event()
        self._waiting.append(arrived)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, arrived.set)
        try:
            await arrived.wait()
        finally:
            timer.cancel()
