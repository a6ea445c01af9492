"""What goes on in a source that is followed: new rows, and rows that are not what they were when they were sent.

New rows are those with greater ids. Everything else is found by comparing rows of the source with what was last
reported of them, as our own database has it: at each look the newest rows, where most changes are and where rows turn
up late (ids are given before the commit), and one page further through all older ones. A row is compared only when all
that was sent of it has passed the workers, so nothing is sent twice because somebody is behind.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict

from stream.clock import unix_now
from stream.commands.import_changes import Tried, Unsettled, can_replace, restated_click, restated_conversion
from stream.commands.import_passes import Passing, send_new
from stream.commands.import_place import Place
from stream.commands.import_source import IS_CLICK, Entry, Event, click_entry, conversion_entry
from stream.commands.rebuilding import check_stopped
from stream.commands.standing import StandingReader
from stream.core.events import Click
from tables.sql.clicks import read_clicks
from tables.sql.database import Database
from tables.sql.installed import CLICKS, CONVERSIONS
from tables.sql.reported import read_reported_conversions

POLL_S = 1.0
NEWEST_ROWS = 1000  # of each kind, compared at every look
_PAGES_A_POLL = 10  # of new rows, before changes get their turn


class Changes:
    """Compares and sends. `kept_since`: the retention has removed clicks before it, and they are not compared."""

    def __init__(self, passing: Passing, facts: Database, tried: Tried, *, kept_since: Callable[[], int]) -> None:
        self.unsettled = Unsettled()
        self._passing = passing
        self._facts = facts
        self._tried = tried
        self._kept_since = kept_since

    async def look(self, place: Place) -> None:
        """At the newest rows and the next page of all. Moves the place of the latter on, and notes it."""
        before = asdict(place)
        rows = await self._newest_rows(place)
        rows += await self._next_page(place)
        await self._send_changed(list({(entry.kind, entry.event_id): entry for entry in rows}.values()))
        if asdict(place) != before:
            await self._passing.way.note(place)

    async def send_late(self, place: Place) -> None:
        """Of the newest rows those that nobody has ever reported."""
        found = await self._newest_rows(place)
        stored = await self._stored(found)
        absent = [entry for entry in found if (entry.kind, entry.event_id) not in stored and self._is_wanted(entry)]
        await self._send(sorted(absent), is_change=False)

    async def _newest_rows(self, place: Place) -> list[Entry]:
        installed, events = self._passing.installed, self._passing.events
        clicks = await installed.clicks_up_to(place.last_click, limit=NEWEST_ROWS)
        conversions = await installed.conversions_up_to(place.last_conversion, limit=NEWEST_ROWS)
        return [
            *map(click_entry, await events.clicks_by_id(clicks, is_counted=False)),
            *map(conversion_entry, events.conversions(conversions, is_counted=False)),
        ]

    async def _next_page(self, place: Place) -> list[Entry]:
        installed, events, size = self._passing.installed, self._passing.events, self._passing.batch_size
        clicks = await installed.clicks_after(place.swept_click, limit=size)
        clicks = [row for row in clicks if row[0] <= place.last_click]
        place.swept_click = clicks[-1][0] if len(clicks) == size else 0
        conversions = await installed.conversions_after(place.swept_conversion, limit=size)
        conversions = [row for row in conversions if row[0] <= place.last_conversion]
        place.swept_conversion = conversions[-1][0] if len(conversions) == size else 0
        return [
            *map(click_entry, await events.clicks_by_id(clicks, is_counted=False)),
            *map(conversion_entry, events.conversions(conversions, is_counted=False)),
        ]

    async def _send_changed(self, rows: Sequence[Entry]) -> None:
        compared = [row for row in rows if self._is_wanted(row) and not self.unsettled.holds((row.kind, row.event_id))]
        stored = await self._stored(compared)
        late: list[tuple[Entry, Event]] = []
        changed: list[tuple[Entry, Event]] = []
        for row in compared:
            known = stored.get((row.kind, row.event_id))
            event = _restated(row.event, known)
            if event is None:
                self._tried.forget(row)
            elif self._may_send(row, event, known):
                (late if known is None else changed).append((row, event))
        await self._try(late, is_change=False)
        await self._try(changed, is_change=True)

    async def _try(self, differing: Sequence[tuple[Entry, Event]], *, is_change: bool) -> None:
        await self._send(sorted(row._replace(event=event) for row, event in differing), is_change=is_change)
        for row, _ in differing:  # only now: what the broker did not take must be tried again
            self._tried.count(row)

    def _may_send(self, row: Entry, event: Event, known: Event | None) -> bool:
        attempts = self._tried.attempts(row)
        if attempts == 0 and can_replace(event, known):
            return True
        self._tried.count(row)
        name = f"row of {CLICKS if row.kind == IS_CLICK else CONVERSIONS} with id {row.event_id}"
        if attempts == 0:
            self._passing.telling.warn(
                f"not sent: {name} has changed in a way that is refused: another user, campaign or click"
            )
        elif attempts == 1 and can_replace(event, known):
            self._passing.telling.warn(
                f"not sent again: {name} was sent, and is not in the database; dead-letters list may say why"
            )
        return False

    def _is_wanted(self, row: Entry) -> bool:
        return row.time in self._passing.wanted and (row.kind != IS_CLICK or row.time >= self._kept_since())

    async def _stored(self, rows: Sequence[Entry]) -> dict[tuple[int, int], Event]:
        """What was last reported, by kind and id."""
        async with self._facts.reading() as connection:
            clicks = await read_clicks(connection, [row.event_id for row in rows if row.kind == IS_CLICK])
            conversions = await read_reported_conversions(
                connection, [row.event_id for row in rows if row.kind != IS_CLICK]
            )
        found: dict[tuple[int, int], Event] = {}
        for click in clicks.values():
            found[click_entry(click)[1:3]] = click
        for conversion in conversions.values():
            found[conversion_entry(conversion)[1:3]] = conversion
        return found

    async def _send(self, entries: Sequence[Entry], *, is_change: bool) -> None:
        if entries:
            await self._passing.way.send(entries)
            self.unsettled.add(entries)
            self._passing.telling.add(entries, is_change=is_change)


async def follow(passing: Passing, place: Place, changes: Changes, reader: StandingReader) -> None:
    """One poll: what is new, and what has changed."""
    for _ in range(_PAGES_A_POLL):
        check_stopped()
        sent = await send_new(passing, place)
        changes.unsettled.add(sent.entries)
        if sent.is_end:
            break
    if changes.unsettled.is_pending:
        changes.unsettled.look(await reader.read())
    if not changes.unsettled.holds_everything:
        await changes.look(place)


async def follow_for_ever(
    passing: Passing, place: Place, changes: Changes, reader: StandingReader, *, went_well: Callable[[], None]
) -> None:
    """Until it is cancelled. `went_well` is called after each poll."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + POLL_S
        await follow(passing, place, changes, reader)
        went_well()
        await asyncio.sleep(max(0.0, due - now()))


def _restated(row: Event, stored: Event | None) -> Event | None:
    now = int(unix_now())
    if isinstance(row, Click):
        assert stored is None or isinstance(stored, Click)
        return restated_click(row, stored, now)
    assert not isinstance(stored, Click)
    return restated_conversion(row, stored, now)
