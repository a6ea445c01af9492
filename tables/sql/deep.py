"""Do results and facts fit each other? As SQL alone can tell, in portions of ids; nothing is locked."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import NamedTuple

from stream.core.credit import WHOLE_CREDIT
from stream.core.totals import Scope
from tables.sql.connections import Connection, Row
from tables.sql.inserts import whole_list
from tables.sql.selects import scaled, units

_IDS_A_LOOK = 200_000
_JOURNEYS = "202_stream_journeys"
_CLICKS = "202_stream_clicks"
_TOUCHPOINTS = "202_conversion_touchpoints"
_SNAPSHOTS = "202_attribution_snapshots"
_CREDITS = "202_attribution_touchpoints"
_CREDITED = "202_stream_credited"
_AUDIT = "202_attribution_audit"
_MODEL_ACTIONS = "('model_create', 'model_update')"
_REVENUE_STEPS = 10_000  # attributed_revenue has four decimals


class Within(NamedTuple):
    """Which rows: of these accounts (empty: all), of hours and conversions in [start, end], unix seconds."""

    users: Collection[int]
    start: int
    end: int

    def of_users(self, prefix: str) -> str:
        return f" AND {prefix}user_id IN ({whole_list(sorted(self.users))})" if self.users else ""


async def uneven_credits(connection: Connection, within: Within) -> AsyncIterator[tuple[int, int, int]]:
    """Conversion, model and parts of 100,000: credits that do not sum to the whole, or differ from their weights."""
    credit, weight = (units(connection.dialect, f"t.{column}") for column in ("credit", "weight"))
    async for bounds in _snapshot_ids(connection, within):
        rows = await connection.fetch(
            f"SELECT t.conv_id, s.model_id, SUM({credit}) FROM `{_SNAPSHOTS}` s"
            f" JOIN `{_CREDITS}` t ON t.snapshot_id = s.snapshot_id"
            f" WHERE s.snapshot_id BETWEEN ? AND ? AND s.scope_type = '{Scope.GLOBAL}'"
            f" AND s.date_hour BETWEEN ? AND ?{within.of_users('s.')} GROUP BY s.snapshot_id, s.model_id, t.conv_id"
            f" HAVING SUM({credit}) <> {WHOLE_CREDIT} OR SUM(CASE WHEN {credit} <> {weight} THEN 1 ELSE 0 END) > 0",
            [*bounds, within.start, within.end],
        )
        for conv_id, model_id, parts in sorted(rows):
            yield conv_id, model_id, int(parts)


async def uneven_totals(connection: Connection, within: Within) -> AsyncGenerator[str, None]:
    """Snapshots of everything that do not count the conversions of their credits, or other money than was paid."""
    payout = units(connection.dialect, "COALESCE(d.payout, j.click_payout)")
    revenue = scaled(connection.dialect, "s.attributed_revenue", _REVENUE_STEPS)
    async for bounds in _snapshot_ids(connection, within):
        rows = await connection.fetch(
            "SELECT s.user_id, s.model_id, s.date_hour, MAX(s.attributed_clicks), MAX(s.attributed_conversions),"
            f" MAX({revenue}), COALESCE(SUM(c.clicks), 0), COUNT(c.conv_id), COALESCE(SUM({payout}), 0)"
            f" FROM `{_SNAPSHOTS}` s LEFT JOIN (SELECT snapshot_id, conv_id, COUNT(*) AS clicks FROM `{_CREDITS}`"
            " WHERE snapshot_id BETWEEN ? AND ? GROUP BY snapshot_id, conv_id) c ON c.snapshot_id = s.snapshot_id"
            f" LEFT JOIN `{_CREDITED}` d ON d.conv_id = c.conv_id AND d.date_hour = s.date_hour"
            f" LEFT JOIN `{_JOURNEYS}` j ON j.conv_id = c.conv_id WHERE s.snapshot_id BETWEEN ? AND ?"
            f" AND s.scope_type = '{Scope.GLOBAL}' AND s.date_hour BETWEEN ? AND ?{within.of_users('s.')}"
            " GROUP BY s.snapshot_id, s.user_id, s.model_id, s.date_hour",
            [*bounds, *bounds, within.start, within.end],
        )
        for user_id, model_id, date_hour, *totals, clicks, conversions, paid in sorted(rows):
            is_even = totals[:2] == [int(clicks), conversions] and abs(10 * int(totals[2]) - int(paid)) <= 5
            if not is_even:
                yield (
                    f"user {user_id} model {model_id} hour {date_hour}: {totals[0]} clicks, {totals[1]} conversions,"
                    f" {int(totals[2]) / _REVENUE_STEPS:.4f}; its credits: {clicks} of {conversions} conversions that"
                    f" were paid {int(paid) / WHOLE_CREDIT:.5f}"
                )


async def foreign_touchpoints(connection: Connection, within: Within, lookback: int) -> AsyncIterator[tuple[int, int]]:
    """Conversion and click where the click came too late, too early or is another key's; converting ones excepted.

    Of a click that was removed for its age only the time is known.
    """
    async for bounds in _ids(connection, _TOUCHPOINTS, "touchpoint_id"):
        rows = await connection.fetch(
            f"SELECT t.conv_id, t.click_id FROM `{_TOUCHPOINTS}` t JOIN `{_JOURNEYS}` j ON j.conv_id = t.conv_id"
            f" LEFT JOIN `{_CLICKS}` k ON k.click_id = t.click_id WHERE t.touchpoint_id BETWEEN ? AND ?"
            f" AND j.conv_time BETWEEN ? AND ?{within.of_users('j.')} AND t.click_id <> j.click_id"
            " AND (t.click_time > j.conv_time OR t.click_time + ? < j.conv_time"
            " OR (k.click_id IS NOT NULL AND (k.user_id <> j.user_id OR k.campaign_id <> j.campaign_id"
            " OR k.visitor_id <> j.journey_visitor_id OR k.click_time <> t.click_time)))",
            [*bounds, within.start, within.end, lookback],
        )
        for conv_id, click_id in sorted(rows):
            yield conv_id, click_id


async def foreign_credits(connection: Connection, within: Within) -> AsyncIterator[tuple[int, int]]:
    """Conversion and click where a credit goes to a click that is no touch of the conversion, nor converted it."""
    async for bounds in _ids(connection, _CREDITS, "touchpoint_id"):
        rows = await connection.fetch(
            f"SELECT DISTINCT c.conv_id, c.click_id FROM `{_CREDITS}` c JOIN `{_JOURNEYS}` j ON j.conv_id = c.conv_id"
            f" LEFT JOIN `{_TOUCHPOINTS}` t ON t.conv_id = c.conv_id AND t.click_id = c.click_id"
            f" WHERE c.touchpoint_id BETWEEN ? AND ? AND j.conv_time BETWEEN ? AND ?{within.of_users('j.')}"
            " AND t.conv_id IS NULL AND c.click_id <> j.click_id",
            [*bounds, within.start, within.end],
        )
        for conv_id, click_id in sorted(rows):
            yield conv_id, click_id


class Unaudited(NamedTuple):
    """A model or an account's settings, changed later than the last that was noted of it; never: nothing was."""

    text: str
    is_never: bool


