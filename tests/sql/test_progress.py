"""Who owns a partition, and what the fence keeps out."""

import asyncio
from dataclasses import replace

import pytest

from stream.core.errors import Fenced
from stream.core.progress import PartitionProgress, Passed
from tables.sql import progress as progress_rows
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP, SqlFactStore, list_progress, reset_progress
from tests.sql.conftest import NOW, StoreFactory
from tests.support.sql_examples import advance, click

IDS = {"clicks": "a1", "conversions": "b2"}


async def take_over(store: SqlFactStore, owner: str = "worker-1", *, partition: int = 0) -> PartitionProgress:
    return await store.take_over(partition, owner=owner, topic_ids=IDS, partition_count=4, history_from=0)


async def test_a_partition_never_taken_begins_with_nothing(store: SqlFactStore) -> None:
    before = await take_over(store)
    assert before == PartitionProgress(
        partition=0,
        epoch=1,
        owner="",
        next_offsets={},
        partition_count=0,
        topic_ids={},
        watermark=0,
        newest_conversion=0,
        history_from=0,
        unsettled_keys=(),
    )
    (stored,) = await store.progress()
    assert stored == replace(before, owner="worker-1", partition_count=4, topic_ids=IDS)


async def test_each_taking_over_raises_the_epoch_and_tells_what_was(store_of: StoreFactory) -> None:
    first, second = store_of("worker-1"), store_of("worker-2")
    await take_over(first)
    async with first.transaction() as transaction:
        await transaction.pass_fence(advance(offset=42, watermark=5, newest_conversion=6), after_failure=False)
        await transaction.settle(0, ["7:70:Zoë"])
    before = await take_over(second, "worker-2")
    assert (before.epoch, before.owner, before.next_offsets) == (2, "worker-1", {"clicks": 42})
    assert (before.watermark, before.newest_conversion, before.unsettled_keys) == (5, 6, ("7:70:Zoë",))


async def test_when_the_topics_were_read_to_their_ends_is_kept_until_it_is_told_anew(store: SqlFactStore) -> None:
    await take_over(store)
    seen = []
    for drained_at in (None, 1_700, None, 1_800):
        async with store.transaction() as transaction:
            await transaction.pass_fence(replace(advance(), drained_at=drained_at), after_failure=False)
        seen += [row.drained_at for row in await store.progress()]
    assert seen == [0, 1_700, 1_700, 1_800]
    assert (await take_over(store)).drained_at == 1_800


async def test_other_topics_than_those_of_the_row_are_not_taken_for_granted(store: SqlFactStore) -> None:
    await take_over(store)
    for _ in range(2):
        before = await store.take_over(
            0, owner="worker-1", topic_ids={"clicks": "new"}, partition_count=8, history_from=0
        )
        assert (before.topic_ids, before.partition_count) == (IDS, 4)


async def test_who_lost_the_partition_writes_nothing(store_of: StoreFactory) -> None:
    zombie, owner = store_of("worker-1"), store_of("worker-2")
    await take_over(zombie)
    await take_over(owner, "worker-2")
    with pytest.raises(Fenced):
        async with zombie.transaction() as transaction:
            await transaction.pass_fence(advance(epoch=1), after_failure=False)
    with pytest.raises(Fenced):
        async with zombie.transaction() as transaction:
            await transaction.pass_fence(advance(epoch=2), after_failure=True)
    (row,) = await owner.progress()
    assert row.next_offsets == {}


async def test_the_same_owner_under_an_old_epoch_is_fenced(store: SqlFactStore) -> None:
    await take_over(store)
    await take_over(store)
    with pytest.raises(Fenced):
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(epoch=1), after_failure=False)


async def test_an_advance_that_changes_nothing_still_passes(store: SqlFactStore) -> None:
    await take_over(store)
    for _ in range(2):
        async with store.transaction() as transaction:
            assert await transaction.pass_fence(advance(), after_failure=False) == Passed()


