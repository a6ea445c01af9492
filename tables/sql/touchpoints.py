"""202_conversion_touchpoints: the clicks of a conversion, by position. Old readers live on this."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from stream.core.facts import Journey
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, whole_list
from tables.sql.selects import in_batches

_RELATION = "202_conversion_touchpoints"
_COLUMNS = ("conv_id", "click_id", "click_time", "position", "created_at")
# For some hundred conversions MariaDB would rather read all rows there are, as long as it takes them for few.
_BY_CONVERSION = " FORCE INDEX (conv_id)"


class ShownTouch(NamedTuple):
    """A row, as far as it says anything."""

    position: int
    click_id: int
    click_time: int


def are_shown(journey: Journey, rows: Sequence[ShownTouch]) -> bool:
    """Whether these, ascending, are the rows that a journey should have."""
    return len(rows) == len(journey.touches) and all(
        row == (position, touch.click_id, touch.click_time)
        for position, (row, touch) in enumerate(zip(rows, journey.touches, strict=True))
    )


async def touchpoints_of(connection: Connection, conv_ids: Collection[int]) -> dict[int, list[ShownTouch]]:
    """Of each conversion, ascending; whatever stands there, also one position twice."""
    found: dict[int, list[ShownTouch]] = {conv_id: [] for conv_id in conv_ids}
    by_conversion = _BY_CONVERSION if connection.dialect == MYSQL else ""
    for batch in in_batches(sorted(found)):
        rows = await connection.fetch(
            f"SELECT conv_id, position, click_id, click_time FROM `{_RELATION}`{by_conversion}"
            f" WHERE conv_id IN ({whole_list(batch)})"
        )
        for conv_id, *row in rows:
            found[conv_id].append(ShownTouch._make(row))
    for touches in found.values():
        touches.sort()
    return found


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
