"""Removal of old clicks on both databases: which go, in what steps, and what the owner of their partition is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from stream.agents import retention
from stream.agents.retention import ClickRetention, RetentionSettings
from stream.core.errors import Unavailable
from stream.core.events import Click
from stream.core.facts import Outcome
from stream.core.keys import partition_of
from stream.core.progress import PartitionProgress
from stream.core.retention import DAY_SECONDS, OldClicks
from stream.metrics import Metrics
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP, SqlFactStore, reset_progress
from tables.sql.progress import note_outside_change, read_progress
from tables.sql.retention import SqlRetentionStore, SqlRetentionTransaction
from tests.sql.conftest import NOW, StoreFactory
from tests.support.sql_examples import advance, click, conversion, journey

PARTITIONS = 2
KEEP_DAYS = 31
BOUND = NOW - KEEP_DAYS * DAY_SECONDS
CAMPAIGNS = {
    partition: next(each for each in range(1, 99) if partition_of(7, each, PARTITIONS) == partition)
    for partition in range(PARTITIONS)
}


class WatchedStore(SqlRetentionStore):
    """Small pages; notes the size of each step, and lets a test come between."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, clock=lambda: NOW, page_clicks=40)
        self.steps: list[int] = []
        self.before_step: Callable[[], object] = lambda: None
        self.after_page: list[Callable[[], object]] = []

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlRetentionTransaction]:
        if asyncio.iscoroutine(made := self.before_step()):
            await made
        async with super().transaction() as transaction:
            removed = _Counting(transaction)
            yield removed
        self.steps.append(removed.count)

    async def old_clicks(self, after: int, before: int) -> OldClicks:
        found = await super().old_clicks(after, before)
        for act in self.after_page:
            if asyncio.iscoroutine(made := act()):
                await made
        return found


class _Counting(SqlRetentionTransaction):
    def __init__(self, of: SqlRetentionTransaction) -> None:
        super().__init__(of._connection, of._clock)
        self.count = 0

    async def remove(self, click_ids: Sequence[int]) -> None:
        self.count += len(click_ids)
        await super().remove(click_ids)


def _fail(error: BaseException) -> None:
    raise error


@dataclass
class Desk:
    """Partitions that `worker-1` has taken, and the removal as it runs beside it."""

    database: Database
    facts: SqlFactStore
    store: WatchedStore
    opened: list[int] = field(default_factory=lambda: list(range(PARTITIONS)))
    metrics: Metrics = field(default_factory=Metrics)

    def removal(self, owner: str = "worker-1") -> ClickRetention:
        settings = RetentionSettings(owner, PARTITIONS, KEEP_DAYS, pause=0)
        return ClickRetention(self.store, settings, opened=lambda: self.opened, metrics=self.metrics, fail=_fail)

    async def add(self, *clicks: Click) -> None:
        async with self.facts.transaction() as transaction:
            await transaction.claim_clicks(clicks)

    async def move_on(self, watermark: int, *partitions: int) -> None:
        """As a chunk of the owner does it; the owner has then heard of all that was changed beside it."""
        rows = {row.partition: row for row in await self.facts.progress()}
        for partition in partitions or range(PARTITIONS):
            row = rows[partition]
            known = advance(partition, epoch=row.epoch, watermark=watermark)
            async with self.facts.transaction() as transaction:
                await transaction.pass_fence(replace(known, outside_changes=row.outside_changes), after_failure=False)

    async def ids(self) -> list[int]:
        async with self.database.reading() as connection:
            return [row[0] for row in await connection.fetch("SELECT click_id FROM `202_stream_clicks` ORDER BY 1")]

    async def row(self, partition: int) -> PartitionProgress:
        return (await self.facts.progress())[partition]

    def counted(self) -> float | None:
        return self.metrics.registry.get_sample_value("touchstream_clicks_removed_total")


@pytest.fixture
async def desk(database: Database, store_of: StoreFactory) -> Desk:
    made = Desk(database, store_of(), WatchedStore(database))
    for partition in range(PARTITIONS):
        await made.facts.take_over(
            partition, owner="worker-1", topic_ids={}, partition_count=PARTITIONS, history_from=0
        )
    await made.move_on(NOW)
    return made


