"""Purges in SQL, on both databases: what goes, what stays, and who waits for whom."""

import asyncio
from collections.abc import Sequence

import pytest

from stream.core.facts import Journey, Outcome
from stream.core.keys import partition_of
from stream.core.money import Units
from stream.core.toggles import ToggleScope
from tables.sql.audit import Author
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import TransactionConflict
from tables.sql.explanations import read_explanation
from tables.sql.facts import SqlFactStore
from tables.sql.journeys import read_journeys
from tables.sql.purge_ranges import (
    PAGE,
    Behind,
    Meant,
    Span,
    accounts_with_conversions,
    meant_by_ids,
    meant_by_span,
    unknown_to_all,
)
from tables.sql.purges import Batch, Look, OffScope, look_at_batch, look_to_hide, look_to_purge, purge_batch
from tables.sql.setting_store import Switch, set_multi_touch
from tests.support.model_rows import empty, fetch, run
from tests.support.sql_examples import advance, conversion, journey, touch

NOW = 1_900_000_000
USER = 7
HOUR = 1_700_002_800
TOUCHES = (touch(1), touch(2, 1_700_000_050))
ALL_ROWS = "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints` ORDER BY 1, 2"


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> None:
    await empty(database)


async def write(store: SqlFactStore, *journeys: Journey) -> None:
    """As a worker stores them."""
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        await transaction.write_journeys(journeys)


def made(conv_id: int, *, outcome: Outcome = Outcome.COUNTED, version: int = 1, **fields: object) -> Journey:
    """Its converting click is the first of two touches."""
    touches = TOUCHES if outcome is Outcome.COUNTED else ()
    return journey(conversion(conv_id, **fields), outcome=outcome, touches=touches, version=version)


def purged(of: Journey) -> Journey:
    return of._replace(touches=TOUCHES[:1], version=of.version + 1, purged=True)


async def stored(database: Database, *conv_ids: int) -> list[Journey]:
    async with database.reading() as connection:
        found = await read_journeys(connection, "conv_id", conv_ids)
    return sorted(found, key=lambda each: each.conversion.conv_id)


async def by_other_hand(database: Database, *conv_ids: int) -> None:
    for conv_id in conv_ids:
        await run(
            database,
            "INSERT INTO `202_conversion_touchpoints` (conv_id, click_id, click_time, position, created_at)"
            f" VALUES ({conv_id}, 99, 5, 9, 0)",
        )


async def logged(
    database: Database, conv_id: int, *, user_id: int = USER, conv_time: int = HOUR, campaign: int = 70
) -> None:
    """A conversion of an installation's earlier life, with a touchpoint row."""
    await run(
        database,
        "INSERT INTO `202_conversion_logs` (conv_id, click_id, campaign_id, click_payout, user_id, click_time,"
        " conv_time, time_difference, ip, pixel_type, user_agent, deleted)"
        f" VALUES ({conv_id}, 1, {campaign}, 1, {user_id}, 5, {conv_time}, '', '', 0, '', 0)",
    )
    await by_other_hand(database, conv_id)


async def purge_ids(database: Database, *conv_ids: int, partitions: int = 1) -> Batch:
    async with database.reading() as connection:
        meant = await meant_by_ids(connection, conv_ids)
    return await purge_batch(database, meant, look_to_purge(), partitions=partitions, now=NOW)


async def pages(database: Database, span: Span) -> list[Sequence[Meant]]:
    found = []
    behind: Behind | None = None
    while True:
        async with database.reading() as connection:
            page = await meant_by_span(connection, span, behind)
        found.append(page.meant)
        behind = page.behind
        if behind is None:
            return found


async def test_the_converting_click_alone_is_left_and_no_row(database: Database, store: SqlFactStore) -> None:
    first, second, other = made(1), made(2, version=4), made(3)
    await write(store, first, second, other)
    await by_other_hand(database, 1)
    batch = await purge_ids(database, 1, 2)
    assert batch.rows == {1: 3, 2: 2}
    assert list(batch.journeys) == list(batch.changed) == [purged(first), purged(second)]
    assert await stored(database, 1, 2, 3) == [purged(first), purged(second), other]
    assert {row[0] for row in await fetch(database, ALL_ROWS)} == {3}
    assert await fetch(database, "SELECT conv_id FROM `202_conversion_logs` ORDER BY 1") == [(1,), (2,), (3,)]
    assert await fetch(database, f"SELECT conv_id FROM `202_stream_journeys` WHERE updated_at = {NOW}") == [(1,), (2,)]


