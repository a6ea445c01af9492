"""The hours in SQL, beyond what the twin says: how much is asked and written, signs of life, and runs by hand."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from stream.agents.firing import HoursAtWork, Order, fire
from stream.core.errors import Fenced
from stream.core.facts import Journey, Outcome
from stream.core.hours import CreditedAs, CreditRow, HourKey
from stream.core.money import Units
from stream.core.progress import Advance
from stream.core.results import HourChange, HourRow, SnapshotRow
from stream.core.totals import Scope, ScopeKey
from tables.sql import credits as credit_rows
from tables.sql import hour_writing
from tables.sql.accounts import behind_account
from tables.sql.addresses import MYSQL
from tables.sql.audit import Author
from tables.sql.connections import Connection, MysqlConnection, SqliteConnection
from tables.sql.cron import mark_window, sign_of_life
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore
from tables.sql.hour_store import SqlHourStore
from tables.sql.model_removal import delete_model
from tables.sql.model_store import ModelEdit, ModelPlace, update_model
from tables.sql.runs import Claim, RunKind, RunState, Window, claim_run, finish_run, list_runs, renew_run
from tests.sql.conftest import NOW, hour_store_of
from tests.support.model_rows import fetch, run, store_model
from tests.support.sql_examples import advance, conversion, journey

KEY = HourKey(7, 7200)
CREDITED_AS = CreditedAs(1, Units(12_345), Units(-1), 7201)
CREDITS = "SELECT touchpoint_id, conv_id, position, credit, weight FROM `202_attribution_touchpoints` ORDER BY 1"


def whole(model_id: int = 1, **fields: int) -> SnapshotRow:
    row = SnapshotRow(ScopeKey(model_id, Scope.GLOBAL, 0), clicks=2, conversions=1, revenue=12_345, cost=-1)
    return row._replace(**fields)  # type: ignore[arg-type]  # numbers


def change(revision: int = 1, *, key: HourKey = KEY, credits: Sequence[CreditRow] = (), **fields: object) -> HourChange:
    standard = HourChange(
        key=key,
        row=HourRow(revision, 0, 9, is_final=False, problems={}),
        snapshots=[whole()],
        removed_snapshots=(),
        cleared=(),
        credits=credits,
        credited={row.conv_id: CREDITED_AS for row in credits},
        uncredited=(),
    )
    return replace(standard, **fields)  # type: ignore[arg-type]  # each test gives what the field takes


def shares(*conv_ids: int, model_id: int = 1) -> list[CreditRow]:
    return [CreditRow(model_id, each, each * 10 + place, place, 50_000) for each in conv_ids for place in (0, 1)]


async def write(store: SqlHourStore, *changes: HourChange) -> None:
    async with store.transaction() as transaction:
        await transaction.lock_accounts({each.key.user_id for each in changes})
        await transaction.write(changes)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Statements as they reach the drivers, inserts as their relation."""
    seen: list[str] = []
    with monkeypatch.context() as patched:
        for kind in (MysqlConnection, SqliteConnection):
            for name in ("fetch", "run", "insert"):
                patched.setattr(kind, name, _watching(getattr(kind, name), seen))
        yield seen


def _watching(method: Callable[..., Awaitable[Any]], seen: list[str]) -> Callable[..., Awaitable[Any]]:
    async def call(connection: Connection, statement: Any, *arguments: object) -> Any:  # noqa: ANN401 -- any of three
        seen.append(statement if isinstance(statement, str) else f"INSERT {statement.relation}")
        return await method(connection, statement, *arguments)

    return call


