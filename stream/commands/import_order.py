"""Clicks and conversions of a whole installation in the order of their times, with bounded memory.

The clicks of each account come in the order of its key (user_id, click_time), exactly. Conversions have no key on their
time: they come by id, which rises with time nearly, and wait in a window until what comes after can hardly be earlier.
"""

import heapq
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from operator import itemgetter

from stream.commands.import_source import (
    IS_CLICK,
    IS_CONVERSION,
    Entry,
    Moment,
    SourceEvents,
    click_entry,
    conversion_entry,
)
from tables.sql.connections import Row
from tables.sql.installed import GREATEST_CLICK_ID, InstalledTables

LOOKAHEAD_ROWS = 10_000
_ROWS_IN_MEMORY = 100_000  # of all accounts together, while each has at least
_LEAST_PAGE_ROWS = 25

_TIME = 3  # column of a row of clicks
_AFTER_ALL_OF_A_SECOND = IS_CONVERSION + 1
_moment_of = itemgetter(0, 1, 2)


class Lane(ABC):
    """Entries in their order, of which some are in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []  # in order
        self.is_read = False  # to its end

    @property
    @abstractmethod
    def wants_more(self) -> bool: ...

    @abstractmethod
    async def read(self) -> None:
        """One page."""

    @property
    @abstractmethod
    def horizon(self) -> Moment | None:
        """Whatever comes up to here is in memory; None: not yet known."""

    def take(self, until: Moment | None) -> list[Entry]:
        count = len(self.entries) if until is None else bisect_right(self.entries, until, key=_moment_of)
        taken, self.entries = self.entries[:count], self.entries[count:]
        return taken


class ClickLane(Lane):
    """The clicks of one account up to a time, both ends included; rows with ids beyond `newest_id` are left out.

    But for those that are no ids of an event: nobody else would come by and tell of them.
    """

    def __init__(
        self, installed: InstalledTables, events: SourceEvents, user_id: int, *, since: int, until: int, newest_id: int
    ) -> None:
        super().__init__()
        self._installed = installed
        self._events = events
        self._user_id = user_id
        self._since = since
        self._until = until
        self._newest_id = newest_id
        self._after_id: int | None = None  # within a second that is larger than a page
        self._reached: Moment | None = None
        self.page_rows = _LEAST_PAGE_ROWS

    @property
    def wants_more(self) -> bool:
        return not self.is_read and not self.entries

    @property
    def horizon(self) -> Moment | None:
        return self._reached

    async def read(self) -> None:
        limit = self.page_rows
        if self._after_id is not None:
            await self._read_second(self._after_id)
            return
        rows = await self._installed.clicks_of_user(self._user_id, since=self._since, until=self._until, limit=limit)
        if len(rows) < limit:
            self.is_read = True
        elif rows[0][_TIME] == rows[-1][_TIME]:
            self._since, self._after_id = rows[0][_TIME], -1
            return
        else:  # the last second may go on in the next page
            self._since = rows[-1][_TIME]
            rows = [row for row in rows if row[_TIME] < self._since]
            self._reached = Moment(self._since - 1, _AFTER_ALL_OF_A_SECOND, 0)
        await self._keep(rows)

    async def _read_second(self, after_id: int) -> None:
        rows = await self._installed.clicks_of_second(
            self._user_id, self._since, after_id=after_id, limit=self.page_rows
        )
        if len(rows) < self.page_rows:
            self._after_id = None
            self._reached = Moment(self._since, _AFTER_ALL_OF_A_SECOND, 0)
            self._since += 1
            self.is_read = self._since > self._until
        else:
            # The rows of one click lie side by side; those of the last one that were not read are skipped.
            self._after_id = rows[-1][0]
            self._reached = Moment(self._since, IS_CLICK, rows[-1][0])
        await self._keep(rows)

    async def _keep(self, rows: Sequence[Row]) -> None:
        known = [row for row in rows if row[0] <= self._newest_id or row[0] > GREATEST_CLICK_ID]
        self.entries += sorted(map(click_entry, await self._events.clicks_at_their_rows(known)))


class ConversionLane(Lane):
    """Conversions by rising id."""

    def __init__(
        self, installed: InstalledTables, events: SourceEvents, *, after_id: int, since: int, until: int, page_rows: int
    ) -> None:
        super().__init__()
        self._installed = installed
        self._events = events
        self._last_id = after_id
        self._since = since
        self._until = until
        self._page_rows = page_rows

    @property
    def wants_more(self) -> bool:
        return not self.is_read and len(self.entries) <= LOOKAHEAD_ROWS

    @property
    def horizon(self) -> Moment | None:
        if len(self.entries) <= LOOKAHEAD_ROWS:
            return None
        return self.entries[-LOOKAHEAD_ROWS - 1].moment

    @property
    def taken_id(self) -> int:
        """Every conversion up to this id was taken, or is no event of the range."""
        return min((entry.event_id for entry in self.entries), default=self._last_id + 1) - 1

    async def read(self) -> None:
        rows = await self._installed.conversions_after(self._last_id, limit=self._page_rows)
        self.is_read = len(rows) < self._page_rows
        if rows:
            self._last_id = rows[-1][0]
        found = self._events.conversions(rows)
        self.entries += [conversion_entry(each) for each in found if self._since <= each.conv_time <= self._until]
        self.entries.sort()


def share_memory(lanes: Sequence[ClickLane], page_rows: int) -> None:
    """However many accounts there are, and never more than a page of each."""
    rows = max(_LEAST_PAGE_ROWS, _ROWS_IN_MEMORY // max(1, len(lanes)))
    for lane in lanes:
        lane.page_rows = max(2, min(page_rows, rows))


async def in_order(lanes: Sequence[Lane]) -> AsyncIterator[list[Entry]]:
    """All entries, some at a time."""
    while True:
        for lane in lanes:
            if lane.wants_more:
                await lane.read()
        horizons = [lane.horizon for lane in lanes if not lane.is_read]
        known = [horizon for horizon in horizons if horizon is not None]
        if len(known) < len(horizons):
            continue
        until = min(known, default=None)
        entries = list(heapq.merge(*(lane.take(until) for lane in lanes)))
        if entries:
            yield entries
        if until is None:
            return
