"""The hours of a database in memory: the twin of `tables.sql.hour_store`, with its transactions, locks and keys."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.core.configuration import Configuration, ModelRow, configuration_of
from stream.core.errors import Fenced, Unavailable
from stream.core.facts import Journey, Outcome
from stream.core.hours import CreditedAs, CreditRow, HourKey, credit_key, snapshot_key
from stream.core.progress import Advance, PartitionProgress
from stream.core.results import (
    NEVER_FIRED,
    CreditedAt,
    HourChange,
    HourContents,
    HourResults,
    HourRow,
    Removal,
    RemovalKind,
    SnapshotRow,
)
from stream.core.toggles import Toggle
from stream.core.totals import Scope, ScopeKey
from tests.support.row_locks import RowLocks

LAST_TOUCH = ModelRow(-1, "last_touch", "", is_active=True)
_CreditPlace = tuple[int, int, int]  # model, conversion, position


@dataclass(slots=True)
class StoredHour:
    """All rows that stand for an hour."""

    row: HourRow = NEVER_FIRED
    is_settled: bool = False
    snapshots: dict[ScopeKey, SnapshotRow] = field(default_factory=dict)
    credits: dict[_CreditPlace, CreditRow] = field(default_factory=dict)
    removals: dict[Removal, None] = field(default_factory=dict)

    def copy(self) -> "StoredHour":
        return StoredHour(self.row, self.is_settled, dict(self.snapshots), dict(self.credits), dict(self.removals))

    def sorted_credits(self) -> list[CreditRow]:
        return sorted(self.credits.values())


async def _nothing(step: str) -> None:
    """Before a step of a transaction; tests put faults and other writers here."""


@dataclass(slots=True)
class MemoryHours:
    """What outlives a worker. `journeys` and `sources` are those of the journeys' own part of the database."""

    journeys: Callable[[], Mapping[int, Journey]]
    sources: Callable[[], Mapping[int, PartitionProgress]] = dict
    scopes: str = "all"
    models: dict[int, list[ModelRow]] = field(default_factory=lambda: defaultdict(list))
    toggles: dict[int, list[Toggle]] = field(default_factory=lambda: defaultdict(list))
    hours: dict[HourKey, StoredHour] = field(default_factory=dict)
    credited: dict[int, CreditedAt] = field(default_factory=dict)
    credited_as: dict[int, CreditedAs] = field(default_factory=dict)  # of the same conversions
    progress: dict[int, PartitionProgress] = field(default_factory=dict)
    locks: RowLocks = field(default_factory=RowLocks)
    under_way: "list[MemoryHourTransaction]" = field(default_factory=list)
    before_step: Callable[[str], Awaitable[None]] = _nothing
    after_commit: Callable[[], None] = lambda: None
    after_transaction: "Callable[[MemoryHourTransaction], None]" = lambda _transaction: None
    loses_replies: int = 0  # so many next commits succeed without the caller hearing of it
    signs_of_life: int = 0
    written: list[Sequence[HourChange]] = field(default_factory=list)  # also by what was rolled back

    def cut_off(self, owner: str) -> None:
        """All connections of a worker that died: nothing of its transactions is left."""
        for transaction in [each for each in self.under_way if each.owner == owner]:
            self.under_way.remove(transaction)
            self.locks.abandon(transaction)

    def configuration(self, user_id: int) -> Configuration:
        return configuration_of(self.models[user_id], self.toggles[user_id], scopes=self.scopes)


