"""Rows of hours that were published, as their records should say them; in portions of ids, nothing is locked."""

from collections.abc import AsyncIterator, Collection, Sequence

from stream.core.hours import HourKey, credit_key, snapshot_key
from stream.core.money import Units, amount_text
from stream.core.totals import Scope, ScopeKey
from tables.sql.connections import Connection, Row
from tables.sql.deep import Within
from tables.sql.inserts import whole_list
from tables.sql.selects import in_batches, scaled, units
from tables.sql.snapshots import steps_text

_IDS_A_LOOK = 20_000
_SNAPSHOTS = "202_attribution_snapshots"
_CREDITS = "202_attribution_touchpoints"
_SCOPES = frozenset(scope.value for scope in Scope)
_PUBLISHED = (
    "JOIN `202_stream_hours` h ON h.user_id = s.user_id AND h.date_hour = s.date_hour"
    " AND h.published_revision = h.revision"
)


async def published_snapshots(connection: Connection, within: Within) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """Key of the record, and its totals."""
    revenue, cost = (
        scaled(connection.dialect, f"s.{column}", 10_000) for column in ("attributed_revenue", "attributed_cost")
    )
    async for rows in _portions(
        connection,
        (_SNAPSHOTS, "snapshot_id"),
        "SELECT s.user_id, s.date_hour, s.model_id, s.scope_type, s.scope_key, s.attributed_clicks,"
        f" s.attributed_conversions, {revenue}, {cost} FROM `{_SNAPSHOTS}` s {_PUBLISHED}"
        " WHERE s.snapshot_id BETWEEN ? AND ?",
        within,
    ):
        yield [
            (
                snapshot_key(HourKey(user_id, hour), ScopeKey(model_id, Scope(scope), scope_id)),
                totals_text(clicks, conversions, steps_text(of_revenue), steps_text(of_cost)),
            )
            for user_id, hour, model_id, scope, scope_id, clicks, conversions, of_revenue, of_cost in rows
            if scope in _SCOPES
        ]


async def published_credits(connection: Connection, within: Within) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """Key of the record, and its share."""
    credit, weight = (units(connection.dialect, f"c.{column}") for column in ("credit", "weight"))
    async for rows in _portions(
        connection,
        (_CREDITS, "touchpoint_id"),
        f"SELECT s.user_id, s.date_hour, s.model_id, c.conv_id, c.position, c.click_id, {credit}, {weight}"
        f" FROM `{_CREDITS}` c JOIN `{_SNAPSHOTS}` s ON s.snapshot_id = c.snapshot_id {_PUBLISHED}"
        " WHERE c.touchpoint_id BETWEEN ? AND ?",
        within,
    ):
        yield [
            (
                credit_key(HourKey(user_id, date_hour), model_id, conv_id, position),
                share_text(click_id, amount_text(Units(of_credit)), amount_text(Units(of_weight))),
            )
            for user_id, date_hour, model_id, conv_id, position, click_id, of_credit, of_weight in rows
        ]


def totals_text(clicks: object, conversions: object, revenue: object, cost: object) -> str:
    return f"{clicks} clicks, {conversions} conversions, revenue {revenue}, cost {cost}"


def share_text(click_id: object, credit: object, weight: object) -> str:
    return f"click {click_id}, credit {credit}, weight {weight}"


async def hours_to_publish(connection: Connection, within: Within) -> set[HourKey]:
    """Of these nothing can be said yet."""
    rows = await connection.fetch(
        "SELECT h.user_id, h.date_hour FROM `202_stream_hours` h WHERE h.published_revision <> h.revision"
        f" AND h.date_hour BETWEEN ? AND ?{within.of_users('h.')}",
        [within.start, within.end],
    )
    return {HourKey._make(row) for row in rows}


async def journey_versions(connection: Connection, conv_ids: Collection[int]) -> dict[int, int]:
    """Of those that are stored."""
    found: dict[int, int] = {}
    for batch in in_batches(sorted(conv_ids)):
        rows = await connection.fetch(
            f"SELECT conv_id, version FROM `202_stream_journeys` WHERE conv_id IN ({whole_list(batch)})"
        )
        found.update((int(conv_id), int(version)) for conv_id, version in rows)
    return found


async def _portions(
    connection: Connection, ids: tuple[str, str], select: str, within: Within
) -> AsyncIterator[Sequence[Row]]:
    relation, column = ids
    ((first, last),) = await connection.fetch(f"SELECT MIN({column}), MAX({column}) FROM `{relation}`")
    if first is None:
        return
    for start in range(first, last + 1, _IDS_A_LOOK):
        yield await connection.fetch(
            f"{select} AND s.date_hour BETWEEN ? AND ?{within.of_users('s.')}",
            [start, min(last, start + _IDS_A_LOOK - 1), within.start, within.end],
        )
