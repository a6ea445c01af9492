"""What a replay asks of SQL, on both databases: conversions page by page, and rows that are not as they should be."""

from collections.abc import Sequence

import pytest

from stream.agents.outputs import TopicNames
from stream.core.errors import StartRefused
from stream.core.facts import Journey, Outcome
from stream.core.keys import partition_of
from stream.replay.computing import BatchReport, Named, compute_batch
from stream.replay.storing import Scope
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore, Writing, list_progress
from tables.sql.replay_runs import claim_replay, end_replay
from tables.sql.replays import InKeyOrder, SqlReplayStore, missing_clicks, raise_history
from tables.sql.runs import RunState
from tests.sql.conftest import NOW
from tests.support.model_rows import empty, fetch, run
from tests.support.sql_examples import advance, conversion, journey

SCOPE = Scope(TopicNames("clicks", "conversions", "journeys", 1, 1), 30 * 86_400)
VISITORS = ("", "a", "A", "ä", "b c")
TIMES = (100, 200, 200, 200, 300)
ANY = conversion(1)


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> None:
    await empty(database)
    for relation in ("202_stream_clicks", "202_stream_run_places"):
        await run(database, f"DELETE FROM `{relation}`")


def replay_store(database: Database) -> SqlReplayStore:
    return SqlReplayStore(database, Writing(owner="r", writes_conversion_logs=True, clock=lambda: NOW), run_id=1)


async def write(store: SqlFactStore, journeys: Sequence[Journey]) -> None:
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        await transaction.write_journeys(journeys)


async def pages(database: Database, *, start: int, end: int, limit: int) -> list[int]:
    place = InKeyOrder(ANY.user_id, ANY.campaign_id, "", 0, 0)
    found: list[int] = []
    while True:
        page = await replay_store(database).read_page(place, start=start, end=end, limit=limit)
        found += [each.place.conv_id for each in page]
        if len(page) < limit:
            return found
        place = page[-1].place


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_have_each_conversion_of_the_range_once(
    store: SqlFactStore, database: Database, limit: int
) -> None:
    """Many have the same time, and visitors differ in case and accents alone."""
    made = [
        journey(conversion(10 * number + index, conv_time=time), visitor_id=visitor)
        for number, visitor in enumerate(VISITORS, 1)
        for index, time in enumerate(TIMES)
    ]
    await write(store, made)
    for start, end in ((0, 999), (200, 200), (101, 299), (300, 300), (301, 999)):
        wanted = [each.conversion.conv_id for each in made if start <= each.conversion.conv_time <= end]
        found = await pages(database, start=start, end=end, limit=limit)
        assert sorted(found) == wanted
        assert found == await pages(database, start=start, end=end, limit=7)


async def compute(database: Database, conv_id: int, click_id: int) -> BatchReport:
    return await compute_batch(replay_store(database), SCOPE, 0, [Named(conv_id, click_id)], place={})


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM `202_conversion_touchpoints` WHERE position = 0",
        "UPDATE `202_conversion_touchpoints` SET click_id = 99",
        "UPDATE `202_conversion_touchpoints` SET click_time = click_time + 1",
        "UPDATE `202_conversion_touchpoints` SET position = 5",
        "DELETE FROM `202_conversion_logs`",
        "UPDATE `202_conversion_logs` SET click_payout = 3",
        "UPDATE `202_conversion_logs` SET transaction_id = 'other'",
        "UPDATE `202_conversion_logs` SET deleted = 1",
    ],
)
async def test_rows_that_other_hands_have_changed_are_written_again(
    store: SqlFactStore, database: Database, damage: str
) -> None:
    shown = (
        "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints`",
        "SELECT conv_id, click_payout, transaction_id, deleted FROM `202_conversion_logs`",
    )
    await write(store, [journey(conversion(1), touches=(), click_unknown=True)])
    await compute(database, 1, ANY.click_id)
    assert (await compute(database, 1, ANY.click_id)).written == []
    wanted = [await fetch(database, each) for each in shown]
    assert all(wanted)
    await run(database, damage)
    assert (await compute(database, 1, ANY.click_id)).written == [1]
    assert [await fetch(database, each) for each in shown] == wanted


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_log_row_of_a_report_that_does_not_count_goes(
    store: SqlFactStore, database: Database, *, is_elsewhere: bool
) -> None:
    """Also where its own partition is another one: the report that counts displaces it."""
    scope = Scope(TopicNames("clicks", "conversions", "journeys", 2, 1), 30 * 86_400)
    here = partition_of(ANY.user_id, ANY.campaign_id, 2)
    other = next(number for number in range(99) if partition_of(ANY.user_id, number, 2) != here)
    first = conversion(1, transaction_id="t")
    second = conversion(2, transaction_id="t", campaign_id=other if is_elsewhere else ANY.campaign_id)
    duplicate = journey(second, outcome=Outcome.DUPLICATE, touches=(), click_unknown=True)
    await write(store, [journey(first, touches=(), click_unknown=True), duplicate])
    named = [Named(1, ANY.click_id)]
    await compute_batch(replay_store(database), scope, here, named, place={})
    columns = (
        "click_id, campaign_id, click_payout, user_id, click_time, conv_time, time_difference, pixel_type, user_agent"
    )
    await run(
        database,
        f"INSERT INTO `202_conversion_logs` (conv_id, {columns}) SELECT 2, {columns} FROM `202_conversion_logs`",
    )
    report = await compute_batch(replay_store(database), scope, here, named, place={})
    assert report.written == ([] if is_elsewhere else [2])
    assert await fetch(database, "SELECT conv_id FROM `202_conversion_logs`") == [(1,)]


