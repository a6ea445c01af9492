"""SQL as it stands against the scratch database: row by row, in the order of keys, some thousand rows at a time."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import NamedTuple

from stream.commands.replay_plan import DAY_SECONDS, Wish
from stream.commands.showing import utc
from stream.commands.verify_clicks import ClickComparison
from stream.commands.verify_scratch import accounts_of, journeys_by_id, whole_hours
from stream.config import Settings
from stream.core.facts import Journey
from stream.core.hours import HourKey
from stream.core.keys import partition_of
from stream.core.money import Units, amount_text
from stream.replay.comparing import NOTHING, Difference, of_journey, of_row, of_rows
from tables.sql.database import Database
from tables.sql.hour_store import SqlHourStore
from tables.sql.hours import read_hours
from tables.sql.snapshots import GlobalSnapshot, read_global, steps_text
from tables.sql.standing_rows import (
    CreditPlace,
    SnapshotAt,
    Span,
    StandingCredit,
    Stray,
    credits_in_order,
    hours_with_snapshots,
    logs_of,
    pages_of_conversions,
    slugs_of,
    snapshots_in_order,
    stray_credits,
    stray_touchpoints,
)
from tables.sql.touchpoints import ShownTouch, touchpoints_of

_HOURS_AT_A_TIME = 24


class _Totals(NamedTuple):
    """Of a snapshot."""

    clicks: int
    conversions: int
    revenue: str
    cost: str


class _Touch(NamedTuple):
    """Of a touchpoint, without its position."""

    click_id: int
    click_time: int


class _Share(NamedTuple):
    """Of a credit."""

    click_id: int
    credit: str


class Comparison:
    """What should stand in `installed` is in `computed`."""

    def __init__(
        self,
        settings: Settings,
        wish: Wish,
        *,
        installed: Database,
        computed: Database,
        hours: SqlHourStore,
        history_from: dict[int, int],
        partitions: int,
        is_log_short: bool,
    ) -> None:
        self._wish = wish
        self._installed = installed
        self._computed = computed
        self._hours = hours
        self._history_from = history_from  # by partition: before it, SQL itself says, clicks may be missing
        self._partitions = partitions
        self._is_log_short = is_log_short
        self._lookback = settings.lookback_days * DAY_SECONDS
        self._with_logs = settings.conversion_logs == "own"
        self.outdated_hours = 0  # of other models or settings than those of now: not compared

    async def differences(self) -> AsyncIterator[Difference]:
        """Conversions with their rows first, then clicks, then hours."""
        accounts = sorted(
            {*await accounts_of(self._computed, self._wish), *await accounts_of(self._installed, self._wish)}
        )
        for user_id in accounts:
            async for difference in self._of_conversions(user_id):
                yield difference
        async for difference in self._of_stray_rows():
            yield difference
        clicks = ClickComparison(
            wish=self._wish,
            installed=self._installed,
            computed=self._computed,
            history_from=max(self._history_from.values(), default=0),
            is_log_short=self._is_log_short,
        )
        async for difference in clicks.differences():
            yield difference
        for user_id in accounts:
            async for difference in self._of_hours(user_id):
                yield difference

    # Conversions

    async def _of_conversions(self, user_id: int) -> AsyncIterator[Difference]:
        """Those that should be in the range, and then those that are there and should not."""
        span = Span(user_id, self._wish.start, self._wish.end)
        async for page in pages_of_conversions(self._computed, span):
            expected = await journeys_by_id(self._computed, page)
            found = await journeys_by_id(self._installed, page)
            async for difference in self._of_page([(expected.get(each), found.get(each)) for each in page]):
                yield difference
        async for page in pages_of_conversions(self._installed, span):
            expected = await journeys_by_id(self._computed, page)
            surplus = [each for each in page if not (each in expected and self._is_meant(expected[each]))]
            found = await journeys_by_id(self._installed, surplus)
            async for difference in self._of_page([(expected.get(each), found.get(each)) for each in surplus]):
                yield difference

    def _is_meant(self, journey: Journey) -> bool:
        conversion, wish = journey.conversion, self._wish
        return wish.start <= conversion.conv_time <= wish.end and (not wish.users or conversion.user_id in wish.users)

    async def _of_page(self, pairs: Sequence[tuple[Journey | None, Journey | None]]) -> AsyncIterator[Difference]:
        ids = [each.conversion.conv_id for pair in pairs for each in pair if each is not None]
        ids = sorted(set(ids))
        async with self._computed.reading() as connection:
            expected_touches, expected_logs = await touchpoints_of(connection, ids), await logs_of(connection, ids)
        async with self._installed.reading() as connection:
            found_touches, found_logs = await touchpoints_of(connection, ids), await logs_of(connection, ids)
        for expected, found in pairs:
            conversion = next((each.conversion for each in (expected, found) if each is not None), None)
            if conversion is None:
                continue  # gone meanwhile
            for difference in of_journey(expected, found, is_history_short=self._is_history_short(expected)):
                yield difference
            conv_id = conversion.conv_id
            key = f"conversion {conv_id}"
            if self._with_logs:
                for difference in of_row("conversion log", key, expected_logs.get(conv_id), found_logs.get(conv_id)):
                    yield difference
            for difference in of_rows(
                "touchpoint", key, _touches(expected_touches[conv_id]), _touches(found_touches[conv_id])
            ):
                yield difference

    def _is_history_short(self, journey: Journey | None) -> bool:
        if journey is None:
            return False
        conversion = journey.conversion
        partition = partition_of(conversion.user_id, conversion.campaign_id, self._partitions)
        return conversion.conv_time - self._lookback < self._history_from.get(partition, 0)

    async def _of_stray_rows(self) -> AsyncIterator[Difference]:
        """Rows that hang on nothing have no account and hour of their own: what they name tells where they belong."""
        wish = self._wish
        for user_id in wish.users or (0,):
            span = Span(user_id, max(0, wish.start - self._lookback), wish.end)
            async with self._installed.reading() as connection:
                async for strays in stray_touchpoints(connection, span):
                    known = await journeys_by_id(self._computed, sorted({each.conv_id for each in strays}))
                    for each in strays:
                        if each.conv_id not in known:  # else its journey was missed, and the row compared with it
                            yield _surplus("touchpoint", each)
                async for strays in stray_credits(connection, span._replace(start=wish.start)):
                    for each in strays:
                        yield _surplus("credit without snapshot", each)

    # Hours

    async def _of_hours(self, user_id: int) -> AsyncIterator[Difference]:
        span = Span(user_id, *whole_hours(self._wish))
        hours: set[int] = set()
        for database in (self._installed, self._computed):
            async with database.reading() as connection:
                hours |= await hours_with_snapshots(connection, span)
        keys = [HourKey(user_id, date_hour) for date_hour in sorted(hours)]
        for start in range(0, len(keys), _HOURS_AT_A_TIME):
            portion = await self._without_outdated(keys[start : start + _HOURS_AT_A_TIME])
            expected = await _Side.read(self._computed, user_id, portion)
            found = await _Side.read(self._installed, user_id, portion)
            for difference in _of_snapshots(expected, found):
                yield difference
            async with self._computed.reading() as computed, self._installed.reading() as installed:
                wanted = credits_in_order(computed, expected.of_everything, expected.slugs)
                standing = credits_in_order(installed, found.of_everything, found.slugs)
                async for difference in _of_credits(user_id, wanted, standing):
                    yield difference

    async def _without_outdated(self, keys: Sequence[HourKey]) -> Sequence[HourKey]:
        if not keys:
            return ()
        revision = (await self._hours.read_revisions({keys[0].user_id}))[keys[0].user_id]
        async with self._installed.reading() as connection:
            rows = await read_hours(connection, keys)
        outdated = {key for key, row in rows.items() if row.revision and row.configuration != revision}
        self.outdated_hours += len(outdated)
        return [key for key in keys if key not in outdated]


class _Side(NamedTuple):
    """Snapshots of some hours of one account, in one of the two databases."""

    user_id: int
    slugs: dict[int, str]
    snapshots: Mapping[SnapshotAt, _Totals]
    of_everything: Sequence[GlobalSnapshot]  # that credits hang on

    @classmethod
    async def read(cls, database: Database, user_id: int, keys: Sequence[HourKey]) -> "_Side":
        async with database.reading() as connection:
            slugs = await slugs_of(connection, user_id)
            rows = await snapshots_in_order(connection, keys, slugs)
            of_everything = await read_global(connection, keys)
        totals = {
            place: _Totals(row.clicks, row.conversions, steps_text(row.revenue), steps_text(row.cost))
            for place, row in rows
        }
        return cls(user_id, slugs, totals, of_everything)


def _of_snapshots(expected: _Side, found: _Side) -> Iterator[Difference]:
    for place in sorted({*expected.snapshots, *found.snapshots}):
        scope = f"{place.scope} {place.scope_id}" if place.scope_id else place.scope
        key = f"user {expected.user_id} model {place.slug} hour {utc(place.date_hour)} scope {scope}"
        yield from of_row("snapshot", key, expected.snapshots.get(place), found.snapshots.get(place))


async def _of_credits(
    user_id: int, expected: AsyncIterator[StandingCredit], found: AsyncIterator[StandingCredit]
) -> AsyncIterator[Difference]:
    """Both ascending, and neither of them in memory."""
    wanted, there = await anext(expected, None), await anext(found, None)
    while wanted is not None or there is not None:
        place = min(each.place for each in (wanted, there) if each is not None)
        has_wanted, has_there = (each is not None and each.place == place for each in (wanted, there))
        share = _share(wanted) if has_wanted else None
        standing = _share(there) if has_there else None
        for difference in of_row("credit", _credit_key(user_id, place), share, standing):
            yield difference
        if has_wanted:
            wanted = await anext(expected, None)
        if has_there:
            there = await anext(found, None)


def _credit_key(user_id: int, place: CreditPlace) -> str:
    return (
        f"user {user_id} model {place.slug} hour {utc(place.date_hour)} conversion {place.conv_id}"
        f" position {place.position}"
    )


def _share(credit: StandingCredit | None) -> _Share | None:
    if credit is None:
        return None
    text = amount_text(Units(credit.parts)) if credit.parts >= 0 else "unlike its weight"
    return _Share(credit.click_id, text)


def _touches(touches: Sequence[ShownTouch]) -> list[tuple[int, _Touch]]:
    return [(touch.position, _Touch(touch.click_id, touch.click_time)) for touch in touches]


def _surplus(what: str, stray: Stray) -> Difference:
    return Difference(
        what, f"conversion {stray.conv_id} position {stray.position}", NOTHING, f"click_id {stray.click_id}"
    )
