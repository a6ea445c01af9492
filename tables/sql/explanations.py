"""Where does a conversion's journey come from? All that the database holds about it, as it stands at one moment."""

from dataclasses import dataclass

from stream.core.errors import Unavailable
from stream.core.events import Click
from stream.core.facts import Journey, Outcome
from tables.sql.clicks import read_clicks
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.journeys import read_journeys

_TOUCHPOINTS = "SELECT position, click_id, click_time FROM `202_conversion_touchpoints` WHERE conv_id = ?"
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class TouchpointRow:
    """A row of 202_conversion_touchpoints."""

    position: int
    click_id: int
    click_time: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A stored journey and the rows that it comes from and has left."""

    journey: Journey
    clicks: dict[int, Click]  # of its touches and its converting click, those that are stored
    touchpoints: tuple[TouchpointRow, ...]  # by position
    counts_instead: int | None  # of a duplicate: the conversion of the same click and transaction that counts

    @property
    def touchpoints_expected(self) -> tuple[TouchpointRow, ...]:
        touches = enumerate(self.journey.touches)
        return tuple(TouchpointRow(position, touch.click_id, touch.click_time) for position, touch in touches)


async def read_explanation(database: Database, conv_id: int) -> Explanation | None:
    """None for a conversion that is not stored. Raises Unavailable if it changes faster than it can be read."""
    for _ in range(_ATTEMPTS):
        async with database.reading() as connection:
            journeys = await read_journeys(connection, "conv_id", [conv_id])
            if not journeys:
                return None
            explanation = await _explained(connection, journeys[0])
            # Each statement sees what is committed when it starts: a worker may have written between two of them.
            if await read_journeys(connection, "conv_id", [conv_id]) == journeys:
                return explanation
    raise Unavailable(f"conversion {conv_id} is being written again and again", hint="try once more")


async def _explained(connection: Connection, journey: Journey) -> Explanation:
    conversion = journey.conversion
    click_ids = {touch.click_id for touch in journey.touches} | {conversion.click_id}
    rows = await connection.fetch(_TOUCHPOINTS, [conversion.conv_id])
    counts_instead = None
    if journey.outcome is Outcome.DUPLICATE:
        siblings = await read_journeys(connection, "click_id", [conversion.click_id])
        counts_instead = next(
            (
                each.conversion.conv_id
                for each in siblings
                if each.outcome is Outcome.COUNTED and each.conversion.transaction_id == conversion.transaction_id
            ),
            None,
        )
    return Explanation(
        journey=journey,
        clicks=await read_clicks(connection, click_ids),
        touchpoints=tuple(sorted((TouchpointRow(*row) for row in rows), key=_position)),
        counts_instead=counts_instead,
    )


def _position(row: TouchpointRow) -> tuple[int, int]:
    return row.position, row.click_id
