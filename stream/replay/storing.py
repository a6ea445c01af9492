"""Facts of the log into SQL, as a worker stores them, but of partitions that somebody else may own."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.agents.driving import drive
from stream.agents.outputs import TopicNames, conversion_sent_on, journey_records, sort_chunk
from stream.agents.unsettled import key_texts, unsettled_texts
from stream.core.errors import StreamError
from stream.core.events import (
    Click,
    Conversion,
    click_rank,
    conversion_rank,
    is_rekeyed_click,
    is_rekeyed_conversion,
)
from stream.core.facts import Needs
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.keys import JourneyKey, journey_key_of_click
from stream.core.progress import PartitionProgress
from stream.core.second_look import counted_elsewhere, found_at_second_look, second_look_needs
from stream.core.state import KeyState
from stream.engine.chunk import Arrival, Chunk
from stream.replay.ports import ReplayStore, ReplayTransaction
from stream.wire.outgoing import OutgoingRecord

_MOST_UNSETTLED = 8 * 1024 * 1024  # characters; half of what the column holds, however they are written


@dataclass(frozen=True, slots=True)
class Scope:
    """What a replay is about."""

    names: TopicNames
    lookback: int  # seconds
    users: frozenset[int] = frozenset()  # empty: all
    clicks: frozenset[int] = frozenset()  # of these alone, and what they converted; empty: all

    def place(self, row: PartitionProgress) -> Place:
        return Place(row.partition, self.names.partitions, self.lookback, row.newest_conversion, row.history_from)


@dataclass(slots=True)
class ChunkReport:
    """What became of a chunk of the log. Its records go out once it is committed."""

    records: Sequence[OutgoingRecord] = ()
    conversions: Sequence[int] = ()  # conv_ids of those that were computed
    counts: Counter[str] = field(default_factory=Counter)
    is_stored: bool = False  # else all of it stood there already


async def store_chunk(
    store: ReplayStore, scope: Scope, chunk: Chunk, *, is_repeated: bool, place: Mapping[str, object]
) -> ChunkReport:
    """What is stored already costs one look. `is_repeated`: it may have been stored, and its records not sent.

    `place` is noted together with what is stored. Raises RefusedByDatabase with nothing stored.
    """
    events = sort_chunk(chunk.arrivals)
    report = ChunkReport(counts=Counter(unreadable=len(events.refused), misplaced=len(events.misplaced)))
    clicks = [arrival for arrival in events.clicks if _is_wanted(arrival.content, scope)]
    conversions = [arrival for arrival in events.conversions if _is_wanted(arrival.content, scope)]
    if not is_repeated:
        clicks, conversions = await _news(store, clicks, conversions)
    if not clicks and not conversions:
        return report
    told = [arrival.content for arrival in clicks], [arrival.content for arrival in conversions]
    async with store.transaction() as transaction:
        row = await transaction.lock_partition(chunk.partition)
        known = replace(scope.place(row), first_versions=_first_versions(row, conversions))
        folded = await drive(fold(known, _nothing_known, *told), transaction)
        if folded.journeys or folded.displaced:
            await transaction.write_journeys(folded.journeys, displaced=folded.displaced, new=folded.new)
        await _note_changes(transaction, row, folded, clicks)
        await transaction.note_place(chunk.partition, place)
    report.is_stored = True
    report.counts.update(
        new_clicks=folded.counts["clicks.new"],
        new_conversions=folded.counts["conversions.new"],
        revised=folded.counts["clicks.revised"] + folded.counts["conversions.revised"],
    )
    report.conversions = [journey.conversion.conv_id for journey in folded.journeys]
    sent = await sent_on(store, scope, row, folded, is_repeated=is_repeated)
    report.records = [*journey_records(scope.names, folded), *sent]
    return report


async def sent_on(
    store: ReplayStore, scope: Scope, row: PartitionProgress, folded: Folded, *, is_repeated: bool
) -> Sequence[OutgoingRecord]:
    """What other partitions have to compute again; see `stream.core.second_look`."""
    place = scope.place(row)
    needs = second_look_needs(place, folded)
    if needs is None:
        return ()
    facts = await store.read(needs)
    found = [*found_at_second_look(place, folded, facts), *(counted_elsewhere(place, facts) if is_repeated else ())]
    return [conversion_sent_on(scope.names, each) for each in dict.fromkeys(found)]


def _is_wanted(event: Click | Conversion, scope: Scope) -> bool:
    if scope.clicks:
        return event.click_id in scope.clicks
    return not scope.users or event.user_id in scope.users


def _nothing_known(_: JourneyKey) -> KeyState | None:
    """Only an owner remembers states: for us SQL answers."""
    return None


async def _news(
    store: ReplayStore, clicks: Sequence[Arrival], conversions: Sequence[Arrival]
) -> tuple[list[Arrival], list[Arrival]]:
    """Those that would change something."""
    needs = Needs(
        clicks=frozenset(arrival.content.click_id for arrival in clicks),
        conversions=frozenset(arrival.content.conv_id for arrival in conversions),
    )
    stored = await store.read(needs)
    standing = {conv_id: journey.conversion for conv_id, journey in stored.journeys.items()}
    return (
        [arrival for arrival in clicks if not _stands_click(stored.clicks, arrival.content)],
        [arrival for arrival in conversions if not _stands_conversion(standing, arrival.content)],
    )


def _stands_click(stored: Mapping[int, Click], click: Click) -> bool:
    standing = stored.get(click.click_id)
    if standing is None:
        return False
    return standing == click or is_rekeyed_click(standing, click) or click_rank(standing) > click_rank(click)


def _stands_conversion(stored: Mapping[int, Conversion], conversion: Conversion) -> bool:
    standing = stored.get(conversion.conv_id)
    if standing is None:
        return False
    return (
        standing == conversion
        or is_rekeyed_conversion(standing, conversion)
        or conversion_rank(standing) > conversion_rank(conversion)
    )


async def _note_changes(
    transaction: ReplayTransaction, row: PartitionProgress, folded: Folded, clicks: Sequence[Arrival]
) -> None:
    """What the owner remembers may be wrong now, and what is left undone if we die before our records are out."""
    texts: list[str] = []
    if row.epoch:  # else nobody remembers anything
        texts = [*unsettled_texts(folded, frozenset(), frozenset()), *key_texts(_behind_owner(row, clicks))]
    newest = max(row.newest_conversion, folded.newest_conversion)
    if not texts and newest == row.newest_conversion:
        return
    # Once more also where they stand there already: the owner may have remembered the keys anew since it was told.
    unsettled = list(dict.fromkeys([*row.unsettled_keys, *texts]))
    if sum(map(len, unsettled)) > _MOST_UNSETTLED:
        raise StreamError(
            f"partition {row.partition}: its owner has more keys to forget than it can be told of",
            hint="start a worker, wait until it has drained, and give the same command again",
        )
    await transaction.note_outside_change(
        replace(row, unsettled_keys=unsettled, newest_conversion=newest, outside_changes=row.outside_changes + 1)
    )


def _first_versions(row: PartitionProgress, conversions: Sequence[Arrival]) -> Mapping[int, int]:
    """Of those that the owner has come to: it has stored them, and whichever SQL lacks was deleted by hand."""
    return {arrival.content.conv_id: row.greatest_version + 1 for arrival in conversions if _is_passed(row, arrival)}


def _is_passed(row: PartitionProgress, arrival: Arrival) -> bool:
    next_offset = row.next_offsets.get(arrival.record.topic, 0)
    return bool(arrival.record.offset < next_offset)


def _behind_owner(row: PartitionProgress, clicks: Sequence[Arrival]) -> Iterator[JourneyKey]:
    """Keys of clicks that it will not come to again, and that were gone from SQL when it may have looked there."""
    for arrival in clicks:
        if _is_passed(row, arrival):
            yield journey_key_of_click(arrival.content)
