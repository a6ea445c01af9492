"""A database of our own for a while, in which the log is computed once more: with the models and settings of another.

Nobody owns partitions there, and nobody remembers anything of its keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stream.core.progress import PartitionProgress
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.facts import Writing
from tables.sql.replays import SqlReplayStore, SqlReplayTransaction
from tables.sql.selects import in_batches

# What decides about rows beside the facts: with their ids, of which hours keep a digest.
_CONFIGURING: Mapping[str, tuple[str, ...]] = {
    "202_attribution_models": (
        "model_id",
        "user_id",
        "model_name",
        "model_slug",
        "model_type",
        "weighting_config",
        "is_active",
        "is_default",
        "created_at",
        "updated_at",
    ),
    "202_attribution_settings": (
        "setting_id",
        "user_id",
        "scope_type",
        "scope_id",
        "model_id",
        "multi_touch_enabled",
        "multi_touch_enabled_at",
        "multi_touch_disabled_at",
        "effective_at",
        "created_at",
        "updated_at",
    ),
    "202_stream_toggles": ("user_id", "scope_type", "scope_id", "since", "is_enabled"),
}
_PARAMETERS_A_STATEMENT = 900  # older releases of SQLite take no more


class _ScratchTransaction(SqlReplayTransaction):
    async def note_outside_change(self, changed: PartitionProgress) -> None:
        """Without what an owner would have to forget: from the beginning of a log on that is nearly everything."""
        await super().note_outside_change(replace(changed, unsettled_keys=()))


class ScratchStore(SqlReplayStore):
    """For a replay into a scratch database."""

    _transaction_type = _ScratchTransaction

    def __init__(self, database: Database, writing: Writing) -> None:
        super().__init__(database, writing, run_id=0)


async def copy_configurations(source: Database, scratch: Database) -> None:
    """Models, settings and the history of settings, of all accounts."""
    for relation, columns in _CONFIGURING.items():
        async with source.reading() as connection:
            rows = await connection.fetch(f"SELECT {', '.join(columns)} FROM `{relation}`")
        async with scratch.transaction() as connection:
            for batch in in_batches(rows, size=_PARAMETERS_A_STATEMENT // len(columns)):
                await _insert(connection, relation, columns, batch)


async def _insert(
    connection: Connection, relation: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]
) -> None:
    marks = f"({', '.join('?' * len(columns))})"
    await connection.run(
        f"INSERT INTO `{relation}` ({', '.join(columns)}) VALUES {', '.join([marks] * len(rows))}",
        [value for row in rows for value in row],
    )
