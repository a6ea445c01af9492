"""A cluster in memory, driven by a seed: real readers, intakes, handlers and states; twins for Kafka, Faust and SQL.

Every draw decides what happens next: a chunk of any size, whole or broken off between two steps of the barrier, a lost
reply of the database, state lost or evicted, a worker that was replaced and still writes what it had in hand, and
another hand that stores what the log holds before any worker has come to it.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.types import TP

from stream.agents.journeys import JourneysHandler, JourneysSettings
from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.core.errors import Fenced, Unavailable
from stream.core.keys import murmur2
from stream.engine.alignment import PartitionIntake
from stream.engine.barrier import Stored
from stream.engine.changelog import KeptStates
from stream.engine.chunk import Chunk, SourceRecord
from stream.engine.fetching import Fetched
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from stream.replay.storing import Scope, store_chunk
from stream.wire.outgoing import OutgoingRecord
from tables.cache import JourneyCache
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.oracle_events import Record

TOPICS = ("clicks", "conversions")
LOOKBACK = 30 * 86_400
FAULTS = (
    "lose_state", "lose_reply", "crash_sql", "crash_outputs", "crash_changelog", "zombie", "rebalance", "replay",
)  # fmt: skip


@dataclass(slots=True)
class Partition:
    """One partition of both topics and of the changelog, as the broker has it."""

    records: dict[str, list[SourceRecord]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    committed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOPICS, 0))
    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)


class Member:
    """A worker's hold on one partition, from taking it over to losing it."""

    def __init__(self, world: "World", partition: int) -> None:
        self.world = world
        self.partition = partition
        world.owners += 1
        owner = f"worker-{world.owners}"
        bound = world.chance.choice((3, 10, 1000))
        self.kept = KeptStates("memory://", None, SimpleNamespace(name="states"), bound=bound)
        self.reader = EventReader(clicks="clicks", conversions="conversions", partitions=len(world.partitions))
        self.handler = JourneysHandler(
            TopicNames("clicks", "conversions", "journeys", len(world.partitions), 1),
            MemoryStore(world.database, owner),
            JourneysSettings(owner=owner, lookback=LOOKBACK),
            states=lambda: self.kept,
            cache=JourneyCache("", 0),
            metrics=Metrics(),
            log_place=self._log_place,
            clock=lambda: 0,
        )
        self.epoch = 0
        log = world.partitions[partition]
        self.fetched = dict(log.committed)
        self.intake = PartitionIntake(partition, 1, log.committed, is_aligned=world.chance.random() < 0.7)

    async def take(self) -> None:
        log = self.world.partitions[self.partition]
        records: Any = [SimpleNamespace(key=key, value=value) for key, value in log.changelog]
        self.kept.apply_fetched(Fetched(TP("states", self.partition), records, 0, len(records)))
        taken = await self.handler.take(self.partition, log.committed)
        self.epoch = taken.epoch
        self.world.deliver(taken.outputs)
        log.changelog.append((b"\0epoch:%d:%d" % (self.partition, self.epoch), self._prefix()))
        self.write_changelog(dict.fromkeys(taken.forget))

    def write_changelog(self, states: Mapping[bytes, bytes | None]) -> None:
        prefix = self._prefix()
        self.world.partitions[self.partition].changelog += [
            (key, None if value is None else prefix + value) for key, value in states.items()
        ]
        self.kept.put_states(self.partition, states)

    def _prefix(self) -> bytes:
        return self.epoch.to_bytes(8, "big")

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        ends = {topic: len(records) for topic, records in self.world.partitions[partition].records.items()}
        ids, begins = dict.fromkeys(TOPICS, "id"), dict.fromkeys(TOPICS, 0)
        return LogPlace(len(self.world.partitions), ids, committed, begins, ends)

    def next_chunk(self) -> Chunk | None:
        chance = self.world.chance
        log = self.world.partitions[self.partition]
        for topic in TOPICS:
            start = self.fetched[topic]
            fetched = log.records[topic][start : start + chance.choice((1, 5, 50))]
            self.intake.add(topic, map(self.reader, fetched), start + len(fetched))
            self.fetched[topic] = start + len(fetched)
        self.intake.mark_ends({topic: self.fetched[topic] == len(log.records[topic]) for topic in TOPICS})
        return self.intake.next_chunk(chance.choice((1, 3, 20, 100)), now=0.0)


