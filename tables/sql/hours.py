"""202_stream_hours and 202_stream_credited: how far each hour is, and where the credits of a conversion stand."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import orjson

from stream.core.facts import Outcome
from stream.core.hours import HOUR_SECONDS, CreditedAs, HourKey
from stream.core.money import amount_text
from stream.core.results import CreditedAt, HourChange, HourRow
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, text_literal, whole_list
from tables.sql.selects import TERMS_A_STATEMENT, hour_clauses, in_batches

_HOURS = "202_stream_hours"
_CREDITED = "202_stream_credited"
_JOURNEYS = "202_stream_journeys"
_SELECT = f"SELECT user_id, date_hour, revision, published_revision, configuration, is_final, problems FROM `{_HOURS}`"

_CreditedRow = tuple[int, HourKey, CreditedAs]  # conversion, and where its credits stand

_decode_problems = msgspec.json.Decoder(dict[int, str]).decode


class _StoredHour(NamedTuple):
    key: HourKey
    row: HourRow
    fired_at: int


def _parameters(stored: _StoredHour) -> Row:
    key, row, fired_at = stored
    problems = orjson.dumps(row.problems, option=orjson.OPT_NON_STR_KEYS).decode() if row.problems else None
    return (*key, row.revision, row.configuration, int(row.is_final), 0, problems, fired_at)


def _literal(stored: _StoredHour) -> str:
    *numbers, problems, fired_at = _parameters(stored)
    reasons = "NULL" if problems is None else text_literal(problems)
    return f"({','.join(map(str, numbers))},{reasons},{fired_at})"


# Without published_revision: it begins with 0, and only `mark_published` moves it.
_COLUMNS = ("user_id", "date_hour", "revision", "configuration", "is_final", "is_settled", "problems", "fired_at")
_UPSERT = Insert(_HOURS, _COLUMNS, _literal, _parameters, identity=("user_id", "date_hour"))


def _credited_parameters(row: _CreditedRow) -> Row:
    conv_id, key, (version, payout, cost, conv_time) = row
    return (conv_id, *key, version, amount_text(payout), amount_text(cost), conv_time)


def _credited_literal(row: _CreditedRow) -> str:
    return f"({','.join(map(str, _credited_parameters(row)))})"


_PUT_CREDITED = Insert(
    _CREDITED,
    ("conv_id", "user_id", "date_hour", "version", "payout", "cost", "conv_time"),
    _credited_literal,
    _credited_parameters,
    identity=("conv_id",),
)


def _hour_of(row: Row) -> tuple[HourKey, HourRow]:
    user_id, date_hour, revision, published, configuration, is_final, problems = row
    reasons = _decode_problems(problems) if problems else {}
    found = HourRow(revision, published, configuration, is_final=bool(is_final), problems=reasons)
    return HourKey(user_id, date_hour), found


async def read_hours(connection: Connection, keys: Collection[HourKey]) -> dict[HourKey, HourRow]:
    """Those that are there."""
    found: dict[HourKey, HourRow] = {}
    for clause in hour_clauses(keys):
        found |= map(_hour_of, await connection.fetch(f"{_SELECT} WHERE {clause}"))
    return found


async def final_hours_since(connection: Connection, user_id: int, since: int) -> list[int]:
    """When they begin, ascending: those of an account that have a second at or after `since`."""
    rows = await connection.fetch(
        f"SELECT date_hour FROM `{_HOURS}` WHERE user_id = ? AND date_hour > ? AND is_final = 1 ORDER BY date_hour",
        [user_id, since - HOUR_SECONDS],
    )
    return [row[0] for row in rows]


async def read_unsettled(connection: Connection) -> dict[HourKey, HourRow]:
    return dict(map(_hour_of, await connection.fetch(f"{_SELECT} WHERE is_settled = 0")))


async def write_hours(connection: Connection, changes: Iterable[HourChange], *, fired_at: int) -> None:
    """None of them is settled then."""
    await connection.insert(_UPSERT, sorted(_StoredHour(change.key, change.row, fired_at) for change in changes))


async def add_unpublished(connection: Connection, keys: Collection[HourKey]) -> None:
    """Those that lack get a row without results, which is still to be published."""
    lacking = sorted(set(keys) - (await read_hours(connection, keys)).keys())
    if lacking:
        row = HourRow(1, 0, 0, is_final=False, problems={})
        await connection.insert(_UPSERT, [_StoredHour(key, row, 0) for key in lacking])


async def mark_published(connection: Connection, revisions: Mapping[HourKey, int]) -> Sequence[HourKey]:
    """Returns the hours that are still at that revision. The caller holds the locks of their accounts."""
    standing: list[HourKey] = []
    for batch in in_batches(sorted(revisions.items()), size=TERMS_A_STATEMENT):
        clause = " OR ".join(
            f"(user_id = {user_id:d} AND date_hour = {date_hour:d} AND revision = {revision:d})"
            for (user_id, date_hour), revision in batch
        )
        found = await connection.fetch(f"SELECT user_id, date_hour FROM `{_HOURS}` WHERE {clause}")
        standing += [HourKey(*row) for row in found]
        await connection.run(
            f"UPDATE `{_HOURS}` SET published_revision = revision, is_settled = is_final WHERE {clause}"
        )
    return standing


async def read_credited(connection: Connection, conv_ids: Collection[int]) -> dict[int, CreditedAt]:
    """Of those conversions that have credits."""
    found = {}
    for batch in in_batches(sorted(set(conv_ids))):
        rows = await connection.fetch(
            f"SELECT conv_id, user_id, date_hour, version FROM `{_CREDITED}` WHERE conv_id IN ({whole_list(batch)})"
        )
        for conv_id, user_id, date_hour, version in rows:
            found[conv_id] = CreditedAt(HourKey(user_id, date_hour), version)
    return found


async def read_credited_of_hours(connection: Connection, keys: Collection[HourKey]) -> dict[HourKey, dict[int, int]]:
    """Version, by conversions whose credits stand in the hour."""
    found: dict[HourKey, dict[int, int]] = {key: {} for key in keys}
    for clause in hour_clauses(keys):
        rows = await connection.fetch(f"SELECT conv_id, user_id, date_hour, version FROM `{_CREDITED}` WHERE {clause}")
        for conv_id, user_id, date_hour, version in rows:
            found[HourKey(user_id, date_hour)][conv_id] = version
    return found


_NOT_CREDITED_SO = (
    f"SELECT j.user_id, j.conv_id FROM `{_JOURNEYS}` j LEFT JOIN `{_CREDITED}` c ON c.conv_id = j.conv_id"
    f" WHERE {{clause}} AND j.outcome = '{Outcome.COUNTED}' AND (c.conv_id IS NULL OR c.user_id <> j.user_id"
    " OR c.date_hour <> j.date_hour OR c.version <> j.version)"
)
_NOT_COUNTED_THERE = (
    f"SELECT c.user_id, c.conv_id FROM `{_CREDITED}` c LEFT JOIN `{_JOURNEYS}` j ON j.conv_id = c.conv_id"
    f" WHERE {{clause}} AND (j.conv_id IS NULL OR j.outcome <> '{Outcome.COUNTED}' OR j.user_id <> c.user_id"
    " OR j.date_hour <> c.date_hour)"
)


async def read_uncredited(connection: Connection, keys: Collection[HourKey]) -> set[tuple[int, int]]:
    """Account and conversion: counted in one of the hours and not credited so, or credited there and not counted."""
    found: set[tuple[int, int]] = set()
    for select, of in ((_NOT_CREDITED_SO, "j."), (_NOT_COUNTED_THERE, "c.")):
        for clause in hour_clauses(keys, of=of):
            rows = await connection.fetch(select.format(clause=clause))
            found |= {(user_id, conv_id) for user_id, conv_id in rows}
    return found


async def has_uncredited(connection: Connection, user_id: int, *, start: int, end: int) -> bool:
    """Has an hour that begins in [start, end) what `read_uncredited` would name?"""
    for select, of in ((_NOT_CREDITED_SO, "j."), (_NOT_COUNTED_THERE, "c.")):
        clause = f"{of}user_id = {user_id:d} AND {of}date_hour >= {start:d} AND {of}date_hour < {end:d}"
        if await connection.fetch(f"{select.format(clause=clause)} LIMIT 1"):
            return True
    return False


async def write_credited(connection: Connection, changes: Sequence[HourChange]) -> None:
    """All goings before all comings, and those only from the hour that says so."""
    for change in changes:
        for batch in in_batches(sorted(change.uncredited)):
            await connection.run(
                f"DELETE FROM `{_CREDITED}` WHERE conv_id IN ({whole_list(batch)})"
                f" AND user_id = {change.key.user_id:d} AND date_hour = {change.key.date_hour:d}"
            )
    rows = [(conv_id, change.key, as_is) for change in changes for conv_id, as_is in change.credited.items()]
    if rows:
        await connection.insert(_PUT_CREDITED, sorted(rows))
