"""One engine of a simulated worker: the shipped consumer, intake, barrier and state on simulated clients.

What stands here is Faust's part alone: being in the group, recovering the changelog, seeking, and handing chunks on.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from stream.engine.barrier import Barrier, ChunkHandler, Step
from stream.engine.changelog import KeptStates, StateTable
from stream.engine.chunk import Chunk
from stream.engine.consumer import ChunkConsumer, Intake
from stream.engine.fetching import Fetched
from stream.engine.outbox import Outbox
from stream.engine.sending import Sending
from tests.simulation.clients import HEARTBEAT_SECONDS, SimulatedConsumer, SimulatedThread
from tests.simulation.log import Broker, Group, Member
from tests.simulation.processes import Process, Steps

DRAIN_SECONDS = 6.0
SESSION = SimpleNamespace(broker_session_timeout=10.0)


class _FaustSide(Consumer):
    """What `ChunkConsumer` inherits from Faust, as far as it calls it; nothing of the original is ever set up."""

    def __init__(self, engine: "Engine") -> None:
        self.app = SimpleNamespace(consumer_generation_id=0, conf=SESSION, rebalancing=True)  # type: ignore[assignment]
        self.engine = engine
        self._thread = engine.thread  # type: ignore[assignment]
        self._assigned: set[TP] = set()
        self._committed_offset = {}
        self.flow_active = False
        self.can_resume_flow = asyncio.Event()
        self.suspend_flow = asyncio.Event()

    @property
    def should_stop(self) -> bool:
        return False

    @property  # type: ignore[misc]  # never set here
    def loop(self) -> Any:  # noqa: ANN401
        return asyncio.get_running_loop()

    async def wait(self, *coros: Any, **_options: Any) -> Any:  # noqa: ANN401
        await coros[0].wait()

    def assignment(self) -> set[TP]:
        return self._assigned

    def _get_active_partitions(self) -> set[TP]:
        return self._assigned

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return dict.fromkeys(partitions, 0)

    async def perform_seek(self) -> None:
        """Reads the group's offsets."""
        await self.engine.step("log:offsets of the group")
        committed = self.engine.group.committed
        self._committed_offset = {tp: committed[tp] for tp in sorted(self._assigned) if tp in committed}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._assigned = set()


class EngineConsumer(ChunkConsumer, _FaustSide):
    """The shipped consumer."""

    def open_partition(self, partition: int, generation: int) -> None:
        super().open_partition(partition, generation)
        if partition in self._open:
            self.engine.parts.on_open(partition)

    def admit(self, chunk: Chunk) -> bool:
        is_over = self._is_revoking or chunk.generation != self.generation
        is_admitted = super().admit(chunk)
        if is_admitted and is_over:
            self.engine.parts.on_wrong(f"a chunk of an assignment that is over was taken up: {chunk.next_offsets}")
        return is_admitted

    async def commit_chunk(self, chunk: Chunk) -> bool:
        is_over = chunk.generation != self.generation
        is_committed = await super().commit_chunk(chunk)
        if is_committed and is_over:
            self.engine.parts.on_wrong(f"offsets of an assignment that is over were committed: {chunk.next_offsets}")
        return is_committed


