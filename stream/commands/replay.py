"""`replay` (alias `backfill`): a range of the log once more, its facts stored and its journeys computed."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from stream.agents.topic_names import topic_names
from stream.clock import unix_now
from stream.commands.authorship import MOST_USERS
from stream.commands.rebuild import until_stopped
from stream.commands.rebuilding import LEASE_S, RENEWAL_S, patiently
from stream.commands.replay_places import conversions_done, records_left
from stream.commands.replay_plan import (
    DAY_SECONDS,
    Plan,
    Wish,
    check_reach,
    gaps,
    make_plan,
    older_ranges,
    plan_lines,
)
from stream.commands.replay_processes import Processes
from stream.commands.replay_report import Telling
from stream.commands.replay_users import check_users_of_log
from stream.commands.replay_work import PATIENCE_S, Job, work
from stream.commands.showing import utc
from stream.commands.times import TimeType
from stream.config import Settings, read_settings
from stream.core.errors import StreamError, Unavailable
from tables.sql.database import Database, open_database
from tables.sql.facts import list_progress
from tables.sql.rebuild_ranges import has_conversions_from, unknown_accounts
from tables.sql.replay_runs import ReplayRun, claim_replay, end_replay, find_replay, renew_replay
from tables.sql.replays import count_conversions, missing_clicks, raise_history, read_places
from tables.sql.runs import RunState

_DEFAULT_DAYS = 30
_PATIENCE_S = 10.0  # before anything is begun


class ReplayFailed(StreamError):
    """At least one conversion was not replayed, or all was broken off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What is done with a wish, and how it is told."""

    resumed: int | None  # a run
    is_dry: bool
    is_json: bool
    is_verifying: bool

    @property
    def is_working(self) -> bool:
        return not self.is_dry and not self.is_verifying


async def replay(settings: Settings, wish: Wish, manner: Manner, *, database: Database, processes: Processes) -> None:
    """Raises click.UsageError before anything is begun, ReplayFailed where something was left undone.

    Database and processes have come to their end then.
    """
    try:
        if manner.resumed is not None:
            wish = await _wish_of_run(database, manner.resumed, wish)
        unknown = await patiently(lambda: _check_wish(database, wish), limit=_PATIENCE_S)
        if unknown:
            await check_users_of_log(settings, wish, unknown)
        if manner.is_verifying:
            # Brings the migrations and all that goes with them along: half of the time that a short replay takes.
            from stream.commands.verify import verify  # noqa: PLC0415

            await verify(settings, database, wish, is_json=manner.is_json)
        else:
            await _replay(settings, wish, manner, database=database, processes=processes)
    finally:
        await processes.end()
        await database.close()


async def _replay(settings: Settings, wish: Wish, manner: Manner, *, database: Database, processes: Processes) -> None:
    plan = await make_plan(settings, wish, topic_names(settings))
    rows = {row.partition: row for row in await list_progress(database)}
    check_reach(settings, wish, plan, rows)
    if manner.is_dry:
        await _show_plan(database, wish, plan, is_json=manner.is_json)
        return
    run = await patiently(lambda: _claim(database, wish, plan, manner.resumed), limit=_PATIENCE_S)
    with Telling(wish, is_silent=manner.is_json) as telling:
        telling.say(f"replay {run.run_id}: {plan.records:,} records to read")
        async with _kept(database, run, telling):
            await patiently(lambda: raise_history(database, gaps(plan, rows), now=_now()), limit=PATIENCE_S)
            await _rounds(settings, wish, plan, run=run, telling=telling, database=database, processes=processes)
    if manner.is_json:
        click.echo(json.dumps(telling.as_json(run.run_id)))
    telling.ended()
    if telling.failures():
        raise ReplayFailed(telling.failures(), hint="they are named above; the same command tries just these again")


async def _rounds(
    settings: Settings,
    wish: Wish,
    plan: Plan,
    *,
    run: ReplayRun,
    telling: Telling,
    database: Database,
    processes: Processes,
) -> None:
    """All facts before the first journey: a conversion may rest on a click in another partition."""
    if not wish.is_journeys_only:
        places = await patiently(lambda: read_places(database, run.run_id), limit=PATIENCE_S)
        telling.begin_round("records", records_left(plan.ranges, places))
        await processes.work(_jobs(wish, plan, run, is_facts=True), telling)
        await _older_clicks(settings, wish, plan, run=run, telling=telling, database=database)
    conversions = await patiently(
        lambda: count_conversions(database, wish.users, start=wish.start, end=wish.end), limit=PATIENCE_S
    )
    places = await patiently(lambda: read_places(database, run.run_id), limit=PATIENCE_S)
    telling.begin_round("conversions", conversions - conversions_done(places))
    await processes.work(_jobs(wish, plan, run, is_facts=False), telling)


async def _older_clicks(
    settings: Settings, wish: Wish, plan: Plan, *, run: ReplayRun, telling: Telling, database: Database
) -> None:
    """A converting click may be older than any lookback, and so may the report of a payment that was told of first.

    It may also be another account's than those that are replayed.
    """
    before = None if wish.users else wish.start - settings.lookback_days * DAY_SECONDS
    missing = await patiently(
        lambda: missing_clicks(database, wish.users, start=wish.start, end=wish.end, before=before), limit=PATIENCE_S
    )
    if not missing:
        return
    since = min(missing.values())
    older = await patiently(lambda: older_ranges(settings, wish, plan, since=since), limit=PATIENCE_S)
    records = sum(part.records for part in older)
    if not records:
        return
    why = "older than what was read, or another account's" if wish.users else "older than what was read"
    telling.say(f"{len(missing):,} converting clicks are {why}: {records:,} records more")
    telling.begin_round("records", records)
    (job,) = _jobs(replace(wish, workers=1), replace(plan, ranges=older), run, is_facts=True)
    await work(settings, job._replace(clicks=sorted(missing)), telling)


def _jobs(wish: Wish, plan: Plan, run: ReplayRun, *, is_facts: bool) -> Sequence[Job]:
    """The partitions in turn to each of the processes."""
    shares = [plan.ranges[number :: wish.workers] for number in range(wish.workers)]
    return [
        Job(
            run.run_id,
            is_facts,
            wish.users,
            wish.start,
            wish.end,
            wish.batch_size,
            [part.partition for part in share],
            [part.starts for part in share],
            [part.ends for part in share],
        )
        for share in shares
        if share
    ]


async def _wish_of_run(database: Database, run_id: int, wish: Wish) -> Wish:
    async with database.reading() as connection:
        run = await find_replay(connection, run_id=run_id)
    if run is None:
        raise click.UsageError(f"there is no replay {run_id}")
    if run.state is RunState.FINISHED:
        raise click.UsageError(f"replay {run_id} has finished: nothing is left to resume")
    return wish.of(run.arguments)


async def _check_wish(database: Database, wish: Wish) -> Sequence[int]:
    """Accounts that are asked for, and of which SQL knows nothing."""
    async with database.reading() as connection:
        if wish.start > _now() and not await has_conversions_from(connection, wish.start):
            raise click.UsageError(
                f"the range lies in the future: it begins at {utc(wish.start)}, and no conversion is as late as that"
            )
        return await unknown_accounts(connection, wish.users)


async def _show_plan(database: Database, wish: Wish, plan: Plan, *, is_json: bool) -> None:
    conversions = await count_conversions(database, wish.users, start=wish.start, end=wish.end)
    if is_json:
        click.echo(json.dumps({"ok": True, "records": plan.records, "conversions": conversions}))
        return
    for line in plan_lines(wish, plan, conversions):
        click.echo(line)


async def _claim(database: Database, wish: Wish, plan: Plan, resumed: int | None) -> ReplayRun:
    """Ours; it may be one that was broken off."""
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    async with database.transaction() as connection:
        run, is_resumed = await claim_replay(
            connection, wish.arguments(plan), owner=owner, now=_now(), lease=LEASE_S, resumed=resumed
        )
    if run.owner != owner:
        raise ReplayFailed(
            f"replay {run.run_id} of this range is at work ({run.owner})",
            hint=f"wait for its end; if it was killed, its lease ends at {utc(run.lease_until)}",
        )
    if is_resumed:
        click.echo(f"going on with replay {run.run_id}, which was broken off", err=True)
    return run


@contextlib.asynccontextmanager
async def _kept(database: Database, run: ReplayRun, telling: Telling) -> AsyncIterator[None]:
    """The run is ours until this is left; then it has finished, or failed, as one that leaves something undone has."""
    working = asyncio.current_task()
    keeper = asyncio.create_task(_keep(database, run, working))
    state, error = RunState.FAILED, ""
    try:
        yield
        error = telling.failures()
        state = RunState.FAILED if error else RunState.FINISHED
    except BaseException as failure:
        error = "stopped" if isinstance(failure, asyncio.CancelledError) else str(failure) or type(failure).__name__
        raise
    finally:
        keeper.cancel()
        with contextlib.suppress(Unavailable):
            async with database.transaction() as connection:
                await end_replay(connection, run, state, now=_now(), error=error)


async def _keep(database: Database, run: ReplayRun, working: "asyncio.Task[object] | None") -> None:
    while True:
        await asyncio.sleep(RENEWAL_S)
        with contextlib.suppress(Unavailable):
            async with database.transaction() as connection:
                is_ours = await renew_replay(connection, run, now=_now(), lease=LEASE_S)
            if not is_ours and working is not None:
                working.cancel()


def _now() -> int:
    return int(unix_now())


def _wish_of(
    *,
    users: tuple[int, ...],
    start: int | None,
    end: int | None,
    **others: Any,  # noqa: ANN401
) -> Wish:
    """Raises click.UsageError."""
    end = _now() if end is None else end
    start = max(0, end - _DEFAULT_DAYS * DAY_SECONDS) if start is None else start
    if start > end:
        raise click.UsageError(f"--start {utc(start)} is after --end {utc(end)}")
    return Wish(users=tuple(sorted(set(users))), start=start, end=end, **others)


def _check_options(manner: Manner, asked: Mapping[str, object]) -> None:
    """Raises click.UsageError."""
    if manner.is_verifying and (manner.is_dry or manner.resumed is not None or asked["is_journeys_only"]):
        raise click.UsageError("--verify goes with neither --dry-run, --resume nor --journeys-only")
    of_run = ("users", "start", "end", "is_incomplete_allowed", "is_journeys_only")
    if manner.resumed is not None and any(asked[name] not in (None, (), False) for name in of_run):
        raise click.UsageError(
            "--resume has the users and the range of its run, and whether it is --allow-incomplete or --journeys-only"
        )


@click.command(name="replay")
@click.option(
    "--user", "users", type=click.IntRange(1, MOST_USERS), multiple=True, help="Only this account; may be repeated."
)
@click.option("--start", type=TimeType(), help="Unix seconds or ISO 8601; default: 30 days before --end.")
@click.option("--end", type=TimeType(), help="Likewise, included; default: now.")
@click.option("--batch-size", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Conversions.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes, by partition; --verify has one.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would be read and computed.")
@click.option("--verify", "is_verifying", is_flag=True, help="Write nothing: compare the log with SQL, row by row.")
@click.option("--resume", "resumed", type=click.IntRange(1), metavar="RUN", help="Go on with this broken-off replay.")
@click.option(
    "--allow-incomplete",
    "is_incomplete_allowed",
    is_flag=True,
    help="Also where the log begins too late: flag such journeys.",
)
@click.option(
    "--journeys-only",
    "is_journeys_only",
    is_flag=True,
    help="Read nothing of the log: compute what is stored, as after a purge.",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
def command(
    *,
    resumed: int | None,
    is_dry: bool,
    is_json: bool,
    is_verifying: bool,
    **asked: Any,  # noqa: ANN401
) -> None:
    """Read a range of the log again: store the facts it finds, and compute all journeys of [START, END] once more.

    Safe beside workers and other replays, and repeating it changes nothing. One that was stopped or killed goes on
    where it was when the same command is given again. Purged journeys come back; hours follow by themselves.

    \b
    JSON: ok, run_id, start, end, users [id], records, new_clicks, new_conversions, revised, unreadable, refused,
      conversions, touchpoints, written, errors [{conv_id, error}],
      refused_clicks [{click_id, topic, partition, offset, error}]

    \b
    JSON of --dry-run: ok, records, conversions (those that are stored; the records may add more)

    \b
    JSON of --verify: ok, start, end, users [id], behind, certificate {digest, days [{day, user_id, digest,
      touchpoints, snapshots, credits}]}, differences, first [{what, key, expected, found}],
      unverified_conversions, outdated_hours
    """
    manner = Manner(resumed=resumed, is_dry=is_dry, is_json=is_json, is_verifying=is_verifying)
    _check_options(manner, asked)
    wish, settings = _wish_of(**asked), read_settings()
    # Not connected yet; what it imports the processes need not import again.
    database = open_database(settings.database_url)
    partitions = topic_names(settings).partitions
    processes = Processes(settings, min(wish.workers, partitions) if manner.is_working else 0)
    if not until_stopped(replay(settings, wish, manner, database=database, processes=processes)):
        hint = "the same command begins anew" if is_verifying else "the same command goes on where it was"
        raise ReplayFailed("stopped", hint=hint)
