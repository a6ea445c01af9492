"""`doctor`: the runbook as a command. Each check says what is well or not, and what to do about it."""

import asyncio
import json
from collections.abc import Sequence

import click

from stream.commands.checks_log import LOG_CHECKS
from stream.commands.checks_rows import ROW_CHECKS
from stream.commands.checks_work import WORK_CHECKS
from stream.commands.checkup import Check, Checked, Level, Surroundings, go_through
from stream.config import Settings, read_settings
from stream.core.errors import StreamError
from tables.sql.database import open_database

CHECKS: Sequence[Check] = (*LOG_CHECKS[:1], *ROW_CHECKS[:2], *LOG_CHECKS[1:], *WORK_CHECKS, *ROW_CHECKS[2:])
_SHOWN_DETAILS = 20
_INDENT = " " * 9


class NotWell(StreamError):
    """At least one check is an error."""


async def examine(settings: Settings, checks: Sequence[Check] = CHECKS) -> list[Checked]:
    database = open_database(settings.database_url)
    try:
        return await go_through(checks, Surroundings(settings, database))
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
            click.echo(f"{_INDENT}- and {left:,} more: --json lists them all")
        if finding.remedy:
            click.echo(f"{_INDENT}remedy: {_one_line(finding.remedy)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@click.command(name="doctor")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
def command(is_json: bool) -> None:
    """Look at broker, database, log, workers and rows; exit 1 if a check is an error.

    Reads only. A warning names what may pass by itself or wants a person's eye. What cannot be looked at because
    broker or database are away is a warning beside the error that says so.

    \b
    JSON: ok, checks [{check, level ("ok", "warning" or "error"), meaning, found, remedy, details (texts)}]
    """
    done = asyncio.run(examine(read_settings()))
    if is_json:
        click.echo(json.dumps(as_json(done)))
    else:
        show_checks(done)
    wrong = _errors(done)
    if wrong:
        raise NotWell(f"{len(wrong)} of {len(done)} checks failed: {', '.join(wrong)}", hint="the remedies stand above")
