"""Kafka's clients as the engine uses them, on the simulated broker: producer, consumer, coordinator, its thread."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import CommitFailedError, IllegalStateError, ProducerFenced, RequestTimedOutError
from aiokafka.structs import TopicPartition
from faust.types import TP

from stream.engine import barrier, consumer, log_place, outbox, sending
from stream.engine.fetching import Fetch, Fetched
from tests.simulation.log import Broker, Content, Group, Member
from tests.simulation.processes import Steps, running

BATCH_RECORDS = 40
HEARTBEAT_SECONDS = 2.0


class Batch:
    """What `AIOKafkaProducer.create_batch` gives."""

    def __init__(self) -> None:
        self.contents: list[Content] = []

    def append(self, *, timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[Any]) -> object:
        if len(self.contents) >= BATCH_RECORDS:
            return None
        self.contents.append((key, value, headers))
        return self

    def record_count(self) -> int:
        return len(self.contents)

    def close(self) -> None: ...


class SimulatedProducer:
    """In place of AIOKafkaProducer. What it has sent off arrives whatever becomes of its process."""

    def __init__(self, broker: Broker, step: Steps, transactional_id: str | None = None) -> None:
        self._broker = broker
        self._step = step
        self._id = transactional_id
        self._pending: list[tuple[str, int, Content]] | None = None
        self.loses_answers = 0
        self.owner = ""  # name of the process that started it

    async def start(self) -> None:
        process = running()
        self.owner = process.name if process is not None else ""
        await self._step("log:producer")
        if self._id is not None:
            self._broker.senders[self._id] = self
        await self._step("log:producer begun")

    async def stop(self) -> None: ...

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, partition: int) -> "asyncio.Future[Any]":
        return await self._sent(topic, partition, batch.contents)

    async def send(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        timestamp_ms: int,
        headers: Sequence[Any],
    ) -> "asyncio.Future[Any]":
        return await self._sent(topic, partition or 0, [(key, value, headers)])

    async def _sent(self, topic: str, partition: int, contents: Sequence[Content]) -> "asyncio.Future[Any]":
        await self._step(f"log:send {topic}")
        answer = asyncio.get_running_loop().create_future()
        self._check_sender()
        if self._pending is not None:
            self._pending += [(topic, partition, content) for content in contents]
            offset = 0
        else:
            offset = min(self._broker.append(topic, partition, content) for content in contents)
        await self._step("wire:sent")
        if self.loses_answers:
            self.loses_answers -= 1
            answer.set_exception(RequestTimedOutError("the answer was lost"))
        else:
            answer.set_result(SimpleNamespace(offset=offset))
        return answer

    async def begin_transaction(self) -> None:
        await self._step("log:begin")
        self._pending = []

    async def abort_transaction(self) -> None:
        """What was sent has taken its offsets, and the marker one more; nobody reads a record there."""
        pending, self._pending = self._pending or [], None
        places = [(topic, partition) for topic, partition, _ in pending]
        for topic, partition in places + sorted(set(places)):
            self._broker.topics[topic][partition].skip()

    async def commit_transaction(self) -> None:
        await self._step("log:commit of outputs")
        self._check_sender()
        pending, self._pending = self._pending or [], None
        for topic, partition, content in pending:
            self._broker.append(topic, partition, content)
        for topic, partition in sorted({(topic, partition) for topic, partition, _ in pending}):
            self._broker.topics[topic][partition].skip()  # the transaction's marker
        await self._step("wire:outputs committed")

    def _check_sender(self) -> None:
        if self._id is not None and self._broker.senders[self._id] is not self:
            raise ProducerFenced("another producer has taken the id")


class SimulatedConsumer:
    """In place of AIOKafkaConsumer: what commits, the start and the proof of membership ask of it."""

    def __init__(self, broker: Broker, group: Group, member: Member, step: Steps) -> None:
        self._broker = broker
        self._group = group
        self._member = member
        self._step = step
        self._client = self
        self._coordinator = self

    @property
    def generation(self) -> int:
        return self._member.generation

    async def _do_heartbeat(self) -> bool:
        await self._step("log:heartbeat")
        return self._group.is_current(self._member)

    async def commit(self, offsets: Mapping[TopicPartition, Any]) -> None:
        if any(tp.partition not in self._member.assigned for tp in offsets):
            raise IllegalStateError("the partition is not assigned")
        generation = self._member.generation  # of the request, however long it is on its way
        await self._step("log:offsets")
        plain = {tp: int(each.offset) for tp, each in offsets.items()}
        if generation != self._member.generation or not self._group.commit(self._member, plain):
            raise CommitFailedError("the group knows another generation")
        await self._step("log:offsets committed")

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self._step("log:ends")
        return {tp: self._broker.topics[tp.topic][tp.partition].end for tp in tps}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(len(self._broker.topics[topic])))


async def read_topic_ids(_client: object, topics: Sequence[str]) -> dict[str, str]:
    return {topic: f"id of {topic}" for topic in topics}


class SimulatedThread:
    """In place of `ChunkThread`: fetches from where each partition stands."""

    def __init__(self, broker: Broker, step: Steps, consumer: SimulatedConsumer, most: Callable[[], int]) -> None:
        self._broker = broker
        self._step = step
        self._consumer = consumer
        self._most = most  # records of a partition in one fetch
        self.positions: dict[TP, int] = {}
        self.generation = 0

    def _ensure_consumer(self) -> SimulatedConsumer:
        return self._consumer

    async def call_thread(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401
        return await work(*arguments)

    async def seek_wait(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._step("log:seek")
        self.positions.update({TP(tp.topic, tp.partition): offset for tp, offset in offsets.items()})

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def getmany(self, active: set[TP], seconds: float) -> Fetch:
        """What there is, or what comes in so many seconds."""
        await self._step("fetch")
        if asyncio.get_running_loop().time() < self._step.broker_away_until:
            await asyncio.sleep(seconds)
            return Fetch(self.generation, (), {}, {})
        if not self._has_records(active):
            await self._broker.wait_for_records(seconds)
            await self._step("fetch")
        parts, ends = [], {}
        for tp in sorted(active & self.positions.keys()):
            partition = self._broker.topics[tp.topic][tp.partition]
            start = self.positions[tp]
            records, following = partition.fetch(start, self._most())
            if following != start:
                parts.append(Fetched(tp, records, start, following))
                self.positions[tp] = following
            ends[tp] = following >= partition.end
        now_ms = self._broker.now_ms()
        return Fetch(self.generation, parts, ends, dict.fromkeys(ends, now_ms))

    def _has_records(self, active: set[TP]) -> bool:
        return any(
            self.positions[tp] < self._broker.topics[tp.topic][tp.partition].end
            for tp in active & self.positions.keys()
        )


def replaced_names(
    producer: Callable[..., SimulatedProducer], clock: Callable[[], float]
) -> list[tuple[Any, str, Any]]:
    """Module, name and what stands there while a simulation runs: clocks, the producer, and Kafka's topic ids."""
    monotonic = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    found: dict[Any, dict[str, Any]] = defaultdict(dict)
    found[sending]["AIOKafkaProducer"] = producer
    found[log_place]["read_topic_ids"] = read_topic_ids
    for module in (consumer, outbox, log_place):
        found[module]["unix_now"] = clock
    for module in (consumer, barrier):
        found[module]["time"] = monotonic
    return [(module, name, value) for module, names in found.items() for name, value in names.items()]