async def test_the_keys_left_unsettled_are_told_after_a_failure_and_then_gone(store: SqlFactStore) -> None:
    await take_over(store)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(), after_failure=False)
        await transaction.settle(0, ["a", "b"])
    async with store.transaction() as transaction:
        assert (await transaction.pass_fence(advance(), after_failure=True)).unsettled == ("a", "b")
    async with store.transaction() as transaction:
        assert (await transaction.pass_fence(advance(), after_failure=True)).unsettled == ()


async def test_what_is_written_behind_an_exception_is_not_stored(store: SqlFactStore) -> None:
    await take_over(store)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 -- all of the transaction fails
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(offset=9), after_failure=False)
            await transaction.claim_clicks([click(1)])
            raise ZeroDivisionError
    (row,) = await store.progress()
    assert row.next_offsets == {}
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(1)]) == {}


async def test_a_reset_shuts_everybody_out_and_forgets_offsets_and_topics(
    store: SqlFactStore, database: Database
) -> None:
    await take_over(store, partition=0)
    await take_over(store, partition=1)
    async with store.transaction() as transaction:
        moved = replace(advance(1, newest_conversion=500, watermark=9), drained_at=NOW)
        await transaction.pass_fence(moved, after_failure=False)
        await transaction.settle(1, ["a"])
    await reset_progress(database, now=NOW)
    with pytest.raises(Fenced):
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(1), after_failure=False)
    rows = await list_progress(database)
    assert [(row.epoch, row.owner, row.next_offsets, row.topic_ids, row.partition_count) for row in rows] == [
        (2, "", {}, {}, 0),
        (2, "", {}, {}, 0),
    ]
    assert [(row.newest_conversion, row.watermark, row.unsettled_keys) for row in rows] == [(500, 0, ()), (500, 0, ())]
    assert [row.drained_at for row in rows] == [0, 0]
    before = await store.take_over(0, owner="worker-1", topic_ids={"clicks": "new"}, partition_count=8, history_from=0)
    assert (before.epoch, before.newest_conversion) == (3, 500)
    assert (await store.progress())[0].topic_ids == {"clicks": "new"}


async def test_a_partition_that_is_new_takes_the_newest_conversion_of_all(store: SqlFactStore) -> None:
    """After a change of the partition count its keys may come from any other."""
    await take_over(store)
    async with store.transaction() as transaction:
        await transaction.pass_fence(advance(newest_conversion=500), after_failure=False)
    assert (await take_over(store, partition=5)).newest_conversion == 500


async def test_many_workers_taking_over_at_once_get_epochs_of_their_own(store_of: StoreFactory) -> None:
    stores = [store_of(f"worker-{number}") for number in range(6)]
    taken = await asyncio.gather(*(take_over(each, f"worker-{number}") for number, each in enumerate(stores)))
    assert sorted(each.epoch for each in taken) == [1, 2, 3, 4, 5, 6]


# What another hand changes beside the owner


async def change_outside(database: Database, *texts: str, partition: int = 0, **fields: object) -> None:
    """`fields` are those of the row."""
    async with database.transaction() as connection:
        row = await progress_rows.lock_partition(connection, JOURNEYS_GROUP, partition, now=NOW)
        changed = replace(row, unsettled_keys=texts, outside_changes=row.outside_changes + 1)
        changed = replace(changed, **fields)  # type: ignore[arg-type]  # each test gives what the field takes
        await progress_rows.note_outside_change(connection, JOURNEYS_GROUP, changed)


async def passed(store: SqlFactStore, *, is_repeated: bool = False, **known: object) -> Passed:
    async with store.transaction() as transaction:
        telling = replace(advance(), **known)  # type: ignore[arg-type]  # as above
        return await transaction.pass_fence(telling, after_failure=is_repeated)


