"""Journeys and touchpoint rows that are to go: a batch of conversions, behind the locks of their partitions."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.core.facts import Journey, Outcome
from stream.core.journeys import converting_touch
from stream.core.keys import partition_of
from stream.core.toggles import Switchboard, Toggle, ToggleScope
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import TransactionConflict
from tables.sql.facts import JOURNEYS_GROUP
from tables.sql.inserts import whole_list
from tables.sql.journeys import read_journeys, write_journey_rows
from tables.sql.progress import lock_partition, raise_version
from tables.sql.purge_ranges import Meant, Span
from tables.sql.replays import forget_computed
from tables.sql.selects import in_batches
from tables.sql.toggles import read_toggles

_TOUCHPOINTS = "202_conversion_touchpoints"


class OffScope(NamedTuple):
    """Where multi-touch is off. `scope_id` 0: global."""

    user_id: int
    scope: ToggleScope
    scope_id: int

    def __str__(self) -> str:
        return str(self.scope) if self.scope is ToggleScope.GLOBAL else f"{self.scope}:{self.scope_id}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch of conversions comes to."""

    rows: Mapping[int, int]  # touchpoint rows by conversion, also where there are none
    journeys: Sequence[Journey] = ()  # purged, now or before; others are to be told of them
    changed: Sequence[Journey] = ()  # of these, those that were not purged before
    off: Mapping[int, OffScope] = field(default_factory=dict)  # by conversion, where that is why it is in here


Look = Callable[[Connection, Sequence[Meant], Sequence[Journey]], Awaitable[Batch]]


async def purge_batch(database: Database, meant: Sequence[Meant], look: Look, *, partitions: int, now: int) -> Batch:
    """One transaction. Repeating it changes nothing; `partitions` is the count of the source topics.

    Raises TransactionConflict where somebody was in the way: repeat it whole.
    """
    async with database.transaction() as connection:
        locked = _partitions_of(meant, partitions)
        for partition in sorted(locked):
            await lock_partition(connection, JOURNEYS_GROUP, partition, now=now)
        journeys = await _read(connection, meant)
        for journey in journeys:
            if _partition_of(journey, partitions) not in locked:
                raise TransactionConflict(f"conversion {journey.conversion.conv_id} has just been stored elsewhere")
        batch = await look(connection, meant, journeys)
        if batch.changed:
            await write_journey_rows(connection, batch.changed, new=(), updated_at=now)
            for partition, version in sorted(_greatest_versions(batch.changed, partitions).items()):
                await raise_version(connection, JOURNEYS_GROUP, partition, version)
        for ids in in_batches([conv_id for conv_id, count in sorted(batch.rows.items()) if count]):
            await connection.run(f"DELETE FROM `{_TOUCHPOINTS}` WHERE conv_id IN ({whole_list(ids)})")
        await forget_computed(connection, locked)
    return batch


async def look_at_batch(database: Database, meant: Sequence[Meant], look: Look) -> Batch:
    """What `purge_batch` would do now."""
    async with database.reading() as connection:
        return await look(connection, meant, await _read(connection, meant))


def look_to_purge(span: Span | None = None) -> Look:
    """All that is meant; what has left the span since it was looked for is left out."""

    async def look(connection: Connection, meant: Sequence[Meant], journeys: Sequence[Journey]) -> Batch:
        gone = {each.conversion.conv_id for each in journeys if span is not None and not _is_within(each, span)}
        purged = [(each, _purged(each)) for each in journeys if each.conversion.conv_id not in gone]
        return Batch(
            rows=await _count_rows(connection, [each.conv_id for each in meant if each.conv_id not in gone]),
            journeys=[after for _, after in purged if after.purged],
            changed=[after for before, after in purged if after is not before],
        )

    return look


async def look_to_hide(connection: Connection, meant: Sequence[Meant], journeys: Sequence[Journey]) -> Batch:
    """Those at whose time multi-touch was off. Their journeys stay, so that turning it on again brings rows back."""
    places = {
        each.conversion.conv_id: (
            each.conversion.user_id,
            each.aff_network_id,
            each.conversion.campaign_id,
            each.conversion.conv_time,
        )
        for each in journeys
    }
    places |= await _places_in_logs(connection, [each.conv_id for each in meant if each.conv_id not in places])
    toggles = await read_toggles(connection, {place[0] for place in places.values()})
    boards = {user_id: _Boards(found) for user_id, found in toggles.items()}
    off = {
        conv_id: scope
        for conv_id, place in places.items()
        if place[0] in boards and (scope := boards[place[0]].off_scope(*place)) is not None
    }
    return Batch(rows=await _count_rows(connection, sorted(off)), off=off)


