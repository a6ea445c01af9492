"""Rows as they stand, in an order that every database gives: for comparing two of them, and for a certificate."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import NamedTuple

from stream.core.facts import Journey, Outcome
from stream.core.hours import HOUR_SECONDS, HourKey
from stream.core.money import Units
from stream.core.results import SnapshotRow
from stream.core.totals import Scope
from tables.sql.connections import Connection
from tables.sql.credits import Clearing, read_cleared
from tables.sql.database import Database
from tables.sql.inserts import whole_list
from tables.sql.models import read_models
from tables.sql.selects import in_batches, units
from tables.sql.snapshots import GlobalSnapshot, read_snapshots

PAGE = 1000
_IDS_A_LOOK = 500_000
_JOURNEYS = "202_stream_journeys"
_TOUCHPOINTS = "202_conversion_touchpoints"
_LOGS = "202_conversion_logs"
_SNAPSHOTS = "202_attribution_snapshots"
_CREDITS = "202_attribution_touchpoints"


class Span(NamedTuple):
    """Conversion times of an account, both ends included; unix seconds."""

    user_id: int
    start: int
    end: int


class LogRow(NamedTuple):
    """What we write of 202_conversion_logs."""

    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    conv_time: int
    click_payout: Units
    transaction_id: str  # '' for NULL
    deleted: int


class SnapshotAt(NamedTuple):
    """Which snapshot: models by what people call them, for ids are those of one installation alone."""

    date_hour: int
    slug: str
    scope: str
    scope_id: int


class CreditPlace(NamedTuple):
    """Which credit, likewise."""

    date_hour: int
    slug: str
    conv_id: int
    position: int


class StandingCredit(NamedTuple):
    """A row of 202_attribution_touchpoints. `parts`: 1 = 0.00001; -1 where credit and weight are not the same."""

    place: CreditPlace
    click_id: int
    parts: int


class Stray(NamedTuple):
    """A row that hangs on nothing, with the conversion that it names."""

    conv_id: int
    position: int
    click_id: int
    click_time: int  # 0 for a credit


async def pages_of_conversions(database: Database, span: Span) -> AsyncIterator[Sequence[int]]:
    """Ids by hour and id, which an index gives without sorting. What comes in behind it meanwhile is not seen."""
    date_hour, conv_id = span.start - span.start % HOUR_SECONDS, 0
    while True:
        async with database.reading() as connection:
            rows = await connection.fetch(
                f"SELECT date_hour, conv_id FROM `{_JOURNEYS}` WHERE user_id = ? AND date_hour BETWEEN ? AND ?"
                " AND (date_hour > ? OR conv_id > ?) AND conv_time BETWEEN ? AND ? ORDER BY date_hour, conv_id"
                f" LIMIT {PAGE}",
                [span.user_id, date_hour, span.end, date_hour, conv_id, span.start, span.end],
            )
        if rows:
            yield [row[1] for row in rows]
        if len(rows) < PAGE:
            return
        date_hour, conv_id = rows[-1]


async def logs_of(connection: Connection, conv_ids: Collection[int]) -> dict[int, LogRow]:
    """Of those that have one."""
    found = {}
    payout = units(connection.dialect, "click_payout")
    for batch in in_batches(sorted(set(conv_ids))):
        rows = await connection.fetch(
            f"SELECT conv_id, click_id, user_id, campaign_id, click_time, conv_time, {payout}, transaction_id, deleted"
            f" FROM `{_LOGS}` WHERE conv_id IN ({whole_list(batch)})"
        )
        for conv_id, *numbers, transaction, deleted in rows:
            found[conv_id] = LogRow._make([*numbers, transaction or "", deleted])
    return found


def log_row_of(journey: Journey) -> LogRow | None:
    """What should stand there; only what counts has a row."""
    if journey.outcome is not Outcome.COUNTED:
        return None
    of = journey.conversion
    return LogRow(
        of.click_id, of.user_id, of.campaign_id, of.click_time, of.conv_time, of.click_payout, of.transaction_id, 0
    )


async def slugs_of(connection: Connection, user_id: int) -> dict[int, str]:
    """By model id."""
    return {model.model_id: model.slug for model in await read_models(connection, user_id)}


def slug_of(slugs: dict[int, str], model_id: int) -> str:
    """Of a model that is no more there is only the number."""
    return slugs.get(model_id) or f"model {model_id}"


async def hours_with_snapshots(connection: Connection, span: Span) -> set[int]:
    rows = await connection.fetch(
        f"SELECT DISTINCT date_hour FROM `{_SNAPSHOTS}` WHERE user_id = ? AND date_hour BETWEEN ? AND ?",
        [span.user_id, span.start, span.end],
    )
    return {row[0] for row in rows}


async def conversions_by_hour(connection: Connection, span: Span) -> list[tuple[int, int]]:
    """Hours, ascending, and how many conversions are in each."""
    rows = await connection.fetch(
        f"SELECT date_hour, COUNT(*) FROM `{_JOURNEYS}` WHERE user_id = ? AND date_hour BETWEEN ? AND ?"
        " GROUP BY date_hour ORDER BY date_hour",
        [span.user_id, span.start, span.end],
    )
    return [(row[0], int(row[1])) for row in rows]


async def snapshots_in_order(
    connection: Connection, keys: Collection[HourKey], slugs: dict[int, str]
) -> list[tuple[SnapshotAt, SnapshotRow]]:
    """Of hours of one account, ascending."""
    return sorted(
        (SnapshotAt(key.date_hour, slug_of(slugs, row.key.model_id), str(row.key.scope), row.key.scope_id), row)
        for key, rows in (await read_snapshots(connection, keys)).items()
        for row in rows
    )


async def credits_in_order(
    connection: Connection, snapshots: Collection[GlobalSnapshot], slugs: dict[int, str]
) -> AsyncIterator[StandingCredit]:
    """Of one account, ascending; some thousand rows are in memory at a time, however many an hour has."""
    places = {each.snapshot_id: (each.hour.date_hour, slug_of(slugs, each.model_id)) for each in snapshots}
    ordered = sorted(snapshots, key=lambda each: places[each.snapshot_id])
    async for rows in read_cleared(connection, [Clearing(each, None) for each in ordered]):
        portion = [
            StandingCredit(CreditPlace(*places[row.snapshot_id], row.conv_id, row.position), row.click_id, row.credit)
            for row in rows
        ]
        portion.sort()
        for credit in portion:
            yield credit


async def stray_touchpoints(connection: Connection, span: Span) -> AsyncIterator[list[Stray]]:
    """Rows of conversions that neither journeys nor logs know, with click times of the span; account 0: all of them.

    What only 202_conversion_logs knows is of an installation's earlier life, and was none of ours.
    """
    of_user = f" AND k.user_id = {span.user_id:d}" if span.user_id else ""
    async for bounds in _portions_of(connection, _TOUCHPOINTS):
        rows = await connection.fetch(
            f"SELECT t.conv_id, t.position, t.click_id, t.click_time FROM `{_TOUCHPOINTS}` t"
            f" LEFT JOIN `{_JOURNEYS}` j ON j.conv_id = t.conv_id LEFT JOIN `{_LOGS}` l ON l.conv_id = t.conv_id"
            " LEFT JOIN `202_stream_clicks` k ON k.click_id = t.click_id"
            " WHERE t.touchpoint_id BETWEEN ? AND ? AND j.conv_id IS NULL AND l.conv_id IS NULL"
            f" AND t.click_time BETWEEN ? AND ?{of_user}",
            [*bounds, span.start, span.end],
        )
        yield sorted(map(Stray._make, rows))


async def stray_credits(connection: Connection, span: Span) -> AsyncIterator[list[Stray]]:
    """Credits of conversions of the span that hang on no global snapshot; account 0: all of them."""
    of_user = f" AND j.user_id = {span.user_id:d}" if span.user_id else ""
    async for bounds in _portions_of(connection, _CREDITS):
        rows = await connection.fetch(
            f"SELECT t.conv_id, t.position, t.click_id, 0 FROM `{_CREDITS}` t"
            f" JOIN `{_JOURNEYS}` j ON j.conv_id = t.conv_id LEFT JOIN `{_SNAPSHOTS}` s"
            f" ON s.snapshot_id = t.snapshot_id AND s.scope_type = '{Scope.GLOBAL}' AND s.scope_key = 0"
            " WHERE t.touchpoint_id BETWEEN ? AND ? AND s.snapshot_id IS NULL"
            f" AND j.conv_time BETWEEN ? AND ?{of_user}",
            [*bounds, span.start, span.end],
        )
        yield sorted(map(Stray._make, rows))


async def _portions_of(connection: Connection, relation: str) -> AsyncIterator[tuple[int, int]]:
    """First and last touchpoint_id of each: no statement shall take as long as a whole relation does."""
    ((first, last),) = await connection.fetch(f"SELECT MIN(touchpoint_id), MAX(touchpoint_id) FROM `{relation}`")
    if first is not None:
        for start in range(first, last + 1, _IDS_A_LOOK):
            yield start, min(last, start + _IDS_A_LOOK - 1)
