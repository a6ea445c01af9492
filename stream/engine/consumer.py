"""Faust's consumer, handing out chunks: fetches fill the intakes of partitions, a free partition gets its next chunk.

Order of a partition's life under one assignment: assigned, state recovered by Faust, sought to its committed offsets
(`perform_seek`), opened by the barrier once the fence is taken, chunks one at a time, revoked.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from stream.clock import unix_now
from stream.core.errors import StartRefused
from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Chunk, Reader
from stream.engine.committing import OffsetCommits
from stream.engine.fetching import ChunkThread, Fetch, Fetched
from stream.engine.log_place import read_log_place
from stream.engine.start import LogPlace, records_removed

log = logging.getLogger(__name__)

_FETCH_SECONDS = 0.5
_HOLDING_SECONDS = 0.05  # how soon a held record is looked at again
_END_KNOWN_SECONDS = 5.0  # for so long an answer of the broker tells where a topic ends


@dataclass(frozen=True, slots=True)
class Intake:
    """What a consumer reads, and how."""

    topics: tuple[str, ...]  # co-partitioned; the first is preferred between equal times
    read: Reader
    chunk_records: int
    is_aligned: bool
    gather_seconds: float = 0.0  # least time between two chunks of a partition, unless the second is full
    tick_seconds: float = 0.0  # after so long without a chunk a partition gets one without records; 0: never


class ChunkConsumer(driver.Consumer):
    """The attributes below are set by `ChunkApp` before it starts."""

    intake: Intake
    on_positioned: Callable[[Mapping[int, Mapping[str, int | None]], int], None]
    settle_takings: Callable[[float], Awaitable[None]]  # what is not done after so many seconds is given up
    on_unclean_revoke: Callable[[], None]
    on_lost_records: Callable[[StartRefused], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts: dict[str, int] = defaultdict(int)
        self.intakes: dict[int, PartitionIntake] = {}
        self.generation = 0  # of our own: one more with each assignment
        self._open: set[int] = set()
        self._in_flight: dict[int, asyncio.Future[None]] = {}  # partitions whose chunk was handed out
        self._begun: set[int] = set()  # those of them whose chunk has reached the barrier
        self.commits = OffsetCommits(self._thread)
        self._starts: dict[int, Mapping[str, int]] = {}  # where this assignment began
        self._is_revoking = False
        self._wake = asyncio.Event()
        self._fetching: asyncio.Task[Fetch | None] | None = None
        self._changelog_next: dict[TP, int] = {}
        self._is_draining = False
        self._answers_ms: Mapping[TP, int] = {}  # when the broker last answered, unix milliseconds
        self._answered_at_ms = 0  # the last of them all

    def _new_consumer_thread(self) -> ChunkThread:
        return ChunkThread(self, loop=self.loop, beacon=self.beacon)

    # Fetching and delivery

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """One round of Faust's drain loop: whatever a fetch brought, and the chunks that became ready."""
        fetch = await self._next_fetch()
        if fetch is not None and not self.should_stop:
            self._answers_ms = fetch.answers_ms
            self._answered_at_ms = max(self._answered_at_ms, *fetch.answers_ms.values(), 0)
            for part in fetch.parts:
                if not self._is_current(fetch):
                    self.counts["fetches_outdated"] += 1
                    break
                if part.tp.topic in self.intake.topics:
                    await self._take_in(part)
                elif self._admit_changelog(part):
                    yield part.tp, self._message(part.tp, part.next - 1, part)
            self._mark_ends(fetch)
        for chunk in self._ready_chunks():
            tp = TP(self.intake.topics[0], chunk.partition)
            yield tp, self._message(tp, chunk.next_offsets[tp.topic], chunk)

    async def _next_fetch(self) -> Fetch | None:
        """The result of the fetch under way, or None where a partition became free before it returned."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch(self._fetch_seconds()))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({self._fetching, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
        self._wake.clear()
        if not self._fetching.done():
            return None
        fetching, self._fetching = self._fetching, None
        return fetching.result()

    def _fetch_seconds(self) -> float:
        """How long a fetch may wait for records: no longer than until those that are here may be handed out."""
        now, limit = time.monotonic(), self.intake.chunk_records
        waits = [one.gathers_for(limit, now) for one in self.intakes.values() if not one.is_empty()]
        return min(_FETCH_SECONDS, max(_HOLDING_SECONDS, min(waits, default=_FETCH_SECONDS)))

    async def _fetch(self, seconds: float) -> Fetch | None:
        active = self._get_active_partitions() - self._full()
        if not active:
            await self._thread.rest(seconds)  # type: ignore[attr-defined]
            return None
        fetch: Any = await self._thread.getmany(active, seconds)  # Faust's type is of single records
        return cast(Fetch, fetch)

    def _is_current(self, fetch: Fetch) -> bool:
        # A rebalance or stop seeks by itself; records that were on their way meanwhile come again.
        return bool(self.flow_active and fetch.generation == self.app.consumer_generation_id)

    def _full(self) -> set[TP]:
        """Buffers that hold several chunks: their topics rest, and Kafka keeps the rest."""
        bound = 4 * self.intake.chunk_records
        return {
            TP(topic, partition)
            for partition, intake in self.intakes.items()
            for topic in self.intake.topics
            if intake.waiting(topic) > bound
        }

    async def _take_in(self, part: Fetched) -> None:
        """Only what continues exactly where the buffer ends; never throw records away whose offsets were passed."""
        intake = self.intakes.get(part.tp.partition)
        if intake is None:
            return  # not yet sought to its committed offset; what is read before that comes again
        expected = intake.expected(part.tp.topic)
        if part.start > expected:
            self.counts["gaps"] += 1
            log.warning("fetch of %s began at %s instead of %s: seeking back", part.tp, part.start, expected)
            # Where the log no longer reaches back that far, seeking would lead here for ever.
            if await self._holds(part.tp, expected):
                await self._seek(part.tp, expected)
            return
        if part.next <= expected:
            self.counts["rewinds"] += 1
            return
        # Offsets without a record are markers or compaction, unless the log no longer reaches back that far.
        has_begun_later = not part.records or part.records[0].offset > expected
        if has_begun_later and not await self._holds(part.tp, expected):
            return
        read = self.intake.read
        arrivals = [read(record) for record in part.records if record.offset >= expected]
        intake.add(part.tp.topic, arrivals, part.next)

    async def _holds(self, tp: TP, expected: int) -> bool:
        """Does the log reach back to this offset? Ends the process if not; False, and sought back, if nobody says."""
        try:
            begins = (await self.earliest_offsets(tp))[tp] or 0
        except KafkaError as error:
            log.warning("beginning of %s unknown, reading from %s once more: %r", tp, expected, error)
            await self._seek(tp, expected)
            return False
        if begins > expected:
            self.on_lost_records(records_removed(tp.topic, tp.partition, expected, begins))
        return begins <= expected

    async def _seek(self, tp: TP, offset: int) -> None:
        # seek_wait runs in the consumer thread; Consumer.seek() does not, and loses a race with a fetch under way.
        try:
            await self._thread.seek_wait({TopicPartition(tp.topic, tp.partition): offset})
        except (IllegalStateError, AssertionError, KafkaError):
            log.info("seek of %s failed: no longer assigned", tp)

    def _admit_changelog(self, part: Fetched) -> bool:
        expected = self._changelog_next.get(part.tp)
        if expected is None:
            return False
        if part.start > expected + 1:  # + 1: Faust starts at the last record it has seen
            raise RuntimeError(f"changelog {part.tp} continued at {part.start} instead of {expected}")
        self._changelog_next[part.tp] = part.next
        return True

    def _mark_ends(self, fetch: Fetch) -> None:
        """A topic whose records were not taken in is not at its end, wherever its position is."""
        is_current = self._is_current(fetch)
        fetched_to = {part.tp: part.next for part in fetch.parts}
        for partition, intake in self.intakes.items():
            ends = {}
            for topic in self.intake.topics:
                tp, expected = TP(topic, partition), intake.expected(topic)
                ends[topic] = is_current and fetch.ends.get(tp, False) and fetched_to.get(tp, expected) == expected
            intake.mark_ends(ends)

    def _ready_chunks(self) -> list[Chunk]:
        if not self.flow_active or self._is_draining:
            return []
        ready = []
        now = time.monotonic()
        for partition in sorted(self._open - self._in_flight.keys()):
            chunk = self.intakes[partition].next_chunk(self.intake.chunk_records, now)
            if chunk is not None:
                if chunk.is_last and not self._is_end_known(partition):
                    chunk = replace(chunk, is_last=False)
                self._in_flight[partition] = self.loop.create_future()
                self.counts["chunks"] += 1
                self.counts["records"] += len(chunk.arrivals)
                ready.append(chunk)
        return ready

    def _is_end_known(self, partition: int) -> bool:
        """Not while a broker is silent: what it held back cannot be told."""
        oldest = min(self._answers_ms.get(TP(topic, partition), 0) for topic in self.intake.topics)
        return unix_now() - oldest / 1000 <= _END_KNOWN_SECONDS

    def _message(self, tp: TP, offset: int, value: Any) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic, tp.partition, offset, 0.0, 1, None, None, value, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    async def log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        """What Kafka knows of a partition of ours. Raises KafkaError."""
        return await read_log_place(self._thread, self.intake.topics, partition, committed)

    # What health and metrics ask

    @property
    def is_positioned(self) -> bool:
        """Under an assignment whose partitions, if there are any, were recovered and sought."""
        if self.app.rebalancing or not self.generation:
            return False
        # Who lost all partitions is positioned without being sought: Faust has nothing to recover for it.
        return not self._is_revoking or (not self._is_draining and not self.assignment())

    def silent_seconds(self) -> float:
        """How long no broker has answered a fetch; 0 where none was asked, for all buffers are full."""
        if not self._answered_at_ms or not self._get_active_partitions() - self._full():
            return 0.0
        return max(0.0, unix_now() - self._answered_at_ms / 1000)

    def opened(self) -> list[int]:
        return sorted(self._open)

    def oldest_waiting(self) -> int | None:
        """Unix seconds of the oldest record in the buffers."""
        times = [at for intake in self.intakes.values() if (at := intake.oldest_waiting()) is not None]
        return min(times, default=None)

    def lags(self) -> dict[tuple[str, int], int]:
        """Records between what was committed and the end of the log, by topic and partition, as far as known."""
        lags = {}
        for partition in self.intakes:
            for topic in self.intake.topics:
                end = self.highwater(TopicPartition(topic, partition))
                done = self.commits.processed.get(partition, self._starts.get(partition, {})).get(topic, 0)
                lags[topic, partition] = max(0, (end or 0) - done)
        return lags

    # What the barrier calls

    def open_partition(self, partition: int, generation: int) -> None:
        """The fence is taken: chunks may flow."""
        if generation == self.generation and partition in self.intakes:
            self._open.add(partition)
            self._wake.set()

    def admit(self, chunk: Chunk) -> bool:
        """False for a chunk that a rebalance overtook on its way to the barrier; it comes again."""
        if self._is_revoking or chunk.generation != self.generation:
            return False
        self._begun.add(chunk.partition)
        return True

    def finish_chunk(self, partition: int) -> None:
        """The partition is free for its next chunk."""
        self._begun.discard(partition)
        future = self._in_flight.pop(partition, None)
        if future is not None and not future.done():
            future.set_result(None)
        self._wake.set()

    def hasten(self, partition: int) -> None:
        """Its chunk left something to do: the next one, or a tick, is wanted at once."""
        if partition in self.intakes:
            self.intakes[partition].hasten()

    async def commit_chunk(self, chunk: Chunk) -> bool:
        """Commit where the chunk ends. False if this member was expelled: the chunk will be delivered again."""
        if chunk.generation != self.generation:
            return False
        return await self.commits.commit(chunk.partition, chunk.next_offsets)

    # Rebalance and stop

    async def perform_seek(self) -> None:
        """Position every source partition explicitly, with nothing buffered: aiokafka rewinds none without a commit."""
        await super().perform_seek()
        topics = self.intake.topics
        source = [tp for tp in self.assignment() if tp.topic in topics]
        committed = {tp: self._committed_offset.get(tp) for tp in source}
        unread = [tp for tp in source if not committed[tp]]
        starts: dict[TP, int] = {tp: offset for tp, offset in committed.items() if offset}
        if unread:
            begins = await self.earliest_offsets(*unread)
            starts.update({tp: begins[tp] or 0 for tp in unread})
        if starts:
            await self._thread.seek_wait({TopicPartition(tp.topic, tp.partition): at for tp, at in starts.items()})
        self.generation += 1
        self._open.clear()
        self.commits.forget()
        self._is_revoking = self._is_draining
        self._starts = {
            partition: {topic: starts[TP(topic, partition)] for topic in topics}
            for partition in sorted({tp.partition for tp in source})
        }
        self.intakes = {
            partition: self._new_intake(partition, begins_at) for partition, begins_at in self._starts.items()
        }
        known = {partition: {topic: committed[TP(topic, partition)] for topic in topics} for partition in self.intakes}
        self.on_positioned(known, self.generation)

    def _new_intake(self, partition: int, begins_at: Mapping[str, int]) -> PartitionIntake:
        return PartitionIntake(
            partition,
            self.generation,
            begins_at,
            is_aligned=self.intake.is_aligned,
            gather_seconds=self.intake.gather_seconds,
            tick_seconds=self.intake.tick_seconds,
        )

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Recovery seeks changelogs through here; remembered, for a gap in a changelog must never pass."""
        for tp, offset in partitions.items():
            self._changelog_next[TP(tp.topic, tp.partition)] = offset
        await super().seek_wait(partitions)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish what is in flight, then prove that we are still a member; if not, keep no state."""
        if revoked:
            self.stop_flow()
            self._is_revoking = True
            seconds = self.app.conf.broker_session_timeout / 2
            is_clean, _ = await asyncio.gather(self._finish_in_flight(seconds), self.settle_takings(seconds))
            if not is_clean or not await self.commits.prove_membership():
                log.warning("partitions were revoked too late to finish: dropping their state")
                self.on_unclean_revoke()
        self.generation += 1
        self.intakes = {}
        self._open.clear()
        await super().on_partitions_revoked(revoked)

    async def _finish_in_flight(self, seconds: float) -> bool:
        """Wait for the chunks at the barrier; those that have not reached it will not be admitted any more."""
        for partition in self._in_flight.keys() - self._begun:
            self.finish_chunk(partition)
        futures = list(self._in_flight.values())
        if not futures:
            return True
        _, unfinished = await asyncio.wait(futures, timeout=seconds)
        return not unfinished

    async def drain(self, seconds: float) -> bool:
        """Start no more chunks and wait for those in flight; each ends with its offsets committed."""
        self._is_draining = True
        self._is_revoking = True
        return await self._finish_in_flight(seconds)

    # Faust's own books of acknowledgements, its commit timer and its back-pressure are replaced, see README.md

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002
        return False

    async def wait_empty(self) -> None: ...
    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None: ...
    def on_buffer_full(self, tp: TP) -> None: ...
    def on_buffer_drop(self, tp: TP) -> None: ...
    async def verify_all_partitions_active(self) -> None: ...


class ChunkTransport(driver.Transport):
    """Faust's transport with our consumer."""

    Consumer = ChunkConsumer
