"""202_stream_imports: how far the tables of an existing installation were read into the topics."""

import json
from collections.abc import Mapping
from typing import Any

from tables.sql.connections import Connection
from tables.sql.database import Database

_RELATION = "202_stream_imports"


async def read_place(database: Database, source: str) -> Mapping[str, Any] | None:
    """As it was written last; None: never. Raises StartRefused where our own schema is older than this."""
    async with database.reading() as connection:
        return await _read(connection, source)


async def write_place(database: Database, source: str, place: Mapping[str, Any], *, now: int) -> None:
    """Key: source, an address without user and password."""
    text = json.dumps(place)
    async with database.transaction() as connection:
        if await _read(connection, source) is None:
            await connection.run(
                f"INSERT INTO `{_RELATION}` (source, place, updated_at) VALUES (?, ?, ?)", [source, text, now]
            )
        else:
            await connection.run(
                f"UPDATE `{_RELATION}` SET place = ?, updated_at = ? WHERE source = ?", [text, now, source]
            )


async def _read(connection: Connection, source: str) -> Mapping[str, Any] | None:
    rows = await connection.fetch(f"SELECT place FROM `{_RELATION}` WHERE source = ?", [source])
    if not rows:
        return None
    place: Mapping[str, Any] = json.loads(rows[0][0])
    return place
