"""202_attribution_snapshots: totals of an hour by model and scope. Money in steps of 0.0001."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from stream.core.hours import HOUR_SECONDS, HourKey
from stream.core.results import SnapshotRow
from stream.core.totals import Scope, ScopeKey
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, whole_list
from tables.sql.selects import TERMS_A_STATEMENT, hour_clauses, in_batches, scaled

_RELATION = "202_attribution_snapshots"
_NATURAL = ("model_id", "scope_type", "scope_key", "date_hour")
_COLUMNS = (
    "model_id",
    "user_id",
    "scope_type",
    "scope_id",
    "date_hour",
    "lookback_start",
    "lookback_end",
    "attributed_clicks",
    "attributed_conversions",
    "attributed_revenue",
    "attributed_cost",
    "created_at",
)
_STEPS_PER_ONE = 10_000
_SCOPES = {scope.value: scope for scope in Scope}


class SnapshotPlace(NamedTuple):
    """Where in the natural key a row stands."""

    hour: HourKey
    key: ScopeKey


class GlobalSnapshot(NamedTuple):
    """The row that the credits of a model hang on in an hour."""

    hour: HourKey
    model_id: int
    snapshot_id: int
    clicks: int  # about so many credits hang on it


class _Stored(NamedTuple):
    hour: HourKey
    row: SnapshotRow
    created_at: int


def steps_text(steps: int) -> str:
    """Decimal text with four decimals, e.g. '-12.5000'."""
    sign = "-" if steps < 0 else ""
    whole, rest = divmod(abs(steps), _STEPS_PER_ONE)
    return f"{sign}{whole}.{rest:04d}"


def _parameters(stored: _Stored) -> Row:
    (user_id, date_hour), (key, clicks, conversions, revenue, cost), created_at = stored
    return (
        key.model_id,
        user_id,
        key.scope.value,
        key.scope_id or None,
        date_hour,
        date_hour,
        date_hour + HOUR_SECONDS - 1,
        clicks,
        conversions,
        steps_text(revenue),
        steps_text(cost),
        created_at,
    )


def _literal(stored: _Stored) -> str:
    model_id, user_id, scope, scope_id, *rest = _parameters(stored)
    numbers = ",".join(map(str, rest))
    return f"({model_id},{user_id},'{scope}',{'NULL' if scope_id is None else scope_id},{numbers})"


_UPSERT = Insert(_RELATION, _COLUMNS, _literal, _parameters, identity=_NATURAL, kept=("created_at",))


async def read_snapshots(connection: Connection, keys: Collection[HourKey]) -> dict[HourKey, list[SnapshotRow]]:
    """Of each hour, ascending; rows of scopes that nobody knows are not ours."""
    found: dict[HourKey, list[SnapshotRow]] = {key: [] for key in keys}
    revenue, cost = (
        scaled(connection.dialect, column, _STEPS_PER_ONE) for column in ("attributed_revenue", "attributed_cost")
    )
    for clause in hour_clauses(keys):
        rows = await connection.fetch(
            "SELECT user_id, date_hour, model_id, scope_type, scope_key, attributed_clicks, attributed_conversions,"
            f" {revenue}, {cost} FROM {_by_hour(connection.dialect)} WHERE {clause}"
        )
        for user_id, date_hour, model_id, scope, scope_key, *totals in rows:
            if scope in _SCOPES:
                key = ScopeKey(model_id, _SCOPES[scope], scope_key)
                found[HourKey(user_id, date_hour)].append(SnapshotRow(key, *totals))
    for snapshots in found.values():
        snapshots.sort()
    return found


async def read_global(connection: Connection, keys: Collection[HourKey]) -> list[GlobalSnapshot]:
    """Of all models, also of those that are no more."""
    found = []
    for clause in hour_clauses(keys):
        rows = await connection.fetch(
            "SELECT user_id, date_hour, model_id, snapshot_id, attributed_clicks"
            f" FROM {_by_hour(connection.dialect)} WHERE {clause} AND scope_type = '{Scope.GLOBAL}' AND scope_key = 0"
        )
        for user_id, date_hour, model_id, snapshot_id, clicks in rows:
            found.append(GlobalSnapshot(HourKey(user_id, date_hour), model_id, snapshot_id, clicks))
    return found


def _by_hour(dialect: str) -> str:
    """For some hundred hours MariaDB would rather read ten thousands of rows than look them up."""
    return f"`{_RELATION}` FORCE INDEX (user_hour)" if dialect == MYSQL else f"`{_RELATION}`"


async def find_snapshots(connection: Connection, places: Collection[SnapshotPlace]) -> dict[SnapshotPlace, int]:
    """Ids of those that are there."""
    found = {}
    for batch in in_batches(sorted(places), size=TERMS_A_STATEMENT):
        users = {(place.hour.date_hour, place.key): place.hour.user_id for place in batch}
        clause = " OR ".join(
            f"(model_id = {key.model_id:d} AND scope_type = '{key.scope}' AND scope_key = {key.scope_id:d}"
            f" AND date_hour = {hour.date_hour:d})"
            for hour, key in batch
        )
        rows = await connection.fetch(
            f"SELECT snapshot_id, date_hour, model_id, scope_type, scope_key FROM `{_RELATION}` WHERE {clause}"
        )
        for snapshot_id, date_hour, model_id, scope, scope_key in rows:
            key = ScopeKey(model_id, Scope(scope.lower()), scope_key)
            found[SnapshotPlace(HourKey(users[date_hour, key], date_hour), key)] = snapshot_id
    return found


async def write_snapshots(
    connection: Connection, snapshots: Iterable[tuple[HourKey, SnapshotRow]], *, created_at: int
) -> None:
    """New rows, and those that stand there overwritten but for the time that they were first written at."""
    rows = [_Stored(hour, row, created_at) for hour, row in snapshots]
    if rows:
        await connection.insert(_UPSERT, sorted(rows))


async def delete_snapshots(connection: Connection, snapshot_ids: Sequence[int]) -> None:
    for batch in in_batches(sorted(snapshot_ids)):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE snapshot_id IN ({whole_list(batch)})")
