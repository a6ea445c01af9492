"""One account's or a few accounts' hours at work: the shipped handler on a database in memory, chunk by chunk.

Journeys change under it as the journeys agent would change them; every commit is audited as a reader would see it.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace
from typing import Any

from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.hour_outputs import ResultTopics
from stream.agents.hour_reading import Mark
from stream.agents.hours import HoursHandler, HoursSettings
from stream.core.errors import Unavailable
from stream.core.facts import Journey, Outcome
from stream.core.hours import CreditedAs, HourKey
from stream.core.progress import PartitionProgress
from stream.engine.barrier import Stored
from stream.engine.chunk import Arrival, Chunk
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from tests.support.hour_books import CREDITS, SNAPSHOTS, Books
from tests.support.hour_examples import as_earnings, as_model, as_switch
from tests.support.hour_oracle import ExpectedHours, expected_hours
from tests.support.memory_hours import MemoryHours, MemoryHourStore, StoredHour

LATENESS = 3600


class Desk:
    """`marks` are records of the journeys topic that were not taken yet."""

    def __init__(self, *, bound: int = 1000, extra: bool = True) -> None:
        self.journeys: dict[int, Journey] = {}
        self.versions: dict[tuple[int, int], Journey] = {}
        self.watermark = 0
        self.extra = extra
        self.bound = bound
        self.database = MemoryHours(lambda: self.journeys, self._sources)
        self.database.after_commit = self.audit
        self.books = Books()
        self.offset = 0
        self.workers = 0
        self.seconds = 0
        self.handler: HoursHandler

    def _sources(self) -> Mapping[int, PartitionProgress]:
        return {0: PartitionProgress(0, 1, "", {}, 1, {}, self.watermark, 0, 0, ())}

    def save(self, journey: Journey) -> Journey:
        """As the journeys agent commits it."""
        self.journeys[journey.conversion.conv_id] = journey
        self.versions[journey.conversion.conv_id, journey.version] = journey
        return journey

    async def start(self) -> None:
        """A worker that knows nothing of those before it."""
        self.workers += 1
        owner = f"worker-{self.workers}"
        self.handler = HoursHandler(
            HoursSettings(
                owner=owner,
                topics=ResultTopics(SNAPSHOTS, CREDITS, 1, 1),
                source_partitions=1,
                partitions=1,
                allowed_lateness=LATENESS,
                with_extra_scopes=self.extra,
            ),
            MemoryHourStore(self.database, owner),
            metrics=Metrics(),
            log_place=self._log_place,
            clock=self._now,
        )
        self.handler._at_work = HoursAtWork(self.bound)
        await self.handler.take(0, {"journeys": self.offset})

    def _now(self) -> int:
        """Each time it is asked, later than anything is remembered for."""
        self.seconds += 2
        return self.seconds

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        return LogPlace(1, {"journeys": "id"}, committed, {"journeys": 0}, {"journeys": 1_000_000})

    def chunk(self, marks: Sequence[Mark | None], *, is_last: bool = True) -> Chunk:
        """The next records of the topic."""
        arrivals = []
        for mark in marks:
            record: Any = SimpleNamespace(topic="journeys", offset=self.offset)
            arrivals.append(Arrival(record, 1, mark))
            self.offset += 1
        return Chunk(0, 1, arrivals, {"journeys": self.offset}, is_last)

    async def store(self, chunk: Chunk) -> Stored:
        """Patiently, as the barrier does."""
        for tries in range(100):
            try:
                return await self.handler.store(chunk, is_repeated=tries > 0)
            except Unavailable:
                continue
        raise AssertionError("a chunk could not be stored")

    async def finish(self, stored: Stored) -> None:
        """Outputs sent and noted."""
        self.books.take_all(stored.outputs)
        await self.handler.note_sent(stored)

    async def work(self, *conv_ids: int, is_last: bool = True) -> Stored:
        """A chunk with a mark for each of the conversions, through all steps."""
        marks = [Mark(self.journeys[conv_id].conversion.user_id, conv_id) for conv_id in conv_ids]
        stored = await self.store(self.chunk(marks, is_last=is_last))
        await self.finish(stored)
        return stored

    async def settle(self) -> None:
        """Ticks until nothing is due any more."""
        for _ in range(200):
            stored = await self.work()
            if not stored.outputs and not stored.receipt:
                return
        raise AssertionError("hours are due for ever")

    async def rebuild(self, keys: Collection[HourKey]) -> None:
        """As the command does it: beside the worker, one hour a transaction, publishing nothing."""
        store = MemoryHourStore(self.database, "rebuild")
        for key in sorted(keys):
            async with store.transaction() as transaction:
                await fire(transaction, HoursAtWork(0), Order(anew=[key]), with_extra_scopes=self.extra)

    # What must be

    def all_hours(self) -> set[HourKey]:
        counted = {HourKey(each.conversion.user_id, each.date_hour) for each in self.journeys.values()}
        return counted | self.database.hours.keys()

    def wanted(self) -> ExpectedHours:
        database = self.database
        models = [
            as_model(user_id, row)
            for user_id, rows in database.models.items()
            for row in rows
            if row.model_id in {model.model_id for model in database.configuration(user_id).models}
        ]
        switches = [as_switch(user_id, toggle) for user_id, found in database.toggles.items() for toggle in found]
        earnings = as_earnings(self.journeys.values())
        return expected_hours(earnings, models, switches, with_extra_scopes=self.extra)

    def wanted_of(self, keys: Collection[HourKey]) -> ExpectedHours:
        wanted = self.wanted()
        return ExpectedHours(
            [each for each in wanted.snapshots if (each.user_id, each.date_hour) in keys],
            [each for each in wanted.credits if (each.user_id, each.date_hour) in keys],
        )

    def audit(self) -> None:
        """A reader sees no global snapshot that differs from the sum of its credits, and no credits without one."""
        for key, hour in self.database.hours.items():
            if hour.row.revision:
                audit_hour(key, hour, self.database, self.versions)


def audit_hour(
    key: HourKey, hour: StoredHour, database: MemoryHours, versions: Mapping[tuple[int, int], Journey]
) -> None:
    credited: dict[int, list[tuple[int, int]]] = {}
    for credit in hour.credits.values():
        credited.setdefault(credit.model_id, []).append((credit.conv_id, credit.credit))
    totals = {row.key.model_id: row for row in hour.snapshots.values() if row.key.scope == "global"}
    assert credited.keys() == totals.keys(), key
    for model_id, total in totals.items():
        rows = credited[model_id]
        conv_ids = {conv_id for conv_id, _ in rows}
        assert conv_ids == {conv_id for conv_id, at in database.credited.items() if at.hour == key}, key
        assert (total.clicks, total.conversions) == (len(rows), len(conv_ids)), key
        assert sum(parts for _, parts in rows) == 100_000 * len(conv_ids), key
        standing = [versions[conv_id, database.credited[conv_id].version] for conv_id in conv_ids]
        assert all(each.outcome is Outcome.COUNTED and each.date_hour == key.date_hour for each in standing), key
        assert [database.credited_as[conv_id] for conv_id in conv_ids] == [
            CreditedAs(each.version, each.conversion.click_payout, each.click_cpc, each.conversion.conv_time)
            for each in standing
        ], key
        assert total.revenue == _steps(sum(each.conversion.click_payout for each in standing)), key
        assert total.cost == _steps(sum(each.click_cpc for each in standing)), key


def _steps(units: int) -> int:
    return int((Decimal(units) / 10).quantize(Decimal(1), ROUND_HALF_UP))


def picked(chance: random.Random, marks: list[Mark]) -> list[Mark]:
    """Some of the waiting marks, in any order, a few of them twice; the marks are taken out of the list."""
    chance.shuffle(marks)
    found = [marks.pop() for _ in range(chance.randint(0, len(marks)))]
    again = [chance.choice(found) for _ in range(chance.randrange(3)) if found]
    return chance.sample([*found, *again], len(found) + len(again))
