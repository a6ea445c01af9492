"""Do the topics hold what SQL holds (I5)? The newest record of each key goes through a file, never through memory."""

import contextlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson
from aiokafka.structs import ConsumerRecord

from stream.commands.dead_letters import escaped
from stream.commands.log_access import read_records
from stream.commands.verify_scratch import scratch_folder
from stream.config import Settings
from stream.core.hours import HourKey
from stream.topics import CREDITS, JOURNEYS, SNAPSHOTS
from tables.sql.connections import Connection
from tables.sql.deep import Within
from tables.sql.published_rows import (
    hours_to_publish,
    journey_versions,
    published_credits,
    published_snapshots,
    share_text,
    totals_text,
)

_AT_A_TIME = 5000
_NOTHING: Final = "nothing"
_LONGEST_KEY = 190


class _Said(NamedTuple):
    """Of a record that is ours to judge."""

    user_id: int
    at: int  # date_hour or conv_time
    key: str
    text: str


_Read = Callable[[ConsumerRecord], _Said | None]


async def unlike_outputs(settings: Settings, connection: Connection, within: Within) -> AsyncGenerator[str, None]:
    """Lines that say which record and row differ. Raises StreamError without a broker or one of the topics."""
    async with _newest_records(settings, JOURNEYS, _journey, within) as newest:
        async for line in _journeys_ahead(connection, newest):
            yield f"{JOURNEYS} {line}"
    for name, read, published in (
        (SNAPSHOTS, _snapshot, published_snapshots),
        (CREDITS, _credit, published_credits),
    ):
        async with _newest_records(settings, name, read, within) as newest:
            # Only now: an hour that is published from here on has moved, and is seen alike once at most.
            awaited = await hours_to_publish(connection, within)
            async for rows in published(connection, within):
                for key, expected in rows:
                    found = newest.take(key)
                    if found != expected and _hour_of(key) not in awaited:
                        yield f"{name} {key}: {escaped(found)}; the row: {expected}"
            awaited |= await hours_to_publish(connection, within)
            for key, found in newest.left():
                if _hour_of(key) not in awaited:
                    yield f"{name} {key}: {escaped(found)}; the row: {_NOTHING}"


class _Newest:
    """What the newest record of each key says; one that a tombstone ended says nothing."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute("CREATE TABLE newest (key TEXT PRIMARY KEY, says TEXT NOT NULL) WITHOUT ROWID")

    def put(self, records: Sequence[tuple[str, str]]) -> None:
        self._file.execute("BEGIN")
        self._file.executemany("INSERT OR REPLACE INTO newest VALUES (?, ?)", records)
        self._file.execute("COMMIT")

    def take(self, key: str) -> str:
        row = self._file.execute("DELETE FROM newest WHERE key = ? RETURNING says", (key,)).fetchone()
        return row[0] if row else _NOTHING

    def left(self) -> Iterator[tuple[str, str]]:
        """Ended ones are not among them."""
        yield from self._file.execute("SELECT key, says FROM newest WHERE says <> ? ORDER BY key", (_NOTHING,))

    def close(self) -> None:
        self._file.close()


@contextlib.asynccontextmanager
async def _newest_records(settings: Settings, name: str, read: _Read, within: Within) -> AsyncIterator[_Newest]:
    with scratch_folder(settings.data_dir) as folder, closing(_Newest(str(folder / "newest.db"))) as newest:
        waiting: list[tuple[str, str]] = []
        async for record in read_records(settings, settings.topic_prefix + name):
            said = read(record)
            if said is None or not within.start <= said.at <= within.end:
                continue
            if within.users and said.user_id not in within.users:
                continue
            waiting.append((said.key, said.text))
            if len(waiting) == _AT_A_TIME:
                newest.put(waiting)
                waiting = []
        newest.put(waiting)
        yield newest


async def _journeys_ahead(connection: Connection, newest: _Newest) -> AsyncIterator[str]:
    """A journey leaves once it is stored: the newest record of none may be newer than SQL's row."""
    records = newest.left()
    while batch := dict(islice(records, _AT_A_TIME)):
        told = {int(conv_id): int(version) for conv_id, version in batch.items()}
        stored = await journey_versions(connection, told)
        for conv_id, version in sorted(told.items()):
            if version > stored.get(conv_id, 0):
                yield f"conversion {conv_id}: version {version}; the row: version {stored.get(conv_id, _NOTHING)}"


def _journey(record: ConsumerRecord) -> _Said | None:
    match _object(record.value):
        case {"conv_id": int(conv_id), "user_id": int(user_id), "conv_time": int(conv_time), "version": int(version)}:
            return _Said(user_id, conv_time, f"{conv_id:d}", f"{version:d}")
    return None


def _snapshot(record: ConsumerRecord) -> _Said | None:
    return _result(
        record,
        lambda value: totals_text(
            value["attributed_clicks"],
            value["attributed_conversions"],
            value["attributed_revenue"],
            value["attributed_cost"],
        ),
    )


def _credit(record: ConsumerRecord) -> _Said | None:
    return _result(record, lambda value: share_text(value["click_id"], value["credit"], value["weight"]))


def _result(record: ConsumerRecord, text_of: Callable[[dict[str, Any]], str]) -> _Said | None:
    key = (record.key or b"").decode("utf-8", "replace")
    hour = _hour_of(key)
    if hour is None:
        return None
    try:
        text = _NOTHING if record.value is None else text_of(_object(record.value))
    except KeyError:
        text = "what cannot be read"
    return _Said(*hour, key, text)


def _object(value: bytes | None) -> dict[str, Any]:
    """Empty for what is no JSON object."""
    try:
        read = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return read if isinstance(read, dict) else {}


def _hour_of(key: str) -> HourKey | None:
    """None: no key that we would write."""
    parts = key.split(":") if len(key) <= _LONGEST_KEY else []
    is_ours = len(parts) == 5 and parts[0].isdecimal() and parts[2].isdecimal()
    return HourKey(int(parts[0]), int(parts[2])) if is_ours else None
