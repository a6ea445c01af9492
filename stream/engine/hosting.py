"""One engine of a worker process, put together: the app, the barrier that drives its chunks, and its one agent."""

from collections.abc import Awaitable, Callable
from typing import Any

from mode import Service

from stream.engine.app import ChunkApp, EngineSettings, build_app
from stream.engine.barrier import Barrier, ChunkHandler, Observer


class Engine:
    """Several may live in one process: each is a consumer group of its own, and `fail` ends the process for all."""

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        handler: ChunkHandler,
        *,
        observer: Observer,
        fail: Callable[[BaseException], None],
        before_start: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = name
        self.app = build_app(settings)
        self.barrier = Barrier(
            handler,
            consumer=lambda: self.app.chunk_consumer,
            state=self.app.state_table if settings.state_name else None,
            sending=self.app.sending,
            observer=observer,
            fail=fail,
        )
        self.app.on_positioned = self.barrier.take_partitions
        self.app.settle_takings = self.barrier.settle_takings
        self.app.fail = fail
        self.app.before_start = before_start
        self.app.before_stop = self.barrier.stop
        self.app.agent(self.app.chunks(), name=name)(self._pass_chunks)

    async def _pass_chunks(self, chunks: Any) -> None:
        """The agent: every chunk goes to the barrier, which works on one of each partition at a time."""
        async for event in chunks.noack().events():
            # Faust waits at a rebalance for messages that are not acknowledged; here the barrier does the waiting.
            self.app.chunk_consumer.unacked.discard(event.message)
            self.barrier.begin(event.value)

    # What health and metrics ask

    @property
    def is_positioned(self) -> bool:
        """Under an assignment whose partitions, if there are any, were recovered and sought."""
        return self.app.started and self.app.chunk_consumer.is_positioned

    def assigned(self) -> list[int]:
        return sorted(self.app.chunk_consumer.intakes) if self.app.started else []

    def opened(self) -> list[int]:
        return self.app.chunk_consumer.opened() if self.app.started else []

    def silent_seconds(self) -> float:
        """How long no broker has answered a fetch."""
        return self.app.chunk_consumer.silent_seconds() if self.app.started else 0.0

    def lags(self) -> dict[tuple[str, int], int]:
        """Records that are not yet committed, by topic and partition."""
        return self.app.chunk_consumer.lags() if self.app.started else {}


class Beside(Service):
    """Runs an app beside the one that Faust's worker runs.

    As a service of the worker itself, the first app would keep the second waiting until it has its partitions.
    """

    def __init__(self, app: ChunkApp) -> None:
        super().__init__()
        self._app = app

    async def on_start(self) -> None:
        self._app.beacon.reattach(self.beacon)  # a crash of the app is told to the whole process
        self.add_future(self._app.maybe_start())

    async def on_stop(self) -> None:
        await self._app.stop()
