"""Stored conversions computed once more, many at a time: the clicks of a key are read once for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stream.agents.driving import drive
from stream.agents.outputs import journey_records
from stream.core.events import Click
from stream.core.facts import Facts, HistoryNeed, Journey, Moment, Needs, Touch
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.journeys import JOURNEY_LIMIT, converting_touch, window_of
from stream.core.keys import JourneyKey, journey_key_of_conversion
from stream.core.second_look import at_odds
from stream.core.state import forgetful_state
from stream.replay.ports import ReplayStore, ReplayTransaction
from stream.replay.storing import Scope, sent_on
from stream.wire.outgoing import OutgoingRecord


class Named(NamedTuple):
    """A stored conversion, and the click that converted; neither id ever changes."""

    conv_id: int
    click_id: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch. Its records, of all its conversions, go out once it is committed."""

    records: Sequence[OutgoingRecord]
    conversions: int
    touchpoints: int  # of all of them, not just of those written
    written: Sequence[int]  # conv_ids of those that were not in SQL as they are now


async def compute_batch(
    store: ReplayStore,
    scope: Scope,
    partition: int,
    batch: Sequence[Named],
    *,
    is_repeated: bool = False,
    place: Mapping[str, object],
) -> BatchReport:
    """All of one partition. Those that stand right already are not written. Raises RefusedByDatabase.

    `is_repeated`: they may have been written, and the records of that not sent. `place`: how far the run had come
    before this batch; noted with it.
    """
    async with store.transaction() as transaction:
        row = await transaction.lock_partition(partition)
        looked = await _look(transaction, batch)
        conversions = [looked.journeys[named.conv_id].conversion for named in batch if named.conv_id in looked.journeys]
        known = scope.place(row)
        await _look_back(looked, known)
        nothing_kept = forgetful_state(known.newest_conversion)
        folded = await drive(fold(known, lambda _: nothing_kept, (), conversions), looked)
        written = await _to_write(transaction, looked, folded)
        if written or folded.displaced:
            await transaction.write_journeys(written, displaced=folded.displaced)
        if place:
            await transaction.note_place(partition, place)
    doubtful = folded if is_repeated else _looked_for_again(folded, looked)
    sent = await sent_on(store, scope, row, doubtful, is_repeated=is_repeated)
    records = [*journey_records(scope.names, folded), *sent]
    touchpoints = sum(len(journey.touches) for journey in folded.journeys)
    return BatchReport(records, len(conversions), touchpoints, [journey.conversion.conv_id for journey in written])


def _looked_for_again(folded: Folded, looked: "_Looked") -> Folded:
    """Without those journeys of which nobody can have missed any news.

    Their conversions were stored before. Whoever stores another report of a payment meanwhile, or a click, finds them,
    and sends them on. It finds them as they were, though: where what we write is something else, or takes a log row
    away, it may have seen no reason to.
    """
    stored = looked.journeys
    changed = {conversion.click_id for conversion in at_odds(stored.values())}
    changed.update(stored[conv_id].conversion.click_id for conv_id in folded.displaced)
    again = changed | folded.borrowed_clicks.keys()
    return replace(folded, journeys=[each for each in folded.journeys if each.conversion.click_id in again])


@dataclass(slots=True)
class _Looked:
    """A transaction that has read conversions, their clicks and histories; what it is asked beyond them it reads."""

    transaction: ReplayTransaction
    asked: frozenset[int]  # converting clicks: all conversions of these were read
    journeys: dict[int, Journey] = field(default_factory=dict)
    clicks: Mapping[int, Click] = field(default_factory=dict)
    histories: Mapping[JourneyKey, "_History"] = field(default_factory=dict)

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]:
        return await self.transaction.claim_clicks(clicks)

    async def replace_clicks(self, clicks: Sequence[Click]) -> None:
        await self.transaction.replace_clicks(clicks)

    async def read(self, needs: Needs) -> Facts:
        histories = {need: self._newest(need) for need in needs.histories}
        rest = replace(
            needs,
            conversions=needs.conversions - self.journeys.keys(),
            conversions_of_clicks=needs.conversions_of_clicks - self.asked,
            clicks=needs.clicks - self.asked,
            histories=[need for need, touches in histories.items() if touches is None],
        )
        found = await self.transaction.read(rest)
        self.journeys.update(found.journeys)
        return Facts(
            {
                conv_id: journey
                for conv_id, journey in self.journeys.items()
                if conv_id in needs.conversions or journey.conversion.click_id in needs.conversions_of_clicks
            },
            {**found.clicks, **{number: self.clicks[number] for number in needs.clicks if number in self.clicks}},
            {**found.histories, **{need: touches for need, touches in histories.items() if touches is not None}},
        )

    def _newest(self, need: HistoryNeed) -> Sequence[Touch] | None:
        """None where only SQL can tell."""
        known = self.histories.get(need.key)
        if known is None or need.until > known.asked.until:
            return None
        touches = known.newest_first
        if touches and touches[0].moment > need.until:
            touches = [touch for touch in touches if touch.moment <= need.until]
        is_enough = len(touches) >= need.limit or len(known.newest_first) < known.asked.limit
        return touches[: need.limit] if is_enough else None


class _History(NamedTuple):
    """What was asked for, and the answer."""

    asked: HistoryNeed
    newest_first: Sequence[Touch]


async def _look(transaction: ReplayTransaction, batch: Sequence[Named]) -> _Looked:
    asked = frozenset(named.click_id for named in batch)
    found = await transaction.read(Needs(conversions_of_clicks=asked, clicks=asked))
    return _Looked(transaction, asked, dict(found.journeys), found.clicks)


async def _to_write(transaction: ReplayTransaction, looked: _Looked, folded: Folded) -> Sequence[Journey]:
    """Those that SQL does not have as they are, in our own table or in those of Prosper202."""
    ill_shown = await transaction.ill_shown(folded.journeys)
    return [
        journey
        for journey in folded.journeys
        if journey != looked.journeys.get(journey.conversion.conv_id) or journey.conversion.conv_id in ill_shown
    ]


async def _look_back(looked: _Looked, place: Place) -> None:
    """Read of each key as many clicks as its conversions could need, if each needed others: never more than one by one.

    Keys and windows are those that the fold will find, for it is given the same clicks; and of all conversions that it
    may compute, siblings of the batch included. What lies further back than was read here it asks for itself.
    """
    untils: dict[JourneyKey, list[Moment]] = {}
    for journey in looked.journeys.values():
        conversion = journey.conversion
        if not conversion.deleted and place.owns(conversion):
            click = looked.clicks.get(conversion.click_id)
            key = journey_key_of_conversion(conversion, click)
            window = window_of(conversion, key, converting_touch(conversion, click), place.lookback)
            untils.setdefault(key, []).append(window.until)
    needs = [HistoryNeed(key, max(found), JOURNEY_LIMIT * len(found)) for key, found in sorted(untils.items())]
    if needs:
        answers = (await looked.transaction.read(Needs(histories=needs))).histories
        looked.histories = {need.key: _History(need, answers[need]) for need in needs}
