"""Whatever happens to conversions, models, workers and transactions: the hours fit the journeys in the end."""

import os
import random
from collections.abc import Collection
from typing import Any

import pytest

from stream.agents.hour_reading import Mark
from stream.core.errors import Unavailable
from stream.core.facts import Outcome
from stream.core.hours import CreditRow, HourKey
from stream.core.results import SnapshotRow
from stream.core.totals import Scope, ScopeKey
from tests.agents.hour_desk import Desk, picked
from tests.support.hour_books import disagreement, stored
from tests.support.hour_changes import next_journey, reconfigure
from tests.support.hour_examples import BASE, DEFINITIONS, HOUR, model_row
from tests.support.memory_hours import put_foreign

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "60"))
FIRST, SECOND, THIRD = (HourKey(1, BASE + number * HOUR) for number in range(3))


class History:
    """Seeded: what happens next is drawn, the faults with it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.desk = Desk(bound=self.chance.choice((1, 5, 1000)), extra=self.chance.random() < 0.8)
        self.desk.database.before_step = self.before_step
        self.marks: list[Mark] = []
        self.fault_rate = 0.0
        self.change_rate = 0.0
        self.is_busy = False  # another writer is at work in a step of ours
        self.told: dict[HourKey, Any] = {}

    async def before_step(self, step: str) -> None:
        chance = self.chance
        if self.is_busy:
            return
        if chance.random() < self.change_rate:
            self.change()
        if chance.random() < self.fault_rate:
            raise Unavailable(f"no answer to {step}, says the test")
        is_locked = self.desk.database.locks.is_any_held
        if not is_locked and self.desk.all_hours() and chance.random() < self.change_rate:
            await self.rebuild([chance.choice(sorted(self.desk.all_hours()))])

    async def rebuild(self, keys: Collection[HourKey]) -> None:
        """By another process: the faults are those of our own worker."""
        database = self.desk.database
        self.is_busy, lost = True, database.loses_replies
        database.loses_replies = 0
        await self.desk.rebuild(keys)
        self.is_busy, database.loses_replies = False, lost

    def change(self) -> None:
        """One conversion comes or changes, as the journeys agent would store it; its mark waits."""
        found = self.desk.save(next_journey(self.chance, self.desk.journeys, users=(1, 1, 2)))
        self.marks.append(Mark(found.conversion.user_id, found.conversion.conv_id))

    def tell(self) -> dict[HourKey, Any]:
        """All that a reader could see of each hour, without its revisions."""
        credited: dict[HourKey, Any] = {}
        for conv_id, at in self.desk.database.credited.items():
            credited.setdefault(at.hour, {})[conv_id] = at.version
        return {
            key: (hour.snapshots, hour.credits, hour.row._replace(revision=0, published_revision=0), credited.get(key))
            for key, hour in self.desk.database.hours.items()
        }

    def revisions(self) -> dict[HourKey, int]:
        return {key: hour.row.revision for key, hour in self.desk.database.hours.items()}

    async def step(self) -> None:
        chance, desk = self.chance, self.desk
        for _ in range(chance.randrange(4)):
            self.change()
        if chance.random() < 0.1:
            reconfigure(chance, desk.database, users=(1, 2))
        if chance.random() < 0.1:
            desk.watermark = max(desk.watermark, BASE + chance.randrange(6 * HOUR))
        if chance.random() < 0.05:
            await self.rebuild(sorted(desk.all_hours()))
        await self.chunk()

    async def chunk(self) -> None:
        chance, desk = self.chance, self.desk
        marks: list[Mark | None] = [*picked(chance, self.marks)]
        if chance.random() < 0.2:  # of nobody, of somebody else, and not to be read
            marks += [Mark(1, 999), Mark(2 if chance.random() < 0.5 else 1, chance.randint(1, 12)), None]
        chunk = desk.chunk(marks, is_last=chance.random() < 0.7)
        desk.database.loses_replies = int(chance.random() < 0.1)
        before, revisions = self.tell(), self.revisions()
        self.fault_rate, self.change_rate = chance.choice(((0.0, 0.0), (0.05, 0.0), (0.05, 0.1)))
        is_alone = not self.change_rate
        found = await desk.store(chunk)
        self.fault_rate = self.change_rate = 0.0
        if is_alone:
            self.check_revisions(before, revisions)
        match chance.randrange(8):
            case 0:  # the worker ends behind its commit
                await desk.start()
            case 1:  # and here behind its outputs
                desk.books.take_all(found.outputs)
                await desk.start()
            case _:
                await desk.finish(found)

    def check_revisions(self, before: dict[HourKey, Any], revisions: dict[HourKey, int]) -> None:
        """Exactly the hours in which something changed have a new revision."""
        after = self.tell()
        moved = {key for key, revision in self.revisions().items() if revision != revisions.get(key, 0)}
        assert moved == {key for key in after if after[key] != before.get(key)}
        for key in moved:
            row, old = self.desk.database.hours[key].row, before.get(key)
            is_only_final = old is not None and after[key] == (*old[:2], old[2]._replace(is_final=True), *old[3:])
            assert is_only_final or row.configuration == self.desk.database.configuration(key.user_id).revision

    async def drain(self) -> None:
        while self.marks:
            await self.chunk()
        await self.desk.settle()


def check(desk: Desk, keys: Collection[HourKey]) -> None:
    found = stored(desk.database)
    found.snapshots = [each for each in found.snapshots if (each.user_id, each.date_hour) in keys]
    found.credits = [each for each in found.credits if (each.user_id, each.date_hour) in keys]
    assert disagreement(desk.wanted_of(keys), found, what="rows of hours that are current") == ""


def check_whole(desk: Desk) -> None:
    """Rows as the oracle says, the topics as the rows, and nothing left to be told."""
    assert disagreement(desk.wanted(), stored(desk.database)) == ""
    assert disagreement(stored(desk.database), desk.books.read(), what="topics") == ""
    assert not any(hour.removals for hour in desk.database.hours.values())
    counted = {
        conv_id: (HourKey(each.conversion.user_id, each.date_hour), each.version)
        for conv_id, each in desk.journeys.items()
        if each.outcome is Outcome.COUNTED
    }
    assert desk.database.credited == counted


def foreign(desk: Desk, chance: random.Random, key: HourKey) -> None:
    """Totals and credits that were never ours; the topics never heard of them."""
    scope = ScopeKey(key.user_id * 100 + chance.randrange(4), Scope.GLOBAL, 0)
    other = ScopeKey(scope.model_id, Scope.CAMPAIGN, 11)
    put_foreign(
        desk.database,
        key,
        [SnapshotRow(scope, 3, 2, 10, 20), SnapshotRow(other, 3, 2, 10, 20)],
        [CreditRow(scope.model_id, chance.randint(1, 12), 5, chance.randrange(2), 50_000)],
    )


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_hours_fit_the_journeys_after_any_history(seed: int) -> None:
    history = History(seed)
    desk, chance = history.desk, history.chance
    for user_id in (1, 2):
        desk.database.models[user_id] = [
            model_row(user_id * 100 + number, *chance.choice(DEFINITIONS)) for number in range(chance.randrange(3))
        ]
    if chance.random() < 0.4:
        foreign(desk, chance, chance.choice((FIRST, SECOND)))
    await desk.start()
    for _ in range(chance.randint(5, 30)):
        await history.step()
    await history.drain()
    rows = {key: hour.row for key, hour in desk.database.hours.items() if hour.row.revision}
    outdated = {
        key for key, row in rows.items() if row.configuration != desk.database.configuration(key.user_id).revision
    }
    assert all(rows[key].is_final for key in outdated), "open hours follow models and settings"
    check(desk, rows.keys() - outdated)
    assert all(row.published_revision == row.revision for row in rows.values())
    await history.rebuild(sorted(desk.all_hours()))
    await desk.settle()
    check_whole(desk)