class MemoryHourTransaction:
    """Reads what is committed and what it wrote itself; nobody else sees that before the commit."""

    def __init__(self, database: MemoryHours, owner: str) -> None:
        self._database = database
        self.owner = owner
        self.advance: Advance | None = None
        self._hours: dict[HourKey, StoredHour] = {}
        self._credited: dict[int, CreditedAt | None] = {}
        self._credited_as: dict[int, CreditedAs] = {}
        self._progress: dict[int, PartitionProgress] = {}
        self._models: dict[int, list[ModelRow]] = {}
        self.locked: list[int] = []

    async def pass_fence(self, advance: Advance) -> None:
        await self._database.before_step("pass_fence")
        await self._database.locks.take(self, ("progress", advance.partition))
        row = self._database.progress.get(advance.partition)
        if row is None or (row.owner, row.epoch) != (self.owner, advance.epoch):
            raise Fenced(f"partition {advance.partition} belongs to {row.owner if row else 'nobody'}")
        self.advance = advance
        self._progress[advance.partition] = replace(
            row, next_offsets=dict(advance.next_offsets), watermark=advance.watermark
        )

    async def lock_accounts(self, user_ids: Collection[int]) -> None:
        await self._database.before_step("lock_accounts")
        for user_id in sorted(user_ids):
            assert not self.locked or self.locked[-1] < user_id, "accounts are locked in ascending order"
            await self._database.locks.take(self, ("account", user_id))
            self.locked.append(user_id)
            if not self._database.models[user_id]:
                self._models[user_id] = [LAST_TOUCH._replace(model_id=user_id)]

    async def read_configurations(self, user_ids: Collection[int]) -> Mapping[int, Configuration]:
        await self._database.before_step("read_configurations")
        database = self._database
        return {
            user_id: configuration_of(
                self._models.get(user_id) or database.models[user_id], database.toggles[user_id], scopes=database.scopes
            )
            for user_id in user_ids
        }

    async def read_journeys(self, conv_ids: Collection[int]) -> Sequence[Journey]:
        await self._database.before_step("read_journeys")
        journeys = self._database.journeys()
        return [journeys[conv_id] for conv_id in conv_ids if conv_id in journeys]

    async def read_credited(self, conv_ids: Collection[int]) -> Mapping[int, CreditedAt]:
        await self._database.before_step("read_credited")
        return {conv_id: at for conv_id in conv_ids if (at := self._credited_at(conv_id)) is not None}

    async def read_hours(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourRow]:
        await self._database.before_step("read_hours")
        return {key: row for key in keys if (row := self._hour(key).row).revision}

    async def read_contents(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourContents]:
        await self._database.before_step("read_contents")
        journeys: dict[HourKey, list[Journey]] = defaultdict(list)
        for journey in self._database.journeys().values():
            journeys[HourKey(journey.conversion.user_id, journey.date_hour)].append(journey)
        credited: dict[HourKey, dict[int, int]] = defaultdict(dict)
        for conv_id in {*self._database.credited, *self._credited}:
            if (at := self._credited_at(conv_id)) is not None:
                credited[at.hour][conv_id] = at.version
        return {
            key: HourContents(journeys[key], credited[key], list(self._hour(key).snapshots.values())) for key in keys
        }

    async def read_results(self, keys: Collection[HourKey], *, with_credits: bool) -> Mapping[HourKey, HourResults]:
        await self._database.before_step("read_results")
        return {key: _results(self._hour(key), with_credits=with_credits) for key in keys}

    async def read_uncredited(self, keys: Collection[HourKey]) -> Collection[tuple[int, int]]:
        await self._database.before_step("read_uncredited")
        counted = {
            each.conversion.conv_id: CreditedAt(HourKey(each.conversion.user_id, each.date_hour), each.version)
            for each in self._database.journeys().values()
            if each.outcome is Outcome.COUNTED
        }
        found = {(at.hour, conv_id) for conv_id, at in counted.items() if self._credited_at(conv_id) != at}
        for conv_id in {*self._database.credited, *self._credited}:
            at, wanted = self._credited_at(conv_id), counted.get(conv_id)
            if at is not None and (wanted is None or wanted.hour != at.hour):
                found.add((at.hour, conv_id))
        return {(hour.user_id, conv_id) for hour, conv_id in found if hour in keys}

    async def keep_alive(self) -> None:
        await self._database.before_step("keep_alive")
        await asyncio.sleep(0)

    async def write(self, changes: Sequence[HourChange]) -> Mapping[HourKey, Sequence[Removal]]:
        await self._database.before_step("write")
        self._database.written.append(changes)
        assert len({change.key for change in changes}) == len(changes), "one change an hour"
        for change in changes:
            assert change.key.user_id in self.locked, "whoever writes hours holds the lock of their account"
            hour = self._hours[change.key] = self._hour(change.key).copy()
            _write_results(change, hour)
            assert change.row.revision == hour.row.revision + 1, "revisions count up by one"
            hour.row = change.row._replace(published_revision=hour.row.published_revision)
            hour.is_settled = False
        # All hours' goings before all comings: a conversion that moves is written once and taken away once.
        for change in changes:
            for conv_id in change.uncredited:
                at = self._credited_at(conv_id)
                if at is not None and at.hour == change.key:
                    self._credited[conv_id] = None
        for change in changes:
            for conv_id, as_is in change.credited.items():
                self._credited[conv_id] = CreditedAt(change.key, as_is.version)
                self._credited_as[conv_id] = as_is
        return {change.key: sorted(self._hours[change.key].removals) for change in changes}

    @property
    def is_writing(self) -> bool:
        return bool(self._hours)

    def commit(self) -> None:
        self._database.hours |= self._hours
        self._database.models |= self._models
        self._database.progress |= self._progress
        self._database.credited_as |= self._credited_as
        for conv_id, at in self._credited.items():
            if at is None:
                self._database.credited.pop(conv_id, None)
                self._database.credited_as.pop(conv_id, None)
            else:
                self._database.credited[conv_id] = at

    def _hour(self, key: HourKey) -> StoredHour:
        return self._hours.get(key) or self._database.hours.get(key) or StoredHour()

    def _credited_at(self, conv_id: int) -> CreditedAt | None:
        return self._credited[conv_id] if conv_id in self._credited else self._database.credited.get(conv_id)