class World:
    """Everything that outlives a worker, and the workers that are up."""

    def __init__(self, seed: int, partitions: int) -> None:
        self.chance = random.Random(seed)
        self.partitions = [Partition() for _ in range(partitions)]
        self.database = MemoryDatabase()
        self.members: dict[int, Member] = {}
        self.owners = 0
        self.outputs: list[OutgoingRecord] = []
        self.faults: list[str] = []

    def produce(self, topic: str, key: bytes | None, value: bytes | None, append_time: int) -> None:
        count = len(self.partitions)
        partition = (murmur2(key) & 0x7FFFFFFF) % count if key is not None else self.chance.randrange(count)
        self._append(topic, partition, (key, value), append_time * 1000)

    def _append(self, topic: str, partition: int, content: tuple[bytes | None, bytes | None], append_ms: int) -> None:
        key, value = content
        log = self.partitions[partition].records[topic]
        record: Any = ConsumerRecord(topic, partition, len(log), append_ms, 1, key, value, None, 0, 0, ())
        log.append(record)

    def deliver(self, outputs: Iterable[OutgoingRecord]) -> None:
        """Outputs to source topics come back as records."""
        for output in outputs:
            if output.topic in TOPICS:
                assert output.partition is not None
                self._append(output.topic, output.partition, (output.key, output.value), self.now_ms)
            else:
                self.outputs.append(output)

    now_ms = 0

    async def run(self, records: Sequence[tuple[Record, bytes | None]], fault_rate: float) -> None:
        """Produce the records bit by bit, work with faults meanwhile, then work without until all is drained."""
        waiting = list(reversed(records))
        self.now_ms = max((record.append_time for record, _ in records), default=0) * 1000
        while waiting:
            for _ in range(self.chance.randrange(1, 40)):
                if waiting:
                    record, key = waiting.pop()
                    self.produce(record.topic, key, record.value, record.append_time)
            for _ in range(self.chance.randrange(1, 6)):
                await self.step(self.chance.randrange(len(self.partitions)), fault_rate)
        while any(self._is_behind(partition) for partition in self.partitions):
            for number in range(len(self.partitions)):
                await self.step(number, 0.0)

    @staticmethod
    def _is_behind(partition: Partition) -> bool:
        return any(partition.committed[topic] < len(partition.records[topic]) for topic in TOPICS)

    async def step(self, number: int, fault_rate: float) -> None:
        """The next chunk of a partition, perhaps with a fault."""
        fault = ""
        if self.chance.random() < fault_rate:
            fault = self.chance.choice(FAULTS)
            self.faults.append(fault)
        if fault == "rebalance":
            self.members.pop(number, None)
        if fault == "replay":
            await self._replay(number)
        member = self.members.get(number)
        if member is None:
            member = self.members[number] = Member(self, number)
            await member.take()
        if fault == "lose_state":
            member.kept.drop_values()
        chunk = member.next_chunk()
        if chunk is None:
            return
        if fault == "lose_reply":
            self.database.loses_replies = 1
        stored = await self._stored(member, chunk)
        if fault == "zombie":
            await self._replace(member, chunk, stored)
            return
        await self._finish(member, chunk, stored, fault)

    async def _replay(self, number: int) -> None:
        """Another hand stores a stretch of the log, and may die before its records are out."""
        names = TopicNames("clicks", "conversions", "journeys", len(self.partitions), 1)
        reader = EventReader(clicks="clicks", conversions="conversions", partitions=len(self.partitions))
        log = self.partitions[number]
        found = [
            reader(record)
            for topic in TOPICS
            for record in log.records[topic][self.chance.randrange(log.committed[topic] + 1) :]
        ]
        chunk = Chunk(number, 0, found[: self.chance.choice((1, 5, 50, 1000))], {})
        store, scope = MemoryStore(self.database, "replay"), Scope(names, LOOKBACK)
        try:
            report = await store_chunk(store, scope, chunk, is_repeated=self.chance.random() < 0.3, place={})
        except Unavailable:  # the worker of another partition is swapping counting conversions: that goes first
            return
        if self.chance.random() < 0.7:
            self.deliver(report.records)

    async def _stored(self, member: Member, chunk: Chunk) -> Stored:
        for tries in range(50):
            try:
                return await member.handler.store(chunk, is_repeated=tries > 0)
            except Unavailable:  # lost reply; or a winner's swap with another partition, which has to go on first
                if self.chance.random() < 0.3:
                    await self._replay(member.partition)
                if tries > 3:
                    for number in range(len(self.partitions)):
                        if number != member.partition:
                            await self.step(number, 0.0)
        raise AssertionError("a chunk could not be stored")

    async def _finish(self, member: Member, chunk: Chunk, stored: Stored, fault: str) -> None:
        log = self.partitions[member.partition]
        if fault == "crash_sql":
            del self.members[member.partition]
            return
        self.deliver(stored.outputs)
        if fault == "crash_outputs":
            del self.members[member.partition]
            return
        member.write_changelog(stored.states)
        if fault == "crash_changelog":
            del self.members[member.partition]
            return
        log.committed = dict(chunk.next_offsets)

    async def _replace(self, zombie: Member, chunk: Chunk, stored: Stored) -> None:
        """A paused worker loses the partition, wakes up later, and sends what it had in hand."""
        successor = self.members[zombie.partition] = Member(self, zombie.partition)
        await successor.take()
        for _ in range(self.chance.randrange(3)):
            await self.step(zombie.partition, 0.0)
        try:
            await zombie.handler.store(chunk, is_repeated=True)
        except Fenced:
            pass
        else:
            raise AssertionError("a zombie passed the fence")
        self.deliver(stored.outputs)
        zombie.write_changelog(stored.states)
        if self.chance.random() < 0.7:
            self.members.pop(zombie.partition, None)  # and the next owner recovers what the zombie wrote
