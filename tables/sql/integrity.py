"""Do the stored rows fit one another? Asked in pages of ids, so that no statement takes long; nothing is locked."""

from collections.abc import AsyncIterator, Mapping, Sequence

from stream.core.facts import Outcome
from stream.core.journeys import JOURNEY_LIMIT
from stream.core.toggles import Switchboard
from tables.sql.connections import Connection
from tables.sql.inserts import whole_list
from tables.sql.journeys import read_journeys
from tables.sql.toggles import read_switchboards_with_off, with_shown_touches

PAGE_CONVERSIONS = 20_000
PAGE_CLICKS = 100_000
_MOST_TOUCHPOINTS = JOURNEY_LIMIT + 1
_TOUCHPOINTS = "202_conversion_touchpoints"
_JOURNEYS = "202_stream_journeys"


async def _pages(connection: Connection, relation: str, column: str, size: int) -> AsyncIterator[str]:
    """Conditions on the column that take in all its values, some `size` rows each."""
    after = -1
    while True:
        found = await connection.fetch(
            f"SELECT {column} FROM `{relation}` WHERE {column} > {after:d} ORDER BY {column} LIMIT 1 OFFSET {size:d}"
        )
        if not found:
            yield f"{column} > {after:d}"
            return
        yield f"{column} > {after:d} AND {column} <= {found[0][0]:d}"
        after = found[0][0]


async def misplaced_touchpoints(connection: Connection) -> Sequence[int]:
    """Conversions whose positions are not 0, 1, 2 and so on, or that have more touchpoints than a journey can."""
    found: list[int] = []
    async for clause in _pages(connection, _TOUCHPOINTS, "conv_id", PAGE_CONVERSIONS):
        rows = await connection.fetch(
            f"SELECT conv_id FROM `{_TOUCHPOINTS}` WHERE {clause} GROUP BY conv_id HAVING MIN(position) <> 0"
            " OR MAX(position) <> COUNT(*) - 1 OR COUNT(DISTINCT position) <> COUNT(*)"
            f" OR COUNT(*) > {_MOST_TOUCHPOINTS:d}"
        )
        found += [row[0] for row in rows]
    return sorted(found)


async def wrong_converting_clicks(connection: Connection) -> Sequence[int]:
    """Conversions whose touchpoints do not hold the converting click once, or that have some and should have none."""
    found: list[int] = []
    switchboards = await read_switchboards_with_off(connection)
    async for clause in _pages(connection, _JOURNEYS, "conv_id", PAGE_CONVERSIONS):
        found += await _that_should_have_none(connection, clause, switchboards)
        rows = await connection.fetch(
            "SELECT j.conv_id, j.outcome, COUNT(t.conv_id),"
            " SUM(CASE WHEN t.click_id = j.click_id THEN 1 ELSE 0 END)"
            f" FROM `{_JOURNEYS}` j LEFT JOIN `{_TOUCHPOINTS}` t ON t.conv_id = j.conv_id"
            f" WHERE {clause.replace('conv_id', 'j.conv_id')} GROUP BY j.conv_id, j.outcome, j.click_id"
            f" HAVING (j.outcome = '{Outcome.COUNTED}')"
            " <> (SUM(CASE WHEN t.click_id = j.click_id THEN 1 ELSE 0 END) = 1)"
            f" OR (j.outcome <> '{Outcome.COUNTED}' AND COUNT(t.conv_id) > 0)"
        )
        without = [row[0] for row in rows if row[1] == Outcome.COUNTED and not row[2]]
        found += [row[0] for row in rows if row[2]]
        found += await _that_should_have_some(connection, without)
    return sorted(set(found))


async def _that_should_have_none(
    connection: Connection, clause: str, switchboards: Mapping[int, Switchboard]
) -> list[int]:
    """Counted conversions with touchpoints, though multi-touch was off or a person has purged them."""
    users = whole_list(sorted(switchboards)) or "0"  # no account has id 0
    rows = await connection.fetch(
        f"SELECT conv_id, user_id, aff_network_id, campaign_id, conv_time, purged FROM `{_JOURNEYS}` j"
        f" WHERE {clause} AND outcome = '{Outcome.COUNTED}' AND (purged <> 0 OR user_id IN ({users}))"
        f" AND EXISTS (SELECT 1 FROM `{_TOUCHPOINTS}` t WHERE t.conv_id = j.conv_id)"
    )
    return [
        conv_id
        for conv_id, user_id, advertiser, campaign, conv_time, is_purged in rows
        if is_purged
        or not switchboards[user_id].is_multi_touch_on(advertiser=advertiser, campaign=campaign, conv_time=conv_time)
    ]


async def _that_should_have_some(connection: Connection, conv_ids: Sequence[int]) -> list[int]:
    """Where multi-touch was off, or a person has purged them, there are none."""
    shown = await with_shown_touches(connection, await read_journeys(connection, "conv_id", conv_ids))
    return [journey.conversion.conv_id for journey in shown if journey.touches]


async def accounts_without_one_default(connection: Connection) -> Sequence[int]:
    """Of those that have an active model."""
    rows = await connection.fetch(
        "SELECT user_id FROM `202_attribution_models` GROUP BY user_id HAVING SUM(is_default) <> 1"
        " AND SUM(is_active) > 0"
    )
    return sorted(row[0] for row in rows)


async def last_sign_of_life(connection: Connection, row_id: int) -> int | None:
    """Unix seconds, of a row of 202_cronjob_logs."""
    rows = await connection.fetch("SELECT last_execution_time FROM `202_cronjob_logs` WHERE id = ?", [row_id])
    return int(rows[0][0]) if rows else None


async def campaigns_with_facts(connection: Connection, since: int, until: int) -> set[tuple[int, int]]:
    """User and campaign of the stored clicks and conversions that happened in [since, until)."""
    found: set[tuple[int, int]] = set()
    for relation, column, time in (
        ("202_stream_clicks", "click_id", "click_time"),
        (_JOURNEYS, "conv_id", "conv_time"),
    ):
        async for clause in _pages(connection, relation, column, PAGE_CLICKS):
            rows = await connection.fetch(
                f"SELECT DISTINCT user_id, campaign_id FROM `{relation}`"
                f" WHERE {clause} AND {time} >= {since:d} AND {time} < {until:d}"
            )
            found.update((row[0], row[1]) for row in rows)
    return found
