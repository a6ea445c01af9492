"""How is a purge done? Page after page: a transaction, then the cache, then the journeys topic, which hours follow.

Also journeys that were purged before are sent: a purge that was killed behind a commit is repaired by repeating it.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from stream.agents.outputs import TopicNames, journey_record
from stream.commands.log_access import LogWriter
from stream.commands.rebuilding import patiently
from stream.core.toggles import Toggle
from tables.cache import JourneyCache
from tables.sql.database import Database
from tables.sql.purge_ranges import PAGE, Behind, Meant, Page, Span, meant_by_ids, meant_by_span
from tables.sql.purges import (
    Batch,
    Look,
    OffScope,
    look_at_batch,
    look_to_hide,
    look_to_purge,
    purge_batch,
    read_off_toggles,
)

PATIENCE_S = 60.0  # of a batch, with another transaction in its way or with a database that does not answer
NEWS_S = 5.0
_LATEST = 2**32 - 1  # of the columns

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Count:
    """What a purge came to, or would come to."""

    conversions: int = 0
    rows: int = 0  # of 202_conversion_touchpoints
    journeys: int = 0  # that were not purged before

    def add(self, other: "Count") -> None:
        self.conversions += other.conversions
        self.rows += other.rows
        self.journeys += other.journeys


@dataclass(slots=True)
class Purged:
    """All of it, also where it was given up half-way."""

    total: Count = field(default_factory=Count)
    users: dict[int, Count] = field(default_factory=dict)
    scopes: dict[OffScope, Count] = field(default_factory=dict)
    unknown: Sequence[int] = ()
    cache_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the pages of a purge share."""

    database: Database
    names: TopicNames
    cache: JourneyCache
    writer: LogWriter | None  # None where no journey changes
    is_dry: bool
    clock: Callable[[], int]
    tell: Callable[[str], object]


class Purge:
    """One run. What it came to stands in `purged`, from the beginning."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._news_at = time.monotonic() + NEWS_S
        self.purged = Purged()

    async def by_ids(self, conv_ids: Sequence[int]) -> None:
        """Ids that nothing names are left in `unknown`."""
        wanted = sorted(set(conv_ids))
        known: set[int] = set()
        for start in range(0, len(wanted), PAGE):
            ids = wanted[start : start + PAGE]
            meant = await self._patiently(partial(self._meant, ids))
            known.update(each.conv_id for each in meant)
            await self._page(meant, look_to_purge(), [])
        self.purged.unknown = [conv_id for conv_id in wanted if conv_id not in known]

    async def by_span(self, span: Span) -> None:
        count = self.purged.users.setdefault(span.user_id, Count())
        await self._pages(span, look_to_purge(span), [count])

    async def disabled(self, user_ids: Sequence[int]) -> None:
        """Of these accounts, or of all; scopes without a conversion are among the counts, too."""
        toggles = await self._patiently(partial(self._off_toggles, user_ids))
        for user_id, off in toggles.items():
            for scope in sorted({(each.scope, each.scope_id) for each in off}):
                self.purged.scopes[OffScope(user_id, *scope)] = Count()
        for user_id, off in toggles.items():
            await self._pages(Span(user_id, min(each.since for each in off), _LATEST), look_to_hide, [])

    async def _pages(self, span: Span, look: Look, counts: Sequence[Count]) -> None:
        behind: Behind | None = None
        while True:
            page = await self._patiently(partial(self._next_page, span, behind))
            await self._page(page.meant, look, counts)
            behind = page.behind
            if behind is None:
                return

    async def _page(self, meant: Sequence[Meant], look: Look, counts: Sequence[Count]) -> None:
        if not meant:
            return
        means = self._means
        if means.is_dry:
            batch = await self._patiently(partial(look_at_batch, means.database, meant, look))
        else:
            batch = await self._patiently(partial(self._stored, meant, look))
            self.purged.cache_failures += await means.cache.delete(list(batch.rows))
            if means.writer is not None and batch.journeys:
                await means.writer.send([journey_record(means.names, journey) for journey in batch.journeys])
        self._count(batch, counts)

    async def _stored(self, meant: Sequence[Meant], look: Look) -> Batch:
        means = self._means
        return await purge_batch(means.database, meant, look, partitions=means.names.partitions, now=means.clock())

    def _count(self, batch: Batch, counts: Sequence[Count]) -> None:
        of_batch = Count(len(batch.rows), sum(batch.rows.values()), len(batch.changed))
        for count in (self.purged.total, *counts):
            count.add(of_batch)
        for conv_id, scope in batch.off.items():
            self.purged.scopes.setdefault(scope, Count()).add(Count(1, batch.rows[conv_id]))
        if time.monotonic() >= self._news_at:
            total = self.purged.total
            self._means.tell(f"{total.conversions:,} conversions, {total.rows:,} rows so far")
            self._news_at = time.monotonic() + NEWS_S

    async def _meant(self, ids: Sequence[int]) -> list[Meant]:
        async with self._means.database.reading() as connection:
            return await meant_by_ids(connection, ids)

    async def _next_page(self, span: Span, behind: Behind | None) -> Page:
        async with self._means.database.reading() as connection:
            return await meant_by_span(connection, span, behind)

    async def _off_toggles(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[Toggle]]:
        async with self._means.database.reading() as connection:
            return await read_off_toggles(connection, user_ids)

    async def _patiently(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        return await patiently(work, limit=PATIENCE_S)