async def test_what_does_not_count_stays_and_rows_of_other_hands_go(database: Database, store: SqlFactStore) -> None:
    deleted, double = made(1, outcome=Outcome.DELETED, deleted=1), made(2, outcome=Outcome.DUPLICATE)
    await write(store, deleted, double)
    await by_other_hand(database, 1, 2)
    batch = await purge_ids(database, 1, 2)
    assert (batch.rows, batch.journeys, batch.changed) == ({1: 1, 2: 1}, [], [])
    assert await stored(database, 1, 2) == [deleted, double]
    assert await fetch(database, ALL_ROWS) == []


async def test_twice_is_once_but_journeys_are_told_of_again(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1), made(2))
    once = await purge_ids(database, 1, 2)
    before = await fetch(database, "SELECT * FROM `202_stream_journeys` ORDER BY conv_id")
    again = await purge_ids(database, 1, 2)
    assert (again.rows, again.changed) == ({1: 0, 2: 0}, [])
    assert list(again.journeys) == list(once.journeys)
    assert await fetch(database, "SELECT * FROM `202_stream_journeys` ORDER BY conv_id") == before


async def test_a_look_changes_nothing(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1))
    async with database.reading() as connection:
        meant = await meant_by_ids(connection, [1])
    batch = await look_at_batch(database, meant, look_to_purge())
    assert (batch.rows, batch.changed) == ({1: 2}, [purged(made(1))])
    assert await stored(database, 1) == [made(1)]
    assert len(await fetch(database, ALL_ROWS)) == 2


async def test_what_an_earlier_life_left_is_known_and_goes(database: Database, store: SqlFactStore) -> None:
    """A journey knows better than a log, which may name another account, and a row alone names none."""
    await write(store, made(1))
    await logged(database, 2, user_id=8)
    await by_other_hand(database, 3)
    async with database.reading() as connection:
        assert await meant_by_ids(connection, [1, 2, 3, 4]) == [Meant(1, 7, 70), Meant(2, 8, 70), Meant(3, None, None)]
        assert await accounts_with_conversions(connection) == [7, 8]
        assert await unknown_to_all(connection, [7, 8, 9]) == [9]
    batch = await purge_ids(database, 2, 3, partitions=4)
    assert (batch.rows, batch.journeys) == ({2: 1, 3: 1}, [])
    assert {row[0] for row in await fetch(database, ALL_ROWS)} == {1}
    locked = "SELECT partition_id, epoch FROM `202_stream_progress` WHERE topic_group = 'journeys' ORDER BY 1"
    assert await fetch(database, locked) == [(0, 1), (1, 0), (2, 0), (3, 0)]


async def test_a_span_has_both_ends_and_one_account(database: Database, store: SqlFactStore) -> None:
    times = {1: HOUR - 1, 2: HOUR, 3: HOUR + 3600, 4: HOUR + 3601}
    await write(store, *(made(conv_id, conv_time=at) for conv_id, at in times.items()), made(5, user_id=8))
    for conv_id, at in times.items():
        await logged(database, 10 + conv_id, conv_time=at)
    await logged(database, 19, user_id=8)
    found = await pages(database, Span(USER, HOUR, HOUR + 3600))
    assert [[each.conv_id for each in page] for page in found] == [[2, 3], [12, 13]]
    assert await pages(database, Span(USER, HOUR, HOUR)) == [[Meant(2, 7, 70)], [Meant(12, 7, 70)]]


