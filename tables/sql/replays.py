"""SQL behind the ports of a replay: partitions of others, rows as they are shown, conversions in the order of keys."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import msgspec
import orjson

from stream.core.facts import Facts, Journey, Needs
from stream.core.progress import PartitionProgress
from tables.sql import progress as progress_rows
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP, SqlFactTransaction, Writing, read_facts
from tables.sql.inserts import whole_list
from tables.sql.standing_rows import log_row_of, logs_of
from tables.sql.toggles import with_shown_touches
from tables.sql.touchpoints import are_shown, replace_touchpoints, touchpoints_of

_JOURNEYS = "202_stream_journeys"
_PLACES = "202_stream_run_places"
_AFTER_ALL = 2**32  # more than the column holds

_COLUMNS = f"SELECT user_id, campaign_id, journey_visitor_id, conv_time, conv_id, click_id FROM `{_JOURNEYS}`"

_decode_place = msgspec.json.Decoder(dict[str, object]).decode


class InKeyOrder(NamedTuple):
    """Where a conversion stands among those of its partition; a keyset for going on behind it."""

    user_id: int
    campaign_id: int
    visitor_id: str
    conv_time: int
    conv_id: int


class FoundConversion(NamedTuple):
    """Where it stands, and what it converted."""

    place: InKeyOrder
    click_id: int


@dataclass(slots=True)
class _Before:
    """What stood in SQL before this store wrote anything."""

    newest_conversion: int | None = None  # of all partitions; None: not looked for yet


class _Seen(NamedTuple):
    """How the journeys of a transaction stand in the tables of Prosper202."""

    ill: Mapping[int, Journey]  # whose touchpoints are other ones, as they should be shown
    bare: Collection[int]  # without touchpoints
    well_logged: Collection[int]  # whose log rows stand as they should


class SqlReplayTransaction(SqlFactTransaction):
    """One transaction of a run, or of nobody's (run 0)."""

    def __init__(
        self, connection: Connection, writing: Writing, *, run_id: int, is_hopeful: bool, before: _Before
    ) -> None:
        super().__init__(connection, writing, is_hopeful=is_hopeful)
        self._run_id = run_id
        self._before = before
        self._seen: _Seen | None = None

    async def lock_partition(self, partition: int) -> PartitionProgress:
        """Of a partition that nobody has taken, the keys may come from any other one: by what stood there before.

        What has come to the others since is of keys that are theirs. It must not count: they may be far ahead, and
        every click that is older than the newest conversion is asked for what it enters.
        """
        row = await progress_rows.lock_partition(self._connection, JOURNEYS_GROUP, partition, now=self._writing.clock())
        self._partition, self._versions = partition, {partition: row.greatest_version}
        if row.partition_count:
            return row
        if self._before.newest_conversion is None:
            rows = await progress_rows.read_progress(self._connection, JOURNEYS_GROUP)
            self._before.newest_conversion = max(each.newest_conversion for each in rows)
        return replace(row, newest_conversion=max(row.newest_conversion, self._before.newest_conversion))

    async def note_outside_change(self, changed: PartitionProgress) -> None:
        await progress_rows.note_outside_change(self._connection, JOURNEYS_GROUP, changed)

    async def ill_shown(self, journeys: Sequence[Journey]) -> Collection[int]:
        expected = {each.conversion.conv_id: each for each in await with_shown_touches(self._connection, journeys)}
        found = await touchpoints_of(self._connection, expected)
        ill = {conv_id: each for conv_id, each in expected.items() if not are_shown(each, found[conv_id])}
        bare = [conv_id for conv_id, touches in found.items() if not touches]
        ill_logged = await self._ill_logged(journeys)
        self._seen = _Seen(ill, frozenset(bare), well_logged=expected.keys() - ill_logged)
        return ill.keys() | ill_logged

    async def write_journeys(
        self, journeys: Sequence[Journey], *, displaced: Collection[int] = (), new: Collection[int] = ()
    ) -> None:
        well_logged = self._seen.well_logged if self._seen else ()
        logged = [journey for journey in journeys if journey.conversion.conv_id not in well_logged]
        await self._write(journeys, logged=logged, displaced=displaced, new=new)

    async def _show(self, journeys: Sequence[Journey], *, created_at: int) -> None:
        if self._seen is None:
            await super()._show(journeys, created_at=created_at)
            return
        ill = self._seen.ill
        shown = [ill[conv_id] for journey in journeys if (conv_id := journey.conversion.conv_id) in ill]
        await replace_touchpoints(self._connection, shown, created_at=created_at, bare=self._seen.bare)

    async def _ill_logged(self, journeys: Sequence[Journey]) -> set[int]:
        if not self._writing.writes_conversion_logs:
            return set()
        expected = {journey.conversion.conv_id: log_row_of(journey) for journey in journeys}
        found = await logs_of(self._connection, expected)
        return {conv_id for conv_id, row in expected.items() if found.get(conv_id) != row}

    async def note_place(self, partition: int, place: Mapping[str, object]) -> None:
        await write_place(self._connection, self._run_id, partition, place)


