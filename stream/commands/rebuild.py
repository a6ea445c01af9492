"""`rebuild`: the hours of a range once more, from the journeys in SQL; as a command, or every hour as a service."""

import asyncio
import json
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from stream.agents.topic_names import topic_names
from stream.clock import unix_now
from stream.commands.authorship import MOST_USERS
from stream.commands.hour_access import hour_store
from stream.commands.rebuild_report import AccountReport, Telling, WindowOfHours, hours_touched, report_json
from stream.commands.rebuilding import AccountRebuild, Means, check_stopped, patiently
from stream.commands.showing import utc
from stream.commands.times import TimeType
from stream.config import Settings, read_settings
from stream.core.errors import Misconfigured, StreamError
from stream.core.hours import HOUR_SECONDS, final_before
from tables.sql.cron import mark_window, sign_of_life
from tables.sql.database import Database, open_database
from tables.sql.rebuild_ranges import has_conversions_from, read_accounts, unknown_accounts

_DEFAULT_S = 86_400
_AFTER_THE_HOUR_S = 5
_LONGEST_SLEEP_S = 30.0  # the wall clock may be set meanwhile
_PATIENCE_S = 10.0  # before anything is begun

_Result = TypeVar("_Result")


class RebuildFailed(StreamError):
    """At least one account was not rebuilt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for."""

    users: Sequence[int]  # none: all
    start: int
    end: int
    is_forced: bool
    is_json: bool

    @property
    def window(self) -> WindowOfHours:
        return hours_touched(self.start, self.end)


async def rebuild(settings: Settings, wish: Wish) -> None:
    """Raises RebuildFailed after the accounts that could be rebuilt, click.UsageError before any of them."""
    database = open_database(settings.database_url)
    try:
        users = await patiently(lambda: _users_of(database, wish), limit=_PATIENCE_S)
        with Telling(wish.window, is_silent=wish.is_json) as telling:
            means = await patiently(lambda: _means(settings, database, wish), limit=_PATIENCE_S)
            reports = await _rebuild_all(means, users, wish.window, telling)
            if not any(report.error for report in reports):
                await patiently(lambda: _leave_signs(database, wish, reports), limit=_PATIENCE_S)
                telling.all_ended(reports)
    finally:
        await database.close()
    if wish.is_json:
        click.echo(json.dumps(report_json(wish.window, reports)))
    failed = sum(bool(report.error) for report in reports)
    if failed:
        raise RebuildFailed(
            f"{failed} of {len(reports)} users failed, {wish.window}", hint="the same command does them again"
        )


async def _rebuild_all(
    means: Means, users: Sequence[int], window: WindowOfHours, telling: Telling
) -> list[AccountReport]:
    reports = []
    for user_id in users:
        try:
            report = await AccountRebuild(means, user_id, window, telling).run()
        except Exception as error:  # noqa: BLE001 -- whatever stops one account is told, and the others go on
            report = AccountReport(user_id, error=str(error) or type(error).__name__)
            telling.failed(report)
        reports.append(report)
    return reports


async def _users_of(database: Database, wish: Wish) -> Sequence[int]:
    """Raises click.UsageError for a range or an account that nothing is known of."""
    async with database.reading() as connection:
        if wish.start > _now() and not await has_conversions_from(connection, wish.start):
            raise click.UsageError(
                f"the range lies in the future: it begins at {utc(wish.start)}, and no conversion is as late as that"
            )
        if not wish.users:
            return await read_accounts(connection)
        unknown = await unknown_accounts(connection, wish.users)
    if unknown:
        ids = ", ".join(map(str, unknown))
        raise click.UsageError(f"unknown user {ids}: neither users, clicks, conversions nor models name it")
    return sorted(set(wish.users))


async def _means(settings: Settings, database: Database, wish: Wish) -> Means:
    store = hour_store(settings, database, owner="rebuild")
    watermark = await store.read_watermark(topic_names(settings).partitions)
    return Means(
        database=database,
        store=store,
        final_before=final_before(watermark, settings.allowed_lateness_seconds),
        with_extra_scopes=settings.scopes == "all",
        is_forced=wish.is_forced,
        clock=_now,
    )


async def _leave_signs(database: Database, wish: Wish, reports: Sequence[AccountReport]) -> None:
    """Only where something was done, and all of it well."""
    if all(report.is_skipped for report in reports):
        return
    now = _now()
    until = min(wish.end, now)
    async with database.transaction() as connection:
        await sign_of_life(connection, now=now)
        await mark_window(connection, date_hour=until - until % HOUR_SECONDS)


def _now() -> int:
    return int(unix_now())


# As a service


async def rebuild_every_hour(settings: Settings, wish: Wish) -> None:
    """At once, and after each full hour. A run that fails is told, and the next one makes up for it."""
    while True:
        end = _now()
        try:
            await rebuild(settings, replace(wish, start=end - _DEFAULT_S, end=end))
        except Misconfigured:
            raise
        except StreamError as error:
            click.echo(f"error: {error}", err=True)
            click.echo("hint: it is tried again after the next full hour", err=True)
        check_stopped()
        due = end - end % HOUR_SECONDS + HOUR_SECONDS + _AFTER_THE_HOUR_S
        while (left := due - unix_now()) > 0:  # noqa: ASYNC110 -- it is the wall clock that is waited for
            await asyncio.sleep(min(left, _LONGEST_SLEEP_S))


def until_stopped(work: Coroutine[Any, Any, None]) -> bool:
    """False: SIGTERM or SIGINT came before its end; what was under way has been given up cleanly."""

    async def run() -> bool:
        task = asyncio.create_task(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return False
        return True

    return asyncio.run(run())


@click.command(name="rebuild")
@click.option(
    "--user", "users", type=click.IntRange(1, MOST_USERS), multiple=True, help="Only this account; may be repeated."
)
@click.option("--start", type=TimeType(), help="Unix seconds or ISO 8601; default: a day before --end.")
@click.option("--end", type=TimeType(), help="Likewise; default: now.")
@click.option("--force", "is_forced", is_flag=True, help="Also where this window was processed already.")
@click.option("--every", type=click.Choice(["hour"]), help="Go on as a service: now, and after each full hour.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
def command(
    *, users: tuple[int, ...], start: int | None, end: int | None, is_forced: bool, every: str | None, is_json: bool
) -> None:
    """Compute hours, with their snapshots and credits, once more from the journeys in the database.

    All whole hours that [START, END) touches, of all users or of those given. Safe beside workers and other rebuilds;
    the workers publish what it changes. A window that was processed after its end, with the same models and settings
    and nothing new since, is not done again without --force; a rebuild that was stopped or killed may be repeated.

    \b
    JSON: ok, start, start_utc, end, end_utc,
      users [{user_id, state ("rebuilt", "already processed" or "failed"), error, hours, conversions, credits,
        revenue, cost}]
    """
    if every and (start is not None or end is not None):
        raise click.UsageError("--every has its own range: the last day, each time")
    end = _now() if end is None else end
    start = max(0, end - _DEFAULT_S) if start is None else start
    if start >= end:
        raise click.UsageError(f"--start {utc(start)} is not before --end {utc(end)}")
    settings = read_settings()
    wish = Wish(users=users, start=start, end=end, is_forced=is_forced, is_json=is_json)
    work = rebuild_every_hour(settings, wish) if every else rebuild(settings, wish)
    if not until_stopped(work) and not every:
        raise RebuildFailed("stopped", hint="the same command does it again, from the beginning")
