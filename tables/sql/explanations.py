"""Where does a conversion's journey come from? All that the database holds about it, as it stands at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream.core.errors import Unavailable
from stream.core.events import Click
from stream.core.facts import Journey, Outcome
from stream.core.hours import HourKey
from stream.core.results import NEVER_FIRED, CreditedAt, HourRow
from stream.core.toggles import Toggle, is_multi_touch_on
from tables.sql.clicks import read_clicks
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.hours import read_credited, read_hours
from tables.sql.inserts import whole_list
from tables.sql.journeys import read_journeys
from tables.sql.models import StoredModel, read_models
from tables.sql.selects import units
from tables.sql.snapshots import read_global
from tables.sql.toggles import read_toggles

_TOUCHPOINTS = "SELECT position, click_id, click_time FROM `202_conversion_touchpoints` WHERE conv_id = ?"
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class TouchpointRow:
    """A row of 202_conversion_touchpoints."""

    position: int
    click_id: int
    click_time: int


@dataclass(frozen=True, slots=True, order=True)
class CreditOfConversion:
    """A row of 202_attribution_touchpoints, with the hour and model of its snapshot."""

    model_id: int
    date_hour: int
    position: int
    click_id: int
    credit: int  # 1 = 0.00001


@dataclass(frozen=True, slots=True)
class Standing:
    """What says whether a conversion was written since it was read."""

    journey: Journey
    credited: CreditedAt | None  # where its credits stand
    hour: HourRow  # that it counts in

    @property
    def key(self) -> HourKey:
        return HourKey(self.journey.conversion.user_id, self.journey.date_hour)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A stored journey and the rows that it comes from and has left."""

    standing: Standing
    clicks: dict[int, Click]  # of its touches and its converting click, those that are stored
    touchpoints: tuple[TouchpointRow, ...]  # by position
    counts_instead: int | None  # of a duplicate: the conversion of the same click and transaction that counts
    models: Sequence[StoredModel]  # of its account
    toggles: Sequence[Toggle]
    credits: Sequence[CreditOfConversion]  # as stored, in the hour it counts in and in the one where they stand

    @property
    def journey(self) -> Journey:
        return self.standing.journey

    @property
    def is_multi_touch_on(self) -> bool:
        conversion = self.journey.conversion
        return is_multi_touch_on(
            self.toggles,
            advertiser=self.journey.aff_network_id,
            campaign=conversion.campaign_id,
            conv_time=conversion.conv_time,
        )

    @property
    def touchpoints_expected(self) -> tuple[TouchpointRow, ...]:
        is_shown = self.is_multi_touch_on and not self.journey.purged
        touches = enumerate(self.journey.touches if is_shown else ())
        return tuple(TouchpointRow(position, touch.click_id, touch.click_time) for position, touch in touches)


async def read_explanation(database: Database, conv_id: int) -> Explanation | None:
    """None for a conversion that is not stored. Raises Unavailable if it changes faster than it can be read."""
    for _ in range(_ATTEMPTS):
        async with database.reading() as connection:
            standing = await _standing(connection, conv_id)
            if standing is None:
                return None
            explanation = await _explained(connection, standing)
            # Each statement sees what is committed when it starts: a worker may have written between two of them.
            if await _standing(connection, conv_id) == standing:
                return explanation
    raise Unavailable(f"conversion {conv_id} is being written again and again", hint="try once more")


async def _standing(connection: Connection, conv_id: int) -> Standing | None:
    journeys = await read_journeys(connection, "conv_id", [conv_id])
    if not journeys:
        return None
    key = HourKey(journeys[0].conversion.user_id, journeys[0].date_hour)
    credited = (await read_credited(connection, [conv_id])).get(conv_id)
    return Standing(journeys[0], credited, (await read_hours(connection, [key])).get(key, NEVER_FIRED))


async def _explained(connection: Connection, standing: Standing) -> Explanation:
    journey = standing.journey
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
    user_id = conversion.user_id
    toggles: Mapping[int, Sequence[Toggle]] = await read_toggles(connection, [user_id])
    return Explanation(
        standing=standing,
        clicks=await read_clicks(connection, click_ids),
        touchpoints=tuple(sorted((TouchpointRow(*row) for row in rows), key=_position)),
        counts_instead=counts_instead,
        models=await read_models(connection, user_id),
        toggles=toggles.get(user_id, ()),
        credits=await _credits(connection, standing),
    )


async def _credits(connection: Connection, standing: Standing) -> Sequence[CreditOfConversion]:
    keys = {standing.key, *([standing.credited.hour] if standing.credited else [])}
    snapshots = {each.snapshot_id: each for each in await read_global(connection, keys)}
    if not snapshots:
        return ()
    rows = await connection.fetch(
        f"SELECT snapshot_id, position, click_id, {units(connection.dialect, 'credit')}"
        f" FROM `202_attribution_touchpoints` WHERE conv_id = ? AND snapshot_id IN ({whole_list(list(snapshots))})",
        [standing.journey.conversion.conv_id],
    )
    return sorted(
        CreditOfConversion(snapshots[snapshot_id].model_id, snapshots[snapshot_id].hour.date_hour, *place)
        for snapshot_id, *place in rows
    )


def _position(row: TouchpointRow) -> tuple[int, int]:
    return row.position, row.click_id
