"""Rows of which an installation has two where there can be one: they go before a natural key is added."""

from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from tables.sql.inserts import whole_list
from tables.sql.selects import in_batches

_SNAPSHOTS = "202_attribution_snapshots"
_CREDITS = "202_attribution_touchpoints"


def remove_doubles(connection: Connection) -> None:
    """The row that was written last stays. Credits go before the snapshots they hang on: a killed run is repeated."""
    present = set(inspect(connection).get_table_names())
    if _SNAPSHOTS in present:
        older = _older(connection, _SNAPSHOTS, "snapshot_id", "model_id, scope_type, COALESCE(scope_id, 0), date_hour")
        if _CREDITS in present:
            _delete(connection, _CREDITS, "snapshot_id", older)
        _delete(connection, _SNAPSHOTS, "snapshot_id", older)
    if _CREDITS in present:
        older = _older(connection, _CREDITS, "touchpoint_id", "snapshot_id, conv_id, position")
        _delete(connection, _CREDITS, "touchpoint_id", older)


def _older(connection: Connection, relation: str, number: str, natural: str) -> Sequence[int]:
    """Numbers of the rows whose natural key stands again under a greater number."""
    older = text(
        f"SELECT {number} FROM (SELECT {number}, ROW_NUMBER() OVER (PARTITION BY {natural} ORDER BY {number} DESC)"
        f" AS place FROM `{relation}`) numbered WHERE place > 1"
    )
    return [row[0] for row in connection.execute(older)]


def _delete(connection: Connection, relation: str, column: str, numbers: Sequence[int]) -> None:
    for batch in in_batches(sorted(numbers)):
        connection.execute(text(f"DELETE FROM `{relation}` WHERE {column} IN ({whole_list(batch)})"))
