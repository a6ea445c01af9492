"""What one process of a replay does: some partitions, first their facts, in a second round their journeys."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream.agents.caching import journey_cache
from stream.agents.reading import EventReader
from stream.agents.topic_names import topic_names
from stream.clock import unix_now
from stream.commands.log_access import broker_errors, reading_log, writing
from stream.commands.rebuilding import patiently
from stream.commands.replay_pages import StoredConversions, Wanted
from stream.commands.replay_places import (
    CONVERSIONS,
    RECORDS,
    ahead_of,
    conversions_done,
    ids_of,
    key_order,
    later,
    offsets_of,
    pairs_of,
)
from stream.commands.replay_plan import DAY_SECONDS
from stream.commands.replay_refused import Failure, Refused, Teller, failure_of
from stream.config import Settings
from stream.core.errors import RefusedByDatabase, StreamError, Unavailable
from stream.engine.chunk import Chunk
from stream.replay.computing import BatchReport, Named, compute_batch
from stream.replay.log_range import LogRange, read_range
from stream.replay.storing import ChunkReport, Scope, store_chunk
from tables.cache import JourneyCache
from tables.sql.database import open_database
from tables.sql.facts import Writing
from tables.sql.replays import SqlReplayStore

PATIENCE_S = 60.0
_NOTED_EVERY_CHUNKS = 25

_Result = TypeVar("_Result")


class Job(NamedTuple):
    """Of one process, in one round; goes to it as JSON."""

    run_id: int
    is_facts: bool  # else journeys
    users: Sequence[int]
    start: int
    end: int
    batch_size: int
    partitions: Sequence[int]
    starts: Sequence[Mapping[str, int]]  # by place in `partitions`
    ends: Sequence[Mapping[str, int]]
    clicks: Sequence[int] = ()  # facts of these alone, whatever a run before us has come to

    def ranges(self) -> Sequence[LogRange]:
        return [
            LogRange(partition, starts, ends)
            for partition, starts, ends in zip(self.partitions, self.starts, self.ends, strict=True)
        ]


async def work(settings: Settings, job: Job, teller: Teller) -> None:
    """Returns once all is stored and published. Raises Unavailable after a minute without database or broker."""
    gc.set_threshold(50_000, 20, 100)  # a batch is thousands of tuples, all alive to its end: a fifth of the time else
    names = topic_names(settings)
    scope = Scope(names, settings.lookback_days * DAY_SECONDS, frozenset(job.users), frozenset(job.clicks))
    database = open_database(settings.database_url)
    writes = Writing(
        owner="replay",
        writes_conversion_logs=settings.conversion_logs == "own",
        clock=lambda: int(unix_now()),
    )
    cache = journey_cache(settings)
    topics = [names.journeys, names.conversions]
    try:
        async with contextlib.AsyncExitStack() as around:
            writer = await patiently(lambda: around.enter_async_context(writing(settings, topics)), limit=PATIENCE_S)
            store = SqlReplayStore(database, writes, run_id=job.run_id)
            await work_on(settings, job, scope, store=store, writer=writer, cache=cache, teller=teller)
    finally:
        await cache.close()
        await database.close()


class Sender(Protocol):
    """Where the records of changed journeys go."""

    async def send(self, records: Sequence[Any]) -> None: ...


async def work_on(
    settings: Settings,
    job: Job,
    scope: Scope,
    *,
    store: SqlReplayStore,
    writer: Sender,
    cache: JourneyCache,
    teller: Teller,
) -> None:
    """The partitions of a job, one after the other."""
    doing = _Doing(settings, job, scope, store=store, writer=writer, cache=cache, teller=teller)
    for part in job.ranges():
        if job.clicks:
            await doing.store_older(part)
        else:
            await (doing.store_facts(part) if job.is_facts else doing.compute_journeys(part.partition))


class _News(NamedTuple):
    """What others are to hear of once it is committed."""

    records: Sequence[Any] = ()
    changed: Sequence[int] = ()  # conv_ids


class _Doing:
    def __init__(
        self,
        settings: Settings,
        job: Job,
        scope: Scope,
        *,
        store: SqlReplayStore,
        writer: Sender,
        cache: JourneyCache,
        teller: Teller,
    ) -> None:
        self._settings = settings
        self._job = job
        self._scope = scope
        self._store = store
        self._writer = writer
        self._cache = cache
        self._teller = teller
        wanted = Wanted(frozenset(job.users), job.start, job.end, scope.names.partitions)
        self._stored = StoredConversions(store, wanted, self._patiently)

    async def _patiently(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        return await patiently(work, limit=PATIENCE_S)

    # Facts

    async def store_facts(self, part: LogRange) -> None:
        """From where a run before us has come to, or from where the log begins since then."""
        noted = await self._patiently(lambda: self._store.read_place(part.partition))
        refused = Refused(RECORDS, part.partition, self._teller)
        if noted.get(RECORDS):
            await self._store_refused(part, noted, refused)
        offsets = later(part.starts, offsets_of(noted.get("offsets")))
        if noted.get("phase", "facts") != "facts" and not LogRange(part.partition, offsets, part.ends).records:
            return  # a round further already, and nothing has come since
        ahead = ahead_of(noted)
        repeated_to = offsets_of(noted.get("stored_to"))
        kept = {"computed_to": noted["computed_to"]} if "computed_to" in noted else {}
        chunks_done = 0
        async for chunk in self._chunks(part, offsets):
            is_repeated = any(offsets[topic] < repeated_to.get(topic, 0) for topic in offsets)
            stored_to = later(chunk.next_offsets, repeated_to)  # a chunk may be smaller than the one that it repeats
            place = {**kept, "phase": "facts", "offsets": dict(offsets), "stored_to": stored_to}
            if await self._store_chunk(chunk, is_repeated=is_repeated, place=refused.noted_in(place), refused=refused):
                ahead = {}
            offsets |= chunk.next_offsets
            chunks_done += 1
            if chunks_done % _NOTED_EVERY_CHUNKS == 0 and not is_repeated:
                place = {**kept, **ahead, "phase": "facts", "offsets": dict(offsets)}
                await self._note(part.partition, refused.noted_in(place))
        phase = ahead.pop("next", "journeys")
        place = {**kept, **ahead, "phase": phase, "offsets": later(offsets, part.ends)}
        await self._note(part.partition, refused.noted_in(place))

    async def _store_refused(self, part: LogRange, noted: Mapping[str, object], refused: Refused) -> None:
        """Just those records that a run before us could not store; what left the log since is a gap like any other."""
        for topic, offset in pairs_of(noted[RECORDS]):
            if offset >= part.starts[topic]:
                offsets = {topic: offset}
                async for chunk in self._chunks(LogRange(part.partition, offsets, {topic: offset + 1}), offsets):
                    await self._store_chunk(chunk, is_repeated=True, place=noted, refused=refused)
                    offsets |= chunk.next_offsets
        await self._note(part.partition, refused.noted_in(noted))

    async def store_older(self, part: LogRange) -> None:
        """A few facts, which cost nothing to repeat: each run that misses them begins anew."""
        noted = await self._patiently(lambda: self._store.read_place(part.partition))
        refused = Refused(RECORDS, part.partition, self._teller)
        offsets = dict(part.starts)
        async for chunk in self._chunks(part, offsets):
            await self._store_chunk(chunk, is_repeated=True, place=noted, refused=refused)
            offsets |= chunk.next_offsets

    async def _chunks(self, part: LogRange, offsets: Mapping[str, int]) -> AsyncIterator[Chunk]:
        """Begins again behind the last chunk where the broker went away for a while."""
        names = self._scope.names
        read = EventReader(clicks=names.clicks, conversions=names.conversions, partitions=names.partitions)
        deadline: float | None = None
        now = asyncio.get_running_loop().time
        while (rest := LogRange(part.partition, dict(offsets), part.ends)).records:
            try:
                async with reading_log(self._settings) as consumer:
                    async for chunk in read_range(consumer, rest, read):
                        yield chunk
                        deadline = None
            except OffsetOutOfRangeError as error:
                raise StreamError(
                    f"partition {part.partition}: records were removed from the log before they were read",
                    hint="the same command reads what is left, or names what is missing",
                ) from error
            except (KafkaError, OSError, Unavailable):
                deadline = deadline or now() + PATIENCE_S
                if now() >= deadline:
                    with broker_errors(self._settings):
                        raise
                await asyncio.sleep(1.0)
            else:
                return

    async def _store_chunk(
        self, chunk: Chunk, *, is_repeated: bool, place: Mapping[str, object], refused: Refused
    ) -> bool:
        """Whether anything was new, or may have been."""
        tried = Counter[str]()

        async def attempt() -> ChunkReport:
            # A try that failed may have been stored all the same: its reply was lost, or the look that follows it.
            again = is_repeated or bool(tried["tries"])
            tried["tries"] += 1
            return await store_chunk(self._store, self._scope, chunk, is_repeated=again, place=place)

        try:
            report = await self._patiently(attempt)
        except RefusedByDatabase as error:
            if len(chunk.arrivals) == 1:
                failure = failure_of(chunk.arrivals[0], str(error))
                refused.take((failure.topic, failure.offset), failure)
                self._teller.counted({"records": 1, "refused": 1})
                return False
            halves = [
                await self._store_chunk(half, is_repeated=is_repeated, place=place, refused=refused)
                for half in chunk.halves()
            ]
            return any(halves)
        await self._publish(_News(report.records, report.conversions))
        self._teller.counted({"records": len(chunk.arrivals), **report.counts})
        return report.is_stored

    # Journeys

    async def compute_journeys(self, partition: int) -> None:
        """In the order of keys, from where a run before us has come to."""
        noted = await self._patiently(lambda: self._store.read_place(partition))
        is_done = noted.get("phase") == "done"
        refused = Refused(CONVERSIONS, partition, self._teller)
        if noted.get(CONVERSIONS) and (is_done or noted.get("after")):  # else all are computed, and they among them
            await self._compute_refused(partition, noted, refused)
            noted = refused.noted_in(noted)
        if not is_done:
            await self._compute_rest(partition, noted, refused)

    async def _compute_rest(self, partition: int, noted: Mapping[str, object], refused: Refused) -> None:
        after, repeated_to = key_order(noted.get("after")), key_order(noted.get("computed_to"))
        read_to = {"offsets": {}, **{name: noted[name] for name in ("offsets", RECORDS) if name in noted}}
        done = conversions_done({partition: noted})
        reached = computed = refused.noted_in({"after": after and list(after), "conversions": done})
        sending: asyncio.Task[None] | None = None
        try:
            async for batch in self._stored.batches(partition, self._job.batch_size, after=after):
                first, last = batch[0].place, batch[-1].place
                is_repeated = repeated_to is not None and first <= repeated_to
                repeated_to = max(last, repeated_to or last)
                news = await self._compute(
                    [Named(each.place.conv_id, each.click_id) for each in batch],
                    partition,
                    is_repeated=is_repeated,
                    place={**read_to, "phase": "journeys", **reached, "computed_to": list(repeated_to)},
                    refused=refused,
                )
                # While a batch is sent the next one is computed, but none counts as reached before it is out.
                await self._evict(news.changed)  # it has 0.2 s, which it would not get beside a fold
                if sending is not None:
                    await sending
                    reached = computed
                done += len(batch)
                computed = refused.noted_in({"after": list(last), "conversions": done})
                sending = asyncio.create_task(self._send(news.records))
            if sending is not None:
                await sending
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        await self._note(partition, refused.noted_in({**read_to, "phase": "done", "conversions": done}))

    async def _compute_refused(self, partition: int, noted: Mapping[str, object], refused: Refused) -> None:
        """Just those conversions that a run before us could not write."""
        named = [Named(*ids) for ids in ids_of(noted[CONVERSIONS])]
        for start in range(0, len(named), self._job.batch_size):
            batch = named[start : start + self._job.batch_size]
            await self._publish(await self._compute(batch, partition, is_repeated=True, place=noted, refused=refused))
        await self._note(partition, refused.noted_in(noted))

    async def _compute(
        self,
        batch: Sequence[Named],
        partition: int,
        *,
        is_repeated: bool,
        place: Mapping[str, object],
        refused: Refused,
    ) -> "_News":
        tried = Counter[str]()

        async def attempt() -> BatchReport:
            tried["tries"] += 1
            again = is_repeated or tried["tries"] > 1
            return await compute_batch(self._store, self._scope, partition, batch, place=place, is_repeated=again)

        try:
            report = await self._patiently(attempt)
        except RefusedByDatabase as error:
            if len(batch) == 1:
                refused.take(batch[0], Failure(*batch[0], "", partition, 0, str(error)))
                return _News()
            middle = len(batch) // 2
            halves = [
                await self._compute(half, partition, is_repeated=is_repeated, place=place, refused=refused)
                for half in (batch[:middle], batch[middle:])
            ]
            return _News(*([*one, *other] for one, other in zip(*halves, strict=True)))
        counts = {
            "conversions": report.conversions,
            "touchpoints": report.touchpoints,
            "written": len(report.written),
        }
        self._teller.counted(counts)
        # What a try before this one may have written stands right now.
        is_certain = tried["tries"] == 1 and not is_repeated
        return _News(report.records, report.written if is_certain else [each.conv_id for each in batch])

    # Both

    async def _publish(self, news: "_News") -> None:
        await self._evict(news.changed)
        await self._send(news.records)

    async def _evict(self, conv_ids: Sequence[int]) -> None:
        failures = await self._cache.delete(conv_ids) if conv_ids else 0
        if failures:
            self._teller.counted({"cache_failures": failures})

    async def _send(self, records: Sequence[Any]) -> None:
        if records:
            await self._patiently(lambda: self._writer.send(records))

    async def _note(self, partition: int, place: Mapping[str, object]) -> None:
        await self._patiently(lambda: self._store.note_place(partition, place))
