"""Clicks and conversions of an existing installation as events, a page at a time; what is no event is told.

202_clicks has no primary key, so a click may have several rows. The one that counts is that which would win if each
were a record of the log: one with a campaign before one without, then the greater by the fields of the event in their
order. It is found among all rows of the id, wherever they lie, so pages and order do not decide.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion, click_rank
from stream.wire.installed_rows import click_of_row, conversion_of_row
from stream.wire.reasons import MEANINGS, Reason
from tables.sql.connections import Row
from tables.sql.installed import CLICKS, CONVERSIONS, InstalledTables

SHOWN_ROWS = 5

Event = Click | Conversion
_Event = TypeVar("_Event", Click, Conversion)

IS_CLICK, IS_CONVERSION = 0, 1


class Moment(NamedTuple):
    """A place in the order of time: of one second clicks come first, then the id decides."""

    time: int
    kind: int
    event_id: int


class Entry(NamedTuple):
    """An event in that order."""

    time: int
    kind: int
    event_id: int
    event: Event

    @property
    def moment(self) -> Moment:
        return Moment(self.time, self.kind, self.event_id)


def click_entry(click: Click) -> Entry:
    return Entry(click.click_time, IS_CLICK, click.click_id, click)


def conversion_entry(conversion: Conversion) -> Entry:
    return Entry(conversion.conv_time, IS_CONVERSION, conversion.conv_id, conversion)


class LeftOut:
    """Rows that were not sent, by reason; the first of each reason are told at once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.refused: Counter[str] = Counter()
        self.doubles = 0

    def refuse(self, relation: str, row_id: object, error: InvalidEvent) -> None:
        self.refused[error.reason] += 1
        if self.refused[error.reason] <= SHOWN_ROWS:
            name = "click_id" if relation == CLICKS else "conv_id"
            self._tell(f"refused: row of {relation} with {name} {row_id}: {error.reason}: {error}")

    def lines(self) -> list[str]:
        lines = [f"  {reason} ({MEANINGS[Reason(reason)]}): {count:,}" for reason, count in self.refused.most_common()]
        if lines:
            lines.insert(0, f"{self.refused.total():,} rows refused, by reason:")
        if self.doubles:
            lines.append(f"{self.doubles:,} further rows of clicks that have several were left out")
        return lines


class SourceEvents:
    """Pages of events. Raises SourceAway and SourceUnfit."""

    def __init__(self, installed: InstalledTables, left_out: LeftOut) -> None:
        self._installed = installed
        self._left_out = left_out

    async def clicks_at_their_rows(self, rows: Sequence[Row]) -> list[Click]:
        """One for each id, left out where the row that counts has another account or time: it comes there."""
        standing = await self._standing(rows)
        found: dict[int, Click] = {}
        for row in rows:
            click = self._event(row, click_of_row, CLICKS)
            if click is None:
                continue
            counting = standing.get(click.click_id, click)
            is_here = (counting.user_id, counting.click_time) == (click.user_id, click.click_time)
            if is_here and click.click_id not in found:
                found[click.click_id] = counting
            else:
                self._left_out.doubles += 1
        return list(found.values())

    async def clicks_by_id(self, rows: Sequence[Row], *, is_counted: bool = True) -> list[Click]:
        """One for each id, whichever of its rows are given."""
        standing = await self._standing(rows)
        found: dict[int, Click] = {}
        for row in rows:
            click = self._event(row, click_of_row, CLICKS, is_counted=is_counted)
            if click is not None:
                self._left_out.doubles += is_counted and click.click_id in found
                found[click.click_id] = standing.get(click.click_id, click)
        return list(found.values())

    def conversions(self, rows: Iterable[Row], *, is_counted: bool = True) -> list[Conversion]:
        events = (self._event(row, conversion_of_row, CONVERSIONS, is_counted=is_counted) for row in rows)
        return [event for event in events if event is not None]

    async def _standing(self, rows: Sequence[Row]) -> dict[int, Click]:
        """The counting row of each click that has several."""
        doubled = await self._installed.doubled(row[0] for row in rows)
        if not doubled:
            return {}
        found: dict[int, Click] = {}
        for row in await self._installed.clicks_of_ids(doubled):
            click = self._event(row, click_of_row, CLICKS, is_counted=False)
            if click is not None:
                found[click.click_id] = max(found.get(click.click_id, click), click, key=click_rank)
        return found

    def _event(
        self, row: Row, make: Callable[[Row], _Event], relation: str, *, is_counted: bool = True
    ) -> _Event | None:
        try:
            return make(row)
        except InvalidEvent as error:
            if is_counted:
                self._left_out.refuse(relation, row[0], error)
            return None
