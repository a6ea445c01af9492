"""What is there to rebuild: which accounts, and which hours of them."""

from collections.abc import Collection

from tables.sql.connections import Connection
from tables.sql.inserts import whole_list
from tables.sql.selects import in_batches

# All of them have an index that begins with user_id; those of _HOURLY one with date_hour behind it.
_HOURLY = (
    "202_stream_journeys",
    "202_stream_hours",
    "202_stream_credited",
    "202_attribution_snapshots",
)
_WITH_RESULTS = ("202_stream_journeys", "202_stream_hours", "202_attribution_snapshots", "202_attribution_models")
_KNOWING = ("202_users", "202_stream_clicks", *_WITH_RESULTS)


async def read_accounts(connection: Connection) -> list[int]:
    """All that have journeys, hours, snapshots or models, ascending; without those that their installation deleted."""
    selects = [f"SELECT DISTINCT user_id FROM `{relation}`" for relation in _WITH_RESULTS]
    rows = await connection.fetch(" UNION ".join(selects))
    deleted = await connection.fetch("SELECT user_id FROM `202_users` WHERE user_deleted <> 0")
    return sorted({user_id for (user_id,) in rows if user_id} - {user_id for (user_id,) in deleted})


async def unknown_accounts(connection: Connection, user_ids: Collection[int]) -> list[int]:
    """Those that nobody has heard of: neither users, facts nor models name them."""
    unknown = set(user_ids)
    for relation in _KNOWING:
        for batch in in_batches(sorted(unknown)):
            rows = await connection.fetch(
                f"SELECT DISTINCT user_id FROM `{relation}` WHERE user_id IN ({whole_list(batch)})"
            )
            unknown -= {user_id for (user_id,) in rows}
    return sorted(unknown)


async def has_conversions_from(connection: Connection, start: int) -> bool:
    """Of any account, at `start` or later. Reads the whole table: ask only about the future."""
    rows = await connection.fetch("SELECT 1 FROM `202_stream_journeys` WHERE conv_time >= ? LIMIT 1", [start])
    return bool(rows)


async def hours_between(connection: Connection, user_id: int, *, start: int, end: int) -> list[int]:
    """Hours that begin in [start, end) and have conversions or results, ascending."""
    selects = [
        f"SELECT date_hour FROM `{relation}`"
        f" WHERE user_id = {user_id:d} AND date_hour >= {start:d} AND date_hour < {end:d}"
        for relation in _HOURLY
    ]
    rows = await connection.fetch(" UNION ".join(selects))
    return sorted(date_hour for (date_hour,) in rows)
