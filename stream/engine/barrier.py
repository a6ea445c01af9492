"""The order in which the effects of a chunk become lasting, and nothing out of that order.

A crash between any two steps repeats the chunk, for its offsets come last; every effect can be repeated. Chunks of one
partition never overlap, those of different partitions may.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from aiokafka.errors import KafkaError, KafkaTimeoutError

from stream.core.errors import Fenced, RefusedByDatabase, StreamError, Unavailable
from stream.engine.changelog import StateTable
from stream.engine.chunk import Chunk
from stream.engine.consumer import ChunkConsumer
from stream.engine.sending import Sending
from stream.wire.outgoing import OutgoingRecord

log = logging.getLogger(__name__)

Step = Literal["sql", "cache", "outputs", "changelog", "offsets"]
STEPS: tuple[Step, ...] = ("sql", "cache", "outputs", "changelog", "offsets")

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_SLOW_SECONDS = 5.0  # after which a step that still waits for its first answer is told of


@dataclass(frozen=True, slots=True)
class Stored:
    """What a chunk left to do once SQL has committed it."""

    outputs: Collection[OutgoingRecord] = ()  # iterated again where sending is repeated
    states: Mapping[bytes, bytes | None] = field(default_factory=dict)
    cached: Sequence[int] = ()
    receipt: Any = None  # the handler's own, for `note_sent`
    is_unfinished: bool = False  # there is more to do than was done: another tick is wanted at once


@dataclass(frozen=True, slots=True)
class Taken:
    """A partition that is ours behind a new fence."""

    epoch: int
    forget: Sequence[bytes] = ()  # keys whose changelog values may be wrong
    outputs: Sequence[OutgoingRecord] = ()  # left undone by the last owner


class ChunkHandler(Protocol):
    """What is done with chunks; the barrier decides when."""

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        """Raise the partition's epoch in SQL. Raises StartRefused, Unavailable."""

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        """Commit the chunk to SQL. `is_repeated`: an earlier try may have been committed without our knowing.

        Raises Unavailable, RefusedByDatabase, Fenced.
        """

    async def delete_cached(self, stored: Stored) -> None: ...

    async def note_sent(self, stored: Stored) -> None:
        """The outputs were acknowledged. May be repeated. Raises Unavailable."""

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        """The chunk of a single record, read as one to dead-letter."""


class Observer(Protocol):
    """Hears what the barrier does; for metrics, health, and the tests that break things between two steps."""

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None: ...

    def waiting(self, reason: str) -> None:
        """Empty: no longer."""


