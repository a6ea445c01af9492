"""Journeys in SQL without a worker, and what a rebuild has made of them."""

import asyncio
from collections.abc import Iterable, Sequence
from decimal import Decimal

from stream.core.facts import Journey
from stream.core.money import Units, amount_text
from tables.sql.database import Database, open_database
from tables.sql.facts import SqlFactStore, Writing
from tests.support.rows import query
from tests.support.sql_examples import advance, conversion, journey, touch

HOUR = 3600
BASE = 1_700_000_000 // HOUR * HOUR


def converted(conv_id: int, conv_time: int, *, user_id: int = 7, payout: int = 1_250_000, version: int = 1) -> Journey:
    """With two touches, an hour and a minute before."""
    first, second = touch(2 * conv_id, conv_time - HOUR), touch(2 * conv_id + 1, conv_time - 60)
    of = conversion(
        conv_id,
        user_id=user_id,
        click_id=second.click_id,
        click_time=second.click_time,
        conv_time=conv_time,
        click_payout=Units(payout),
    )
    return journey(of, touches=(first, second), version=version)


def uniform(hours: int, each: int, *, user_id: int = 7, first_id: int = 1) -> list[Journey]:
    """So many hours from BASE on, with so many conversions in each."""
    step = HOUR // each
    offset = min(30, step // 2)
    return [
        converted(first_id + number, BASE + number * step + offset, user_id=user_id) for number in range(hours * each)
    ]


def put(url: str, journeys: Sequence[Journey]) -> None:
    """As a worker writes them."""

    async def run() -> None:
        database = open_database(url)
        try:
            await put_into(database, journeys)
        finally:
            await database.close()

    asyncio.run(run())


async def put_into(database: Database, journeys: Sequence[Journey]) -> None:
    writing = Writing(owner="a test", writes_conversion_logs=False, clock=lambda: 1_800_000_000)
    store = SqlFactStore(database, writing)
    taken = await store.take_over(0, owner="a test", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        await transaction.write_journeys(journeys)


def execute(url: str, statement: str) -> None:
    """What somebody does by hand."""

    async def run() -> None:
        database = open_database(url)
        try:
            async with database.transaction() as connection:
                await connection.run(statement)
        finally:
            await database.close()

    asyncio.run(run())


def conversions_by_hour(url: str, *, user_id: int = 7) -> dict[int, int]:
    """Of the global snapshots of the only model."""
    rows = query(
        url,
        "SELECT date_hour, attributed_conversions FROM `202_attribution_snapshots`"
        f" WHERE scope_type = 'global' AND user_id = {user_id}",
    )
    found = dict(rows)
    assert len(found) == len(rows), "an hour has one global row a model"
    return found


def hours_written(url: str) -> int:
    return int(query(url, "SELECT COUNT(*) FROM `202_stream_hours`")[0][0])


def assert_hours_fit(url: str, journeys: Iterable[Journey]) -> None:
    """Totals and credits of the only model, last touch, are those of the journeys: all of them counted."""
    expected: dict[tuple[int, int], tuple[int, Decimal]] = {}
    for each in journeys:
        key = (each.conversion.user_id, each.date_hour)
        count, revenue = expected.get(key, (0, Decimal(0)))
        expected[key] = (count + 1, revenue + Decimal(amount_text(each.conversion.click_payout)))
    rows = query(
        url,
        "SELECT user_id, date_hour, attributed_conversions, attributed_revenue FROM `202_attribution_snapshots`"
        " WHERE scope_type = 'global'",
    )
    found = {(user, hour): (count, Decimal(str(revenue))) for user, hour, count, revenue in rows}
    assert len(found) == len(rows)
    assert found == expected
    credits = query(
        url,
        "SELECT s.user_id, s.date_hour, t.conv_id, t.click_id, t.position FROM `202_attribution_touchpoints` t"
        " JOIN `202_attribution_snapshots` s ON s.snapshot_id = t.snapshot_id",
    )
    assert sorted(credits) == sorted(
        (each.conversion.user_id, each.date_hour, each.conversion.conv_id, each.conversion.click_id, 0)
        for each in journeys
    )
