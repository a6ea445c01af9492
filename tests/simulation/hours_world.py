"""Workers of the hours in memory, driven by a seed: shipped reader, intake, barrier and handler; twins for the rest.

Every draw decides what happens next: a chunk of any size, broken off behind any step, a commit whose reply is lost, a
worker that sleeps between its commit and its sending while another goes on, a rebuild beside it all, other models.
"""

import asyncio
import json
import random
from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiokafka.structs import ConsumerRecord

from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.hour_outputs import ResultTopics
from stream.agents.hour_reading import JourneyMarkReader
from stream.agents.hours import HoursHandler, HoursSettings
from stream.core.errors import Fenced, Unavailable
from stream.core.facts import Journey
from stream.core.hours import HourKey
from stream.core.keys import partition_of_account
from stream.core.progress import PartitionProgress
from stream.engine.alignment import PartitionIntake
from stream.engine.barrier import STEPS, Barrier, Step
from stream.engine.chunk import Chunk, SourceRecord
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from stream.wire.outgoing import OutgoingRecord
from tests.agents.hour_desk import LATENESS, audit_hour
from tests.support.hour_books import CREDITS, SNAPSHOTS, Books
from tests.support.hour_changes import HOURS, next_journey, reconfigure
from tests.support.hour_examples import BASE, DEFINITIONS, HOUR, model_row
from tests.support.memory_hours import MemoryHours, MemoryHourStore

TOPIC = "journeys"
USERS = (1, 2, 3)
FAULTS = (*STEPS, "unavailable", "lose_reply", "sleep", "sleep_and_lose_the_group", "rebalance")


class Crash(BaseException):
    """The process ends here."""


class Member:
    """A worker's hold on one partition, from taking it over to losing it. It is the barrier's consumer and outbox."""

    def __init__(self, world: "HoursWorld", partition: int) -> None:
        self.world = world
        self.partition = partition
        self.generation = 1
        self.failure: BaseException | None = None
        self.crash_behind: str = ""
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.is_sending = asyncio.Event()
        world.owners += 1
        owner = f"worker-{world.owners}"
        self.handler = HoursHandler(
            HoursSettings(
                owner=owner,
                topics=ResultTopics(SNAPSHOTS, CREDITS, 1, 1),
                source_partitions=2,
                partitions=len(world.log),
                allowed_lateness=LATENESS,
                with_extra_scopes=True,
            ),
            MemoryHourStore(world.database, owner),
            metrics=Metrics(),
            log_place=self._log_place,
            clock=world.now,
        )
        self.handler._at_work = HoursAtWork(world.chance.choice((1, 5, 1000)))
        self.barrier = Barrier(
            self.handler,
            consumer=lambda: cast("Any", self),
            state=None,
            sending=self,
            observer=self,
            fail=self._fail,
        )
        self.reader = JourneyMarkReader()
        self.fetched = world.committed[partition]
        self.intake = PartitionIntake(partition, 1, {TOPIC: self.fetched}, is_aligned=True)

    async def take(self) -> None:
        self.barrier.take_partitions({self.partition: {TOPIC: self.world.committed[self.partition]}}, 1)
        await self.idle()
        assert self.failure is None, repr(self.failure)

    async def idle(self) -> None:
        """Until the barrier has done all it began, or sleeps in front of its sending."""
        while self.barrier._tasks and not (self.is_sending.is_set() and not self.may_send.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0)

    def _fail(self, error: BaseException) -> None:
        self.failure = error

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        return LogPlace(
            len(self.world.log), {TOPIC: "id"}, committed, {TOPIC: 0}, {TOPIC: len(self.world.log[partition])}
        )

    def next_chunk(self) -> Chunk:
        """An empty one, as time brings it, where nothing waits."""
        chance, log = self.world.chance, self.world.log[self.partition]
        fetched = log[self.fetched : self.fetched + chance.choice((1, 5, 50))]
        self.fetched += len(fetched)
        self.intake.add(TOPIC, map(self.reader, fetched), self.fetched)
        is_at_end = self.fetched == len(log)
        self.intake.mark_ends({TOPIC: is_at_end})
        chunk = self.intake.next_chunk(chance.choice((1, 3, 100)), now=float(self.world.now()))
        if chunk is not None:
            return chunk
        return Chunk(self.partition, 1, (), {TOPIC: self.fetched}, is_last=is_at_end)

    # Consumer, outbox and observer of the barrier

    def admit(self, chunk: Chunk) -> bool:
        return True

    def open_partition(self, partition: int, generation: int) -> None: ...

    def finish_chunk(self, partition: int) -> None: ...

    async def commit_chunk(self, chunk: Chunk) -> bool:
        if self.generation == 1 and self.world.members.get(self.partition) is self:
            self.world.committed[self.partition] = chunk.next_offsets[TOPIC]
            return True
        return False

    async def take_over(self, partition: int) -> None:
        self.world.senders[partition] = self

    async def send(self, partition: int, records: Iterable[OutgoingRecord]) -> None:
        self.is_sending.set()
        await self.may_send.wait()
        self.is_sending.clear()
        if self.world.senders[partition] is not self:
            raise Fenced("the broker knows another producer by this id")
        self.world.books.take_all(records)

    async def close(self) -> None: ...

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        if step == self.crash_behind:
            raise Crash(step)

    def waiting(self, reason: str) -> None: ...


