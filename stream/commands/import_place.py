"""How far an import has come, and with which rows: noted in 202_stream_imports once the broker has stored them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any, NamedTuple

from stream.clock import unix_now
from stream.core.errors import StartRefused
from tables.sql.database import Database
from tables.sql.imports import read_place, write_place

EARLIEST, LATEST = 0, 2**32 - 1
_LONGEST_NAME = 190  # of the column
_DIGEST_DIGITS = 16


class Range(NamedTuple):
    """Event times, both ends included; unix seconds."""

    since: int = EARLIEST
    until: int = LATEST

    def __contains__(self, time: object) -> bool:
        return isinstance(time, int) and self.since <= time <= self.until


@dataclass(slots=True)
class Place:
    """Everything before it has been sent. The first pass goes by time, what comes after it by rising id."""

    newest_click: int  # clicks with greater ids are left for after the first pass
    click_time: int = EARLIEST  # of the first pass: all clicks before this time are sent
    is_first_pass_done: bool = False
    last_click: int = 0  # after the first pass: all clicks up to this id are sent
    last_conversion: int = -1  # all conversions up to this id are sent
    # How far the look for changes has come. It begins anew when it is through.
    swept_click: int = 0
    swept_conversion: int = 0


class Places:
    """The row of one source and range. Raises Unavailable for our database, StartRefused for its older schema."""

    def __init__(self, database: Database, source: str, wanted: Range) -> None:
        self._database = database
        self._name = place_name(source, wanted)

    async def read(self) -> Place | None:
        found = await read_place(self._database, self._name)
        return None if found is None else _place_of(self._name, found)

    async def write(self, place: Place) -> None:
        await write_place(self._database, self._name, asdict(place), now=int(unix_now()))


def place_name(source: str, wanted: Range) -> str:
    """The address, and the range where one was asked for: each range has its own place."""
    name = source if wanted == Range() else f"{source} {wanted.since}..{wanted.until}"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = sha256(name.encode()).hexdigest()[:_DIGEST_DIGITS]
    return f"{name[: _LONGEST_NAME - _DIGEST_DIGITS - 1]} {digest}"


def _place_of(name: str, found: Mapping[str, Any]) -> Place:
    if set(found) != {field.name for field in fields(Place)}:
        raise StartRefused(
            f'202_stream_imports has a place of "{name}" that this release does not understand',
            hint="give --again to begin at the beginning: what was sent before is sent again, and changes nothing",
        )
    return Place(**found)
