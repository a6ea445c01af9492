"""The hours in memory and those in SQL are asked the same and answer the same: the simulation stands on that."""

import random
from collections.abc import Sequence
from typing import TypeVar

import pytest

from stream.agents.hour_ports import HourStore, HourTransaction
from stream.core.errors import Fenced
from stream.core.facts import Journey, Outcome
from stream.core.hours import CreditedAs, CreditRow, HourKey
from stream.core.money import Units
from stream.core.progress import Advance
from stream.core.results import HourChange, HourContents, HourRow, SnapshotRow
from stream.core.totals import Scope, ScopeKey
from stream.wire import limits
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore
from tables.sql.hour_store import SqlHourStore
from tables.sql.selects import units
from tests.support.hour_examples import model_row
from tests.support.memory_hours import MemoryHours, MemoryHourStore, StoredHour, put_foreign
from tests.support.model_rows import fetch, store_model
from tests.support.sql_examples import conversion, journey, touch

_Value = TypeVar("_Value")

OWNER = "worker-1"
USERS = (1, limits.MEDIUMINT)
HOURS = (0, 3600, limits.CONVERSION_TIME - limits.CONVERSION_TIME % 3600)
KEYS = [HourKey(user_id, hour) for user_id in USERS for hour in HOURS]
MODELS = {1: (11, 12, 13), limits.MEDIUMINT: (21, limits.BIGINT)}
CONV_IDS = (1, 2, 3, 4, 5, 6, 7, limits.INT)
CLICK_IDS = (1, 2, limits.BIGINT)
POSITIONS = (0, 1, 25)
SCOPE_IDS = (1, 2, limits.MEDIUMINT)
STEPS = (0, 1, -1, 5, 123_456, 10**12 - 1, -(10**12) + 1)
PAYOUTS = (0, 1, -1, 99_999_999_999, -99_999_999_999)
COSTS = (0, 7, -9_999_999, 9_999_999)
CREDITS = (0, 1, 33_333, 100_000)
TEXTS = ("", "no", "💥 ' \" \\ ? %s \n", "ß")