class SqlReplayStore:
    """Satisfies `stream.replay.ports.ReplayStore`. Raises Unavailable or RefusedByDatabase."""

    _transaction_type: ClassVar[type[SqlReplayTransaction]] = SqlReplayTransaction

    def __init__(self, database: Database, writing: Writing, *, run_id: int) -> None:
        self._database = database
        self._writing = writing
        self._run_id = run_id
        self._before = _Before()
        self._is_hopeful = True  # whoever stores clicks here has looked before which ones are news

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlReplayTransaction]:
        async with self._database.transaction() as connection:
            transaction = self._transaction_type(
                connection, self._writing, run_id=self._run_id, is_hopeful=self._is_hopeful, before=self._before
            )
            yield transaction
            self._is_hopeful = not transaction.met_duplicates

    async def read(self, needs: Needs) -> Facts:
        async with self._database.reading() as connection:
            return await read_facts(connection, needs)

    async def note_place(self, partition: int, place: Mapping[str, object]) -> None:
        async with self._database.transaction() as connection:
            await write_place(connection, self._run_id, partition, place)

    async def read_place(self, partition: int) -> Mapping[str, object]:
        """Empty where none was noted."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"SELECT place FROM `{_PLACES}` WHERE run_id = ? AND partition_id = ?", [self._run_id, partition]
            )
        return _decode_place(rows[0][0]) if rows else {}

    async def read_campaigns(self, *, start: int, end: int) -> Sequence[tuple[int, int, int]]:
        """Accounts and campaigns with conversions whose conv_time is in [start, end], ascending, and how many each."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"SELECT user_id, campaign_id, COUNT(*) FROM `{_JOURNEYS}` WHERE conv_time BETWEEN ? AND ?"
                " GROUP BY user_id, campaign_id",
                [start, end],
            )
        return sorted((user_id, campaign_id, count) for user_id, campaign_id, count in rows)

    async def read_whole(
        self, campaigns: Sequence[tuple[int, int]], *, start: int, end: int
    ) -> Sequence[FoundConversion]:
        """All conversions of these accounts' campaigns with conv_time in [start, end]."""
        of_users: dict[int, list[int]] = {}
        for user_id, campaign_id in campaigns:
            of_users.setdefault(user_id, []).append(campaign_id)
        chosen = " OR ".join(
            f"(user_id = {user_id:d} AND campaign_id IN ({whole_list(found)}))" for user_id, found in of_users.items()
        )
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"{_COLUMNS} WHERE ({chosen}) AND conv_time BETWEEN ? AND ?"
                " ORDER BY user_id, campaign_id, journey_visitor_id, conv_time, conv_id",
                [start, end],
            )
        return [FoundConversion(InKeyOrder._make(row[:5]), row[5]) for row in rows]

    async def read_page(self, after: InKeyOrder, *, start: int, end: int, limit: int) -> Sequence[FoundConversion]:
        """Conversions of the campaign of `after`, and behind it, with conv_time in [start, end]."""
        async with self._database.reading() as connection:
            found = await _rest_of_visitor(connection, after, start=start, end=end, limit=limit)
            if len(found) < limit:
                found += await _next_visitors(connection, after, start=start, end=end, limit=limit - len(found))
        return found


async def read_places(database: Database, run_id: int) -> Mapping[int, Mapping[str, object]]:
    """By partition, of those that the run has begun."""
    async with database.reading() as connection:
        rows = await connection.fetch(f"SELECT partition_id, place FROM `{_PLACES}` WHERE run_id = ?", [run_id])
    return {partition: _decode_place(text) for partition, text in rows}


