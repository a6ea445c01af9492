"""202_conversion_touchpoints: the clicks of a conversion, by position. Old readers live on this."""

from collections.abc import Collection, Sequence

from stream.core.facts import Journey
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, whole_list
from tables.sql.selects import in_batches

_RELATION = "202_conversion_touchpoints"
_COLUMNS = ("conv_id", "click_id", "click_time", "position", "created_at")


def _literal(row: Row) -> str:
    conv_id, click_id, click_time, position, created_at = row
    return f"({conv_id},{click_id},{click_time},{position},{created_at})"


def _parameters(row: Row) -> Row:
    return row


_INSERT = Insert(_RELATION, _COLUMNS, _literal, _parameters)


async def replace_touchpoints(
    connection: Connection, journeys: Sequence[Journey], *, created_at: int, bare: Collection[int] = ()
) -> None:
    """Key: conv_id. Rows that stood there go, by whatever hand they came; `bare` are known to have none."""
    for ids in in_batches([conv_id for journey in journeys if (conv_id := journey.conversion.conv_id) not in bare]):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE conv_id IN ({whole_list(ids)})")
    rows = [
        (journey.conversion.conv_id, touch.click_id, touch.click_time, position, created_at)
        for journey in journeys
        for position, touch in enumerate(journey.touches)
    ]
    if rows:
        await connection.insert(_INSERT, rows)
