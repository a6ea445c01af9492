"""Parts of SELECT statements that differ between the servers, or have limits."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from stream.core.hours import HourKey
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row
from tables.sql.inserts import whole_list

_Item = TypeVar("_Item")

# From 1,000 on MariaDB turns IN (...) into a join with a temporary table.
IDS_A_STATEMENT = 999
# Of an OR: SQLite takes no expression that is nested a thousand deep, and each OR nests.
TERMS_A_STATEMENT = 200


def in_batches(items: Sequence[_Item], *, size: int = IDS_A_STATEMENT) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def fetch_of_accounts(
    connection: Connection, select: str, user_ids: Collection[int], *, order_by: str = "user_id"
) -> list[Row]:
    """`select` ends before its WHERE. One statement but for very many accounts, and in order within each."""
    rows: list[Row] = []
    for batch in in_batches(sorted(set(user_ids))):
        rows += await connection.fetch(f"{select} WHERE user_id IN ({whole_list(batch)}) ORDER BY {order_by}")
    return rows


def hour_clauses(keys: Iterable[HourKey], *, of: str = "") -> Iterator[str]:
    """Conditions on user_id and date_hour, one statement each; `of`: what stands before the names, e.g. "j.".

    MariaDB makes no ranges of (a, b) IN ((1, 2)).
    """
    for batch in in_batches(sorted(set(keys)), size=TERMS_A_STATEMENT):
        hours: dict[int, list[int]] = {}
        for user_id, date_hour in batch:
            hours.setdefault(user_id, []).append(date_hour)
        of_users = (
            f"({of}user_id = {user_id:d} AND {of}date_hour IN ({whole_list(found)}))"
            for user_id, found in hours.items()
        )
        yield f"({' OR '.join(of_users)})"


def units(dialect: str, column: str) -> str:
    """Money in units of 0.00001."""
    return scaled(dialect, column, 100_000)


def scaled(dialect: str, column: str, steps: int) -> str:
    """A decimal as a whole number: exact on MySQL, and rounded back to what was stored where SQLite holds a float."""
    if dialect == MYSQL:
        return f"CAST({column} * {steps} AS SIGNED)"
    return f"CAST(ROUND({column} * {steps}) AS INTEGER)"
