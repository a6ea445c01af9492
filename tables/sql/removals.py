"""202_stream_removals: records of the topics whose rows are gone, until they are tombstones; docs/decisions/0010."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from stream.core.hours import HourKey
from stream.core.results import Removal, RemovalKind
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, text_literal, whole_list
from tables.sql.selects import hour_clauses, in_batches

_RELATION = "202_stream_removals"


class HourRemoval(NamedTuple):
    """A row."""

    hour: HourKey
    removal: Removal


class StoredRemoval(NamedTuple):
    """A row with its number. Two rows may say the same."""

    removal_id: int
    hour: HourKey
    removal: Removal


def _parameters(row: HourRemoval) -> Row:
    return (*row.hour, row.removal.kind.value, row.removal.record_key)


def _literal(row: HourRemoval) -> str:
    (user_id, date_hour), (kind, record_key) = row
    # Keys are digits, colons and names of scopes; they are written as hex like any other text.
    return f"({user_id},{date_hour},{text_literal(kind.value)},{text_literal(record_key)})"


_INSERT = Insert(_RELATION, ("user_id", "date_hour", "kind", "record_key"), _literal, _parameters)


async def read_removals(connection: Connection, keys: Collection[HourKey]) -> list[StoredRemoval]:
    found = []
    for clause in hour_clauses(keys):
        rows = await connection.fetch(
            f"SELECT removal_id, user_id, date_hour, kind, record_key FROM `{_RELATION}` WHERE {clause}"
        )
        for removal_id, user_id, date_hour, kind, record_key in rows:
            removal = Removal(RemovalKind(kind), record_key)
            found.append(StoredRemoval(removal_id, HourKey(user_id, date_hour), removal))
    return found


async def insert_removals(connection: Connection, removals: Mapping[HourKey, Iterable[Removal]]) -> None:
    rows = [HourRemoval(key, removal) for key, found in sorted(removals.items()) for removal in sorted(found)]
    if rows:
        await connection.insert(_INSERT, rows)


async def delete_removals(connection: Connection, removal_ids: Collection[int]) -> None:
    for batch in in_batches(sorted(removal_ids)):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE removal_id IN ({whole_list(batch)})")


async def delete_removals_of_hours(connection: Connection, keys: Collection[HourKey]) -> None:
    for clause in hour_clauses(keys):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE {clause}")