async def write_place(connection: Connection, run_id: int, partition: int, place: Mapping[str, object]) -> None:
    text = orjson.dumps(place).decode()
    matched = await connection.run(
        f"UPDATE `{_PLACES}` SET place = ? WHERE run_id = ? AND partition_id = ?", [text, run_id, partition]
    )
    if not matched:
        await connection.run(
            f"INSERT INTO `{_PLACES}` (run_id, partition_id, place) VALUES (?, ?, ?)", [run_id, partition, text]
        )


async def forget_computed(connection: Connection, partitions: Collection[int]) -> None:
    """Whoever removes what replays have computed tells those that were broken off: they compute it once more.

    The caller holds these partitions. What was read of the log stays noted, and what may not have been sent.
    """
    rows = await connection.fetch(
        f"SELECT run_id, partition_id, place FROM `{_PLACES}` WHERE partition_id IN ({whole_list(sorted(partitions))})"
    )
    for run_id, partition, text in rows:
        place = _decode_place(text)
        # In a round before it, "next" says what becomes of it if that round finds nothing new.
        ahead = [place.pop("after", None), place.pop("next", None)]
        if any(ahead) or place.get("phase") == "done":
            phase = "facts" if place.get("phase") == "facts" else "journeys"
            await write_place(connection, run_id, partition, {**place, "phase": phase})


_PAGE = f"{_COLUMNS} WHERE user_id = ? AND campaign_id = ?"


async def _rest_of_visitor(
    connection: Connection, after: InKeyOrder, *, start: int, end: int, limit: int
) -> list[FoundConversion]:
    user_id, campaign_id, visitor_id, conv_time, conv_id = after
    rows = await connection.fetch(
        # A range with an exception, so that the index bounds the search on both servers.
        f"{_PAGE} AND journey_visitor_id = ? AND conv_time >= ? AND conv_time <= ?"
        " AND NOT (conv_time = ? AND conv_id <= ?) ORDER BY conv_time, conv_id LIMIT ?",
        [user_id, campaign_id, visitor_id, max(start, conv_time), end, conv_time, conv_id, limit],
    )
    return [FoundConversion(InKeyOrder._make(row[:5]), row[5]) for row in rows]


async def _next_visitors(
    connection: Connection, after: InKeyOrder, *, start: int, end: int, limit: int
) -> list[FoundConversion]:
    rows = await connection.fetch(
        f"{_PAGE} AND journey_visitor_id > ? AND conv_time BETWEEN ? AND ?"
        " ORDER BY journey_visitor_id, conv_time, conv_id LIMIT ?",
        [after.user_id, after.campaign_id, after.visitor_id, start, end, limit],
    )
    return [FoundConversion(InKeyOrder._make(row[:5]), row[5]) for row in rows]


async def count_conversions(database: Database, users: Sequence[int], *, start: int, end: int) -> int:
    """With conv_time in [start, end]; of all accounts where none are given."""
    of_users = f" AND user_id IN ({whole_list(users)})" if users else ""
    async with database.reading() as connection:
        rows = await connection.fetch(
            f"SELECT COUNT(*) FROM `{_JOURNEYS}` WHERE conv_time BETWEEN ? AND ?{of_users}", [start, end]
        )
    return int(rows[0][0])


async def missing_clicks(
    database: Database, users: Sequence[int], *, start: int, end: int, before: int | None
) -> Mapping[int, int]:
    """Converting clicks from before `before`, or of any time, that nobody has stored, and their times, as conversions
    in [start, end] tell of them."""
    of_users = f" AND user_id IN ({whole_list(users)})" if users else ""
    async with database.reading() as connection:
        rows = await connection.fetch(
            f"SELECT click_id, MIN(click_time) FROM `{_JOURNEYS}` WHERE conv_time BETWEEN ? AND ? AND click_unknown = 1"
            f" AND click_time < ?{of_users} GROUP BY click_id",
            [start, end, _AFTER_ALL if before is None else before],
        )
    return {click_id: int(click_time) for click_id, click_time in rows}


async def raise_history(database: Database, begins: Mapping[int, int], *, now: int) -> None:
    """By partition, the time from which on its facts are whole: what its log lacks SQL never had."""
    for partition, begins_at in sorted(begins.items()):
        async with database.transaction() as connection:
            row = await progress_rows.lock_partition(connection, JOURNEYS_GROUP, partition, now=now)
            if row.history_from < begins_at:
                changed = replace(row, history_from=begins_at, outside_changes=row.outside_changes + 1)
                await progress_rows.note_outside_change(connection, JOURNEYS_GROUP, changed)
