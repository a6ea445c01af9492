"""The journeys agent: chunks of clicks and conversions in, journeys in SQL and on the journeys topic out.

Decides nothing: events are read by `reading`, folded by `stream.core`, stored through the `FactStore` port.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stream.agents.driving import drive
from stream.agents.outputs import SortedChunk, TopicNames, chunk_outputs, conversion_sent_on, rekeyed, sort_chunk
from stream.agents.ports import FactStore, FactTransaction
from stream.agents.taking import take_over
from stream.agents.unsettled import unsettled_of, unsettled_texts
from stream.core.errors import InvalidEvent, RefusedByDatabase
from stream.core.facts import Facts, Needs
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.keys import JourneyKey
from stream.core.progress import Advance, Passed
from stream.core.second_look import SentOn, found_at_second_look, second_look_needs
from stream.core.state import KeyState, newest_click_time
from stream.engine.barrier import Stored, Taken
from stream.engine.chunk import Chunk
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from stream.wire.reasons import Reason
from tables.state.journeys import decode_state, encode_key, encode_state

_IDLE_KEYS_A_CHUNK = 200


class JourneyCache(Protocol):
    """The memcached of the tracking servers."""

    async def delete(self, conv_ids: Sequence[int]) -> int:
        """How many deletions failed; returns within 200 ms."""


class StateReader(Protocol):
    """The remembered states of the assigned partitions."""

    def get_state(self, partition: int, key: bytes) -> bytes | None: ...
    def oldest_keys(self, partition: int, count: int) -> list[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JourneysSettings:
    """How journeys are worked at."""

    owner: str
    lookback: int  # seconds


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of a partition between two chunks."""

    epoch: int
    watermark: int
    newest_conversion: int
    history_from: int
    outside_changes: int

    def advance(self, chunk: Chunk, drained_at: int | None) -> Advance:
        """Where the partition stands once the chunk is stored."""
        return Advance(
            chunk.partition,
            self.epoch,
            chunk.next_offsets,
            self.watermark,
            self.newest_conversion,
            drained_at,
            self.outside_changes,
        )