async def test_new_conversions_of_a_known_hour_cost_no_look_at_old_credits(
    hour_store: SqlHourStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(hour_store, change(credits=shares(1, 2)))
    with watched(monkeypatch) as statements:
        await write(hour_store, change(2, credits=shares(3)))
    assert [each for each in statements if "202_attribution_touchpoints" in each] == [
        "INSERT 202_attribution_touchpoints"
    ]


async def test_what_stays_as_it_was_is_not_written_again(
    hour_store: SqlHourStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(hour_store, change(credits=shares(1, 2)))
    before = await fetch(database, CREDITS)
    with watched(monkeypatch) as statements:
        await write(hour_store, change(2, credits=shares(1, 2), cleared=None))
    assert await fetch(database, CREDITS) == before
    assert [each for each in statements if "INSERT 202_attribution_touchpoints" in each or "DELETE" in each] == []


async def test_a_thousand_hours_take_few_statements(
    hour_store: SqlHourStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [HourKey(user_id, hour * 3600) for user_id in range(1, 51) for hour in range(20)]

    def changes(revision: int, *, cleared: bool) -> list[HourChange]:
        return [
            change(
                revision,
                key=key,
                credits=shares(number, model_id=key.user_id),
                snapshots=[whole(key.user_id)],
                cleared=[number] if cleared else (),
            )
            for number, key in enumerate(keys, 1)
        ]

    for user_id in range(1, 51):
        await store_model(database, user_id, user_id=user_id)
    await write(hour_store, *changes(1, cleared=False))
    with watched(monkeypatch) as statements:
        await write(hour_store, *changes(2, cleared=True))
        await write(hour_store, *changes(3, cleared=False))
        async with hour_store.transaction() as transaction:
            contents = await transaction.read_contents(keys)
            results = await transaction.read_results(keys, with_credits=True)
    assert len(statements) < 100
    assert all(len(results[key].credits) == 2 for key in keys)
    assert all(contents[key].credited == {number: 1} for number, key in enumerate(keys, 1))


async def test_an_hour_of_many_credits_is_read_in_pages(
    hour_store: SqlHourStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credit_rows, "ROWS_AT_A_TIME", 5)
    monkeypatch.setattr(hour_writing, "ROWS_AT_A_TIME", 5)
    credits = shares(*range(1, 12))
    await write(hour_store, change(credits=credits, snapshots=[whole(clicks=22)]))
    async with hour_store.transaction() as transaction:
        assert (await transaction.read_results([KEY], with_credits=True))[KEY].credits == credits
    before = await fetch(database, CREDITS)
    await write(hour_store, change(2, credits=credits[:-3], cleared=None))
    assert await fetch(database, CREDITS) == before[:-3]


async def test_a_weight_of_another_hand_becomes_the_credit(hour_store: SqlHourStore, database: Database) -> None:
    await write(hour_store, change(credits=shares(1)))
    await run(database, "UPDATE `202_attribution_touchpoints` SET weight = 0.1, created_at = 3")
    await write(hour_store, change(2, credits=shares(1), cleared=None))
    rows = await fetch(database, "SELECT weight, credit, created_at FROM `202_attribution_touchpoints`")
    assert [(float(weight), float(credit), created) for weight, credit, created in rows] == [(0.5, 0.5, 3)] * 2


async def test_a_snapshot_keeps_its_number_and_the_time_of_its_first_writing(
    hour_store: SqlHourStore, database: Database
) -> None:
    columns = "snapshot_id, scope_id, lookback_start, lookback_end, attributed_revenue, attributed_cost, created_at"
    await write(hour_store, change(credits=shares(1)))
    await run(database, "UPDATE `202_attribution_snapshots` SET created_at = 3")
    ((snapshot_id, *before),) = await fetch(database, f"SELECT {columns} FROM `202_attribution_snapshots`")
    assert (before[0], before[1], before[2], float(before[3]), float(before[4])) == (None, 7200, 10799, 1.2345, -0.0001)
    await write(hour_store, change(2, snapshots=[whole(revenue=50)]))
    ((again, *_, revenue, _, created_at),) = await fetch(database, f"SELECT {columns} FROM `202_attribution_snapshots`")
    assert (again, float(revenue), created_at) == (snapshot_id, 0.005, 3)


async def test_a_transaction_that_fails_leaves_nothing(hour_store: SqlHourStore, database: Database) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- all of the transaction fails
        async with hour_store.transaction() as transaction:
            await transaction.lock_accounts([7])
            await transaction.write([change(credits=shares(1))])
            raise ZeroDivisionError
    for relation in ("202_stream_hours", "202_attribution_snapshots", "202_attribution_touchpoints"):
        assert await fetch(database, f"SELECT * FROM `{relation}`") == []


async def test_who_lost_the_partition_neither_fires_nor_publishes(database: Database, hour_store: SqlHourStore) -> None:
    for owner in ("worker-1", "worker-2"):
        await hour_store_of(database, owner).take_over(
            0, owner=owner, topic_ids={"journeys": "a"}, partition_count=1, history_from=0
        )
    await write(hour_store, change())
    with pytest.raises(Fenced):
        async with hour_store.transaction() as transaction:
            await transaction.pass_fence(Advance(0, 1, {"journeys": 5}, 0, 0))
    with pytest.raises(Fenced):
        await hour_store.mark_published(0, 1, {KEY: 1})
    assert (await hour_store.read_unsettled())[KEY].published_revision == 0


async def test_an_account_without_models_gets_last_touch_and_no_other(
    hour_store: SqlHourStore, database: Database
) -> None:
    await store_model(database, 5, user_id=8, is_active=0)
    for _ in range(2):
        async with hour_store.transaction() as transaction:
            await transaction.lock_accounts([7, 8])
            found = await transaction.read_configurations([7, 8])
    assert [model.weighting.type for model in found[7].models] == ["last_touch"]
    assert found[8].models == ()
    assert await hour_store.read_revisions([7, 8]) == {key: each.revision for key, each in found.items()}


async def test_the_watermark_is_the_least_of_all_partitions(store: SqlFactStore, hour_store: SqlHourStore) -> None:
    assert await hour_store.read_watermark(1) == 0
    for partition, fields in enumerate(({"watermark": 900}, {"watermark": 100})):
        await store.take_over(partition, owner="worker-1", topic_ids={}, partition_count=2, history_from=0)
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(partition, **fields), after_failure=False)
    assert await hour_store.read_watermark(1) == 900
    assert await hour_store.read_watermark(2) == 100
    assert await hour_store.read_watermark(3) == 0
    async with store.transaction() as transaction:
        await transaction.pass_fence(replace(advance(1, watermark=100), drained_at=760), after_failure=False)
    assert await hour_store.read_watermark(2) == 700


async def test_signs_of_life_are_those_of_the_cron(hour_store: SqlHourStore, database: Database) -> None:
    await run(database, "INSERT INTO `202_cronjob_logs` VALUES (1, 5), (2, 6)")
    await run(database, "INSERT INTO `202_cronjobs` VALUES ('attr', 3600), ('attr', 10800), ('hour', 3600)")
    await hour_store.sign_of_life()
    assert await fetch(database, "SELECT * FROM `202_cronjob_logs` ORDER BY id") == [(1, 5), (2, NOW)]
    async with database.transaction() as connection:
        await sign_of_life(connection, now=NOW + 1)
        for _ in range(2):
            await mark_window(connection, date_hour=7200)
    assert await fetch(database, "SELECT * FROM `202_cronjob_logs` ORDER BY id") == [(1, 5), (2, NOW + 1)]
    assert await fetch(database, "SELECT * FROM `202_cronjobs` ORDER BY 1, 2") == [
        ("attr", 7200),
        ("attr", 10800),
        ("hour", 3600),
    ]


# Runs by hand

WINDOW = Window(RunKind.REBUILD, 7, 0, 7200)


async def claim(database: Database, owner: str, now: int, *, configuration: int = 1, is_forced: bool = False) -> Claim:
    return await behind_account(
        database,
        7,
        lambda connection: claim_run(
            connection, WINDOW, configuration=configuration, owner=owner, now=now, lease=30, is_forced=is_forced
        ),
        now=now,
    )


async def test_of_two_claims_at_once_one_gets_the_window(database: Database) -> None:
    first, second = await asyncio.gather(claim(database, "a", 100), claim(database, "b", 100))
    assert first.is_ours is not second.is_ours
    assert first.run == second.run


async def test_a_lease_that_is_renewed_holds_and_one_that_ran_out_does_not(database: Database) -> None:
    ours = await claim(database, "a", 100)
    async with database.transaction() as connection:
        assert await renew_run(connection, ours.run, now=125, lease=30, hours_done=1, hours_total=2)
    other = await claim(database, "b", 140)
    assert (other.is_ours, other.run.owner, other.run.hours_done, other.run.hours_total) == (False, "a", 1, 2)
    taken = await claim(database, "b", 155)
    assert (taken.is_ours, taken.run.owner, taken.run.lease_until) == (True, "b", 185)
    async with database.transaction() as connection:
        assert not await renew_run(connection, ours.run, now=156, lease=30, hours_done=2, hours_total=2)
        assert not await finish_run(connection, ours.run, RunState.FINISHED, now=156)
    async with database.reading() as connection:
        states = [(each.owner, each.state, bool(each.error)) for each in await list_runs(connection, WINDOW)]
    assert states == [("b", RunState.RUNNING, False), ("a", RunState.FAILED, True)]


async def test_what_has_finished_is_done_again_only_otherwise_or_by_force(database: Database) -> None:
    ours = await claim(database, "a", 7200)
    async with database.transaction() as connection:
        assert await finish_run(connection, ours.run, RunState.FINISHED, now=7201)
    again = await claim(database, "b", 7202)
    assert (again.is_ours, again.run.state, again.run.finished_at) == (False, RunState.FINISHED, 7201)
    changed = await claim(database, "b", 7202, configuration=2)
    assert changed.is_ours
    async with database.transaction() as connection:
        await finish_run(connection, changed.run, RunState.FAILED, now=7203, error="no")
    assert not (await claim(database, "b", 7204)).is_ours
    assert (await claim(database, "b", 7204, is_forced=True)).is_ours


async def test_a_window_that_was_not_over_is_done_again(database: Database) -> None:
    for second in (7198, 7199):
        ours = await claim(database, "a", second)
        assert ours.is_ours
        async with database.transaction() as connection:
            await finish_run(connection, ours.run, RunState.FINISHED, now=7300)
    assert (await claim(database, "a", 7301)).is_ours


async def test_a_window_with_something_that_is_not_credited_is_done_again(
    hour_store: SqlHourStore, store: SqlFactStore, database: Database
) -> None:
    hour = 1_700_002_800
    window = Window(RunKind.REBUILD, 7, hour - 3600, hour + 3600)
    beside = Window(RunKind.REBUILD, 7, hour - 3600, hour)

    async def is_done_again(of: Window, now: int) -> bool:
        async with database.transaction() as connection:
            found = await claim_run(connection, of, configuration=1, owner="a", now=now, lease=30)
            if found.is_ours:
                await finish_run(connection, found.run, RunState.FINISHED, now=now)
        return found.is_ours

    async def put(*journeys: Journey) -> None:
        async with store.transaction() as transaction:
            await transaction.write_journeys(journeys)

    now = hour + 10_000
    counted = journey(conversion(1))
    assert await is_done_again(window, now)
    assert await is_done_again(beside, now)
    assert not await is_done_again(window, now + 1)
    for news in (counted, counted._replace(version=2), counted._replace(version=3, outcome=Outcome.DELETED)):
        await put(news)
        assert await is_done_again(window, now + 2), news
        assert not await is_done_again(beside, now + 2)
        await fire_hour(hour_store, 1)
        assert not await is_done_again(window, now + 3), news


class Killed(Exception):
    """The command ends here."""


async def test_a_model_switched_on_again_while_it_was_deleted_has_all_its_rows(
    hour_store: SqlHourStore, store: SqlFactStore, database: Database
) -> None:
    await store_model(database, 1, model_type="last_touch", is_default=1)
    await store_model(database, 2, model_type="linear")
    async with store.transaction() as transaction:
        await transaction.write_journeys([journey(conversion(each)) for each in (1, 2)])
    await fire_hour(hour_store, 1, 2)

    def kill(_: str) -> None:
        raise Killed

    author, place = Author("ann", "cli"), ModelPlace(7, 2)
    with pytest.raises(Killed):
        await delete_model(database, place, author, now=lambda: NOW, tell=kill)
    await update_model(database, place, ModelEdit(is_active=True), author, now=NOW)
    await fire_hour(hour_store)
    rows = await fetch(
        database,
        "SELECT s.model_id, s.attributed_conversions, count(c.conv_id) FROM `202_attribution_snapshots` s"
        " JOIN `202_attribution_touchpoints` c ON c.snapshot_id = s.snapshot_id"
        " GROUP BY s.model_id, s.attributed_conversions ORDER BY 1",
    )
    assert rows == [(1, 2, 2), (2, 2, 2)]


async def fire_hour(store: SqlHourStore, *conv_ids: int) -> None:
    """The hour of the examples' conversions, without a memory of it."""
    order = Order(marks=[(7, each) for each in conv_ids], due=[HourKey(7, 1_700_002_800)])
    async with store.transaction() as transaction:
        await fire(transaction, HoursAtWork(0), order, with_extra_scopes=True)


async def test_the_server_hears_of_a_transaction_that_computes(
    hour_store: SqlHourStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hour_store.transaction() as transaction:
        with watched(monkeypatch) as statements:
            await transaction.keep_alive()
    assert statements == (["SELECT 1"] if database.dialect == MYSQL else [])


async def test_the_server_hears_of_a_long_look_for_what_was_written_again(
    hour_store: SqlHourStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    async def keep_alive(_: Connection) -> None:
        kept.append("")

    monkeypatch.setattr(hour_writing, "ROWS_AT_A_TIME", 5)
    for kind in (MysqlConnection, SqliteConnection):
        monkeypatch.setattr(kind, "keep_alive", keep_alive)
    await write(hour_store, change(credits=shares(*range(1, 11))))
    kept.clear()
    await write(hour_store, change(2, credits=shares(*range(1, 10)), cleared=None))  # leaves two removals
    assert len(kept) == 1  # behind all rows of the only change
    kept.clear()
    await write(hour_store, change(3, credits=shares(*range(1, 11)), cleared=None))
    assert len(kept) == 1 + 21 // 5
    async with hour_store.transaction() as transaction:
        assert (await transaction.read_results([KEY], with_credits=False))[KEY].removals == []


async def test_what_is_uncredited_takes_one_look_at_the_journeys_and_one_at_the_credits(
    hour_store: SqlHourStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hour_store.transaction() as transaction:
        with watched(monkeypatch) as statements:
            assert await transaction.read_uncredited([KEY, HourKey(7, 10_800)]) == set()
    assert len(statements) == 2
