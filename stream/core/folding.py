"""The parts of a fold, in the order in which `stream.core.fold` asks for them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stream.core.entering import Entering
from stream.core.events import NO_CAMPAIGN, Click, Conversion
from stream.core.facts import EnteredNeed, Facts, HistoryNeed, Journey, Moment, Needs, Outcome, Touch
from stream.core.journeys import JOURNEY_LIMIT, Window, assemble, converting_touch, window_of
from stream.core.keys import JourneyKey, journey_key_of_click, journey_key_of_conversion, partition_of
from stream.core.money import Units
from stream.core.settle import Group, SettledClicks, counting, settle_conversions
from stream.core.state import (
    KEPT_CLICKS,
    UNKNOWN_FLOOR,
    KeyState,
    newest_clicks,
    pack_click,
    time_of_click_after,
    unknown_state,
    with_click,
    with_conversion,
    with_history,
    without_click,
)

_EVER = Moment(2**32 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Place:
    """The partition a chunk belongs to, and what is known of it."""

    partition: int
    partitions: int
    lookback: int  # seconds
    newest_conversion: int  # no conversion stored for the partition is newer, unix seconds
    history_from: int = 0  # clicks before this time may be missing; 0: none is
    # Of conversions that were stored once: with which version they begin, should their journey be gone.
    first_versions: Mapping[int, int] = field(default_factory=dict)

    def owns(self, event: Click | Conversion) -> bool:
        return partition_of(event.user_id, event.campaign_id, self.partitions) == self.partition


@dataclass(frozen=True, slots=True)
class Folded:
    """What is to be done with a chunk, and what was seen in it."""

    journeys: Sequence[Journey]  # to write and publish, ascending by conv_id
    previous_hours: Mapping[int, int]  # of the conversions that moved to another hour, by conv_id
    displaced: frozenset[int]  # other conversions that do not count: their log rows must go
    states: Mapping[JourneyKey, KeyState]
    unsettled: frozenset[JourneyKey]  # to be forgotten by the next owner, should this chunk miss the changelog
    restated: frozenset[int]  # conversions to be computed again in that case
    newest_conversion: int
    clicks: frozenset[int]  # accepted ids
    rekeyed_clicks: Sequence[int]  # indexes into the chunk's clicks
    rekeyed_conversions: Sequence[int]  # indexes into the chunk's conversions
    new: frozenset[int] = frozenset()  # conversions of these journeys that had none in SQL
    counts: Counter[str] = field(default_factory=Counter)
    # Converting clicks that another partition may store or change, as they were when read.
    borrowed_clicks: Mapping[int, Click | None] = field(default_factory=dict)


class Folding:
    """The work on one chunk, from settled clicks to `Folded`."""

    def __init__(self, place: Place, load: Callable[[JourneyKey], KeyState | None], settled: SettledClicks) -> None:
        self._place = place
        self._load = load
        self._settled = settled
        self._counts = settled.counts
        self._clicks: dict[int, Click] = dict(settled.winners)
        self._states: dict[JourneyKey, KeyState] = {}
        self._unsettled: set[JourneyKey] = set()
        self._stored: Mapping[int, Journey] = {}
        self._credited: Mapping[int, int] = {}
        self._current: dict[int, Conversion] = {}
        self._groups: dict[Group, dict[int, Conversion]] = {}
        self._grouped_clicks: frozenset[int] = frozenset()  # all conversions of these have been read
        self._affected: list[int] = []
        self._asked_clicks: set[int] = set()
        self._restated: set[int] = set()
        self._rekeyed_conversions: Sequence[int] = ()
        self._keys: dict[int, JourneyKey] = {}
        self._histories: dict[HistoryNeed, Sequence[Touch]] = {}
        self._windows: dict[int, Window] = {}
        self._found_candidates: dict[int, list[Touch]] = {}
        self._entered, self._entered_before = self._remember_clicks()

    # Clicks

    def _remember_clicks(self) -> tuple[Entering, Entering]:
        """Put the settled clicks into the states of their keys. Returns what they enter, and what they entered."""
        before: list[tuple[JourneyKey, Moment]] = []
        for old, new in self._settled.changed:
            if not self._is_candidate(old):
                continue
            key, moment = journey_key_of_click(old), Moment(old.click_time, old.click_id)
            before.append((key, moment))
            if not self._is_candidate(new) or journey_key_of_click(new) != key or pack_click(new) != pack_click(old):
                self._unsettled.add(key)
                self._states[key] = without_click(self._state(key), moment)
        after: list[tuple[JourneyKey, Moment]] = []
        states, stored = self._states, self._settled.stored
        for click in self._settled.winners.values():
            if click.campaign_id == NO_CAMPAIGN or (click.click_bot and click.visitor_id):
                continue
            if click.click_id in stored and not self._place.owns(click):
                continue  # only what was stored before can stand in another partition
            key = JourneyKey(click.user_id, click.campaign_id, click.visitor_id)
            state = states.get(key) or self._state(key)
            states[key] = with_click(state, pack_click(click))
            if click.click_time <= state.newest_conversion:
                after.append((key, Moment(click.click_time, click.click_id)))
        # Not earlier: the bound of what a click can enter takes all clicks of the chunk.
        entered_before = [self._entered_need(key, moment) for key, moment in before]
        return Entering([self._entered_need(*entry) for entry in after] + entered_before), Entering(entered_before)

    def _is_candidate(self, click: Click) -> bool:
        """Only clicks that a journey of this partition can take in are remembered."""
        if click.campaign_id == NO_CAMPAIGN or (click.click_bot and click.visitor_id):
            return False
        return self._place.owns(click)

    def _state(self, key: JourneyKey) -> KeyState:
        state = self._states.get(key) or self._load(key) or unknown_state(self._place.newest_conversion)
        self._states[key] = state
        return state

    def _entered_need(self, key: JourneyKey, moment: Moment) -> EnteredNeed:
        """From the click's time on, until 25 newer clicks hide it; a visitor's journey may end at an older click."""
        until = moment.click_time + self._place.lookback
        if not key.names_visitor:
            hidden_from = time_of_click_after(self._state(key), moment, JOURNEY_LIMIT)
            if hidden_from is not None:
                until = min(until, hidden_from)
        return EnteredNeed(key, moment.click_time, until)

    # Conversions

    def first_needs(self, conversions: Sequence[Conversion]) -> Needs | None:
        named = {conversion.click_id for conversion in conversions}
        self._grouped_clicks = frozenset(named | self._settled.winners.keys())
        if not self._grouped_clicks:
            return None
        self._count_lookup("conversions", conversions)
        self._count_lookup("entered", self._entered.needs)
        self._asked_clicks = named - self._settled.winners.keys()
        return Needs(
            conversions=frozenset(conversion.conv_id for conversion in conversions),
            conversions_of_clicks=self._grouped_clicks,
            clicks=frozenset(self._asked_clicks),
            entered=self._entered.needs,
            with_credited=True,
        )

    def take_first_facts(self, facts: Facts, conversions: Sequence[Conversion]) -> None:
        """Let the chunk's reports meet the stored ones, and find every conversion that has to be computed."""
        self._stored, self._credited = facts.journeys, facts.credited
        self._clicks.update(facts.clicks)
        stored = {conv_id: journey.conversion for conv_id, journey in facts.journeys.items()}
        settled = settle_conversions(conversions, stored)
        self._counts.update(settled.counts)
        self._rekeyed_conversions = settled.rekeyed
        self._current = stored | settled.winners
        changed_groups = {
            Group(report.click_id, report.transaction_id)
            for conv_id, winner in settled.winners.items()
            for report in (winner, stored.get(conv_id))
            if report is not None and report.transaction_id
        }
        self._group(self._current.values())
        for conv_id, conversion in sorted(self._current.items()):
            is_sibling = Group(conversion.click_id, conversion.transaction_id) in changed_groups
            if not self._place.owns(conversion):
                continue
            if conv_id in settled.winners:
                self._affected.append(conv_id)
            elif self._is_entered(conversion) or is_sibling:
                self._affected.append(conv_id)
                if is_sibling:
                    self._restated.add(conv_id)

    def _group(self, conversions: Iterable[Conversion]) -> None:
        for conversion in conversions:
            if conversion.transaction_id:
                group = self._groups.setdefault(Group(conversion.click_id, conversion.transaction_id), {})
                group[conversion.conv_id] = conversion

    def _is_entered(self, conversion: Conversion) -> bool:
        """By a click of the chunk, as its converting click or as a candidate."""
        journey = self._stored[conversion.conv_id]
        is_converted = conversion.click_id in self._settled.winners
        if self._entered_before.covers(journey) or (is_converted and self._settled.changed):
            self._restated.add(conversion.conv_id)
        return is_converted or self._entered.covers(journey)

    def second_needs(self) -> Needs | None:
        """What nobody has asked for yet of the conversions that a late click enters: converting clicks, siblings."""
        affected = [self._current[conv_id] for conv_id in self._affected]
        needed = {conversion.click_id for conversion in affected}
        clicks = frozenset(needed - self._clicks.keys() - self._asked_clicks)
        siblings = frozenset(each.click_id for each in affected if each.transaction_id) - self._grouped_clicks
        if not clicks and not siblings:
            return None
        self._count_lookup("converting_clicks", clicks)
        return Needs(clicks=clicks, conversions_of_clicks=siblings)

    def take_second_facts(self, facts: Facts) -> None:
        self._clicks.update(facts.clicks)
        # Those read before may stand in the chunk as well, and newer: they are in their groups already.
        self._group(each.conversion for conv_id, each in facts.journeys.items() if conv_id not in self._current)

    def _outcome(self, conversion: Conversion) -> Outcome:
        if conversion.deleted:
            return Outcome.DELETED
        if not conversion.transaction_id:
            return Outcome.COUNTED
        group = self._groups[Group(conversion.click_id, conversion.transaction_id)]
        return Outcome.COUNTED if counting(group.values()) == conversion else Outcome.DUPLICATE

    def _displaced(self) -> dict[int, Conversion]:
        """Conversions beside the counting one of each group at work: whoever wrote their log rows, they must go."""
        affected = set(self._affected)
        at_work = (self._current[conv_id] for conv_id in self._affected)
        groups = {Group(each.click_id, each.transaction_id) for each in at_work if each.transaction_id}
        return {
            conv_id: conversion
            for group in groups
            for conv_id, conversion in self._groups[group].items()
            if conv_id not in affected and counting(self._groups[group].values()) != conversion
        }

    def find_keys(self) -> None:
        for conv_id in self._affected:
            conversion = self._current[conv_id]
            key = journey_key_of_conversion(conversion, self._clicks.get(conversion.click_id))
            self._keys[conv_id] = key
            self._states[key] = with_conversion(self._state(key), conversion.conv_time)

    # Histories and journeys

    def missing_histories(self) -> list[HistoryNeed]:
        """What only SQL can tell: of a key whose floor is unknown its newest clicks, of others those of one window."""
        needs: dict[HistoryNeed, None] = {}
        for conv_id in self._affected:
            if self._outcome(self._current[conv_id]) is not Outcome.COUNTED or self._candidates(conv_id) is not None:
                continue
            key = self._keys[conv_id]
            if self._state(key).floor is UNKNOWN_FLOOR:
                needs[HistoryNeed(key, _EVER, KEPT_CLICKS + 1)] = None
                self._counts["lookups.unknown_keys"] += 1
            else:
                needs[HistoryNeed(key, self._window(conv_id).until, JOURNEY_LIMIT)] = None
                self._counts["lookups.old_conversions"] += 1
        return list(needs)

    def take_histories(self, histories: Mapping[HistoryNeed, Sequence[Touch]]) -> None:
        for need, newest_first in histories.items():
            if need.until == _EVER:
                self._states[need.key] = with_history(self._state(need.key), newest_first)
            else:
                self._histories[need] = newest_first

    def _window(self, conv_id: int) -> Window:
        found = self._windows.get(conv_id)
        if found is None:
            conversion = self._current[conv_id]
            converting = converting_touch(conversion, self._clicks.get(conversion.click_id))
            found = window_of(conversion, self._keys[conv_id], converting, self._place.lookback)
            self._windows[conv_id] = found
        return found

    def _candidates(self, conv_id: int) -> list[Touch] | None:
        """The newest 25 clicks of the window in ascending order; None where SQL has yet to be asked."""
        found = self._found_candidates.get(conv_id)
        if found is not None:
            return found
        key, window = self._keys[conv_id], self._window(conv_id)
        answered = self._histories.get(HistoryNeed(key, window.until, JOURNEY_LIMIT)) if self._histories else None
        if answered is not None:
            found = [touch for touch in reversed(answered) if touch.click_time >= window.since]
        else:
            found = newest_clicks(self._state(key), window.since, window.until, JOURNEY_LIMIT)
        if found is not None:
            self._found_candidates[conv_id] = found
        return found

    def finish(self) -> Folded:
        journeys = [self._journey(conv_id) for conv_id in self._affected]
        displaced = self._displaced()
        changed = [journey for journey in journeys if journey != self._stored.get(journey.conversion.conv_id)]
        self._counts["journeys.written"] += len(journeys)
        self._counts["journeys.corrected"] += sum(journey.version > 1 for journey in changed)
        return Folded(
            journeys=journeys,
            previous_hours=self._previous_hours(journeys),
            displaced=frozenset(displaced),
            states=self._states,
            unsettled=frozenset(self._unsettled),
            # Of those displaced elsewhere too: their log rows are gone, and should this chunk come again together with
            # news that makes them count, nobody else would see that they need to be written again.
            restated=frozenset(self._restated).union(
                conv_id for conv_id, conversion in displaced.items() if not self._place.owns(conversion)
            ),
            newest_conversion=max((self._current[conv_id].conv_time for conv_id in self._affected), default=0),
            clicks=frozenset(self._settled.winners),
            borrowed_clicks=self._borrowed_clicks(),
            rekeyed_clicks=self._settled.rekeyed,
            rekeyed_conversions=self._rekeyed_conversions,
            new=frozenset(self._affected) - self._stored.keys(),
            counts=self._counts,
        )

    def _borrowed_clicks(self) -> dict[int, Click | None]:
        """None: not known. A click without a campaign lies in one partition and may get its campaign in another."""
        named = {self._current[conv_id].click_id for conv_id in self._affected}
        clicks = {click_id: self._clicks.get(click_id) for click_id in named}
        return {
            click_id: click
            for click_id, click in clicks.items()
            if click is None or click.campaign_id == NO_CAMPAIGN or not self._place.owns(click)
        }

    def _previous_hours(self, journeys: Sequence[Journey]) -> dict[int, int]:
        hours = {}
        for journey in journeys:
            conv_id = journey.conversion.conv_id
            stored = self._stored.get(conv_id)
            if stored is not None and stored.date_hour != journey.date_hour:
                hours[conv_id] = stored.date_hour
        return hours

    def _journey(self, conv_id: int) -> Journey:
        conversion, key = self._current[conv_id], self._keys[conv_id]
        click = self._clicks.get(conversion.click_id)
        stored = self._stored.get(conv_id)
        outcome = self._outcome(conversion)
        touches: tuple[Touch, ...] = ()
        is_incomplete = False
        if outcome is Outcome.COUNTED:
            touches, is_incomplete = self._touches(conv_id, click, stored)
        journey = Journey(
            conversion=conversion,
            visitor_id=key.visitor_id,
            outcome=outcome,
            click_unknown=click is None,
            incomplete=is_incomplete,
            click_cpc=_cost(conversion, click),
            ppc_account_id=click.ppc_account_id if click else 0,
            aff_network_id=conversion.aff_network_id or (click.aff_network_id if click else 0),
            touches=touches,
            version=stored.version if stored else self._first_version(conv_id),
        )
        return journey._replace(version=journey.version + 1) if stored and journey != stored else journey

    def _first_version(self, conv_id: int) -> int:
        """Behind all that the conversion had before, should somebody have deleted its journey by hand."""
        return max(self._credited.get(conv_id, 0) + 1, self._place.first_versions.get(conv_id, 1))

    def _touches(self, conv_id: int, click: Click | None, stored: Journey | None) -> tuple[tuple[Touch, ...], bool]:
        """The journey, and whether clicks that could belong to it are gone from SQL and log."""
        conversion, key = self._current[conv_id], self._keys[conv_id]
        newest = self._candidates(conv_id)
        assert newest is not None, "a history was not asked for"
        history_from = self._place.history_from
        if not history_from:
            return assemble(key, newest, converting_touch(conversion, click)), False
        window = self._window(conv_id)
        # Of the clicks before it some stay, named by conversions: newer ones than these may be gone all the same.
        is_incomplete = (
            window.since < history_from and sum(touch.click_time >= history_from for touch in newest) < JOURNEY_LIMIT
        )
        if is_incomplete and stored is not None and stored.key == key:
            # What is gone cannot be computed again; what was stored of it stands in. A click that SQL has is not gone:
            # it stands where it stands now, or no longer.
            present = {touch.click_id for touch in newest} | self._clicks.keys() | {conversion.click_id}
            gone = [
                touch
                for touch in stored.touches
                if window.since <= touch.click_time < history_from
                and touch.moment <= window.until
                and touch.click_id not in present
            ]
            newest = sorted([*newest, *gone])[-JOURNEY_LIMIT:]
        return assemble(key, newest, converting_touch(conversion, click)), is_incomplete

    def _count_lookup(self, reason: str, asked: object) -> None:
        if asked:
            self._counts["lookups." + reason] += 1


def _cost(conversion: Conversion, click: Click | None) -> Units:
    if conversion.click_cpc is not None:
        return conversion.click_cpc
    return click.click_cpc if click else Units(0)