async def unaudited_changes(connection: Connection, users: Collection[int]) -> Sequence[Unaudited]:
    of_users = Within(users, 0, 0).of_users
    models = await connection.fetch(
        f"SELECT m.user_id, m.model_id, m.updated_at, (SELECT MAX(a.created_at) FROM `{_AUDIT}` a"
        f" WHERE a.model_id = m.model_id AND a.action IN {_MODEL_ACTIONS}) FROM `202_attribution_models` m"
        f" WHERE 1 = 1{of_users('m.')}"
    )
    settings = await connection.fetch(
        f"SELECT s.user_id, 0, MAX(s.updated_at), (SELECT MAX(a.created_at) FROM `{_AUDIT}` a"
        " WHERE a.user_id = s.user_id AND a.action = 'settings_update') FROM `202_attribution_settings` s"
        f" WHERE 1 = 1{of_users('s.')} GROUP BY s.user_id"
    )
    return [_unaudited(row) for row in sorted(models) + sorted(settings) if row[3] is None or row[2] > row[3]]


def _unaudited(row: Row) -> Unaudited:
    user_id, model_id, _, noted = row
    what = f"user {user_id}: model {model_id}" if model_id else f"user {user_id}: settings"
    return Unaudited(what, noted is None)


async def _snapshot_ids(connection: Connection, within: Within) -> AsyncIterator[tuple[int, int]]:
    rows = await connection.fetch(
        f"SELECT MIN(snapshot_id), MAX(snapshot_id) FROM `{_SNAPSHOTS}` s WHERE date_hour BETWEEN ? AND ?"
        f"{within.of_users('s.')}",
        [within.start, within.end],
    )
    for bounds in _portions(*rows[0], size=_IDS_A_LOOK // 100):
        yield bounds


async def _ids(connection: Connection, relation: str, column: str) -> AsyncIterator[tuple[int, int]]:
    rows = await connection.fetch(f"SELECT MIN({column}), MAX({column}) FROM `{relation}`")
    for bounds in _portions(*rows[0], size=_IDS_A_LOOK):
        yield bounds


def _portions(first: int | None, last: int | None, *, size: int) -> list[tuple[int, int]]:
    if first is None or last is None:
        return []
    return [(start, min(last, start + size - 1)) for start in range(first, last + 1, size)]
