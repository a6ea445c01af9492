"""The twin of `tables.sql.facts.SqlFactStore` in memory: transactions under READ COMMITTED, row locks, the fence."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.core.errors import Fenced, Unavailable
from stream.core.events import Click, is_rekeyed_conversion
from stream.core.facts import Facts, Journey, Needs, Outcome
from stream.core.keys import partition_of
from stream.core.progress import Advance, PartitionProgress, Passed
from tests.support.memory_facts import MemoryFacts
from tests.support.row_locks import RowLocks

LogRow = tuple[int, str]  # click id, transaction


async def _nothing(step: str) -> None:
    """Before a step of a transaction; the simulation puts chance and faults here."""


@dataclass(slots=True)
class MemoryDatabase:
    """What outlives a worker."""

    facts: MemoryFacts = field(default_factory=MemoryFacts)
    progress: dict[int, PartitionProgress] = field(default_factory=dict)
    logs: dict[int, LogRow] = field(default_factory=dict)
    loses_replies: int = 0  # so many next commits succeed without the caller hearing of it
    partitions: int = 0  # of the sources; if given, who writes journeys must hold the rows of their partitions
    locks: RowLocks = field(default_factory=RowLocks)
    under_way: "list[MemoryTransaction]" = field(default_factory=list)
    before_step: Callable[[str], Awaitable[None]] = _nothing
    after_commit: "Callable[[MemoryTransaction], None]" = lambda _transaction: None

    def copy(self) -> "MemoryDatabase":
        """Of its rows."""
        return MemoryDatabase(self.facts.copy(), dict(self.progress), dict(self.logs))

    def cut_off(self, owner: str) -> None:
        """All connections of a worker that died: nothing of its transactions is left."""
        for transaction in [each for each in self.under_way if each.owner == owner]:
            self.under_way.remove(transaction)
            self.locks.abandon(transaction)

    def row(self, partition: int) -> PartitionProgress:
        return self.progress.get(partition) or PartitionProgress(partition, 0, "", {}, 0, {}, 0, 0, 0, ())

    @property
    def newest_conversion(self) -> int:
        """Of all partitions."""
        return max((row.newest_conversion for row in self.progress.values()), default=0)

    @property
    def greatest_version(self) -> int:
        """Of all partitions."""
        return max((row.greatest_version for row in self.progress.values()), default=1)

    def note_outside_change(self, changed: PartitionProgress) -> None:
        """The row as another hand leaves it: all but what its owner alone moves."""
        self.progress[changed.partition] = changed_outside(self.row(changed.partition), changed)

    def reset_progress(self) -> None:
        """As `tables.sql.progress.reset_progress`."""
        newest = self.newest_conversion
        greatest = self.greatest_version
        history_from = max((row.history_from for row in self.progress.values()), default=0)
        for number, row in self.progress.items():
            self.progress[number] = PartitionProgress(
                number,
                row.epoch + 1,
                "",
                {},
                0,
                {},
                0,
                newest,
                history_from,
                (),
                row.outside_changes,
                greatest_version=greatest,
            )


def changed_outside(row: PartitionProgress, changed: PartitionProgress) -> PartitionProgress:
    return replace(
        row,
        unsettled_keys=tuple(changed.unsettled_keys),
        newest_conversion=changed.newest_conversion,
        history_from=changed.history_from,
        outside_changes=changed.outside_changes,
    )


class MemoryTransaction:
    """Reads what is committed when it reads, and what it wrote itself; nobody else sees that before the commit."""

    def __init__(self, database: MemoryDatabase, owner: str, newest_before: Callable[[], int]) -> None:
        self._database = database
        self.owner = owner
        self._newest_before = newest_before
        self.advance: Advance | None = None
        self.clicks: dict[int, Click] = {}
        self.journeys: dict[int, Journey] = {}
        self._logs: dict[int, LogRow | None] = {}
        self._progress: dict[int, PartitionProgress] = {}
        self._partition: int | None = None  # whose row is ours until the end

    async def pass_fence(self, advance: Advance, *, after_failure: bool) -> Passed:
        await self._database.before_step("pass_fence")
        await self._lock(("progress", advance.partition))
        row = self._database.progress.get(advance.partition)
        if row is None or (row.owner, row.epoch) != (self.owner, advance.epoch):
            raise Fenced(f"partition {advance.partition} belongs to {row.owner if row else 'nobody'}")
        is_changed = row.outside_changes != advance.outside_changes
        self.advance = advance
        self._partition = advance.partition
        self._progress[advance.partition] = replace(
            row,
            next_offsets=dict(advance.next_offsets),
            watermark=advance.watermark,
            newest_conversion=max(row.newest_conversion, advance.newest_conversion),
            unsettled_keys=(),
            drained_at=row.drained_at if advance.drained_at is None else advance.drained_at,
        )
        unsettled = row.unsettled_keys if after_failure or is_changed else ()
        return Passed(unsettled, row if is_changed else None)

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]:
        await self._database.before_step("claim_clicks")
        for click in sorted(clicks):
            await self._lock(("click", click.click_id))
        standing = self._facts().clicks
        stored = {click.click_id: standing[click.click_id] for click in clicks if click.click_id in standing}
        self.clicks.update((click.click_id, click) for click in clicks if click.click_id not in stored)
        return stored

    async def replace_clicks(self, clicks: Sequence[Click]) -> None:
        await self._database.before_step("replace_clicks")
        for click in sorted(clicks):
            await self._lock(("click", click.click_id))
        self.clicks.update((click.click_id, click) for click in clicks)

    async def read(self, needs: Needs) -> Facts:
        await self._database.before_step("read")
        return self._facts().read(needs)

    async def write_journeys(
        self, journeys: Sequence[Journey], *, displaced: Collection[int] = (), new: Collection[int] = ()
    ) -> None:
        await self._database.before_step("write_journeys")
        for journey in sorted(journeys, key=lambda each: each.conversion.conv_id):
            self._check_lock(journey)
            await self._lock(("journey", journey.conversion.conv_id))
            standing = self._facts().journeys.get(journey.conversion.conv_id, journey).conversion
            if journey.conversion.conv_id in new and is_rekeyed_conversion(standing, journey.conversion):
                raise Unavailable("another partition has stored the id meanwhile")
        self.journeys.update((journey.conversion.conv_id, journey) for journey in journeys)
        self._raise_version(max((journey.version for journey in journeys), default=1))
        gone = {*displaced, *(journey.conversion.conv_id for journey in journeys)}
        for conv_id in sorted(gone):
            await self._lock(("log", conv_id))
            self._logs[conv_id] = None
        await self._database.before_step("write_logs")
        for journey in sorted(journeys, key=lambda each: each.conversion.conv_id):
            if journey.outcome is Outcome.COUNTED:
                row = (journey.conversion.click_id, journey.conversion.transaction_id)
                if row[1]:
                    await self._database.before_step("write_log")  # the server locks row after row
                    await self._lock(("payment", row))
                    if row in self._log_rows().values():
                        raise Unavailable("two counting conversions of one transaction: another partition swaps them")
                self._logs[journey.conversion.conv_id] = row

    def _raise_version(self, version: int) -> None:
        if self._partition is not None:
            row = self._progress.get(self._partition) or self._database.row(self._partition)
            if version > row.greatest_version:
                self._progress[self._partition] = replace(row, greatest_version=version)

    async def settle(self, partition: int, unsettled_keys: Sequence[str]) -> None:
        """Of whoever holds the row: whether it passed the fence is for others to see."""
        row = self._progress.get(partition) or self._database.row(partition)
        self._progress[partition] = replace(row, unsettled_keys=tuple(unsettled_keys))

    # What a replay does; see `stream.replay.ports`

    async def lock_partition(self, partition: int) -> PartitionProgress:
        await self._database.before_step("lock_partition")
        await self._lock(("progress", partition))
        self._partition = partition
        row = self._progress.get(partition) or self._database.row(partition)
        if row.partition_count:
            return row
        return replace(row, newest_conversion=max(row.newest_conversion, self._newest_before()))

    async def note_outside_change(self, changed: PartitionProgress) -> None:
        row = self._progress.get(changed.partition) or self._database.row(changed.partition)
        self._progress[changed.partition] = changed_outside(row, changed)

    async def ill_shown(self, journeys: Sequence[Journey]) -> Collection[int]:
        """Nobody else writes here."""
        return ()

    async def note_place(self, partition: int, place: Mapping[str, object]) -> None:
        """Whoever goes on here is the one that was there."""

    # What it sees, holds and leaves

    def commit(self) -> None:
        database = self._database
        database.facts.clicks |= self.clicks
        database.facts.journeys |= self.journeys
        database.logs = self._log_rows()
        database.progress |= self._progress

    async def _lock(self, row: tuple[object, ...]) -> None:
        await self._database.locks.take(self, row)

    def _check_lock(self, journey: Journey) -> None:
        if self._database.partitions:
            conversion = journey.conversion
            number = partition_of(conversion.user_id, conversion.campaign_id, self._database.partitions)
            assert self._database.locks.holds(self, ("progress", number)), "journeys without their partition's lock"

    def _facts(self) -> MemoryFacts:
        committed = self._database.facts
        if not self.clicks and not self.journeys:
            return committed
        seen = MemoryFacts()
        seen.credited_versions = committed.credited_versions
        seen.clicks, seen.journeys = committed.clicks | self.clicks, committed.journeys | self.journeys
        return seen

    def _log_rows(self) -> dict[int, LogRow]:
        rows = self._database.logs | self._logs
        return {conv_id: row for conv_id, row in rows.items() if row is not None}


class MemoryStore:
    """One worker's view of the database."""

    def __init__(self, database: MemoryDatabase, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._newest_at_first: int | None = None

    def _newest_before(self) -> int:
        """Before this store wrote anything, as `tables.sql.replays` has it."""
        if self._newest_at_first is None:
            self._newest_at_first = self._database.newest_conversion
        return self._newest_at_first

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        database = self._database
        async with self._begun() as transaction:
            yield transaction
            await database.before_step("commit")
            if transaction not in database.under_way:
                raise Unavailable("the connection was cut")
            transaction.commit()
        database.after_commit(transaction)
        await database.before_step("committed")
        if database.loses_replies:
            database.loses_replies -= 1
            raise Unavailable("the reply to COMMIT was lost")

    @contextlib.asynccontextmanager
    async def _begun(self) -> AsyncIterator[MemoryTransaction]:
        database = self._database
        transaction = MemoryTransaction(database, self._owner, self._newest_before)
        database.under_way.append(transaction)
        try:
            yield transaction
        finally:
            if transaction in database.under_way:
                database.under_way.remove(transaction)
                database.locks.release(transaction)

    async def read(self, needs: Needs) -> Facts:
        await self._database.before_step("read")
        return self._database.facts.read(needs)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        await self._database.before_step("take_over")
        async with self._begun() as transaction:
            before = await transaction.lock_partition(partition)
            before = replace(before, epoch=before.epoch + 1)
            if not before.partition_count:
                before = replace(
                    before,
                    newest_conversion=self._database.newest_conversion,
                    greatest_version=self._database.greatest_version,
                )
                begins = [row.history_from for row in self._database.progress.values() if row.epoch > 1]
                before = replace(before, history_from=max([before.history_from, *begins]))
            if before.epoch == 1:
                before = replace(before, history_from=max(before.history_from, history_from))
            taken = replace(before, owner=owner)
            if not before.partition_count:
                taken = replace(taken, topic_ids=topic_ids, partition_count=partition_count)
            self._database.progress[partition] = taken
        await self._database.before_step("committed")
        return before

    async def progress(self) -> Sequence[PartitionProgress]:
        await self._database.before_step("read")
        return [row for _, row in sorted(self._database.progress.items())]
