"""The rows of a source into the topics: once through all of them by time, then what is new by rising id.

The place is noted only after the broker has stored what lies before it, so a killed import sends a little again and
loses nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stream.commands.import_order import ClickLane, ConversionLane, in_order, share_memory
from stream.commands.import_place import Place, Places, Range
from stream.commands.import_report import Telling
from stream.commands.import_source import IS_CLICK, Entry, Moment, SourceEvents, click_entry, conversion_entry
from stream.commands.log_access import LogWriter
from stream.commands.rebuilding import check_stopped
from stream.core.events import Click
from stream.core.keys import partition_of, record_key
from stream.wire.encoding import encode_click, encode_conversion
from stream.wire.outgoing import OutgoingRecord
from tables.sql.connections import Row
from tables.sql.installed import InstalledTables


class Way(ABC):
    """Where entries go, and where the place is noted."""

    @abstractmethod
    async def send(self, entries: Sequence[Entry]) -> None:
        """Returns once the broker has stored them all. Raises Unavailable."""

    @abstractmethod
    async def note(self, place: Place) -> None:
        """Raises Unavailable for our database."""


class DryWay(Way):
    """Nowhere."""

    async def send(self, entries: Sequence[Entry]) -> None:
        pass

    async def note(self, place: Place) -> None:
        pass


class LogWay(Way):
    """Into the topics `clicks` and `conversions`, whose full names are given."""

    def __init__(self, writer: LogWriter, places: Places, *, clicks: str, conversions: str) -> None:
        self._writer = writer
        self._places = places
        self._clicks = clicks
        self._conversions = conversions

    async def send(self, entries: Sequence[Entry]) -> None:
        await self._writer.send([self._record(entry) for entry in entries])

    async def note(self, place: Place) -> None:
        await self._places.write(place)

    def _record(self, entry: Entry) -> OutgoingRecord:
        event = entry.event
        if isinstance(event, Click):
            topic, value = self._clicks, encode_click(event)
        else:
            topic, value = self._conversions, encode_conversion(event)
        key = record_key(event.user_id, event.campaign_id)
        partition = partition_of(event.user_id, event.campaign_id, self._writer.partitions(topic))
        return OutgoingRecord(topic, partition, key, value, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """What both passes need."""

    installed: InstalledTables
    events: SourceEvents
    way: Way
    telling: Telling
    wanted: Range
    batch_size: int


async def first_place(installed: InstalledTables) -> Place:
    """Of an import that begins now."""
    newest_click, _ = await installed.newest_ids()
    return Place(newest_click=newest_click)


async def lacking_rows(installed: InstalledTables, place: Place) -> str:
    """Says which rows before the place are gone; '': the newest of them are there, or newer ones."""
    newest_click, newest_conversion = await installed.newest_ids()
    reached_click = max(place.newest_click, place.last_click)
    return " and ".join(
        f"{kind} were read up to id {reached}, and the greatest is {newest} now"
        for kind, reached, newest in (
            ("clicks", reached_click, newest_click),
            ("conversions", place.last_conversion, newest_conversion),
        )
        if newest < reached
    )


async def first_pass(passing: Passing, place: Place) -> None:
    """All rows by time. Moves `place` along, and notes it after each batch."""
    if place.is_first_pass_done:
        return
    lanes = await _click_lanes(passing, place)
    conversions = ConversionLane(
        passing.installed,
        passing.events,
        after_id=place.last_conversion,
        since=passing.wanted.since,
        until=passing.wanted.until,
        page_rows=passing.batch_size,
    )
    async for entries in in_order([*lanes, conversions]):
        for start in range(0, len(entries), passing.batch_size):
            batch, rest = entries[start : start + passing.batch_size], entries[start + passing.batch_size :]
            await _send(passing, batch)
            place.click_time = max((entry.time for entry in batch if entry.kind == IS_CLICK), default=place.click_time)
            waiting = (entry.event_id - 1 for entry in rest if entry.kind != IS_CLICK)
            place.last_conversion = min(waiting, default=conversions.taken_id)
            place.last_conversion = min(place.last_conversion, conversions.taken_id)
            await passing.way.note(place)
    place.last_conversion = conversions.taken_id
    place.last_click = place.newest_click
    place.is_first_pass_done = True
    await passing.way.note(place)


async def _click_lanes(passing: Passing, place: Place) -> list[ClickLane]:
    since, until = max(passing.wanted.since, place.click_time), passing.wanted.until
    lanes: list[ClickLane] = []
    user_id: int | None = None
    first, last = 2**32, 0
    while (user_id := await passing.installed.next_user(user_id)) is not None:
        lane = ClickLane(
            passing.installed, passing.events, user_id, since=since, until=until, newest_id=place.newest_click
        )
        lanes.append(lane)
        if (times := await passing.installed.time_range(user_id)) is not None:
            first, last = min(first, times[0]), max(last, times[1])
    share_memory(lanes, passing.batch_size)
    # As if the rows were spread over the time evenly.
    share = max(0, min(last, until) - max(first, since) + 1) / max(1, last - first + 1)
    passing.telling.begin(round(sum(await passing.installed.row_counts()) * share))
    return lanes


class NewSent(NamedTuple):
    """What was sent, which may be nothing although there is more: a whole page of rows can be no events."""

    entries: Sequence[Entry]
    is_end: bool  # these were the last rows


async def send_new(passing: Passing, place: Place) -> NewSent:
    """The next rows by rising id, merged by time. Without new rows nothing happens."""
    clicks = await passing.installed.clicks_after(place.last_click, limit=passing.batch_size)
    conversions = await passing.installed.conversions_after(place.last_conversion, limit=passing.batch_size)
    if not clicks and not conversions:
        return NewSent([], is_end=True)
    lanes = [
        NewRows(
            clicks,
            [click_entry(each) for each in await passing.events.clicks_by_id(clicks, is_counted=False)],
            is_cut=len(clicks) == passing.batch_size,
        ),
        NewRows(
            conversions,
            [conversion_entry(each) for each in passing.events.conversions(conversions, is_counted=False)],
            is_cut=len(conversions) == passing.batch_size,
        ),
    ]
    horizon = min((lane.latest for lane in lanes if lane.is_cut), default=None)
    for lane in lanes:
        lane.hold_back(horizon)
    await passing.events.clicks_by_id(lanes[0].with_left_out())
    passing.events.conversions(lanes[1].with_left_out())
    entries = sorted(entry for lane in lanes for entry in lane.entries if entry.time in passing.wanted)
    await _send(passing, entries)
    place.last_click = max(place.last_click, lanes[0].last_id)
    place.last_conversion = max(place.last_conversion, lanes[1].last_id)
    await passing.way.note(place)
    return NewSent(entries, is_end=not any(lane.is_cut for lane in lanes))


class NewRows:
    """A page of new rows of one kind. Cut: there may be more behind it."""

    def __init__(self, rows: Sequence[Row], entries: list[Entry], *, is_cut: bool) -> None:
        self._rows = rows
        self.entries = entries  # by id
        self.last_id: int = rows[-1][0] if rows else 0
        self.is_cut = is_cut
        self.latest = max((entry.moment for entry in entries), default=Moment(0, IS_CLICK, 0))

    def hold_back(self, horizon: Moment | None) -> None:
        """What may be later than rows not yet read is left to the next page, and all that has a greater id."""
        if horizon is None or self.latest <= horizon:
            return
        place = next(place for place, entry in enumerate(self.entries) if entry.moment > horizon)
        self.last_id = self.entries[place].event_id - 1
        del self.entries[place:]

    def with_left_out(self) -> list[Row]:
        """What is not left to the next page, where some of it is no entry: to be counted now, and once."""
        passed = [row for row in self._rows if row[0] <= self.last_id]
        return passed if len(passed) > len(self.entries) else []


async def _send(passing: Passing, entries: Sequence[Entry]) -> None:
    check_stopped()
    if entries:
        await passing.way.send(entries)
        passing.telling.add(entries)