def in_partition(partition: int, first_id: int, count: int = 1, **fields: object) -> list[Click]:
    fields = {"click_time": BOUND - 1, "campaign_id": CAMPAIGNS[partition], **fields}
    return [click(click_id, **fields) for click_id in range(first_id, first_id + count)]


async def test_clicks_older_than_the_bound_go_unless_a_conversion_names_them(desk: Desk) -> None:
    await desk.add(
        *in_partition(0, 1, 3, visitor_id="ann"),
        *in_partition(0, 4, click_time=BOUND),
        *in_partition(1, 5, click_time=BOUND + 5),
    )
    named = journey(conversion(1, click_id=2, deleted=1), outcome=Outcome.DELETED, touches=())
    async with desk.facts.transaction() as transaction:
        await transaction.write_journeys([named], displaced=())
    assert await desk.removal().look() == 2
    assert await desk.ids() == [2, 4, 5]
    assert desk.counted() == 2
    row = await desk.row(0)
    assert (row.history_from, row.outside_changes) == (BOUND, 1)
    assert list(row.unsettled_keys) == [f"key 7:{CAMPAIGNS[0]}:ann"]
    # Nothing of partition 1 went: its history is as complete as before, and its owner is not troubled.
    row = await desk.row(1)
    assert (row.history_from, row.outside_changes, row.unsettled_keys) == (0, 0, ())


