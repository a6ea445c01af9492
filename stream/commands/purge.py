"""`purge`: touchpoints of conversions away, by id, by account and time, or where multi-touch is off."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import click

from stream.agents.caching import journey_cache
from stream.agents.topic_names import topic_names
from stream.clock import unix_now
from stream.commands.authorship import MOST_USERS, json_option
from stream.commands.log_access import LogWriter, check_partitions, partitions_differ, writing
from stream.commands.purging import Count, Means, Purge, Purged
from stream.commands.rebuild import until_stopped
from stream.commands.rebuilding import patiently
from stream.commands.showing import utc
from stream.commands.times import TimeType
from stream.config import Settings, read_settings
from stream.core.errors import StreamError, Unavailable
from tables.sql.database import Database, open_database
from tables.sql.facts import list_progress
from tables.sql.purge_ranges import Span, accounts_with_conversions, unknown_to_all
from tables.sql.rebuild_ranges import has_conversions_from

_PATIENCE_S = 10.0  # before anything is begun
_MOST_IDS = 2**63 - 1
_REPEAT = "what was done stays, and the same command does the rest"


class PurgeFailed(StreamError):
    """Not all of it was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for: ids, a range, or, with neither, scopes whose multi-touch is off."""

    conv_ids: Sequence[int]
    users: Sequence[int]  # none: all
    between: tuple[int, int] | None  # both included
    is_dry: bool
    is_json: bool

    @property
    def is_of_disabled(self) -> bool:
        return not self.conv_ids and self.between is None


async def purge(settings: Settings, wish: Wish) -> None:
    """Raises PurgeFailed where something is left to be done, click.UsageError before anything is."""
    database = open_database(settings.database_url)
    cache = journey_cache(settings)
    done = Purged()
    try:
        users = await patiently(lambda: _users_of(database, wish), limit=_PATIENCE_S)
        names = topic_names(settings)
        async with contextlib.AsyncExitStack() as stack:
            writer: LogWriter | None = None
            if not (wish.is_dry or wish.is_of_disabled):
                await check_partitions(settings, [names.clicks, names.conversions, names.journeys])
                writer = await stack.enter_async_context(writing(settings, [names.journeys]))
            if wish.is_of_disabled and not wish.is_dry:
                await patiently(lambda: _check_taken(database, names.partitions), limit=_PATIENCE_S)
            means = Means(
                database=database,
                names=names,
                cache=cache,
                writer=writer,
                is_dry=wish.is_dry,
                clock=_now,
                tell=_silent if wish.is_json else click.echo,
            )
            run = Purge(means)
            done = run.purged
            await _run(run, wish, users)
    except Unavailable as error:
        raise PurgeFailed(str(error), hint=f"{error.hint}; {_REPEAT}" if error.hint else _REPEAT) from error
    finally:
        _warn(done)
        await cache.close()
        await database.close()
    _show(wish, done)
    if done.unknown:
        count = len(done.unknown)
        raise PurgeFailed(
            f"{count} of {count + done.total.conversions} conversions are unknown, the others are done",
            hint='"python -m stream status" shows whether workers are behind',
        )


async def _run(run: Purge, wish: Wish, users: Sequence[int]) -> None:
    if wish.conv_ids:
        await run.by_ids(wish.conv_ids)
    elif wish.between is None:
        await run.disabled(users)
    else:
        for user_id in users:
            await run.by_span(Span(user_id, *wish.between))
            if not wish.is_json:
                click.echo(f"user {user_id}: {_told(run.purged.users[user_id], wish)}")


async def _users_of(database: Database, wish: Wish) -> Sequence[int]:
    """Raises click.UsageError for a range or an account that nothing is known of."""
    if wish.conv_ids:
        return ()
    async with database.reading() as connection:
        start = wish.between[0] if wish.between else 0
        if start > _now() and not await has_conversions_from(connection, start):
            raise click.UsageError(
                f"the range lies in the future: it begins at {utc(start)}, and no conversion is as late as that"
            )
        if not wish.users:
            return () if wish.is_of_disabled else await accounts_with_conversions(connection)
        unknown = await unknown_to_all(connection, wish.users)
    if unknown:
        ids = ", ".join(map(str, unknown))
        raise click.UsageError(f"unknown user {ids}: neither users, clicks, conversions nor models name it")
    return sorted(set(wish.users))


async def _check_taken(database: Database, partitions: int) -> None:
    """Where no journey changes nobody asks the broker: rows of partitions that workers took say how many there are.

    Raises Misconfigured.
    """
    for row in await list_progress(database):
        if row.partition_count not in (0, partitions):
            raise partitions_differ("the log that workers have read", row.partition_count, partitions)


def _now() -> int:
    return int(unix_now())


# What it says


def _silent(_: str) -> None:
    return


def _warn(done: Purged) -> None:
    if done.cache_failures:
        click.echo(f"warning: {done.cache_failures} conversions may still have an entry in the cache", err=True)
    for conv_id in done.unknown:
        click.echo(f"conversion {conv_id}: unknown: neither journeys, logs nor touchpoints name it", err=True)


def _told(count: Count, wish: Wish) -> str:
    text = f"{count.conversions:,} conversions, {count.rows:,} rows {'to remove' if wish.is_dry else 'removed'}"
    if wish.is_of_disabled:
        return text
    return f"{text}, {count.journeys:,} journeys {'to purge' if wish.is_dry else 'purged'}"


def _show(wish: Wish, done: Purged) -> None:
    if wish.is_json:
        click.echo(json.dumps(_purged_json(wish, done)))
        return
    if wish.is_of_disabled:
        for scope, count in done.scopes.items():
            click.echo(f"user {scope.user_id}, {scope}: {_told(count, wish)}")
        if not done.scopes:
            click.echo("no scope has multi-touch off: nothing to purge")
            return
    of = f" of {len(done.scopes):,} scopes" if wish.is_of_disabled else ""
    verb = "dry run, nothing was changed" if wish.is_dry else "purged"
    click.echo(f"{verb}{of}: {_told(done.total, wish)}")


def _purged_json(wish: Wish, done: Purged) -> dict[str, object]:
    start, end = wish.between or (None, None)
    return {
        "ok": not done.unknown,
        "is_dry_run": wish.is_dry,
        "start": start,
        "start_utc": utc(start),
        "end": end,
        "end_utc": utc(end),
        **_count_json(done.total),
        "cache_failures": done.cache_failures,
        "unknown": list(done.unknown),
        "users": [{"user_id": user_id, **_count_json(count)} for user_id, count in done.users.items()],
        "scopes": [
            {
                "user_id": scope.user_id,
                "scope": scope.scope.value,
                "scope_id": scope.scope_id or None,
                **_count_json(count),
            }
            for scope, count in done.scopes.items()
        ],
    }


def _count_json(count: Count) -> dict[str, int]:
    return {"conversions": count.conversions, "rows": count.rows, "journeys": count.journeys}


# What was asked


def _between(start: int | None, end: int | None) -> tuple[int, int] | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise click.UsageError("--start and --end go together: a purge guesses neither")
    if start > end:
        raise click.UsageError(f"--start {utc(start)} is after --end {utc(end)}")
    return start, end


def _check(wish: Wish, *, is_disabled: bool) -> None:
    ways = [
        name
        for name, is_given in (
            ("--conversion", bool(wish.conv_ids)),
            ("--start and --end", wish.between is not None),
            ("--disabled", is_disabled),
        )
        if is_given
    ]
    if len(ways) > 1:
        raise click.UsageError(f"{' and '.join(ways)} exclude each other")
    if wish.conv_ids and wish.users:
        raise click.UsageError("--conversion and --user exclude each other: an id names its conversion alone")
    if not ways:
        raise click.UsageError("say what to purge: --conversion, or --start and --end, or --disabled")


@click.command(name="purge")
@click.option(
    "--conversion",
    "conv_ids",
    type=click.IntRange(1, _MOST_IDS),
    multiple=True,
    help="This conversion; may be repeated.",
)
@click.option(
    "--user", "users", type=click.IntRange(1, MOST_USERS), multiple=True, help="Only this account; may be repeated."
)
@click.option("--start", type=TimeType(), help="Conversions from then on: unix seconds or ISO 8601; goes with --end.")
@click.option("--end", type=TimeType(), help="Likewise; both ends are included.")
@click.option("--disabled", "is_disabled", is_flag=True, help="Conversions at whose time multi-touch was off.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Count, and change nothing.")
@json_option
def command(
    *,
    conv_ids: tuple[int, ...],
    users: tuple[int, ...],
    start: int | None,
    end: int | None,
    is_disabled: bool,
    is_dry: bool,
    is_json: bool,
) -> None:
    """Remove the touchpoints of conversions, by id, by time, or where multi-touch was off.

    By id or time, journeys are marked as purged, too: their hours follow within seconds, and the converting click
    alone earns, until a replay or a later event restores them. With --disabled journeys and hours stay as they are,
    and turning multi-touch on restores the touchpoints. Rows left by an installation's earlier life go as well, and so
    do entries of the cache. Safe beside workers; repeating it changes nothing.

    \b
    JSON: ok, is_dry_run, start, start_utc, end, end_utc, conversions, rows, journeys (purged, that were not before),
      cache_failures, unknown [conv_id],
      users [{user_id, conversions, rows, journeys}], with --start and --end,
      scopes [{user_id, scope, scope_id, conversions, rows, journeys}], with --disabled
    """
    between = _between(start, end)
    wish = Wish(conv_ids=conv_ids, users=users, between=between, is_dry=is_dry, is_json=is_json)
    _check(wish, is_disabled=is_disabled)
    if not until_stopped(purge(read_settings(), wish)):
        raise PurgeFailed("stopped", hint=_REPEAT)
