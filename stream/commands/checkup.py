"""What is a check of `doctor`, and how are several of them gone through, whatever is away or broken?"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stream.clock import unix_now
from stream.config import Settings
from stream.core.errors import StreamError
from tables.sql.database import Database


class Level(StrEnum):
    """How bad it is; an error makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """What a check found: one line, the remedy if it is not well, and what it is about, a line each."""

    level: Level
    text: str
    remedy: str = ""
    details: Sequence[str] = ()


class Part(StrEnum):
    """What a check needs; the check of the same name comes first, and without it the others are not tried."""

    BROKER = "broker"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What checks look at."""

    settings: Settings
    database: Database

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(unix_now())


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `meaning`: what is well when it is well."""

    name: str
    meaning: str
    look: Callable[[Surroundings], Awaitable[Finding]]
    needs: frozenset[Part] = frozenset()


class Checked(NamedTuple):
    """A check and what came of it."""

    check: Check
    finding: Finding


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def warning(text: str, remedy: str, details: Sequence[str] = ()) -> Finding:
    return Finding(Level.WARNING, text, remedy, details)


def error(text: str, remedy: str, details: Sequence[str] = ()) -> Finding:
    return Finding(Level.ERROR, text, remedy, details)


async def go_through(
    checks: Sequence[Check], surroundings: Surroundings, *, before: Sequence[Checked] = ()
) -> list[Checked]:
    """In their order. What fails is a finding, never an exception. `before`: what others have found."""
    done: list[Checked] = []
    away = {check.name for check, finding in before if finding.level is Level.ERROR}
    for check in checks:
        missing = sorted(part for part in check.needs if part in away)
        if missing:
            finding = warning(f"not looked at: {missing[0]} is not well", f'mend what "{missing[0]}" says first')
        else:
            finding = await _look(check, surroundings)
        if finding.level is Level.ERROR:
            away.add(check.name)
        done.append(Checked(check, finding))
    return done


async def _look(check: Check, surroundings: Surroundings) -> Finding:
    try:
        return await check.look(surroundings)
    except StreamError as failure:
        return error(str(failure), failure.hint or "look once more; the log of the server may say why")
    except Exception as failure:  # noqa: BLE001 -- whatever stops one check, the others are to be looked at
        why = f"{type(failure).__name__}: {failure}".rstrip(": ")
        return error(f"could not be looked at: {why}", "look once more; if it stays, this is a defect of the check")
