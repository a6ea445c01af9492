"""Stored clicks in the order of their ids, for comparing two databases: one page of them in memory."""

from collections.abc import AsyncIterator, Sequence

from stream.core.events import Click
from tables.sql.database import Database
from tables.sql.inserts import whole_list
from tables.sql.selects import units

_RELATION = "202_stream_clicks"
_PAGE = 1000


async def clicks_in_order(database: Database, users: Sequence[int], start: int, end: int) -> AsyncIterator[Click]:
    """Of these accounts (none: of all) and times, both included. What comes in behind it meanwhile is not seen."""
    of_users = f" AND user_id IN ({whole_list(users)})" if users else ""
    behind = 0
    while True:
        async with database.reading() as connection:
            columns = ", ".join(Click._fields).replace("click_cpc", units(connection.dialect, "click_cpc"))
            rows = await connection.fetch(
                f"SELECT {columns} FROM `{_RELATION}` WHERE click_id > ? AND click_time BETWEEN ? AND ?{of_users}"
                f" ORDER BY click_id LIMIT {_PAGE}",
                [behind, start, end],
            )
        for row in rows:
            yield Click._make(row)
        if len(rows) < _PAGE:
            return
        behind = rows[-1][0]