async def read_off_toggles(connection: Connection, user_ids: Collection[int] = ()) -> dict[int, Sequence[Toggle]]:
    """All toggles that turn something off, of these accounts or of all, by account."""
    if not user_ids:
        rows = await connection.fetch(
            "SELECT user_id FROM `202_attribution_settings` UNION SELECT user_id FROM `202_stream_toggles`"
        )
        user_ids = [user_id for (user_id,) in rows]
    toggles = await read_toggles(connection, user_ids)
    off = {user_id: [each for each in found if not each.is_enabled] for user_id, found in sorted(toggles.items())}
    return {user_id: found for user_id, found in off.items() if found}


class _Boards:
    """Of one account: whether multi-touch is off, and which scope says so."""

    def __init__(self, toggles: Sequence[Toggle]) -> None:
        self._all = Switchboard(toggles)
        # The narrowest first: where multi-touch is off, the first of them that says off is the one that counts.
        self._by_scope = {
            scope: Switchboard(each for each in toggles if each.scope is scope)
            for scope in (ToggleScope.CAMPAIGN, ToggleScope.ADVERTISER, ToggleScope.GLOBAL)
        }

    def off_scope(self, user_id: int, advertiser: int, campaign: int, conv_time: int) -> OffScope | None:
        if self._all.is_multi_touch_on(advertiser=advertiser, campaign=campaign, conv_time=conv_time):
            return None
        ids = {ToggleScope.CAMPAIGN: campaign, ToggleScope.ADVERTISER: advertiser, ToggleScope.GLOBAL: 0}
        scope = next(
            scope
            for scope, board in self._by_scope.items()
            if not board.is_multi_touch_on(advertiser=advertiser, campaign=campaign, conv_time=conv_time)
        )
        return OffScope(user_id, scope, ids[scope])


def _purged(journey: Journey) -> Journey:
    """Itself, where there is nothing to purge: it does not count, or was purged before."""
    if journey.purged or journey.outcome is not Outcome.COUNTED:
        return journey
    conversion = journey.conversion
    converting = next(
        (touch for touch in journey.touches if touch.click_id == conversion.click_id),
        converting_touch(conversion, None),
    )
    return journey._replace(touches=(converting,), version=journey.version + 1, purged=True)


def _is_within(journey: Journey, span: Span) -> bool:
    conversion = journey.conversion
    return conversion.user_id == span.user_id and span.start <= conversion.conv_time <= span.end


def _partition_of(journey: Journey, partitions: int) -> int:
    return partition_of(journey.key.user_id, journey.key.campaign_id, partitions)


def _greatest_versions(journeys: Sequence[Journey], partitions: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for journey in journeys:
        partition = _partition_of(journey, partitions)
        found[partition] = max(journey.version, found.get(partition, 1))
    return found


def _partitions_of(meant: Sequence[Meant], partitions: int) -> set[int]:
    """All of them, where one is not known."""
    found: set[int] = set()
    for each in meant:
        if each.user_id is None or each.campaign_id is None:
            return set(range(partitions))
        found.add(partition_of(each.user_id, each.campaign_id, partitions))
    return found


async def _read(connection: Connection, meant: Sequence[Meant]) -> list[Journey]:
    journeys = await read_journeys(connection, "conv_id", [each.conv_id for each in meant])
    return sorted(journeys, key=lambda journey: journey.conversion.conv_id)


async def _count_rows(connection: Connection, conv_ids: Sequence[int]) -> dict[int, int]:
    counts = dict.fromkeys(conv_ids, 0)
    for ids in in_batches(conv_ids):
        rows = await connection.fetch(
            f"SELECT conv_id, COUNT(*) FROM `{_TOUCHPOINTS}` WHERE conv_id IN ({whole_list(ids)}) GROUP BY conv_id"
        )
        counts |= {conv_id: int(count) for conv_id, count in rows}
    return counts


async def _places_in_logs(connection: Connection, conv_ids: Sequence[int]) -> dict[int, tuple[int, int, int, int]]:
    """User, advertiser, campaign and time of conversions that have no journey; the campaign knows its advertiser."""
    found: dict[int, tuple[int, int, int, int]] = {}
    for ids in in_batches(conv_ids):
        rows = await connection.fetch(
            "SELECT l.conv_id, l.user_id, COALESCE(c.aff_network_id, 0), l.campaign_id, l.conv_time"
            " FROM `202_conversion_logs` l LEFT JOIN `202_aff_campaigns` c ON c.aff_campaign_id = l.campaign_id"
            f" WHERE l.conv_id IN ({whole_list(ids)})"
        )
        found |= {row[0]: (row[1], row[2], row[3], row[4]) for row in rows}
    return found