def _write_results(change: HourChange, hour: StoredHour) -> None:
    gone: set[Removal] = set()
    for place in list(hour.credits):
        if change.cleared is None or place[1] in change.cleared:
            gone.add(_credit_record(change.key, place))
            del hour.credits[place]
    for key in change.removed_snapshots:
        if hour.snapshots.pop(key, None) is not None:
            gone.add(_snapshot_record(change.key, key))
        if key.scope is Scope.GLOBAL:
            for place in [place for place in hour.credits if place[0] == key.model_id]:
                gone.add(_credit_record(change.key, place))
                del hour.credits[place]
    for snapshot in change.snapshots:
        hour.snapshots[snapshot.key] = snapshot
    for credit in change.credits:
        place = (credit.model_id, credit.conv_id, credit.position)
        assert place not in hour.credits, "a credit stands there already: the natural key would refuse this one"
        assert ScopeKey(credit.model_id, Scope.GLOBAL, 0) in hour.snapshots, "credits hang on the global snapshot"
        hour.credits[place] = credit
    written = {_snapshot_record(change.key, row.key) for row in change.snapshots}
    written |= {_credit_record(change.key, (row.model_id, row.conv_id, row.position)) for row in change.credits}
    hour.removals = dict.fromkeys(sorted(({*hour.removals} | gone) - written))


def _results(hour: StoredHour, *, with_credits: bool) -> HourResults:
    snapshots = [row for _, row in sorted(hour.snapshots.items())]
    return HourResults(hour.row, snapshots, hour.sorted_credits() if with_credits else (), sorted(hour.removals))


def _snapshot_record(hour: HourKey, key: ScopeKey) -> Removal:
    return Removal(RemovalKind.SNAPSHOT, snapshot_key(hour, key))


def _credit_record(hour: HourKey, place: _CreditPlace) -> Removal:
    return Removal(RemovalKind.CREDIT, credit_key(hour, *place))


class MemoryHourStore:
    """One worker's view of the database."""

    def __init__(self, database: MemoryHours, owner: str) -> None:
        self._database = database
        self._owner = owner

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryHourTransaction]:
        async with self._begun() as transaction:
            yield transaction
            await self._database.before_step("commit")
            if transaction in self._database.under_way:  # else its connection was cut
                transaction.commit()
        self._database.after_transaction(transaction)
        self._database.after_commit()
        await self._database.before_step("committed")
        if self._database.loses_replies:
            self._database.loses_replies -= 1
            raise Unavailable("the reply to COMMIT was lost")

    @contextlib.asynccontextmanager
    async def _begun(self) -> AsyncIterator[MemoryHourTransaction]:
        database = self._database
        transaction = MemoryHourTransaction(database, self._owner)
        database.under_way.append(transaction)
        try:
            yield transaction
        finally:
            if transaction in database.under_way:
                database.under_way.remove(transaction)
                database.locks.release(transaction)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        rows = self._database.progress
        async with self._begun() as transaction:
            await self._database.before_step("take_over")
            await self._database.locks.take(transaction, ("progress", partition))
            before = rows.get(partition) or PartitionProgress(partition, 0, "", {}, 0, {}, 0, 0, history_from, ())
            before = replace(before, epoch=before.epoch + 1)
            taken = replace(before, owner=owner)
            if not before.partition_count:
                taken = replace(taken, topic_ids=topic_ids, partition_count=partition_count)
            rows[partition] = taken
        await self._database.before_step("committed")
        return before

    async def read_unsettled(self) -> Mapping[HourKey, HourRow]:
        await self._database.before_step("read_unsettled")
        return {key: hour.row for key, hour in self._database.hours.items() if not hour.is_settled}

    async def read_revisions(self, user_ids: Collection[int]) -> Mapping[int, int]:
        await self._database.before_step("read_revisions")
        return {user_id: self._database.configuration(user_id).revision for user_id in user_ids}

    async def read_watermark(self, partitions: int) -> int:
        rows = self._database.sources()
        marks = [
            max(rows[number].watermark, rows[number].drained_at - 60) if number in rows else 0
            for number in range(partitions)
        ]
        return max(0, min(marks, default=0))

    async def mark_published(self, partition: int, epoch: int, revisions: Mapping[HourKey, int]) -> None:
        await self._database.before_step("mark_published")
        async with self._begun() as transaction:
            await self._database.locks.take(transaction, ("progress", partition))
            row = self._database.progress.get(partition)
            if row is None or (row.owner, row.epoch) != (self._owner, epoch):
                raise Fenced(f"partition {partition} belongs to {row.owner if row else 'nobody'}")
            for user_id in sorted({key.user_id for key in revisions}):
                await self._database.locks.take(transaction, ("account", user_id))
            for key, revision in revisions.items():
                hour = self._database.hours.get(key)
                if hour is not None and hour.row.revision == revision:
                    hour.row = hour.row._replace(published_revision=revision)
                    hour.is_settled = hour.row.is_final
                    hour.removals = {}
        self._database.after_commit()
        await self._database.before_step("committed")

    async def sign_of_life(self) -> None:
        self._database.signs_of_life += 1


def put_foreign(
    database: MemoryHours, key: HourKey, snapshots: Iterable[SnapshotRow], credits: Iterable[CreditRow]
) -> None:
    """Rows as a system that was here before left them: nothing of ours says that they are there."""
    hour = database.hours.setdefault(key, StoredHour())
    hour.snapshots |= {row.key: row for row in snapshots}
    hour.credits |= {(row.model_id, row.conv_id, row.position): row for row in credits}
    hour.is_settled = True  # it has no row of ours that could be unsettled