class HoursWorld:
    """Everything that outlives a worker, and the workers that are up."""

    def __init__(self, seed: int, partitions: int) -> None:
        self.chance = chance = random.Random(seed)
        self.log: list[list[SourceRecord]] = [[] for _ in range(partitions)]
        self.committed = [0] * partitions
        self.journeys: dict[int, Journey] = {}
        self.versions: dict[tuple[int, int], Journey] = {}
        self.unsent: list[Journey] = []  # in SQL; their records are still to come
        self.watermarks = [0, 0]
        self.seconds = 0
        self.owners = 0
        self.members: dict[int, Member] = {}
        self.senders: dict[int, Member] = {}
        self.sleepers: list[Member] = []
        self.books = Books()
        self.faults: list[str] = []
        self.breaks_at = 0  # the so-manieth step of transactions from here on fails
        self.database = MemoryHours(lambda: self.journeys, self._sources)
        self.database.before_step = self._before_step
        self.database.after_commit = self._audit
        for user_id in USERS:
            self.database.models[user_id] = [
                model_row(user_id * 100 + number, *chance.choice(DEFINITIONS)) for number in range(chance.randrange(3))
            ]

    def now(self) -> int:
        """A second later each time somebody asks."""
        self.seconds += 1
        return self.seconds

    def _sources(self) -> Mapping[int, PartitionProgress]:
        return {
            number: PartitionProgress(number, 1, "", {}, 2, {}, watermark, 0, 0, ())
            for number, watermark in enumerate(self.watermarks)
        }

    async def _before_step(self, step: str) -> None:
        await asyncio.sleep(0)  # others get their turn: partitions, and a rebuild
        self.breaks_at -= 1
        if self.breaks_at == 0:
            raise Unavailable(f"no answer to {step}, says the test")

    def _audit(self) -> None:
        for key, hour in self.database.hours.items():
            if hour.row.revision:
                audit_hour(key, hour, self.database, self.versions)

    # What comes in

    def change(self) -> None:
        """As the journeys agent does it: SQL first, then the record, perhaps twice."""
        found = next_journey(self.chance, self.journeys, users=USERS)
        self.journeys[found.conversion.conv_id] = found
        self.versions[found.conversion.conv_id, found.version] = found
        self.unsent.append(found)

    def send_marks(self, most: int) -> None:
        """In the order of their versions, a few of them twice."""
        for _ in range(min(most, len(self.unsent))):
            found = self.unsent[0] if self.chance.random() < 0.1 else self.unsent.pop(0)
            self._append(found)

    def _append(self, found: Journey) -> None:
        user_id = found.conversion.user_id
        log = self.log[partition_of_account(user_id, len(self.log))]
        value = json.dumps({"user_id": user_id, "conv_id": found.conversion.conv_id, "touches": []}).encode()
        if self.chance.random() < 0.02:
            value = b"not a journey"
            self.unsent.append(found)
        record: Any = ConsumerRecord(TOPIC, 0, len(log), 1_000, 1, b"%d" % user_id, value, None, 0, 0, ())
        log.append(record)

    # What happens

    async def run(self, steps: int, fault_rate: float) -> None:
        for _ in range(steps):
            for _ in range(self.chance.randrange(3)):
                self.change()
            self.send_marks(self.chance.randrange(4))
            await self._step(fault_rate)
        await self.drain()

    async def drain(self) -> None:
        await self._wake()
        self.breaks_at = self.database.loses_replies = 0
        self.send_marks(10_000)
        while self.unsent:
            self.send_marks(10_000)
        for _ in range(300):
            await asyncio.gather(*(self.work(number, "") for number in range(len(self.log))))
            if self._is_settled():
                return
        raise AssertionError("hours are due for ever")

    def _is_settled(self) -> bool:
        is_read = self.committed == [len(log) for log in self.log]
        return is_read and not any(self._is_due(key) for key in self.database.hours)

    def _is_due(self, key: HourKey) -> bool:
        row = self.database.hours[key].row
        is_outdated = not row.is_final and row.configuration != self.database.configuration(key.user_id).revision
        return row.revision > 0 and (row.published_revision != row.revision or is_outdated)

    async def _step(self, fault_rate: float) -> None:
        chance = self.chance
        if chance.random() < 0.1:
            reconfigure(chance, self.database, users=USERS)
        if chance.random() < 0.2:
            number = chance.randrange(2)
            self.watermarks[number] = max(self.watermarks[number], BASE + chance.randrange((HOURS + 3) * HOUR))
        if chance.random() < 0.15:
            await self._wake()
        jobs = [self.work(number, self._fault(fault_rate)) for number in range(len(self.log)) if chance.random() < 0.7]
        if chance.random() < 0.15:
            jobs.append(self.rebuild(is_killed=chance.random() < 0.3))
        await asyncio.gather(*jobs)

    def _fault(self, rate: float) -> str:
        if self.chance.random() > rate:
            return ""
        fault = self.chance.choice(FAULTS)
        self.faults.append(fault)
        return fault

    async def work(self, partition: int, fault: str) -> None:
        """The next chunk of a partition through the barrier, perhaps with a fault."""
        if fault == "rebalance":
            self.members.pop(partition, None)
        member = self.members.get(partition)
        if member is None:
            member = self.members[partition] = Member(self, partition)
            await self._patiently_taken(member)
        if fault == "lose_reply":
            self.database.loses_replies = 1
        if fault == "unavailable":
            self.breaks_at = self.chance.randint(1, 15)
        member.crash_behind = fault
        if fault.startswith("sleep"):
            member.may_send.clear()
        member.barrier.begin(member.next_chunk())
        await member.idle()
        if fault.startswith("sleep") and member.barrier._tasks:
            del self.members[partition]
            self.sleepers.append(member)
            member.generation += fault == "sleep_and_lose_the_group"
        elif member.failure is not None:
            assert isinstance(member.failure, Crash), repr(member.failure)
            del self.members[partition]
        member.may_send.set() if member not in self.sleepers else None

    async def _patiently_taken(self, member: Member) -> None:
        await member.take()

    async def _wake(self) -> None:
        """Sleepers send what they had in hand, and hear that they are no longer asked for."""
        for sleeper in self.sleepers:
            sleeper.may_send.set()
            await sleeper.idle()
        self.sleepers.clear()

    async def rebuild(self, *, is_killed: bool = False) -> None:
        """As the command does it: one hour a transaction; killed, it leaves the rest."""
        store = MemoryHourStore(self.database, "rebuild")
        keys = {HourKey(each.conversion.user_id, each.date_hour) for each in self.journeys.values()}
        for key in sorted(keys | self.database.hours.keys()):
            try:
                async with store.transaction() as transaction:
                    await fire(transaction, HoursAtWork(0), Order(anew=[key]), with_extra_scopes=True)
                    if is_killed and self.chance.random() < 0.3:
                        return
            except Unavailable:
                continue  # the next run does it
