"""The twin of `tables.sql.facts.SqlFactStore` in memory: transactions, fence and unsettled things included."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.core.errors import Fenced, Unavailable
from stream.core.events import Click, is_rekeyed_conversion
from stream.core.facts import Facts, Journey, Needs, Outcome
from stream.core.fold import ClaimClicks, ReplaceClicks
from stream.core.progress import Advance, PartitionProgress, Passed
from tests.support.memory_facts import MemoryFacts

LogRow = tuple[int, str]  # click id, transaction


@dataclass(slots=True)
class MemoryDatabase:
    """What outlives a worker."""

    facts: MemoryFacts = field(default_factory=MemoryFacts)
    progress: dict[int, PartitionProgress] = field(default_factory=dict)
    logs: dict[int, LogRow] = field(default_factory=dict)
    loses_replies: int = 0  # so many next commits succeed without the caller hearing of it

    def copy(self) -> "MemoryDatabase":
        return MemoryDatabase(self.facts.copy(), dict(self.progress), dict(self.logs))

    def partition(self, partition: int) -> PartitionProgress:
        """Of one that nobody has taken, the keys may come from any other one."""
        row = self.progress.get(partition) or PartitionProgress(partition, 0, "", {}, 0, {}, 0, 0, 0, ())
        if row.partition_count:
            return row
        return replace(row, newest_conversion=max([0, *(each.newest_conversion for each in self.progress.values())]))

    def note_outside_change(self, changed: PartitionProgress) -> None:
        """The row as another hand leaves it: all but what its owner alone moves."""
        self.progress[changed.partition] = replace(
            self.partition(changed.partition),
            unsettled_keys=tuple(changed.unsettled_keys),
            newest_conversion=changed.newest_conversion,
            history_from=changed.history_from,
            outside_changes=changed.outside_changes,
        )


class MemoryTransaction:
    def __init__(self, database: MemoryDatabase, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def pass_fence(self, advance: Advance, *, after_failure: bool) -> Passed:
        row = self._database.progress.get(advance.partition)
        if row is None or (row.owner, row.epoch) != (self._owner, advance.epoch):
            raise Fenced(f"partition {advance.partition} belongs to {row.owner if row else 'nobody'}")
        is_changed = row.outside_changes != advance.outside_changes
        self._database.progress[advance.partition] = replace(
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
        stored = self._database.facts.perform(ClaimClicks(clicks))
        assert isinstance(stored, Mapping)
        return stored

    async def replace_clicks(self, clicks: Sequence[Click]) -> None:
        self._database.facts.perform(ReplaceClicks(clicks))

    async def read(self, needs: Needs) -> Facts:
        return self._database.facts.read(needs)

    async def write_journeys(self, journeys: Sequence[Journey], displaced: Collection[int]) -> None:
        for journey in journeys:
            standing = self._database.facts.journeys.get(journey.conversion.conv_id, journey).conversion
            if journey.version == 1 and is_rekeyed_conversion(standing, journey.conversion):
                raise Unavailable("another partition has stored the id meanwhile")
        self._database.facts.write(journeys)
        for conv_id in [*displaced, *(journey.conversion.conv_id for journey in journeys)]:
            self._database.logs.pop(conv_id, None)
        for journey in journeys:
            if journey.outcome is Outcome.COUNTED:
                row = (journey.conversion.click_id, journey.conversion.transaction_id)
                if row[1] and row in self._database.logs.values():
                    raise Unavailable("two counting conversions of one transaction: another partition is swapping them")
                self._database.logs[journey.conversion.conv_id] = row

    async def settle(self, partition: int, unsettled_keys: Sequence[str]) -> None:
        row = self._database.progress[partition]
        self._database.progress[partition] = replace(row, unsettled_keys=tuple(unsettled_keys))

    # What a replay does; see `stream.replay.ports`

    async def lock_partition(self, partition: int) -> PartitionProgress:
        return self._database.partition(partition)

    async def note_outside_change(self, changed: PartitionProgress) -> None:
        self._database.note_outside_change(changed)

    async def ill_shown(self, journeys: Sequence[Journey]) -> Collection[int]:
        """Nobody else writes here."""
        return ()

    async def note_place(self, partition: int, place: Mapping[str, object]) -> None:
        """Whoever goes on here is the one that was there."""


class MemoryStore:
    """One worker's view of the database."""

    def __init__(self, database: MemoryDatabase, owner: str) -> None:
        self._database = database
        self._owner = owner

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        before = self._database.copy()
        try:
            yield MemoryTransaction(self._database, self._owner)
        except BaseException:
            database = self._database
            database.facts, database.progress, database.logs = before.facts, before.progress, before.logs
            raise
        if self._database.loses_replies:
            self._database.loses_replies -= 1
            raise Unavailable("the reply to COMMIT was lost")

    async def read(self, needs: Needs) -> Facts:
        return self._database.facts.read(needs)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        before = self._database.partition(partition)
        before = replace(before, epoch=before.epoch + 1)
        if not before.partition_count:
            begins = [row.history_from for row in self._database.progress.values() if row.epoch > 1]
            before = replace(before, history_from=max([before.history_from, *begins]))
        if before.epoch == 1:
            before = replace(before, history_from=max(before.history_from, history_from))
        taken = replace(before, owner=owner)
        if not before.partition_count:
            taken = replace(taken, topic_ids=topic_ids, partition_count=partition_count)
        self._database.progress[partition] = taken
        return before

    async def progress(self) -> Sequence[PartitionProgress]:
        return [row for _, row in sorted(self._database.progress.items())]
