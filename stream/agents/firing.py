"""A fire: one transaction that makes hours fit the journeys, for the worker as its records come and for a rebuild.

SQL is the truth. A mark says only that a conversion changed; what it came to is read again, behind the lock of its
account. Totals and credits of an hour are written together, so no reader sees one without the other.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stream.agents.hour_computing import Pace, credit_rows, finished, lacks_credits, snapshot_changes
from stream.agents.hour_ports import HourTransaction
from stream.core.configuration import Configuration
from stream.core.facts import Journey, Outcome
from stream.core.hours import Hour, HourKey
from stream.core.results import (
    NEVER_FIRED,
    CreditedAt,
    HourChange,
    HourContents,
    HourRow,
    Removal,
)
from stream.core.totals import Earner, earner_of


class HoursAtWork:
    """Hours in memory, bounded in conversions: those fired longest ago leave first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._hours: OrderedDict[HourKey, Hour] = OrderedDict()
        self.conversions = 0

    def take(self, key: HourKey, revision: int) -> Hour | None:
        """Out of memory, for a fire to change; None where nothing is known of it at that revision."""
        hour = self._hours.pop(key, None)
        if hour is not None:
            self.conversions -= len(hour)
        return hour if hour is not None and hour.revision == revision else None

    def keep(self, hours: Mapping[HourKey, Hour]) -> None:
        """As they were committed."""
        for key, hour in hours.items():
            if (known := self._hours.pop(key, None)) is not None:  # another partition had it meanwhile
                self.conversions -= len(known)
            self._hours[key] = hour
            self.conversions += len(hour)
        while self.conversions > self._bound and len(self._hours) > 1:
            _, dropped = self._hours.popitem(last=False)
            self.conversions -= len(dropped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to fire."""

    marks: Collection[tuple[int, int]] = ()  # account and conversion that may have changed
    due: Collection[HourKey] = ()  # to be looked at without a change of theirs
    anew: Collection[HourKey] = ()  # all of it to be written again
    final_before: int = 0  # hours that begin earlier are final; see `stream.core.hours.final_before`

    def accounts(self) -> set[int]:
        return {*(user_id for user_id, _ in self.marks), *(key.user_id for key in [*self.due, *self.anew])}


@dataclass(frozen=True, slots=True)
class FiredHour:
    """What became of an hour: `before` and `change.row` are its rows."""

    before: HourRow
    change: HourChange
    removals: Sequence[Removal]


@dataclass(frozen=True, slots=True)
class Fired:
    """All that changed, and what may be remembered once it is committed."""

    hours: Sequence[FiredHour]
    before: Mapping[HourKey, HourRow]  # of all hours that were looked at
    memory: Mapping[HourKey, Hour]


async def fire(transaction: HourTransaction, at_work: HoursAtWork, order: Order, *, with_extra_scopes: bool) -> Fired:
    """Within a transaction of the caller. Hours that fit already are not written."""
    accounts = order.accounts()
    await transaction.lock_accounts(accounts)
    firing = _Firing(transaction, at_work, order, with_extra_scopes=with_extra_scopes)
    firing.configurations = await transaction.read_configurations(accounts)
    await firing.gather()
    changes = [change for key in sorted(firing.rows) if (change := await firing.change_of(key)) is not None]
    removals = await transaction.write(changes) if changes else {}
    for change in changes:
        if change.key in firing.hours:
            firing.hours[change.key].revision = change.row.revision
    return Fired(
        [FiredHour(firing.rows[change.key], change, removals.get(change.key, ())) for change in changes],
        firing.rows,
        firing.hours,
    )


class _Firing:
    """Which hours does the order come to, and what is known of them?"""

    configurations: Mapping[int, Configuration]

    def __init__(
        self, transaction: HourTransaction, at_work: HoursAtWork, order: Order, *, with_extra_scopes: bool
    ) -> None:
        self._transaction = transaction
        self._pace = Pace(transaction.keep_alive)
        self._at_work = at_work
        self._order = order
        self._with_extra_scopes = with_extra_scopes
        self.rows: dict[HourKey, HourRow] = {}
        self.hours: dict[HourKey, Hour] = {}  # as they will be after the fire
        self._contents: dict[HourKey, HourContents] = {}
        self._journeys: dict[int, Journey] = {}  # the newest that any of the reads gave
        self._credited: dict[int, CreditedAt] = {}
        self._asked: set[int] = set()  # conversions of which `_credited` knows, also that there is nothing
        self._touched: dict[HourKey, set[int]] = {}

    # Gathering

    async def gather(self) -> None:
        """Until every conversion that changed has both its hours here: the one it counts in, and where credits stand.

        Each read sees what is committed at its time, so one conversion may show itself in two hours: the newest
        version decides. Where credits stand changes only behind the lock of the account, so that does not move.

        What turns final was complete when the watermark was stored, and marks may still be on their way: SQL is asked
        for all that has no credits yet, so that an hour is final with them.
        """
        await self._read_marked(self._order.marks)
        await self._gather_hours()
        asked: set[HourKey] = set()
        while turning := self._turning_final() - asked:
            asked |= turning
            overlooked = await self._transaction.read_uncredited(turning)
            await self._read_marked([mark for mark in overlooked if mark[1] not in self._asked])
            await self._gather_hours()

    async def _gather_hours(self) -> None:
        while True:
            keys = {*self._order.due, *self._order.anew, *self._touched}
            unknown = keys - self.rows.keys()
            if unknown:
                self.rows |= dict.fromkeys(unknown, NEVER_FIRED) | dict(await self._transaction.read_hours(unknown))
            unloaded = [key for key in keys if self._must_load(key)]
            if unloaded:
                await self._load(unloaded)
            elif not unknown:
                return

    def _turning_final(self) -> set[HourKey]:
        """Without those that were just read whole."""
        return {
            key
            for key, row in self.rows.items()
            if not row.is_final
            and key.date_hour < self._order.final_before
            and key not in self._contents
            and (row.revision or self._touched.get(key))
        }

    async def _read_marked(self, marks: Collection[tuple[int, int]]) -> None:
        if not marks:
            return
        conv_ids = {conv_id for _, conv_id in marks}
        credited = await self._transaction.read_credited(conv_ids)
        journeys = {each.conversion.conv_id: each for each in await self._transaction.read_journeys(conv_ids)}
        # A mark that names another account than the conversion's own says nothing, not even that it was asked for.
        for user_id, conv_id in marks:
            journey, standing = journeys.get(conv_id), credited.get(conv_id)
            owner = standing.hour.user_id if standing is not None else None
            if user_id not in (owner, journey.conversion.user_id if journey is not None else None):
                continue
            self._asked.add(conv_id)
            if standing is not None:
                self._credited[conv_id] = standing
            if journey is not None:
                self._journeys[conv_id] = journey
            self._touch(conv_id)

    def _touch(self, conv_id: int) -> None:
        journey, standing = self._journeys.get(conv_id), self._credited.get(conv_id)
        if journey is not None:
            self._touched.setdefault(_hour_of(journey), set()).add(conv_id)
        if standing is not None:
            self._touched.setdefault(standing.hour, set()).add(conv_id)

    def _must_load(self, key: HourKey) -> bool:
        """Unless it is in memory as it stands, or nothing about it changed."""
        if key in self._contents or key in self.hours:
            return False
        if self._is_anew(key):
            return True
        # An hour that was never fired may hold what the system before us wrote, credits of what was deleted among it.
        if self.rows[key].revision and self._all_fit(key):
            return False
        hour = self._at_work.take(key, self.rows[key].revision)
        # An hour that never counted anything has no row that could say by which models.
        if hour is None or hour.configuration.revision != self.configurations[key.user_id].revision:
            return True
        self.hours[key] = hour
        return False

    def _is_anew(self, key: HourKey) -> bool:
        """Asked for, or computed with other models and settings than those of today; a final one only if it changes."""
        row = self.rows[key]
        if key in self._order.anew:
            return True
        if not row.revision or row.configuration == self.configurations[key.user_id].revision:
            return False
        return not row.is_final or not self._all_fit(key)

    def _all_fit(self, key: HourKey) -> bool:
        return all(self._fits(conv_id, key) for conv_id in self._touched.get(key, ()))

    async def _load(self, keys: Collection[HourKey]) -> None:
        """All of these hours, and of every conversion that shows itself in them where else it stands."""
        loaded = await self._transaction.read_contents(keys)
        moved: set[int] = set()
        strangers: set[int] = set()
        for key, contents in loaded.items():
            self._contents[key] = contents
            moved |= self._see(contents.journeys)
            self._credited |= {conv_id: CreditedAt(key, version) for conv_id, version in contents.credited.items()}
            self._asked |= contents.credited.keys()
            strangers |= contents.credited.keys() - self._journeys.keys()
        if strangers:  # credited here, and counting in another hour now
            moved |= strangers
            self._see(await self._transaction.read_journeys(strangers))
        new = {each.conversion.conv_id for contents in loaded.values() for each in contents.journeys} - self._asked
        if new:
            found = await self._transaction.read_credited(new)
            self._credited |= found
            self._asked |= new
            moved |= found.keys()
        for conv_id in moved:
            self._touch(conv_id)

    def _see(self, journeys: Iterable[Journey]) -> set[int]:
        """Returns those that were seen in another hour before."""
        moved = set()
        for journey in journeys:
            conv_id = journey.conversion.conv_id
            known = self._journeys.get(conv_id)
            if known is None or known.version < journey.version:
                self._journeys[conv_id] = journey
            if known is not None and known.date_hour != journey.date_hour:
                moved.add(conv_id)
        return moved

    def _belongs(self, conv_id: int, key: HourKey) -> bool:
        journey = self._journeys.get(conv_id)
        return journey is not None and journey.outcome is Outcome.COUNTED and _hour_of(journey) == key

    def _fits(self, conv_id: int, key: HourKey) -> bool:
        """Do its credits stand in the hour as they should?"""
        standing = self._credited.get(conv_id)
        if self._belongs(conv_id, key):
            return standing == CreditedAt(key, self._journeys[conv_id].version)
        return standing is None or standing.hour != key

    # Computing

    async def change_of(self, key: HourKey) -> HourChange | None:
        """None where nothing is to be written."""
        row = self.rows[key]
        is_final_now = row.is_final or key.date_hour < self._order.final_before
        if key not in self._contents and key not in self.hours:
            if not row.revision or is_final_now == row.is_final:
                return None
            return finished(key, row)
        changed = await self._counted(key)
        hour = self.hours[key]
        problems = hour.too_great()
        is_rewritten = self._is_rewritten(key, problems, changed)
        if is_rewritten:
            changed |= set(hour.conv_ids())
        problems = {**hour.configuration.broken, **problems}
        snapshots, removed = snapshot_changes(
            hour, self._contents.get(key), problems, is_foreign=self._is_foreign(key), is_rewritten=is_rewritten
        )
        await self._pace.went(1 + len(snapshots) + len(removed))
        hour.settle()
        if not (is_rewritten or changed or snapshots or removed) and is_final_now == row.is_final:
            return None
        if not (row.revision or hour.totals or changed or removed):
            return None  # an hour that never counted anything
        models = [model for model in hour.configuration.models if model.model_id not in problems]
        return HourChange(
            key=key,
            row=HourRow(row.revision + 1, row.published_revision, hour.configuration.revision, is_final_now, problems),
            snapshots=snapshots,
            removed_snapshots=removed,
            cleared=None if is_rewritten else self._credited_in(key, changed),
            credits=await credit_rows(hour, changed, models, self._pace),
            credited={conv_id: as_is for conv_id in changed if (as_is := hour.credited_as(conv_id)) is not None},
            uncredited=[each for each in self._credited_in(key, changed) if not self._counts_somewhere(each)],
        )

    def _is_rewritten(self, key: HourKey, problems: Collection[int], changed: Collection[int]) -> bool:
        """All of it, instead of what changed?"""
        hour, contents = self.hours[key], self._contents.get(key)
        broken = hour.configuration.broken.keys()
        return (
            self._is_anew(key)
            or self._is_foreign(key)
            or {*problems} != self.rows[key].problems.keys() - broken
            or (contents is not None and lacks_credits(hour, contents, problems, changed))
        )

    def _is_foreign(self, key: HourKey) -> bool:
        """Does it hold results of the system that was here before?"""
        return not self.rows[key].revision and key in self._contents and bool(self._contents[key].snapshots)

    async def _counted(self, key: HourKey) -> set[int]:
        """Bring the hour up to date; returns the conversions whose credits must be written or go."""
        configuration = self.configurations[key.user_id]
        contents = self._contents.get(key)
        candidates: set[int] = set(self._touched.get(key, ()))
        if contents is not None:
            self._at_work.take(key, 0)
            self.hours[key] = Hour(configuration, with_extra_scopes=self._with_extra_scopes)
            self.hours[key].revision = self.rows[key].revision
            candidates |= {journey.conversion.conv_id for journey in contents.journeys} | contents.credited.keys()
        hour = self.hours[key]
        changed = set()
        for conv_id in sorted(candidates):
            await self._pace.went()
            fits = self._fits(conv_id, key)
            if not fits:
                changed.add(conv_id)
            if fits and contents is None:
                continue
            earner = self._earner(conv_id, configuration) if self._belongs(conv_id, key) else None
            if earner is None:
                hour.remove(conv_id)
            else:
                hour.put(earner)
        return changed

    def _earner(self, conv_id: int, configuration: Configuration) -> Earner | None:
        journey = self._journeys[conv_id]
        is_on = configuration.toggles.is_multi_touch_on(
            advertiser=journey.aff_network_id,
            campaign=journey.conversion.campaign_id,
            conv_time=journey.conversion.conv_time,
        )
        return earner_of(journey, is_multi_touch_on=is_on)

    def _credited_in(self, key: HourKey, conv_ids: Iterable[int]) -> list[int]:
        return sorted(each for each in conv_ids if (at := self._credited.get(each)) is not None and at.hour == key)

    def _counts_somewhere(self, conv_id: int) -> bool:
        journey = self._journeys.get(conv_id)
        return journey is not None and journey.outcome is Outcome.COUNTED


def _hour_of(journey: Journey) -> HourKey:
    return HourKey(journey.conversion.user_id, journey.date_hour)
