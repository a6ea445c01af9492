"""The product's worker, broken on purpose: `python -m tests.support.worker_with_faults`, told by TESTFAULT_ variables.

TESTFAULT_DROP_STATE=1       all state in memory is lost before every chunk
TESTFAULT_TWICE=1            every chunk is delivered twice
TESTFAULT_EXIT_AT=STEP:N     the process ends right after a step of the barrier was done for the N-th time
TESTFAULT_HOURS_EXIT_AT=STEP:N   the same of the hours' barrier
TESTFAULT_LOSE_REPLY=N       every N-th commit reaches the database, but its reply does not reach us
TESTFAULT_PAUSE_AT=STEP:N    the process stops itself (SIGSTOP) there
"""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import mode.loop

mode.loop.use("uvloop")

from stream.agents.outputs import TopicNames  # noqa: E402
from stream.agents.ports import FactStore, FactTransaction  # noqa: E402
from stream.config import read_settings  # noqa: E402
from stream.core.errors import RefusedByDatabase, Unavailable  # noqa: E402
from stream.engine.barrier import ChunkHandler, Observer, Step, Stored, Taken  # noqa: E402
from stream.engine.chunk import Chunk  # noqa: E402
from stream.worker import Worker, WorkerObserver  # noqa: E402


def _fault(name: str) -> str:
    return os.environ.get(f"TESTFAULT_{name}", "")


class FaultyHandler:
    """Loses state, or stores twice."""

    def __init__(self, inner: ChunkHandler, worker: Worker) -> None:
        self._inner = inner
        self._worker = worker

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        return await self._inner.take(partition, committed)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        kept = self._worker.journeys.app.state_table.kept
        if _fault("DROP_STATE"):
            kept.drop_values()
        stored = await self._inner.store(chunk, is_repeated=is_repeated)
        if not _fault("TWICE"):
            return stored
        kept.put_states(chunk.partition, stored.states)
        again = await self._inner.store(chunk, is_repeated=is_repeated)
        outputs = [*stored.outputs, *again.outputs]
        return Stored(outputs, {**stored.states, **again.states}, again.cached, again.receipt)

    async def delete_cached(self, stored: Stored) -> None:
        await self._inner.delete_cached(stored)

    async def note_sent(self, stored: Stored) -> None:
        await self._inner.note_sent(stored)

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        return self._inner.refused(chunk, error)


class DeafStore:
    """Commits, and then has not heard that it did."""

    def __init__(self, inner: FactStore, every: int) -> None:
        self._inner = inner
        self._every = every
        self._commits = 0

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[FactTransaction]:
        async with self._inner.transaction() as transaction:
            yield transaction
        self._commits += 1
        if self._commits % self._every == 0:
            raise Unavailable("the reply to COMMIT was lost, says the test")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        return getattr(self._inner, name)


class FatalObserver(WorkerObserver):
    """Ends or stops the process after a step of a chunk; ticks bring nothing that could be lost."""

    def __init__(self, worker: Worker, engine: str = "journeys") -> None:
        super().__init__(worker, engine)
        self._prefix = "" if engine == "journeys" else f"{engine.upper()}_"
        self._seen: Counter[str] = Counter()

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        super().step_done(step, chunk, seconds)
        if not chunk.arrivals:
            return
        self._seen[step] += 1
        place = f"{step}:{self._seen[step]}"
        if place == _fault(f"{self._prefix}EXIT_AT"):
            os._exit(137)
        if place == _fault(f"{self._prefix}PAUSE_AT"):
            os.kill(os.getpid(), signal.SIGSTOP)


class FaultyWorker(Worker):
    def _store(self) -> FactStore:
        store: Any = super()._store()
        return DeafStore(store, int(_fault("LOSE_REPLY"))) if _fault("LOSE_REPLY") else store

    def _handler(self, names: TopicNames, store: FactStore) -> ChunkHandler:
        return FaultyHandler(super()._handler(names, store), self)

    def _observer(self) -> Observer:
        return FatalObserver(self)

    def _hours_observer(self) -> Observer:
        return FatalObserver(self, "hours")


if __name__ == "__main__":
    FaultyWorker(read_settings()).run()
