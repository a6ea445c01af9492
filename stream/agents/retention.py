"""Removal of old clicks, beside the chunks: in small steps, of the partitions that this worker owns.

A step is one transaction behind the lock of the partition's row, so no chunk of the partition is under way in it. The
bound of what may be missing is raised in the same transaction: a crash between two steps leaves clicks that the next
look removes, and nothing else.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from stream.agents.unsettled import key_texts
from stream.core.events import NO_CAMPAIGN
from stream.core.keys import partition_of
from stream.core.progress import PartitionProgress
from stream.core.retention import OldClick, OldClicks, removed_before
from stream.engine.barrier import patiently
from stream.metrics import Metrics

log = logging.getLogger(__name__)

DUE_SECONDS = 3600  # of the watermark since the last time
STEP_CLICKS = 500

_LOOK_SECONDS = 10.0
_PAUSE_SECONDS = 0.1  # between two steps or pages; chunks and other writers have their turn
_OWNER_PAUSE_SECONDS = 1.0
_STOP_SECONDS = 5.0
# What the owner is to forget waits in the partition's row until its next chunk; an idle one has one every 20 seconds.
_UNREAD_CHARACTERS = 500_000


class RetentionTransaction(Protocol):
    """One SQL transaction; see `tables.sql.retention.SqlRetentionTransaction`."""

    async def lock(self, partition: int) -> PartitionProgress: ...
    async def removable(self, click_ids: Sequence[int], before: int) -> Sequence[OldClick]: ...
    async def remove(self, click_ids: Sequence[int]) -> None: ...
    async def note(self, changed: PartitionProgress) -> None: ...


class RetentionStore(Protocol):
    """The clicks in SQL. Raises Unavailable."""

    def transaction(self) -> AbstractAsyncContextManager[RetentionTransaction]: ...
    async def progress(self) -> Sequence[PartitionProgress]: ...
    async def old_clicks(self, after: int, before: int) -> OldClicks: ...


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Whose partitions, of how many, and how long their clicks stay."""

    owner: str
    partitions: int
    keep_days: int  # 0: for ever
    pause: float = _PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class _Bound:
    """A partition that is ours, and what may go of it."""

    partition: int
    epoch: int
    before: int  # unix seconds


class _NotOurs(Exception):
    """The partition has another owner or epoch."""


class _OwnerIsBehind(Exception):
    """Its last changes wait to be taken in; more of them would fill the row."""


class ClickRetention:
    """Looks now and then whether a partition's watermark has moved on far enough, and removes what has become old."""

    def __init__(
        self,
        store: RetentionStore,
        settings: RetentionSettings,
        *,
        opened: Callable[[], Sequence[int]],
        metrics: Metrics,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._opened = opened
        self._removed = metrics.clicks_removed
        self._fail = fail
        self._done: dict[int, _Bound] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Does nothing where all clicks are kept."""
        if self._settings.keep_days:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """A step that is under way is rolled back."""
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                await asyncio.sleep(_LOOK_SECONDS)
                await self.look()
        except Exception as error:  # noqa: BLE001 -- what is not understood stops the process, as in the barrier
            self._fail(error)

    async def look(self) -> int:
        """Remove what is due in partitions of ours; returns how many clicks went."""
        bounds = await self._due()
        removed = after = 0
        while bounds and not self._is_stopping:
            page = await self._page(after, max(bound.before for bound in bounds.values()))
            removed += await self._remove_page(page.clicks, bounds)
            if page.up_to is None:
                break
            after = page.up_to
            await asyncio.sleep(self._settings.pause)
        self._done |= bounds
        if removed:
            log.info("removed %s clicks older than %s days", removed, self._settings.keep_days)
        return removed

    async def _page(self, after: int, before: int) -> OldClicks:
        found: OldClicks = await self._patiently(lambda: self._store.old_clicks(after, before))
        return found

    async def _due(self) -> dict[int, _Bound]:
        ours = set(self._opened())
        rows = await self._patiently(self._store.progress) if ours else ()
        due = {}
        for row in rows:
            bound = _Bound(row.partition, row.epoch, removed_before(row.watermark, self._settings.keep_days))
            done = self._done.get(row.partition)
            is_new = done is None or done.epoch != row.epoch or bound.before >= done.before + DUE_SECONDS
            if row.partition in ours and row.owner == self._settings.owner and bound.before and is_new:
                due[row.partition] = bound
        return due

    async def _remove_page(self, clicks: Sequence[OldClick], bounds: dict[int, _Bound]) -> int:
        """Partitions that are not ours any more leave `bounds`."""
        removed = 0
        for partition, ids in sorted(self._by_partition(clicks, bounds).items()):
            for start in range(0, len(ids), STEP_CLICKS):
                if self._is_stopping:
                    return removed
                try:
                    removed += await self._remove(bounds[partition], ids[start : start + STEP_CLICKS])
                except _NotOurs:
                    del bounds[partition]
                    break
                await asyncio.sleep(self._settings.pause)
        return removed

    def _by_partition(self, clicks: Sequence[OldClick], bounds: Mapping[int, _Bound]) -> Mapping[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for click in clicks:
            partition = self._partition(click)
            if partition in bounds:
                found[partition].append(click.click_id)
        return found

    def _partition(self, click: OldClick) -> int:
        return partition_of(click.user_id, click.campaign_id, self._settings.partitions)

    async def _remove(self, bound: _Bound, click_ids: Sequence[int]) -> int:
        """One step. Raises _NotOurs."""
        while not self._is_stopping:
            try:
                return int(await self._patiently(lambda: self._try_to_remove(bound, click_ids)))
            except _OwnerIsBehind:
                await asyncio.sleep(_OWNER_PAUSE_SECONDS)
        return 0

    async def _try_to_remove(self, bound: _Bound, click_ids: Sequence[int]) -> int:
        async with self._store.transaction() as transaction:
            row = await transaction.lock(bound.partition)
            if (row.owner, row.epoch) != (self._settings.owner, bound.epoch):
                raise _NotOurs
            if sum(map(len, row.unsettled_keys)) > _UNREAD_CHARACTERS:
                raise _OwnerIsBehind
            found = await transaction.removable(click_ids, bound.before)
            gone = [click for click in found if self._partition(click) == bound.partition]
            if gone:
                await transaction.note(_changed(row, bound, gone))
                await transaction.remove([click.click_id for click in gone])
        self._removed.inc(len(gone))
        return len(gone)

    async def _patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 -- what the work returns
        return await patiently(lambda _: work(), self._await_unless_stopped)

    def _await_unless_stopped(self, _reason: str) -> None:
        if self._is_stopping:
            raise asyncio.CancelledError


def _changed(row: PartitionProgress, bound: _Bound, gone: Sequence[OldClick]) -> PartitionProgress:
    """What the owner is told at its next chunk: where history begins, and the keys that it remembers otherwise."""
    keys = {click.key for click in gone if click.campaign_id != NO_CAMPAIGN}
    return replace(
        row,
        history_from=max(row.history_from, bound.before),
        unsettled_keys=tuple(dict.fromkeys([*row.unsettled_keys, *key_texts(keys)])),
        outside_changes=row.outside_changes + 1,
    )