async def test_what_another_hand_changed_is_told_to_the_owner_until_it_knows(
    store: SqlFactStore, database: Database
) -> None:
    await take_over(store)
    await passed(store, newest_conversion=500)
    await change_outside(database, "key a", "conversion 9", newest_conversion=700, history_from=300)
    told = await passed(store, newest_conversion=600, drained_at=NOW)
    assert told.unsettled == ("key a", "conversion 9")
    assert told.changed is not None
    assert (told.changed.newest_conversion, told.changed.history_from, told.changed.outside_changes) == (700, 300, 1)
    (row,) = await store.progress()
    assert (row.newest_conversion, row.unsettled_keys, row.drained_at) == (700, (), NOW)
    # It may forget what it heard, as one does whose transaction fails; the keys are those that it leaves itself.
    again = await passed(store)
    assert (again.unsettled, again.changed) == ((), row)
    assert await passed(store, outside_changes=1) == Passed()


async def test_whoever_takes_over_knows_of_the_changes_before_it(store: SqlFactStore, database: Database) -> None:
    await take_over(store)
    await change_outside(database, "key a")
    before = await take_over(store)
    assert (before.outside_changes, before.unsettled_keys) == (1, ("key a",))
    assert await passed(store, epoch=2, outside_changes=1) == Passed()


async def test_a_change_from_outside_opens_the_fence_to_nobody_else(store_of: StoreFactory, database: Database) -> None:
    zombie, owner = store_of("worker-1"), store_of("worker-2")
    await take_over(zombie)
    await take_over(owner, "worker-2")
    await change_outside(database, "key a")
    for epoch in (1, 2):
        with pytest.raises(Fenced):
            await passed(zombie, epoch=epoch, is_repeated=True)
    with pytest.raises(Fenced):
        await passed(owner, epoch=1)
    assert (await passed(owner, epoch=2)).unsettled == ("key a",)


async def test_after_a_lost_reply_the_change_from_outside_is_told_again(
    store: SqlFactStore, database: Database
) -> None:
    await take_over(store)
    await change_outside(database, "key a")
    async with store.transaction() as transaction:
        told = await transaction.pass_fence(advance(), after_failure=False)
        await transaction.settle(0, told.unsettled)
    again = await passed(store, is_repeated=True)
    assert (again.unsettled, again.changed is not None) == (("key a",), True)


async def test_a_partition_that_nobody_has_had_can_be_changed_from_outside(
    store: SqlFactStore, database: Database
) -> None:
    await change_outside(database, "key a", partition=3, newest_conversion=700)
    (row,) = await store.progress()
    assert (row.partition, row.epoch, row.owner, row.partition_count) == (3, 0, "", 0)
    before = await take_over(store, partition=3)
    assert (before.epoch, before.unsettled_keys, before.newest_conversion) == (1, ("key a",), 700)


async def test_history_begins_where_both_the_log_and_the_database_have_it(
    store: SqlFactStore, database: Database
) -> None:
    """For a partition that nobody has had: from its log clicks may be gone, and from the database as well."""
    for partition, (removed, log_begins) in enumerate([(300, 0), (0, 300), (300, 200)]):
        await change_outside(database, partition=partition, history_from=removed)
        before = await store.take_over(
            partition, owner="worker-1", topic_ids=IDS, partition_count=4, history_from=log_begins
        )
        assert before.history_from == 300


async def test_hands_that_change_a_partition_follow_one_another(store: SqlFactStore, database: Database) -> None:
    await take_over(store)

    async def change(number: int) -> None:
        async with database.transaction() as connection:
            row = await progress_rows.lock_partition(connection, JOURNEYS_GROUP, 0, now=NOW)
            await asyncio.sleep(0)
            texts = (*row.unsettled_keys, f"key {number}")
            changed = replace(row, unsettled_keys=texts, outside_changes=row.outside_changes + 1)
            await progress_rows.note_outside_change(connection, JOURNEYS_GROUP, changed)

    await asyncio.gather(*map(change, range(6)))
    told = await passed(store)
    assert told.changed is not None
    assert (told.changed.outside_changes, sorted(told.unsettled)) == (6, [f"key {number}" for number in range(6)])
