"""Which conversions does a purge mean? Journeys of ours, and what only an installation's earlier life tells of."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tables.sql.connections import Connection
from tables.sql.inserts import whole_list
from tables.sql.rebuild_ranges import unknown_accounts
from tables.sql.selects import in_batches

PAGE = 500
_HOUR_SECONDS = 3600

_JOURNEYS = "202_stream_journeys"
_LOGS = "202_conversion_logs"
_TOUCHPOINTS = "202_conversion_touchpoints"
_NOT_OURS = f"NOT EXISTS (SELECT 1 FROM `{_JOURNEYS}` WHERE `{_JOURNEYS}`.conv_id = `{_LOGS}`.conv_id)"


class Meant(NamedTuple):
    """A conversion to be looked at. Of one that only touchpoint rows name, user and campaign are not known."""

    conv_id: int
    user_id: int | None
    campaign_id: int | None


class Span(NamedTuple):
    """Conversion times of an account, both ends included; unix seconds."""

    user_id: int
    start: int
    end: int


class Behind(NamedTuple):
    """Where a page ended. Journeys come first, by hour and id, then what only the logs know, by id."""

    is_in_logs: bool
    date_hour: int
    conv_id: int


_BEGINNING = Behind(is_in_logs=False, date_hour=0, conv_id=0)
_OF_LOGS = Behind(is_in_logs=True, date_hour=0, conv_id=0)


class Page(NamedTuple):
    """At most 500 conversions."""

    meant: Sequence[Meant]
    behind: Behind | None  # None: there are no more


async def meant_by_ids(connection: Connection, conv_ids: Collection[int]) -> list[Meant]:
    """Those that journeys, logs or touchpoint rows name, ascending."""
    found: dict[int, Meant] = {}
    for batch in in_batches(sorted(set(conv_ids))):
        ids = whole_list(batch)
        # Later ones win: a journey knows better than a log, which knows better than a touchpoint row.
        for columns, relation in (
            ("DISTINCT conv_id, NULL, NULL", _TOUCHPOINTS),
            ("conv_id, user_id, campaign_id", _LOGS),
            ("conv_id, user_id, campaign_id", _JOURNEYS),
        ):
            rows = await connection.fetch(f"SELECT {columns} FROM `{relation}` WHERE conv_id IN ({ids})")
            found |= {row[0]: Meant(*row) for row in rows}
    return [found[conv_id] for conv_id in sorted(found)]


async def meant_by_span(connection: Connection, span: Span, behind: Behind | None = None) -> Page:
    """The next page. What comes in behind it meanwhile is not seen."""
    after = behind or _BEGINNING
    rows = await (_of_logs if after.is_in_logs else _of_journeys)(connection, span, after)
    meant = [Meant(conv_id, span.user_id, campaign_id) for conv_id, campaign_id, _ in rows]
    if len(rows) == PAGE:
        conv_id, _, date_hour = rows[-1]
        return Page(meant, Behind(after.is_in_logs, date_hour, conv_id))
    return Page(meant, None if after.is_in_logs else _OF_LOGS)


async def _of_journeys(connection: Connection, span: Span, after: Behind) -> Sequence[tuple[int, int, int]]:
    """By hour and id, which the index `user_hour` gives without sorting."""
    first_hour = max(after.date_hour, span.start - span.start % _HOUR_SECONDS)
    rows = await connection.fetch(
        f"SELECT conv_id, campaign_id, date_hour FROM `{_JOURNEYS}` WHERE user_id = ? AND date_hour BETWEEN ? AND ?"
        f" AND (date_hour > ? OR conv_id > ?) AND conv_time BETWEEN ? AND ? ORDER BY date_hour, conv_id LIMIT {PAGE}",
        [span.user_id, first_hour, span.end, after.date_hour, after.conv_id, span.start, span.end],
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def _of_logs(connection: Connection, span: Span, after: Behind) -> Sequence[tuple[int, int, int]]:
    rows = await connection.fetch(
        f"SELECT conv_id, campaign_id, 0 FROM `{_LOGS}` WHERE user_id = ? AND conv_id > ?"
        f" AND conv_time BETWEEN ? AND ? AND {_NOT_OURS} ORDER BY conv_id LIMIT {PAGE}",
        [span.user_id, after.conv_id, span.start, span.end],
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def accounts_with_conversions(connection: Connection) -> list[int]:
    """Ascending; those of the logs alone, too."""
    rows = await connection.fetch(
        f"SELECT DISTINCT user_id FROM `{_JOURNEYS}` UNION SELECT DISTINCT user_id FROM `{_LOGS}`"
    )
    return sorted(user_id for (user_id,) in rows)


async def unknown_to_all(connection: Connection, user_ids: Collection[int]) -> list[int]:
    """Those that neither users, facts, models nor the logs name."""
    unknown = await unknown_accounts(connection, user_ids)
    for batch in in_batches(unknown):
        rows = await connection.fetch(f"SELECT DISTINCT user_id FROM `{_LOGS}` WHERE user_id IN ({whole_list(batch)})")
        unknown = sorted(set(unknown) - {user_id for (user_id,) in rows})
    return unknown
