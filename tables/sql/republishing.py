"""What the topics of results must be told once more: hours whose rows they may have otherwise, records without rows."""

from collections.abc import Collection, Mapping, Set

from stream.core.hours import HourKey, credit_key, snapshot_key
from stream.core.results import Removal, RemovalKind
from tables.sql.connections import Connection
from tables.sql.hours import add_unpublished
from tables.sql.removals import insert_removals, read_removals
from tables.sql.selects import hour_clauses
from tables.sql.snapshots import read_snapshots

_ALL = "UPDATE `202_stream_hours` SET published_revision = 0, is_settled = 0"


async def publish_all_again(connection: Connection) -> None:
    """Whoever owns them next sends each hour whole. No worker may be alive."""
    await connection.run(_ALL)


async def remove_without_rows(connection: Connection, published: Mapping[HourKey, Set[Removal]]) -> None:
    """Of these records, those that no row stands for get a tombstone with their hour. Repeating it changes nothing."""
    left = {hour: set(records) for hour, records in published.items()}
    await _take_off_standing(connection, left)
    for stored in await read_removals(connection, left):
        left[stored.hour].discard(stored.removal)
    found = {hour: removals for hour, removals in left.items() if removals}
    await add_unpublished(connection, found)
    await insert_removals(connection, found)


async def _take_off_standing(connection: Connection, left: Mapping[HourKey, set[Removal]]) -> None:
    for hour, snapshots in (await read_snapshots(connection, left)).items():
        left[hour] -= {Removal(RemovalKind.SNAPSHOT, snapshot_key(hour, row.key)) for row in snapshots}
    for hour, model_id, conv_id, position in await _standing_credits(connection, left):
        left[hour].discard(Removal(RemovalKind.CREDIT, credit_key(hour, model_id, conv_id, position)))


async def _standing_credits(connection: Connection, hours: Collection[HourKey]) -> list[tuple[HourKey, int, int, int]]:
    found = []
    for clause in hour_clauses(hours, of="s."):
        rows = await connection.fetch(
            "SELECT s.user_id, s.date_hour, s.model_id, t.conv_id, t.position FROM `202_attribution_touchpoints` t"
            f" JOIN `202_attribution_snapshots` s ON s.snapshot_id = t.snapshot_id WHERE {clause}"
        )
        found += [(HourKey(user_id, date_hour), *rest) for user_id, date_hour, *rest in rows]
    return found
