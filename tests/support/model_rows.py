"""Models, settings and their audit rows, for tests: as other hands write them, and as they stand."""

import json
from typing import Any

from tables.sql.database import Database

RELATIONS = (
    "202_attribution_models",
    "202_attribution_settings",
    "202_attribution_audit",
    "202_attribution_snapshots",
    "202_attribution_touchpoints",
    "202_aff_campaigns",
    "202_stream_accounts",
    "202_stream_hours",
    "202_stream_removals",
    "202_stream_toggles",
)


async def run(database: Database, *statements: str) -> None:
    async with database.transaction() as connection:
        for statement in statements:
            await connection.run(statement)


async def fetch(database: Database, statement: str) -> list[tuple[Any, ...]]:
    async with database.reading() as connection:
        return [tuple(row) for row in await connection.fetch(statement)]


async def empty(database: Database) -> None:
    await run(database, *(f"DELETE FROM `{relation}`" for relation in RELATIONS))


async def store_model(database: Database, model_id: int, **columns: object) -> None:
    """A row as another hand writes it: whatever the columns take."""
    row = {
        "model_id": model_id,
        "user_id": 7,
        "model_name": f"Model {model_id}",
        "model_slug": f"model-{model_id}",
        "model_type": "linear",
        "weighting_config": None,
        "is_active": 1,
        "is_default": 0,
        "created_at": 1,
        "updated_at": 1,
    } | columns
    async with database.transaction() as connection:
        marks = ", ".join("?" * len(row))
        await connection.run(
            f"INSERT INTO `202_attribution_models` ({', '.join(row)}) VALUES ({marks})", list(row.values())
        )


async def audits(database: Database) -> list[tuple[str, int | None, dict[str, Any]]]:
    """Action, model id and metadata, in the order in which they were written."""
    rows = await fetch(database, "SELECT action, model_id, metadata FROM `202_attribution_audit` ORDER BY audit_id")
    return [(action, model_id, json.loads(metadata)) for action, model_id, metadata in rows]


async def defaults(database: Database, user_id: int = 7) -> list[int]:
    rows = await fetch(
        database,
        f"SELECT model_id FROM `202_attribution_models` WHERE user_id = {user_id} AND is_default = 1 ORDER BY model_id",
    )
    return [row[0] for row in rows]