async def test_pages_miss_nothing_and_repeat_nothing(database: Database, store: SqlFactStore) -> None:
    """Ids do not go with times."""
    count = 2 * PAGE + 7
    await write(store, *(made(number, conv_time=HOUR + (number * 7919) % count * 20) for number in range(1, count + 1)))
    log = "INSERT INTO `202_conversion_logs` (conv_id, click_id, campaign_id, click_payout, user_id, click_time,"
    log += " conv_time, time_difference, ip, pixel_type, user_agent, deleted) VALUES "
    log += ", ".join(f"({5000 + each}, {each}, 1, 1, 7, 5, {HOUR}, '', '', 0, '', 0)" for each in range(PAGE + 3))
    await run(database, log)
    found = await pages(database, Span(USER, 0, NOW))
    assert [len(page) for page in found] == [PAGE, PAGE, 7, PAGE, 3]
    ids = [each.conv_id for page in found for each in page]
    assert sorted(ids) == [*range(1, count + 1), *range(5000, 5000 + PAGE + 3)]


async def test_what_left_the_span_meanwhile_is_spared(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1), made(2))
    span = Span(USER, 0, 1_700_003_700)
    (meant, _) = await pages(database, span)
    moved = made(2, conv_time=1_700_003_701, version=2)
    await write(store, moved)
    batch = await purge_batch(database, meant, look_to_purge(span), partitions=1, now=NOW)
    assert batch.rows == {1: 2}
    assert await stored(database, 1, 2) == [purged(made(1)), moved]


# Who waits for whom


async def test_a_chunk_under_way_is_waited_for_and_its_facts_stay(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1))
    revised = made(1, version=2, click_payout=Units(7), revised_at=5)
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
        await transaction.write_journeys([revised])
        waiting = asyncio.create_task(purge_ids(database, 1))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
    assert list((await waiting).changed) == [purged(revised)]
    assert await stored(database, 1) == [purged(revised)]


async def test_a_chunk_waits_for_a_purge_and_finds_what_it_wrote(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1))
    taken = await store.take_over(0, owner="worker-1", topic_ids={}, partition_count=1, history_from=0)
    is_at_work, may_end = asyncio.Event(), asyncio.Event()
    plain = look_to_purge()

    async def slow(connection: Connection, meant: Sequence[Meant], journeys: Sequence[Journey]) -> Batch:
        is_at_work.set()
        await may_end.wait()
        return await plain(connection, meant, journeys)

    async def chunk() -> list[Journey]:
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
            async with database.reading() as connection:
                return await read_journeys(connection, "conv_id", [1])

    purging = asyncio.create_task(purge_batch(database, [Meant(1, 7, 70)], slow, partitions=1, now=NOW))
    await is_at_work.wait()
    waiting = asyncio.create_task(chunk())
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    may_end.set()
    await purging
    assert await waiting == [purged(made(1))]


async def test_a_conversion_that_turns_up_in_another_partition_is_looked_for_again(
    database: Database, store: SqlFactStore
) -> None:
    """Between the first look and the locks; a log had named another campaign."""
    other = next(number for number in range(1, 99) if partition_of(7, number, 8) != partition_of(7, 70, 8))
    await write(store, made(1))
    with pytest.raises(TransactionConflict):
        await purge_batch(database, [Meant(1, 7, other)], look_to_purge(), partitions=8, now=NOW)
    assert await stored(database, 1) == [made(1)]
    assert list((await purge_ids(database, 1, partitions=8)).changed) == [purged(made(1))]


# Where multi-touch is off


async def switch(database: Database, *, to: bool, since: int = HOUR, scope: tuple[ToggleScope, int]) -> None:
    async def evict(_: Sequence[int]) -> None: ...

    wanted = Switch(USER, *scope, to, since)
    await set_multi_touch(database, wanted, Author("ann", "cli"), now=lambda: NOW, evict=evict)


async def hide(database: Database, look: Look = look_to_hide) -> Batch:
    found = await pages(database, Span(USER, 0, NOW))
    meant = [each for page in found for each in page]
    return await purge_batch(database, meant, look, partitions=1, now=NOW)