async def test_a_log_row_of_a_conversion_that_does_not_count_goes(store: SqlFactStore, database: Database) -> None:
    gone = journey(conversion(1, deleted=1), outcome=Outcome.DELETED, touches=(), click_unknown=True)
    await write(store, [gone])
    await compute(database, 1, ANY.click_id)
    await run(
        database,
        "INSERT INTO `202_conversion_logs` (conv_id, click_id, campaign_id, click_payout, user_id, click_time,"
        " conv_time, time_difference, pixel_type, user_agent) VALUES (1, 1, 1, 1, 1, 1, 1, '0', 0, '')",
    )
    assert (await compute(database, 1, ANY.click_id)).written == [1]
    assert await fetch(database, "SELECT conv_id FROM `202_conversion_logs`") == []


async def test_an_owner_is_told_that_history_begins_later(store: SqlFactStore, database: Database) -> None:
    await write(store, [])
    for begins_at, wanted in ((500, (500, 1)), (400, (500, 1)), (600, (600, 2))):
        await raise_history(database, {0: begins_at}, now=NOW)
        (row,) = await list_progress(database)
        assert (row.history_from, row.outside_changes) == wanted


async def test_clicks_that_are_missing_are_those_of_the_range_from_before_it(
    store: SqlFactStore, database: Database
) -> None:
    made = [
        journey(conversion(number, click_id=click_id, click_time=time, conv_time=conv_time), click_unknown=is_unknown)
        for number, (click_id, time, conv_time, is_unknown) in enumerate(
            [(1, 50, 500, True), (1, 40, 600, True), (2, 100, 500, True), (3, 50, 700, True), (4, 50, 500, False)], 1
        )
    ]
    await write(store, made)
    found = await missing_clicks(database, (), start=500, end=600, before=100)
    assert found == {1: 40}
    assert await missing_clicks(database, (ANY.user_id,), start=500, end=600, before=100) == found
    assert await missing_clicks(database, (ANY.user_id + 1,), start=500, end=600, before=100) == {}


async def test_a_run_that_was_broken_off_is_taken_up_within_a_day_or_by_its_number(database: Database) -> None:
    """And only with the log that it has read."""
    await run(database, "DELETE FROM `202_stream_runs`")
    arguments: dict[str, object] = {"start": 5, "end": 9, "topic_ids": {"clicks": "a"}}
    day = 86_400

    async def claimed(at: int, *, resumed: int | None = None, **others: object) -> tuple[int, bool]:
        async with database.transaction() as connection:
            found, is_resumed = await claim_replay(
                connection, {**arguments, **others}, owner="me", now=at, lease=30, resumed=resumed
            )
        async with database.transaction() as connection:
            await end_replay(connection, found, RunState.FAILED, now=at + 10, error="stopped")
        return found.run_id, is_resumed

    first, is_resumed = await claimed(NOW)
    assert not is_resumed
    assert await claimed(NOW + 9 + day) == (first, True)
    second, is_resumed = await claimed(NOW + 19 + 2 * day)
    assert (second != first, is_resumed) == (True, False), "a day after its last sign of life it begins anew"
    assert await claimed(NOW + 20 * day, resumed=first) == (first, True)
    other, is_resumed = await claimed(NOW + 20 * day, topic_ids={"clicks": "b"})
    assert (other not in {first, second}, is_resumed) == (True, False)
    with pytest.raises(StartRefused, match="has read another log"):
        await claimed(NOW + 20 * day, topic_ids={"clicks": "b"}, resumed=first)
