"""`import`: clicks and conversions of an existing Prosper202 installation into the topics, once or as it goes on."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import click

from stream.clock import unix_now
from stream.commands.import_changes import Tried
from stream.commands.import_following import Changes, follow_for_ever
from stream.commands.import_passes import DryWay, LogWay, Passing, Way, first_pass, first_place, lacking_rows, send_new
from stream.commands.import_place import EARLIEST, LATEST, Place, Places, Range
from stream.commands.import_report import Telling
from stream.commands.import_source import SourceEvents
from stream.commands.log_access import writing
from stream.commands.rebuild import until_stopped
from stream.commands.showing import utc
from stream.commands.standing import reading_standing
from stream.commands.times import TimeType
from stream.config import Settings, read_settings
from stream.core.errors import Misconfigured, StreamError, Unavailable
from stream.topics import CLICKS, CONVERSIONS
from tables.sql.database import Database, open_database
from tables.sql.installed import InstalledTables, SourceUnfit
from tables.sql.installed_address import SourceAddress, source_address

_PAUSE_S = 2.0
_DAY_S = 86_400
_MOST_ROWS = 50_000
_AGAIN = (
    "another installation behind this address, one restored from a backup, or its newest rows were deleted? --again"
    " begins at the beginning: what was sent before is sent again, and changes nothing"
)


class ImportStopped(StreamError):
    """A signal came before the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for."""

    source: SourceAddress
    wanted: Range
    batch_size: int
    follows: bool
    is_dry: bool
    is_again: bool
    is_json: bool


class Importing:
    """One import, over as many connections as it takes."""

    def __init__(self, settings: Settings, wish: Wish, telling: Telling) -> None:
        self._settings = settings
        self._wish = wish
        self._telling = telling
        self._tried = Tried()
        self._begins_again = wish.is_again
        self._is_waiting = False
        self._has_told_lacking = False

    async def run(self) -> None:
        """Raises StreamError; followed, what does not answer is waited for."""
        while True:
            try:
                await self._connected()
            except Unavailable as error:
                if not self._wish.follows:
                    raise
                if not self._is_waiting:
                    self._telling.warn(f"waiting: {error}")
                self._is_waiting = True
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _connected(self) -> None:
        """With connections and a place of its own: after a failure everything begins as after a restart."""
        async with contextlib.AsyncExitStack() as stack:
            installed = InstalledTables(self._wish.source)
            stack.push_async_callback(installed.close)
            ours = open_database(self._settings.database_url)
            stack.push_async_callback(ours.close)
            await installed.check()
            await self._check_other_database(installed, ours)
            places = Places(ours, installed.name, self._wish.wanted)
            place = None if self._begins_again else await places.read()
            passing = Passing(
                installed=installed,
                events=SourceEvents(installed, self._telling.left_out),
                way=await stack.enter_async_context(self._way(places)),
                telling=self._telling,
                wanted=self._wish.wanted,
                batch_size=self._wish.batch_size,
            )
            await self._pass(passing, place, ours)

    async def _check_other_database(self, installed: InstalledTables, ours: Database) -> None:
        """Raises Misconfigured. One server may have several addresses: what it says of itself decides."""
        if self._settings.conversion_logs == "own" and await installed.is_same_database(ours):
            raise _source_is_ours(self._wish.source)

    @contextlib.asynccontextmanager
    async def _way(self, places: Places) -> AsyncIterator[Way]:
        if self._wish.is_dry:
            yield DryWay()
            return
        clicks, conversions = (self._settings.topic_prefix + name for name in (CLICKS, CONVERSIONS))
        async with writing(self._settings, [clicks, conversions]) as writer:
            yield LogWay(writer, places, clicks=clicks, conversions=conversions)

    async def _pass(self, passing: Passing, found: Place | None, ours: Database) -> None:
        if found is not None:
            await self._check_same_source(passing.installed, found)
        place = found or await first_place(passing.installed)
        await passing.way.note(place)
        self._begins_again = False
        changes = Changes(passing, ours, self._tried, kept_since=self._kept_since)
        if found is not None and found.is_first_pass_done and not self._wish.follows:
            await changes.send_late(place)
        await first_pass(passing, place)
        self._telling.first_pass_ended()
        if not self._wish.follows:
            while not (await send_new(passing, place)).is_end:
                pass
            return
        async with reading_standing(self._settings) as reader:
            await follow_for_ever(passing, place, changes, reader, went_well=self._went_well)

    async def _check_same_source(self, installed: InstalledTables, place: Place) -> None:
        """Raises SourceUnfit. Followed, all its rows are compared, and what nobody has reported is sent."""
        lacking = await lacking_rows(installed, place)
        if not lacking:
            return
        if not self._wish.follows:
            raise SourceUnfit(f"source {self._wish.source.name}: {lacking}", hint=_AGAIN)
        if not self._has_told_lacking:
            self._telling.warn(f"source {self._wish.source.name}: {lacking}\nhint: {_AGAIN}")
        self._has_told_lacking = True

    def _went_well(self) -> None:
        if self._is_waiting:
            self._telling.warn("going on: everything answers again")
        self._is_waiting = False

    def _kept_since(self) -> int:
        days = self._settings.click_retention_days
        return int(unix_now()) - days * _DAY_S if days else EARLIEST


def import_rows(settings: Settings, wish: Wish) -> None:
    """Raises StreamError; what was sent before is told first."""
    with Telling(wish.source.name, is_silent=wish.is_json, is_dry=wish.is_dry) as telling:
        try:
            is_stopped = not until_stopped(Importing(settings, wish, telling).run())
        except StreamError:
            _tell_end(telling, wish, is_ok=False)
            raise
        _tell_end(telling, wish, is_ok=wish.follows or not is_stopped)
    if is_stopped and not wish.follows:
        raise ImportStopped("stopped", hint="the same command goes on from where it was")


def _tell_end(telling: Telling, wish: Wish, *, is_ok: bool) -> None:
    if wish.is_json:
        click.echo(json.dumps(telling.as_json(is_ok=is_ok)))
    elif is_ok:
        telling.ended()
    elif telling.sent:
        telling.say(f"stopped after {telling.sent.total():,} rows; the same command goes on from there")


def _check(settings: Settings, wish: Wish) -> None:
    """Raises Misconfigured where what we write would be read as what the tracking servers wrote."""
    if settings.conversion_logs == "own" and wish.source.is_the_database_of(settings.database_url):
        raise _source_is_ours(wish.source)


def _source_is_ours(source: SourceAddress) -> Misconfigured:
    return Misconfigured(
        f"--from {source.name} is our own database, whose 202_conversion_logs we write ourselves",
        hint="set TOUCHSTREAM_CONVERSION_LOGS=installed, or use another database for TOUCHSTREAM_DATABASE_URL",
    )


@click.command(name="import")
@click.option(
    "--from",
    "url",
    metavar="URL",
    help="mysql://USER:PASSWORD@HOST:PORT/DATABASE; TOUCHSTREAM_IMPORT_FROM keeps it out of lists of processes.",
)
@click.option("--since", type=TimeType(), help="Unix seconds or ISO 8601: only what happened then or later.")
@click.option("--until", type=TimeType(), help="Likewise: only what happened then or before.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, _MOST_ROWS),
    default=5000,
    show_default=True,
    help="Rows of one SELECT, and sent together.",
)
@click.option("--follow", "follows", is_flag=True, help="Go on with new and changed rows, until SIGTERM.")
@click.option("--again", "is_again", is_flag=True, help="Begin at the beginning, though it was imported before.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Send nothing; say what would be sent.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object at the end, see above.")
def command(
    *,
    url: str | None,
    since: int | None,
    until: int | None,
    batch_size: int,
    follows: bool,
    is_again: bool,
    is_dry: bool,
    is_json: bool,
) -> None:
    """Send the clicks and conversions of an existing Prosper202 installation into the topics.

    Reads 202_clicks and 202_conversion_logs in small pages, with a user that needs nothing but SELECT. It remembers
    how far it came: an import that was stopped or killed may simply be repeated, and goes on; repeated after its end
    it sends what is new. A row that is no event is counted and named on STDERR; that is no failure.

    \b
    JSON: ok, source, dry_run, clicks, conversions, changed, refused {reason: rows}, doubles, first, last
    """
    wanted = Range(EARLIEST if since is None else since, LATEST if until is None else until)
    if wanted.since > wanted.until:
        raise click.UsageError(f"--since {utc(wanted.since)} is after --until {utc(wanted.until)}")
    if follows and is_dry:
        raise click.UsageError("--follow sends, --dry-run does not: give one of them")
    settings = read_settings()
    source = url or settings.import_from
    if not source:
        raise click.UsageError("give the source as --from URL, or in TOUCHSTREAM_IMPORT_FROM")
    wish = Wish(
        source=source_address(source),
        wanted=wanted,
        batch_size=batch_size,
        follows=follows,
        is_dry=is_dry,
        is_again=is_again,
        is_json=is_json,
    )
    _check(settings, wish)
    import_rows(settings, wish)