class Barrier:
    """Takes partitions over and drives their chunks through the steps."""

    def __init__(
        self,
        handler: ChunkHandler,
        *,
        consumer: Callable[[], ChunkConsumer],
        state: StateTable | None,  # None: the engine keeps none, and its changelog step writes nothing
        sending: Sending,
        observer: Observer,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._handler = handler
        self._consumer = consumer
        self._state = state
        self._sending = sending
        self._observer = observer
        self._fail = fail
        self._epochs: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._takings: set[asyncio.Task[None]] = set()
        self._settled_generation = -1  # takings of it, and older ones, do nothing more
        self._is_stopping = False

    def take_partitions(self, committed: Mapping[int, Mapping[str, int | None]], generation: int) -> None:
        """Called when Faust has recovered the state and positioned the partitions."""
        for partition, offsets in committed.items():
            taking = self._spawn(self._take(partition, offsets, generation))
            self._takings.add(taking)
            taking.add_done_callback(self._takings.discard)

    def begin(self, chunk: Chunk) -> None:
        """Drive a chunk; its partition hands out no other until this one is finished."""
        if self._consumer().admit(chunk):
            self._spawn(self._drive(chunk))

    async def settle_takings(self, seconds: float) -> None:
        """Before our partitions may be another's: takings begin nothing more, and what they have begun is waited for.

        One that came to SQL behind the next owner's would fence it.
        """
        self._settled_generation = self._consumer().generation
        if self._takings:
            _, unfinished = await asyncio.wait(self._takings, timeout=seconds)
            for taking in unfinished:
                taking.cancel()

    def stop(self) -> None:
        """Take no more partitions; chunks that have begun go on."""
        self._is_stopping = True
        for taking in list(self._takings):
            taking.cancel()

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except _Overtaken:
            log.info("a rebalance overtook work that waited: given up, it comes again")
            self._observer.waiting("")
        except BaseException as error:  # noqa: BLE001 - what we do not understand stops the process, uncommitted
            if self._is_stopping and not isinstance(error, StreamError):
                log.info("given up while stopping: %r", error)
            else:
                self._fail(error)

    async def _take(self, partition: int, committed: Mapping[str, int | None], generation: int) -> None:
        consumer = self._consumer()
        # First of all: what others have committed and not sent when SQL is read below, they cannot send any more.
        await self._taking(generation, lambda: self._sending.take_over(partition))
        taken: Taken = await self._taking(generation, lambda: self._handler.take(partition, committed))
        if taken.outputs:
            await self._taking(generation, lambda: self._sending.send(partition, taken.outputs))
        state = self._state
        if state is not None:
            await self._taking(generation, lambda: state.begin_epoch(partition, taken.epoch, taken.forget))
        if generation != consumer.generation:
            return
        if state is not None:
            state.kept.put_states(partition, dict.fromkeys(taken.forget))
        self._epochs[partition] = taken.epoch
        consumer.open_partition(partition, generation)

    async def _taking(self, generation: int, work: Callable[[], Awaitable[Any]]) -> Any:
        def attempt(_: int) -> Awaitable[Any]:
            if generation <= self._settled_generation:
                raise _Overtaken
            return work()

        return await self._patiently(generation, attempt)

    async def _drive(self, chunk: Chunk) -> None:
        consumer = self._consumer()
        try:
            await self._pass_through(chunk, consumer)
        finally:
            consumer.finish_chunk(chunk.partition)

    async def _pass_through(self, chunk: Chunk, consumer: ChunkConsumer, *, is_refused: bool = False) -> None:
        """`is_refused`: nothing is left of the data, so whatever the database refuses now lies elsewhere."""
        clock = _Stopwatch()
        try:
            stored: Stored = await self._patiently(
                chunk.generation, lambda tries: self._handler.store(chunk, is_repeated=tries > 0)
            )
        except RefusedByDatabase as error:
            if is_refused:
                raise
            for part in self._narrowed(chunk, error):
                await self._pass_through(part, consumer, is_refused=len(chunk.arrivals) == 1)
            return
        self._done("sql", chunk, clock)
        await self._handler.delete_cached(stored)
        self._done("cache", chunk, clock)
        if stored.outputs:
            await self._patiently(chunk.generation, lambda _: self._sending.send(chunk.partition, stored.outputs))
        self._done("outputs", chunk, clock)
        await self._patiently(chunk.generation, lambda _: self._handler.note_sent(stored))
        state, epoch = self._state, self._epochs[chunk.partition]
        if state is not None:
            await self._patiently(chunk.generation, lambda _: state.write(chunk.partition, epoch, stored.states))
        self._done("changelog", chunk, clock)
        if await consumer.commit_chunk(chunk):
            self._done("offsets", chunk, clock)
            if stored.is_unfinished:
                consumer.hasten(chunk.partition)

    def _narrowed(self, chunk: Chunk, error: RefusedByDatabase) -> Sequence[Chunk]:
        """Halves, down to the one record that the database refuses."""
        if len(chunk.arrivals) > 1:
            return chunk.halves()
        if not chunk.arrivals:
            raise error
        return (self._handler.refused(chunk, error),)

    def _done(self, step: Step, chunk: Chunk, clock: "_Stopwatch") -> None:
        self._observer.step_done(step, chunk, clock.lap())

    async def _patiently(self, generation: int, work: Callable[[int], Awaitable[Any]]) -> Any:
        """Gives up with the assignment: from then on the partition's state may be newer than what the work knows."""

        def attempt(tries: int) -> Awaitable[Any]:
            if generation != self._consumer().generation:
                raise _Overtaken
            return work(tries)

        slow = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._observer.waiting, "no answer yet")
        try:
            result = await patiently(attempt, self._observer.waiting)
        except Fenced as fenced:
            # The new owner may be this very process, after a rebalance that gave it the partition again.
            if generation != self._consumer().generation:
                raise _Overtaken from fenced
            raise
        finally:
            slow.cancel()
        if slow.when() <= asyncio.get_running_loop().time():
            self._observer.waiting("")
        return result


class _Overtaken(Exception):
    """The partition was assigned anew, here or elsewhere, while the work waited."""


async def patiently(work: Callable[[int], Awaitable[Any]], waiting: Callable[[str], None]) -> Any:
    """Call `work` with the number of failed tries until broker and database answer; tells `waiting` why, then "".

    Back-off doubles, with jitter so that workers do not come in step.
    """
    wait = _FIRST_WAIT_SECONDS
    tries = 0
    while True:
        try:
            result = await work(tries)
        except (Unavailable, KafkaError, ConnectionError) as error:
            if isinstance(error, KafkaError) and not _may_pass(error):
                raise
            tries += 1
            if tries > 1:
                waiting(str(error) or type(error).__name__)
                log.warning("waiting %.1f s to try again: %s", wait, error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
        else:
            if tries:
                waiting("")
            return result


def _may_pass(error: KafkaError) -> bool:
    return bool(error.retriable) or isinstance(error, KafkaTimeoutError)


class _Stopwatch:
    def __init__(self) -> None:
        self._at = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        seconds, self._at = now - self._at, now
        return seconds


def exit_now(error: BaseException) -> None:
    """Leave at once with nothing more committed; the supervisor of the process starts it again."""
    if isinstance(error, StreamError):
        log.error("stopping: %s%s", error, f" (hint: {error.hint})" if error.hint else "")
    else:
        log.critical("stopping for an error that is not understood", exc_info=error)
    logging.shutdown()
    os._exit(1)