class JourneysHandler:
    """What the barrier calls for each chunk; satisfies `stream.engine.barrier.ChunkHandler`."""

    def __init__(
        self,
        names: TopicNames,
        store: FactStore,
        settings: JourneysSettings,
        *,
        states: Callable[[], StateReader],
        cache: JourneyCache,
        metrics: Metrics,
        log_place: Callable[[int, Mapping[str, int | None]], Awaitable[LogPlace]],
        clock: Callable[[], int],  # unix seconds
    ) -> None:
        self._names = names
        self._owner = settings.owner
        self._lookback = settings.lookback
        self._store = store
        self._states = states
        self._cache = cache
        self._metrics = metrics
        self._log_place = log_place
        self._clock = clock
        self._standings: dict[int, _Standing] = {}

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        log = await self._log_place(partition, committed)
        row = await take_over(self._store, partition, log, owner=self._owner)
        self._standings[partition] = _Standing(
            row.epoch, row.watermark, row.newest_conversion, row.history_from, row.outside_changes
        )
        keys, conversions = unsettled_of(row.unsettled_keys)
        restated = await self._store.read(Needs(conversions=conversions)) if conversions else Facts()
        outputs = [
            conversion_sent_on(self._names, SentOn(journey.conversion, "click"))
            for journey in restated.journeys.values()
        ]
        return Taken(row.epoch, sorted(keys), outputs)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        events = sort_chunk(chunk.arrivals)
        standing = self._moved_on(chunk, events)
        place = Place(
            chunk.partition,
            self._names.partitions,
            self._lookback,
            self._standings[chunk.partition].newest_conversion,
            standing.history_from,
        )
        # A repetition may come long after the chunk was handed out; what lies behind it now is not known.
        drained_at = self._clock() if chunk.is_last and not is_repeated else None
        advance = standing.advance(chunk, drained_at)
        async with self._store.transaction() as transaction:
            passed = await transaction.pass_fence(advance, after_failure=is_repeated)
            standing, place = _told(passed, standing, place)
            if not chunk.arrivals and not passed.unsettled:
                return Stored()
            forgotten, restated = unsettled_of(passed.unsettled)
            folded = await self._fold(transaction, place, events, forgotten)
            if folded.journeys or folded.displaced:
                await transaction.write_journeys(folded.journeys, displaced=folded.displaced, new=folded.new)
            unsettled = unsettled_texts(folded, forgotten, restated)
            if unsettled:
                await transaction.settle(chunk.partition, unsettled)
        if self._standings[chunk.partition].epoch == standing.epoch:  # else it was taken anew while we committed
            self._standings[chunk.partition] = standing
        found = await self._second_look(place, folded, restated)
        self._count(chunk, events, folded, found)
        states: dict[bytes, bytes | None] = dict.fromkeys(sorted(forgotten))
        states |= self._idle_states(chunk.partition, standing.watermark)
        states |= {encode_key(key): encode_state(state) for key, state in folded.states.items()}
        return Stored(
            outputs=chunk_outputs(self._names, events, folded, found),
            states=states,
            cached=[journey.conversion.conv_id for journey in folded.journeys],
        )

    async def delete_cached(self, stored: Stored) -> None:
        if stored.cached:
            failures = await self._cache.delete(stored.cached)
            self._metrics.cache_failures.inc(failures)

    async def note_sent(self, stored: Stored) -> None:
        """Nothing is kept of it: journeys are sent whenever they are written."""

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        return chunk.with_content(InvalidEvent(Reason.REFUSED_BY_DATABASE, str(error)))

    def _moved_on(self, chunk: Chunk, events: SortedChunk) -> _Standing:
        standing = self._standings[chunk.partition]
        watermark = max((arrival.ordered_at for arrival in chunk.arrivals), default=0)
        newest = max((arrival.content.conv_time for arrival in events.conversions), default=0)
        return replace(
            standing,
            watermark=max(standing.watermark, watermark),
            newest_conversion=max(standing.newest_conversion, newest),
        )

    async def _fold(
        self, transaction: FactTransaction, place: Place, events: SortedChunk, forgotten: frozenset[bytes]
    ) -> Folded:
        get_state = self._states().get_state

        def load(key: JourneyKey) -> KeyState | None:
            encoded = encode_key(key)
            value = None if encoded in forgotten else get_state(place.partition, encoded)
            return None if value is None else decode_state(value)

        clicks = [arrival.content for arrival in events.clicks]
        conversions = [arrival.content for arrival in events.conversions]
        return await drive(fold(place, load, clicks, conversions), transaction)

    async def _second_look(self, place: Place, folded: Folded, restated: frozenset[int]) -> list[SentOn]:
        needs = second_look_needs(place, folded)
        found = list(found_at_second_look(place, folded, await self._store.read(needs))) if needs else []
        # What the repetition has just computed need not be sent on; siblings would send each other on for ever.
        left = restated.difference(journey.conversion.conv_id for journey in folded.journeys)
        if left:
            facts = await self._store.read(Needs(conversions=left))
            found += [SentOn(journey.conversion, "click") for journey in facts.journeys.values()]
        return found

    def _idle_states(self, partition: int, watermark: int) -> dict[bytes, None]:
        """Keys that no conversion can need before a new click comes; forgotten here and in the changelog."""
        states = self._states()
        oldest_needed = watermark - self._lookback
        idle: dict[bytes, None] = {}
        for key in states.oldest_keys(partition, _IDLE_KEYS_A_CHUNK):
            value = states.get_state(partition, key)
            state = decode_state(value) if value is not None else None
            if state is not None and max(newest_click_time(state), state.newest_conversion) >= oldest_needed:
                break
            idle[key] = None
        return idle

    def _count(self, chunk: Chunk, events: SortedChunk, folded: Folded, found: Sequence[SentOn]) -> None:
        metrics = self._metrics
        metrics.chunk_records.observe(len(chunk.arrivals))
        metrics.add_fold_counts(folded.counts)
        refused = Counter(
            (arrival.record.topic, error.reason) for arrival, error in [*events.refused, *rekeyed(events, folded)]
        )
        for (topic, reason), count in refused.items():
            metrics.dead_letters.labels(topic, str(reason)).inc(count)
        for arrival in events.misplaced:
            metrics.misrouted.labels(arrival.record.topic).inc()
        for each in found:
            metrics.sent_on.labels(each.cause).inc()
        metrics.watermark.labels(str(chunk.partition)).set(self._standings[chunk.partition].watermark)


def _told(passed: Passed, standing: _Standing, place: Place) -> tuple[_Standing, Place]:
    """As they are where another hand has changed facts."""
    row = passed.changed
    if row is None:
        return standing, place
    newest = max(standing.newest_conversion, row.newest_conversion)
    standing = replace(
        standing, newest_conversion=newest, history_from=row.history_from, outside_changes=row.outside_changes
    )
    return standing, replace(place, newest_conversion=newest, history_from=row.history_from)