async def test_rows_go_by_the_setting_of_their_own_time_and_journeys_stay(
    database: Database, store: SqlFactStore
) -> None:
    """The reference would have taken all rows of the account (D26)."""
    await switch(database, to=False, scope=(ToggleScope.GLOBAL, 0))
    await switch(database, to=True, since=HOUR + 600, scope=(ToggleScope.GLOBAL, 0))
    await switch(database, to=True, scope=(ToggleScope.CAMPAIGN, 71))
    await switch(database, to=False, scope=(ToggleScope.CAMPAIGN, 72))
    await switch(database, to=False, scope=(ToggleScope.ADVERTISER, 6))
    journeys = [
        made(1, conv_time=HOUR - 1),
        made(2, conv_time=HOUR),
        made(3, conv_time=HOUR + 600),
        made(4, conv_time=HOUR, campaign_id=71),
        made(5, conv_time=HOUR + 600, campaign_id=72),
        made(6, conv_time=HOUR + 600, aff_network_id=6)._replace(aff_network_id=6),
        made(7, conv_time=HOUR, outcome=Outcome.DELETED, deleted=1),
        made(10, conv_time=HOUR, campaign_id=72),
    ]
    await write(store, *journeys)
    await by_other_hand(database, 2, 5, 6, 7, 10)  # the worker hid its own
    await run(
        database,
        "INSERT INTO `202_aff_campaigns` (aff_campaign_id, user_id, aff_network_id, aff_campaign_name,"
        " aff_campaign_url, aff_campaign_payout, aff_campaign_time, aff_campaign_foreign_payout)"
        " VALUES (90, 7, 6, 'a', 'b', 1, 1, 1)",
    )
    await logged(database, 8, conv_time=HOUR + 600, campaign=90)
    await logged(database, 9, conv_time=HOUR + 600, campaign=91)
    before = await stored(database, *range(1, 8), 10)
    batch = await hide(database)
    everywhere = OffScope(USER, ToggleScope.GLOBAL, 0)
    advertiser = OffScope(USER, ToggleScope.ADVERTISER, 6)
    campaign = OffScope(USER, ToggleScope.CAMPAIGN, 72)
    assert batch.off == {2: everywhere, 5: campaign, 6: advertiser, 7: everywhere, 8: advertiser, 10: campaign}
    assert [str(each) for each in (everywhere, advertiser, campaign)] == ["global", "advertiser:6", "campaign:72"]
    assert (batch.rows, batch.journeys, batch.changed) == (dict.fromkeys((2, 5, 6, 7, 8, 10), 1), (), ())
    assert {row[0] for row in await fetch(database, ALL_ROWS)} == {1, 3, 4, 9}
    assert await stored(database, *range(1, 8), 10) == before == journeys
    assert (await hide(database)).rows == dict.fromkeys((2, 5, 6, 7, 8, 10), 0)


async def test_turning_it_on_restores_what_was_off_but_not_what_was_purged(
    database: Database, store: SqlFactStore
) -> None:
    await write(store, made(1), made(2))
    await switch(database, to=False, scope=(ToggleScope.GLOBAL, 0))
    await hide(database)
    await purge_ids(database, 2)
    assert await fetch(database, ALL_ROWS) == []
    await switch(database, to=True, scope=(ToggleScope.GLOBAL, 0))
    assert await fetch(database, ALL_ROWS) == [
        (1, position, each.click_id, each.click_time) for position, each in enumerate(TOUCHES)
    ]


async def test_an_explanation_expects_no_rows_of_a_purged_journey(database: Database, store: SqlFactStore) -> None:
    await write(store, made(1))
    await purge_ids(database, 1)
    explanation = await read_explanation(database, 1)
    assert explanation is not None
    assert (explanation.touchpoints_expected, explanation.touchpoints) == ((), ())


async def test_two_purges_and_a_worker_at_once_end_as_one_after_the_other(
    database: Database, store: SqlFactStore
) -> None:
    ids = range(1, 41)
    await write(store, *(made(conv_id, conv_time=HOUR + conv_id) for conv_id in ids))
    await asyncio.gather(
        *(purge_ids(database, *ids) for _ in range(2)),
        write(store, made(99)),
    )
    assert await stored(database, *ids) == [purged(made(conv_id, conv_time=HOUR + conv_id)) for conv_id in ids]
    assert {row[0] for row in await fetch(database, ALL_ROWS)} == {99}