class SimulatedTable(StateTable):
    """The shipped table of states, without Faust's own set-up."""

    def __init__(self, topic: str, bound: int, outbox: Outbox) -> None:
        self._kept = KeptStates("memory://", None, SimpleNamespace(name="states"), bound=bound)
        self._changelog: Any = SimpleNamespace(get_topic_name=lambda: topic)
        self.recovery = SimpleNamespace(active_tps=set(), active_offsets={})
        self.app: Any = SimpleNamespace(tables=SimpleNamespace(recovery=self.recovery))
        self.outbox = lambda: outbox
        self.topic = topic

    @property
    def kept(self) -> KeptStates:
        return self._kept

    @property  # type: ignore[misc]  # never set here
    def changelog_topic(self) -> Any:  # noqa: ANN401
        return self._changelog

    def recover(self, broker: Broker, assigned: set[int]) -> None:
        """From the changelog: all of a partition that is new here, of others what has come since."""
        for partition in [partition for partition in self._kept.partitions if partition not in assigned]:
            self._kept.drop_partition(partition)
            self.recovery.active_offsets.pop(TP(self.topic, partition), None)
        self.recovery.active_tps = {TP(self.topic, partition) for partition in assigned}
        for tp in sorted(self.recovery.active_tps):
            start = self.recovery.active_offsets.get(tp, -1) + 1
            log = broker.topics[tp.topic][tp.partition]
            records, following = log.fetch(start, len(log.records))
            self._kept.apply_fetched(Fetched(tp, records, start, following))
            self.recovery.active_offsets[tp] = following - 1


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is built of; None for an engine that keeps no state."""

    name: str
    group: Group
    intake: Intake
    state_table: SimulatedTable | None
    sending: Sending
    most: Callable[[], int]
    on_open: Callable[[int], None]
    on_wrong: Callable[[str], None]


class Engine:
    """`fail` ends the process. `log_place` and `states` are for the handler that is built with it."""

    def __init__(self, broker: Broker, step: Steps, process: Process, parts: Parts) -> None:
        self.step = step
        self.group = parts.group
        self.parts = parts
        self.is_leaving = False
        self.member = Member(f"{process.name} {parts.name}")
        self._broker = broker
        self._process = process
        self.client = SimulatedConsumer(broker, parts.group, self.member, step)
        self.thread = SimulatedThread(broker, step, self.client, parts.most)
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue()
        self.chunks_done = 0
        self.has_records_in_hand = False  # in the chunk that was passed on last

    def build(self, handler: ChunkHandler, fail: Callable[[BaseException], None]) -> None:
        parts = self.parts
        self._fail = fail
        consumer: Any = EngineConsumer(self)
        self.consumer: ChunkConsumer = consumer
        self.consumer.intake = parts.intake
        self.barrier = Barrier(
            handler,
            consumer=lambda: self.consumer,
            state=parts.state_table,
            sending=parts.sending,
            observer=self,
            fail=fail,
        )
        self.consumer.on_positioned = self.barrier.take_partitions
        self.consumer.settle_takings = self.barrier.settle_takings
        self.consumer.on_unclean_revoke = (
            parts.state_table.forget_all if parts.state_table is not None else (lambda: None)
        )
        self.consumer.on_lost_records = fail

    def start(self) -> None:
        for work in (self._belong(), self._fetch(), self._pass_on()):
            self._process.spawn(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 -- whatever it is, it ends the process
            self._fail(error)

    # Observer of the barrier

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        self.chunks_done += step == "offsets"

    def waiting(self, reason: str) -> None: ...

    # Faust's work

    async def _belong(self) -> None:
        """Be a member: join, hear of rebalances, join again."""
        now = asyncio.get_running_loop().time
        while not self._leaves():
            await self.step("group:join")
            self.group.join(self.member, now())
            while self.group.is_rebalancing and not self._leaves():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.group.joined.wait(), HEARTBEAT_SECONDS)
                await self.step("group:heartbeat")
                self.member.heard_at = now()
                self.group.look(now())
            if not self.group.is_current(self.member):
                continue
            generation = self.member.generation
            await self._begin(generation)
            while self.group.is_current(self.member) and not self.group.is_rebalancing and not self._leaves():
                self.member.heard_at = now()
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await self.step("group:heartbeat")
                self.group.look(now())
            if self._leaves():
                return
            if not self.group.is_current(self.member):
                self.member.generation = -1
            await self._revoke()

    def _leaves(self) -> bool:
        return self.is_leaving

    async def _begin(self, generation: int) -> None:
        consumer: Any = self.consumer
        consumer.app.rebalancing = False
        consumer.app.consumer_generation_id = self.thread.generation = generation
        assigned = set(self.member.assigned)
        consumer._assigned = {TP(topic, number) for topic in self.group.topics for number in assigned}
        if self.parts.state_table is not None:
            await self._patiently(lambda: self.step("log:recovery"))
            self.parts.state_table.recover(self._broker, assigned)
        self.thread.positions.clear()
        await self._patiently(self.consumer.perform_seek)
        self.consumer.resume_flow()

    @staticmethod
    async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
        """aiokafka tries again by itself."""
        while True:
            try:
                await work()
            except KafkaError:
                await asyncio.sleep(0.5)
            else:
                return

    async def _revoke(self) -> None:
        consumer: Any = self.consumer
        consumer.app.rebalancing = True
        # Members are heard while they finish what is in flight.
        beating = self._process.spawn(self._beat())
        await self.consumer.on_partitions_revoked(set(consumer.assignment()))
        beating.cancel()

    async def _beat(self) -> None:
        while True:
            self.member.heard_at = asyncio.get_running_loop().time()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.step("group:heartbeat")

    async def _fetch(self) -> None:
        """Faust's drain loop. A chunk takes a while to the agent."""
        while True:
            async for _, message in self.consumer.getmany(1.0):
                value: Any = message.value
                self._chunks.put_nowait(value)

    async def _pass_on(self) -> None:
        while True:
            chunk = await self._chunks.get()
            await self.step("agent")
            self.has_records_in_hand = bool(chunk.arrivals)
            self.barrier.begin(chunk)

    async def leave(self) -> None:
        """As at SIGTERM."""
        self.is_leaving = True
        self.barrier.stop()
        await self.consumer.drain(DRAIN_SECONDS)
        self.group.leave(self.member, asyncio.get_running_loop().time())
