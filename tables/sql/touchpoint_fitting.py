"""After a change of settings: do the touchpoint rows of stored conversions still show what they should?"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from stream.core.toggles import ToggleScope
from tables.sql.accounts import behind_account
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP
from tables.sql.journeys import read_journeys
from tables.sql.toggles import with_shown_touches
from tables.sql.touchpoints import are_shown, replace_touchpoints, touchpoints_of

BATCH = 500
_HOUR_SECONDS = 3600

_ID_COLUMNS = {ToggleScope.ADVERTISER: "aff_network_id", ToggleScope.CAMPAIGN: "campaign_id"}


class FittingPlace(NamedTuple):
    """Conversions of an account, within a scope, that happened at `since` or later."""

    user_id: int
    scope: ToggleScope
    scope_id: int
    since: int


class Fitted(NamedTuple):
    """Counts of conversions."""

    looked_at: int
    hidden: int  # lost all of their touchpoint rows
    restored: int  # got rows, or other ones

    def plus(self, other: "Fitted") -> "Fitted":
        return Fitted(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


NOTHING_FITTED = Fitted(0, 0, 0)


class _Place(NamedTuple):
    date_hour: int
    conv_id: int


class _Batch(NamedTuple):
    fitted: Fitted
    changed: Sequence[int]
    last: _Place | None  # None: there are no more


async def lock_journeys(connection: Connection) -> None:
    """Every partition of the journeys, in order, until the transaction ends: all chunks under way are through then."""
    if connection.dialect == MYSQL:
        await connection.fetch(
            "SELECT partition_id FROM `202_stream_progress` WHERE topic_group = ? ORDER BY partition_id FOR UPDATE",
            [JOURNEYS_GROUP],
        )


async def fit_touchpoints(
    database: Database,
    place: FittingPlace,
    *,
    now: Callable[[], int],
    evict: Callable[[Sequence[int]], Awaitable[object]],
    tell: Callable[[str], object],
) -> Fitted:
    """In transactions of 500 conversions. Rows that are right stay untouched, so repeating it changes nothing."""
    fitted = NOTHING_FITTED
    last: _Place | None = _Place(place.since - place.since % _HOUR_SECONDS, 0)
    while last is not None:
        after = last

        async def work(connection: Connection, after: _Place = after) -> _Batch:
            await lock_journeys(connection)
            return await _fit_batch(connection, place, after, now=now())

        batch = await behind_account(database, place.user_id, work, now=now())
        await evict(batch.changed)
        fitted, last = fitted.plus(batch.fitted), batch.last
        if batch.fitted.looked_at:
            tell(f"{fitted.looked_at} conversions looked at, {fitted.hidden} hidden, {fitted.restored} restored")
    return fitted


async def _fit_batch(connection: Connection, place: FittingPlace, after: _Place, *, now: int) -> _Batch:
    found = await _next_conversions(connection, place, after)
    ids = [each.conv_id for each in found]
    journeys = await with_shown_touches(connection, await read_journeys(connection, "conv_id", ids))
    standing = await touchpoints_of(connection, ids)
    wrong = [each for each in journeys if not are_shown(each, standing[each.conversion.conv_id])]
    wrong.sort(key=lambda each: each.conversion.conv_id)
    if wrong:
        await replace_touchpoints(connection, wrong, created_at=now)
    hidden = sum(not each.touches for each in wrong)
    fitted = Fitted(len(found), hidden, len(wrong) - hidden)
    return _Batch(fitted, [each.conversion.conv_id for each in wrong], found[-1] if len(found) == BATCH else None)


async def _next_conversions(connection: Connection, place: FittingPlace, after: _Place) -> list[_Place]:
    """By hour and id, which the index `user_hour` gives without sorting."""
    column = _ID_COLUMNS.get(place.scope)
    in_scope = f" AND {column} = {place.scope_id:d}" if column else ""
    rows = await connection.fetch(
        "SELECT date_hour, conv_id FROM `202_stream_journeys` WHERE user_id = ? AND date_hour >= ?"
        f" AND (date_hour > ? OR conv_id > ?) AND conv_time >= ?{in_scope} ORDER BY date_hour, conv_id LIMIT {BATCH}",
        [place.user_id, after.date_hour, after.date_hour, after.conv_id, place.since],
    )
    return [_Place(*row) for row in rows]
