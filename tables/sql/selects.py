"""Parts of SELECT statements that differ between the servers, or have limits."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from tables.sql.addresses import MYSQL

_Item = TypeVar("_Item")

# From 1,000 on MariaDB turns IN (...) into a join with a temporary table.
IDS_A_STATEMENT = 999


def in_batches(items: Sequence[_Item], *, size: int = IDS_A_STATEMENT) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def units(dialect: str, column: str) -> str:
    """Money as whole units: exact on MySQL, and rounded back to what was stored where SQLite holds a float."""
    if dialect == MYSQL:
        return f"CAST({column} * 100000 AS SIGNED)"
    return f"CAST(ROUND({column} * 100000) AS INTEGER)"
