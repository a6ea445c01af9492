"""`doctor`: the runbook as a command. Each check says what is well or not, and what to do about it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import click

from stream.clock import unix_now
from stream.commands.authorship import MOST_USERS
from stream.commands.checks_deep import look_deeper
from stream.commands.checks_log import LOG_CHECKS
from stream.commands.checks_rows import ROW_CHECKS
from stream.commands.checks_work import WORK_CHECKS
from stream.commands.checkup import Check, Checked, Level, Surroundings, go_through
from stream.commands.deep import sampled_accounts
from stream.commands.replay_plan import Wish
from stream.commands.showing import utc
from stream.commands.times import TimeType
from stream.config import Settings, read_settings
from stream.core.errors import StreamError
from tables.sql.database import open_database

CHECKS: Sequence[Check] = (*LOG_CHECKS[:1], *ROW_CHECKS[:2], *LOG_CHECKS[1:], *WORK_CHECKS, *ROW_CHECKS[2:])
_SHOWN_DETAILS = 20
_INDENT = " " * 9


class NotWell(StreamError):
    """At least one check is an error."""


async def examine(settings: Settings, deeper: Wish | None, *, share: float = 1.0) -> list[Checked]:
    """`deeper`: compare with the log, too, these accounts, or a share of all."""
    database = open_database(settings.database_url)
    around = Surroundings(settings, database)
    try:
        done = await go_through(CHECKS, around)
        if deeper is None:
            return done
        if share < 1:
            deeper = replace(deeper, users=tuple(await sampled_accounts(database, deeper, share)))
        return [*done, *await look_deeper(around, deeper, done)]
    finally:
        await database.close()


def as_json(done: Sequence[Checked]) -> dict[str, object]:
    """The keys that --help promises."""
    return {
        "ok": not _errors(done),
        "checks": [
            {
                "check": check.name,
                "level": finding.level.value,
                "meaning": check.meaning,
                "found": finding.text,
                "remedy": finding.remedy or None,
                "details": list(finding.details),
            }
            for check, finding in done
        ],
    }


def _errors(done: Sequence[Checked]) -> list[str]:
    return [check.name for check, finding in done if finding.level is Level.ERROR]


def show_checks(done: Sequence[Checked]) -> None:
    for check, finding in done:
        click.echo(f"{finding.level.value:<8} {check.name}: {_one_line(finding.text)}")
        for line in finding.details[:_SHOWN_DETAILS]:
            click.echo(f"{_INDENT}- {_one_line(line)}")
        left = len(finding.details) - _SHOWN_DETAILS
        if left > 0:
            click.echo(f"{_INDENT}- and {left:,} more, see --json")
        if finding.remedy:
            click.echo(f"{_INDENT}remedy: {_one_line(finding.remedy)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@click.command(name="doctor")
@click.option("--deep", "is_deep", is_flag=True, help="Read the log again as well, and compare every row with it.")
@click.option(
    "--sample", "share", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Of a share of the accounts."
)
@click.option("--user", "users", type=click.IntRange(1, MOST_USERS), multiple=True, help="Of this account; repeatable.")
@click.option("--start", type=TimeType(), help="Conversions from then on: unix seconds or ISO 8601; default: all.")
@click.option("--end", type=TimeType(), help="Likewise, included; default: now.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
def command(
    *, is_deep: bool, share: float, users: tuple[int, ...], start: int | None, end: int | None, is_json: bool
) -> None:
    """Look at broker, database, log, workers and rows; exit 1 if a check is an error.

    Reads only. A warning names what may pass by itself or wants a person's eye. What cannot be looked at because
    broker or database are away is a warning beside the error that says so.

    With --deep all of the log is read and computed anew, below the data folder, and compared with every row; credits,
    totals and touches are checked among themselves. Work may go on: a row counts as wrong if it differs in the same
    way at two looks. --sample, --user, --start and --end make it less; accounts of which SQL knows nothing are found
    without --sample alone.

    \b
    JSON: ok, checks [{check, level ("ok", "warning" or "error"), meaning, found, remedy, details (texts)}]
    """
    wish = _deeper(is_deep, share=share, users=users, start=start, end=end)
    done = asyncio.run(examine(read_settings(), wish, share=share))
    if is_json:
        click.echo(json.dumps(as_json(done)))
    else:
        show_checks(done)
    wrong = _errors(done)
    if wrong:
        raise NotWell(f"{len(wrong)} of {len(done)} checks failed: {', '.join(wrong)}", hint="the remedies stand above")


def _deeper(is_deep: bool, *, share: float, users: tuple[int, ...], start: int | None, end: int | None) -> Wish | None:
    """Raises click.UsageError."""
    if not is_deep:
        if share < 1 or users or start is not None or end is not None:
            raise click.UsageError("--sample, --user, --start and --end go with --deep")
        return None
    if share < 1 and users:
        raise click.UsageError("--sample chooses the accounts: give it or --user")
    end = int(unix_now()) if end is None else end
    start = start or 0
    if start > end:
        raise click.UsageError(f"--start {utc(start)} is after --end {utc(end)}")
    return Wish(users=tuple(sorted(set(users))), start=start, end=end, is_incomplete_allowed=True)