async def test_a_step_is_small_however_much_is_old(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_CLICKS", 7)
    for partition in range(PARTITIONS):
        await desk.add(*in_partition(partition, 1 + 100 * partition, 100))
    assert await desk.removal().look() == 200
    assert await desk.ids() == []
    assert max(desk.store.steps) == 7
    assert sum(desk.store.steps) == 200
    assert [(await desk.row(each)).history_from for each in range(PARTITIONS)] == [BOUND, BOUND]


async def test_the_bound_of_history_never_goes_back(desk: Desk) -> None:
    async with desk.database.transaction() as connection:
        row = (await read_progress(connection, JOURNEYS_GROUP))[0]
        await note_outside_change(connection, JOURNEYS_GROUP, replace(row, history_from=BOUND + 999))
    await desk.add(*in_partition(0, 1))
    assert await desk.removal().look() == 1
    assert (await desk.row(0)).history_from == BOUND + 999


async def test_killed_between_two_steps_the_next_one_ends_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_CLICKS", 10)
    await desk.add(*in_partition(0, 1, 30), *in_partition(0, 100, click_time=BOUND))

    def killed() -> None:
        if len(desk.store.steps) == 2:
            raise KeyboardInterrupt

    desk.store.before_step = killed
    with pytest.raises(KeyboardInterrupt):
        await desk.removal().look()
    assert await desk.ids() == [*range(21, 31), 100]
    assert (await desk.row(0)).history_from == BOUND
    desk.store.before_step = lambda: None
    assert await desk.removal().look() == 10
    assert await desk.ids() == [100]
    assert await desk.removal().look() == 0
    assert (await desk.row(0)).outside_changes == 3


async def test_a_failure_between_bound_and_removal_leaves_neither(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.add(*in_partition(0, 1, 3))
    failures = [Unavailable("gone")]

    async def remove(self: SqlRetentionTransaction, click_ids: Sequence[int]) -> None:
        if failures:
            assert await desk.ids() == [1, 2, 3]
            raise failures.pop()
        await real(self, click_ids)

    real = SqlRetentionTransaction.remove
    monkeypatch.setattr(SqlRetentionTransaction, "remove", remove)
    assert await desk.removal().look() == 3
    row = await desk.row(0)
    assert (await desk.ids(), row.history_from, row.outside_changes) == ([], BOUND, 1)


@pytest.mark.parametrize("owner", ["worker-2", "worker-1"])  # the same one has come back with another epoch
async def test_a_partition_that_was_lost_meanwhile_is_left_alone(owner: str, desk: Desk) -> None:
    await desk.add(*in_partition(0, 1, 3), *in_partition(1, 11, 3))

    async def taken_by_another() -> None:
        desk.store.after_page = []
        await desk.facts.take_over(0, owner=owner, topic_ids={}, partition_count=PARTITIONS, history_from=0)

    desk.store.after_page = [taken_by_another]
    assert await desk.removal().look() == 3
    assert await desk.ids() == [1, 2, 3]
    assert (await desk.row(0)).history_from == 0


async def test_what_is_not_open_here_or_belongs_to_another_is_not_looked_at(desk: Desk) -> None:
    await desk.add(*in_partition(0, 1, 3), *in_partition(1, 11, 3))
    assert await desk.removal("worker-2").look() == 0
    desk.opened = [1]
    assert await desk.removal().look() == 3
    assert await desk.ids() == [1, 2, 3]


async def test_two_at_once_remove_each_click_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_CLICKS", 5)
    await desk.add(*in_partition(0, 1, 50), *in_partition(1, 101, 50))
    removed = await asyncio.gather(desk.removal().look(), desk.removal().look())
    assert sum(removed) == 100
    assert await desk.ids() == []


async def test_a_click_that_became_younger_meanwhile_stays(desk: Desk) -> None:
    await desk.add(*in_partition(0, 1, 2))

    async def revised() -> None:
        async with desk.facts.transaction() as transaction:
            await transaction.replace_clicks(in_partition(0, 1, click_time=BOUND + 1, revised_at=5))

    desk.store.after_page = [revised]
    assert await desk.removal().look() == 1
    assert await desk.ids() == [1]


async def test_a_click_that_moved_to_another_partition_meanwhile_stays_until_the_next_look(desk: Desk) -> None:
    await desk.add(*in_partition(0, 1, 2))

    async def moved() -> None:
        async with desk.facts.transaction() as transaction:
            await transaction.replace_clicks(in_partition(1, 1, revised_at=5))

    desk.store.after_page = [moved]
    assert await desk.removal().look() == 1
    assert await desk.ids() == [1], "the owner of its partition must be told, in that partition's row"


async def test_what_a_conversion_names_meanwhile_stays(desk: Desk) -> None:
    await desk.add(*in_partition(0, 1, 2))

    async def converted() -> None:
        async with desk.facts.transaction() as transaction:
            await transaction.write_journeys([journey(conversion(1, click_id=1))], displaced=())

    desk.store.after_page = [converted]
    assert await desk.removal().look() == 1
    assert await desk.ids() == [1]


async def test_it_looks_again_after_an_hour_of_the_watermark(desk: Desk) -> None:
    removal = desk.removal()
    assert await removal.look() == 0
    await desk.add(*in_partition(0, 1), *in_partition(0, 2, click_time=BOUND + 1), *in_partition(1, 3))
    await desk.move_on(NOW + 3599)
    assert await removal.look() == 0
    await desk.move_on(NOW + 3600, 0)
    assert await removal.look() == 2
    assert await desk.ids() == [3]
    # Who takes it anew knows nothing of the last time.
    await desk.facts.take_over(1, owner="worker-1", topic_ids={}, partition_count=PARTITIONS, history_from=0)
    assert await removal.look() == 1


async def test_an_owner_that_has_not_taken_in_the_last_changes_is_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_CLICKS", 10)
    monkeypatch.setattr(retention, "_UNREAD_CHARACTERS", 20)
    monkeypatch.setattr(retention, "_OWNER_PAUSE_SECONDS", 0)
    await desk.add(*(each for number in range(40) for each in in_partition(0, number + 1, visitor_id=f"v{number}")))
    unread: list[int] = []

    async def chunk_after_some_tries() -> None:
        unread.append(len((await desk.row(0)).unsettled_keys))
        if unread[-3:] == [10, 10, 10]:
            await desk.move_on(NOW, 0)

    desk.store.before_step = chunk_after_some_tries
    assert await desk.removal().look() == 40
    assert max(unread) == 10
    assert await desk.ids() == []


async def test_after_a_reset_every_partition_remembers_the_latest_bound(desk: Desk) -> None:
    # Keys may lie in another partition then, where nothing was removed yet.
    await desk.add(*in_partition(0, 1))
    await desk.removal().look()
    await reset_progress(desk.database, now=NOW)
    for partition in (1, 2):
        taken = await desk.facts.take_over(partition, owner="worker-1", topic_ids={}, partition_count=3, history_from=5)
        assert taken.history_from == BOUND
    assert [row.history_from for row in await desk.facts.progress()] == [BOUND] * 3