class Draw:
    """Values where the two could differ, from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def one(self, values: Sequence[_Value]) -> _Value:
        return self.chance.choice(values)

    def some(self, values: Sequence[_Value]) -> list[_Value]:
        return self.chance.sample(values, self.chance.randrange(len(values) + 1))

    def snapshot(self, key: ScopeKey) -> SnapshotRow:
        clicks, conversions = self.one((1, limits.INT)), self.one((1, 2))
        return SnapshotRow(key, clicks, conversions, self.one(STEPS), self.one(STEPS))

    def scopes(self, model_id: int) -> list[ScopeKey]:
        scopes = [scope for scope in Scope if scope is not Scope.GLOBAL]
        return [ScopeKey(model_id, scope, scope_id) for scope in self.some(scopes) for scope_id in self.some(SCOPE_IDS)]

    def credits(self, model_id: int, conv_ids: Sequence[int]) -> list[CreditRow]:
        return [
            CreditRow(model_id, conv_id, self.one(CLICK_IDS), position, self.one(CREDITS))
            for conv_id in conv_ids
            for position in self.some(POSITIONS)
        ]

    def journey(self, conv_id: int, version: int) -> Journey:
        key = self.one(KEYS)
        of = conversion(conv_id, user_id=key.user_id, conv_time=key.date_hour + self.one((0, 1, 3599)))
        if of.conv_time > limits.CONVERSION_TIME:
            of = of._replace(conv_time=key.date_hour)
        return journey(of, version=version, touches=(touch(),) * self.one((0, 1, 3)), outcome=self.one(tuple(Outcome)))

    def credited_as(self) -> CreditedAs:
        payout, cost = Units(self.one(PAYOUTS)), Units(self.one(COSTS))
        return CreditedAs(self.one((1, limits.INT)), payout, cost, self.one((0, limits.CONVERSION_TIME)))

    def change(self, key: HourKey, hour: StoredHour) -> HourChange:
        """Any that a fire could write: a credit that stands is cleared first, and hangs on a snapshot that stays."""
        models = MODELS[key.user_id]
        cleared = None if self.chance.random() < 0.3 else self.some(CONV_IDS)
        removed = [each for each in hour.snapshots if self.chance.random() < 0.2]
        removed += [each for each in self.scopes(self.one(models)) if self.chance.random() < 0.2]
        snapshots, credits = [], []
        for model_id in self.some(models):
            whole = ScopeKey(model_id, Scope.GLOBAL, 0)
            if whole in removed:
                continue
            wanted = self.scopes(model_id)
            if whole not in hour.snapshots or self.one((True, False)):
                wanted.append(whole)
            snapshots += [self.snapshot(each) for each in wanted if each not in removed]
            gone = CONV_IDS if cleared is None else cleared
            free = [each for each in CONV_IDS if each in gone or (model_id, each) not in _credited(hour)]
            again = [row for row in hour.sorted_credits() if row.model_id == model_id and row.conv_id in gone]
            kept = [row for row in again if self.one((True, False))]  # written again as they were
            credits += self.credits(
                model_id, [each for each in self.some(free) if each not in {r.conv_id for r in kept}]
            )
            credits += kept
        problems = {model_id: self.one(TEXTS) for model_id in self.some(models)}
        row = HourRow(
            hour.row.revision + 1, 0, self.one((1, 2**63 - 1)), is_final=self.one((False, True)), problems=problems
        )
        credited = {conv_id: self.credited_as() for conv_id in self.some(CONV_IDS)}
        uncredited = [each for each in self.some(CONV_IDS) if each not in credited]
        return HourChange(key, row, snapshots, list(dict.fromkeys(removed)), cleared, credits, credited, uncredited)


class Left(Exception):
    """The worker gives a transaction up."""


def leave(*, is_left: bool) -> None:
    if is_left:
        raise Left


def _credited(hour: StoredHour) -> set[tuple[int, int]]:
    return {(row.model_id, row.conv_id) for row in hour.credits.values()}


def _of_one_credited(changes: list[HourChange]) -> list[HourChange]:
    """A conversion is credited in one hour."""
    known: set[int] = set()
    for change in changes:
        assert isinstance(change.credited, dict)
        for conv_id in known & change.credited.keys():
            del change.credited[conv_id]
        known |= change.credited.keys()
    return changes


def sorted_contents(found: HourContents) -> HourContents:
    return HourContents(
        sorted(found.journeys, key=lambda each: each.conversion.conv_id), dict(found.credited), sorted(found.snapshots)
    )


async def asked(transaction: HourTransaction, draw: Draw) -> list[object]:
    keys, conv_ids = draw.some(KEYS), draw.some(CONV_IDS)
    with_credits = draw.one((False, True))
    contents = await transaction.read_contents(keys)
    journeys = await transaction.read_journeys(conv_ids)
    return [
        await transaction.read_hours(keys),
        {key: sorted_contents(found) for key, found in contents.items()},
        dict(await transaction.read_results(keys, with_credits=with_credits)),
        dict(await transaction.read_credited(conv_ids)),
        sorted(journeys, key=lambda each: each.conversion.conv_id),
        {user: each.revision for user, each in (await transaction.read_configurations(USERS)).items()},
        sorted(await transaction.read_uncredited(keys)),
    ]


async def written(store: HourStore, changes: Sequence[HourChange], advance: Advance, seed: int) -> list[object]:
    """What a transaction of these changes says; some are given up."""
    draw, said = Draw(seed), list[object]()
    try:
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance)
            await transaction.lock_accounts(USERS)
            said += await asked(transaction, draw)
            removals = await transaction.write(changes)
            said.append({key: list(found) for key, found in removals.items()})
            said += await asked(transaction, draw)
            leave(is_left=draw.chance.random() < 0.2)
    except (Left, Fenced) as error:
        said.append(type(error))
    return said


async def published(store: HourStore, revisions: dict[HourKey, int], epoch: int) -> list[object]:
    said: list[object] = []
    try:
        await store.mark_published(0, epoch, revisions)
    except Fenced as error:
        said.append(type(error))
    return [*said, dict(await store.read_unsettled()), dict(await store.read_revisions(USERS))]


async def credited_as(database: Database) -> dict[int, CreditedAs]:
    exact = ", ".join(units(database.dialect, column) for column in ("payout", "cost"))
    rows = await fetch(database, f"SELECT conv_id, version, {exact}, conv_time FROM `202_stream_credited`")
    return {row[0]: CreditedAs._make(row[1:]) for row in rows}


async def insert_foreign(database: Database, key: HourKey, snapshots: list[SnapshotRow], row: CreditRow) -> None:
    """As other hands write them: global rows with their credits."""
    async with database.transaction() as connection:
        for number, snapshot in enumerate(snapshots, 1):
            values = [number, snapshot.key.model_id, key.user_id, key.date_hour, snapshot.clicks, snapshot.conversions]
            await connection.run(
                "INSERT INTO `202_attribution_snapshots` (snapshot_id, model_id, user_id, scope_type, scope_id,"
                " date_hour, lookback_start, lookback_end, attributed_clicks, attributed_conversions,"
                " attributed_revenue, attributed_cost, created_at)"
                f" VALUES (?, ?, ?, 'global', NULL, ?, 0, 0, ?, ?, {snapshot.revenue / 10_000}, 0, 5)",
                values,
            )
            if snapshot.key.model_id == row.model_id:
                await connection.run(
                    "INSERT INTO `202_attribution_touchpoints` (snapshot_id, conv_id, click_id, position, credit,"
                    " weight, created_at) VALUES (?, ?, ?, ?, 1, 1, 5)",
                    [number, row.conv_id, row.click_id, row.position],
                )


async def prepared(database: Database, memory: MemoryHours, draw: Draw) -> None:
    for user_id, model_ids in MODELS.items():
        for model_id in model_ids:
            await store_model(database, model_id, user_id=user_id)
            memory.models[user_id].append(model_row(model_id, "linear"))
    key = draw.one(KEYS)
    model_id = MODELS[key.user_id][0]
    snapshots = [SnapshotRow(ScopeKey(model_id, Scope.GLOBAL, 0), 1, 1, 12_500, 0)]
    row = CreditRow(model_id, 9, 1, 0, 100_000)
    put_foreign(memory, key, snapshots, [row])
    await insert_foreign(database, key, snapshots, row)


@pytest.mark.parametrize("seed", range(25))
async def test_both_stores_answer_the_same(
    seed: int, database: Database, store: SqlFactStore, hour_store: SqlHourStore
) -> None:
    draw, journeys = Draw(seed), dict[int, Journey]()
    memory = MemoryHours(lambda: journeys)
    twin = MemoryHourStore(memory, OWNER)
    await prepared(database, memory, draw)
    epochs = 1
    for number in range(12):
        if number == 0 or draw.chance.random() < 0.2:
            for each in (twin, hour_store):
                taken = await each.take_over(
                    0, owner=OWNER, topic_ids={"journeys": "a"}, partition_count=1, history_from=0
                )
                epochs = taken.epoch
        changed = {
            each: draw.journey(each, journeys[each].version + 1 if each in journeys else 1)
            for each in draw.some(CONV_IDS)
        }
        journeys |= changed
        async with store.transaction() as transaction:
            await transaction.write_journeys(list(changed.values()))
        changes = _of_one_credited([draw.change(key, memory.hours.get(key, StoredHour())) for key in draw.some(KEYS)])
        advance = Advance(0, epochs - draw.one((0, 0, 0, 1)), {"journeys": number}, number, 0)
        again = draw.chance.randrange(2**32)
        assert await written(hour_store, changes, advance, again) == await written(twin, changes, advance, again)
        known = {
            key: hour.row.revision - draw.one((0, 0, 1)) for key, hour in memory.hours.items() if hour.row.revision
        }
        revisions = {key: known[key] for key in draw.some(list(known))}
        epoch = epochs - draw.one((0, 0, 0, 1))
        assert await published(hour_store, revisions, epoch) == await published(twin, revisions, epoch)
        assert await credited_as(database) == memory.credited_as
