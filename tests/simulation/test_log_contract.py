"""The log as the product's engine uses it, simulated and real: one contract for both."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from stream.core.errors import Fenced
from stream.engine import sending as sending_module
from stream.engine.committing import OffsetCommits
from stream.engine.fetching import ChunkThread
from stream.engine.outbox import Outbox
from stream.engine.sending import FencedSending
from stream.wire.outgoing import OutgoingRecord
from tests.simulation.case import chance_of
from tests.simulation.clients import BATCH_RECORDS, SimulatedConsumer, SimulatedProducer, SimulatedThread
from tests.simulation.log import Broker, Group, Member
from tests.simulation.processes import Steps

PARTITIONS = 2


class Round(NamedTuple):
    """Offsets of the records that a fetch gave, the position behind them, and whether that is the end."""

    offsets: Sequence[int]
    next: int
    is_end: bool


class Log(Protocol):
    """One topic of two partitions, and what the engine has of it."""

    topic: str

    def outbox(self) -> Outbox: ...
    def sending(self) -> FencedSending: ...
    async def join(self) -> Any: ...  # noqa: ANN401 -- a consumer in the group, which takes it over from those before
    async def values(self, partition: int) -> Sequence[tuple[int, bytes | None, bytes | None]]: ...
    async def end(self, partition: int) -> int: ...
    async def abort(self, partition: int, value: bytes) -> None: ...
    async def fetch(self, partition: int, start: int, most: int) -> Round: ...


class SimulatedLog:
    """Satisfies Log."""

    def __init__(self) -> None:
        self.topic = "it"
        self._step = Steps(chance_of(0, "contract"))
        self._step.slowness = 0.0001
        self._broker = Broker({self.topic: PARTITIONS}, lambda: 1)
        self._group = Group((self.topic,), PARTITIONS)
        self._members = 0

    def producer(self, *, transactional_id: str | None = None, **_options: object) -> SimulatedProducer:
        return SimulatedProducer(self._broker, self._step, transactional_id)

    def outbox(self) -> Outbox:
        return Outbox(self.producer())

    def sending(self) -> FencedSending:
        return FencedSending("it", {})

    async def join(self) -> SimulatedConsumer:
        self._members += 1
        for member in list(self._group.members):
            self._group.members.remove(member)
        member = Member(f"member {self._members}")
        self._group.join(member, asyncio.get_running_loop().time())
        return SimulatedConsumer(self._broker, self._group, member, self._step)

    async def values(self, partition: int) -> Sequence[tuple[int, bytes | None, bytes | None]]:
        records, _ = self._broker.topics[self.topic][partition].fetch(0, 10_000)
        return [(record.offset, record.key, record.value) for record in records]

    async def end(self, partition: int) -> int:
        return self._broker.topics[self.topic][partition].end

    async def abort(self, partition: int, value: bytes) -> None:
        producer = self.producer(transactional_id="aborting")
        await producer.start()
        await producer.begin_transaction()
        await producer.send(self.topic, value=value, key=b"key", partition=partition, timestamp_ms=1, headers=())
        await producer.abort_transaction()

    async def fetch(self, partition: int, start: int, most: int) -> Round:
        place = TP(self.topic, partition)
        thread = SimulatedThread(self._broker, self._step, await self.join(), lambda: most)
        thread.positions[place] = start
        fetch = await thread.getmany({place}, 0.1)
        (part,) = fetch.parts
        assert part.start == start
        return Round([record.offset for record in part.records], part.next, fetch.ends[place])


class RealLog:
    """Satisfies Log."""

    def __init__(self, kafka: str) -> None:
        self.topic = f"contract-{uuid.uuid4().hex[:8]}"
        self._kafka = kafka
        self._producer = AIOKafkaProducer(bootstrap_servers=kafka)
        self._consumers: list[AIOKafkaConsumer] = []
        self._sendings: list[FencedSending] = []

    async def start(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka)
        await admin.start()
        await admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])
        await admin.close()
        await self._producer.start()

    async def close(self) -> None:
        for sending in self._sendings:
            await sending.close()
        for consumer in self._consumers:
            await consumer.stop()
        await self._producer.stop()

    def outbox(self) -> Outbox:
        return Outbox(self._producer)

    def sending(self) -> FencedSending:
        self._sendings.append(FencedSending(self.topic, {"bootstrap_servers": self._kafka}))
        return self._sendings[-1]

    async def join(self) -> AIOKafkaConsumer:
        """Those before have slept: they hear of nothing, and the coordinator forgets them."""
        consumer = AIOKafkaConsumer(
            self.topic,
            bootstrap_servers=self._kafka,
            group_id=self.topic,
            enable_auto_commit=False,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=500,
        )
        for before in self._consumers:
            coordinator: Any = before._coordinator
            coordinator._coordination_task.cancel()
            coordinator._heartbeat_task.cancel()
        await consumer.start()
        self._consumers.append(consumer)
        async with asyncio.timeout(60):
            while len(consumer.assignment()) < PARTITIONS:
                await consumer.getmany(timeout_ms=100)
        return consumer

    async def values(self, partition: int) -> Sequence[tuple[int, bytes | None, bytes | None]]:
        reader = AIOKafkaConsumer(bootstrap_servers=self._kafka, isolation_level="read_committed")
        await reader.start()
        try:
            place = TopicPartition(self.topic, partition)
            reader.assign([place])
            reader.seek(place, 0)
            found: list[Any] = []
            end = (await reader.end_offsets([place]))[place]
            while await reader.position(place) < end:
                for records in (await reader.getmany(timeout_ms=500)).values():
                    found += records
            return [(record.offset, record.key, record.value) for record in found]
        finally:
            await reader.stop()

    async def abort(self, partition: int, value: bytes) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._kafka, transactional_id=f"{self.topic}-aborting")
        await producer.start()
        await producer.begin_transaction()
        sent = await producer.send_and_wait(self.topic, value=value, key=b"key", partition=partition)
        await producer.abort_transaction()
        await producer.stop()
        await self._marked(partition, sent.offset)

    async def _marked(self, partition: int, offset: int) -> None:
        """The coordinator answers before the partition has its marker."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._kafka)
        await consumer.start()
        place = TopicPartition(self.topic, partition)
        async with asyncio.timeout(20):
            while (await consumer.end_offsets([place]))[place] < offset + 2:  # noqa: ASYNC110 -- the broker sets no event
                await asyncio.sleep(0.05)
        await consumer.stop()

    async def fetch(self, partition: int, start: int, most: int) -> Round:
        """By the shipped thread's own way of fetching, until it is told of anything."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        place = TopicPartition(self.topic, partition)
        consumer.assign([place])
        consumer.seek(place, start)
        thread: Any = ChunkThread.__new__(ChunkThread)
        thread.consumer, thread.app = SimpleNamespace(flow_active=True), SimpleNamespace(consumer_generation_id=1)
        offsets: list[int] = []
        try:
            async with asyncio.timeout(30):
                while True:
                    fetch = await thread._fetch_records(consumer, {place}, 0.5, most - len(offsets))
                    offsets += [record.offset for part in fetch.parts for record in part.records]
                    following = await consumer.position(place)
                    is_end = fetch.ends[TP(self.topic, partition)]
                    if len(offsets) == most or (is_end and following > start):
                        return Round(offsets, following, is_end)
        finally:
            await consumer.stop()

    async def end(self, partition: int) -> int:
        place = TopicPartition(self.topic, partition)
        return int((await self._consumers[-1].end_offsets([place]))[place])


@pytest.fixture(params=["simulated", "kafka"])
async def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    if request.param == "simulated":
        simulated = SimulatedLog()
        monkeypatch.setattr(sending_module, "AIOKafkaProducer", simulated.producer)
        yield simulated
        return
    real = RealLog(request.getfixturevalue("kafka"))
    await real.start()
    yield real
    await real.close()


class Thread:
    """In place of Faust's: calls at once."""

    def __init__(self, consumer: Any) -> None:  # noqa: ANN401 -- the client's own or a simulated one
        self._consumer = consumer

    def _ensure_consumer(self) -> Any:  # noqa: ANN401
        return self._consumer

    async def call_thread(self, work: Any, *arguments: Any) -> Any:  # noqa: ANN401
        return await work(*arguments)


def records(log: Log, partition: int, *values: str) -> list[OutgoingRecord]:
    return [OutgoingRecord(log.topic, partition, b"key", value.encode(), ()) for value in values]


async def test_records_stand_in_the_order_in_which_they_were_sent(log: Log) -> None:
    outbox = log.outbox()
    texts = [str(number) for number in range(2 * BATCH_RECORDS + 5)]
    acknowledged = await outbox.send(records(log, 0, *texts) + records(log, 1, "other"))
    found = await log.values(0)
    assert found == [(number, b"key", text.encode()) for number, text in enumerate(texts)]
    assert [value for _, _, value in await log.values(1)] == [b"other"]
    assert sum(count for _, count in acknowledged) == len(texts) + 1


async def test_who_took_over_last_is_the_only_one_to_send(log: Log) -> None:
    first, second = log.sending(), log.sending()
    await first.take_over(0)
    await first.send(0, records(log, 0, "a", "b"))
    await second.take_over(0)
    with pytest.raises(Fenced):
        await first.send(0, records(log, 0, "stale"))
    await second.send(0, records(log, 0, "c"))
    assert [value for _, _, value in await log.values(0)] == [b"a", b"b", b"c"]


async def test_a_transaction_takes_an_offset_more_than_its_records(log: Log) -> None:
    sending = log.sending()
    await sending.take_over(0)
    await sending.send(0, records(log, 0, "a", "b"))
    await sending.send(0, records(log, 0, "c"))
    assert [offset for offset, _, _ in await log.values(0)] == [0, 1, 3]


async def test_what_failed_half_way_is_not_seen(log: Log) -> None:
    def broken() -> Any:  # noqa: ANN401
        yield from records(log, 0, "half")
        raise ValueError("the records ended too early")

    sending = log.sending()
    await sending.take_over(0)
    with pytest.raises(ValueError, match="too early"):
        await sending.send(0, broken())
    await sending.send(0, records(log, 0, "whole"))
    assert [value for _, _, value in await log.values(0)] == [b"whole"]


async def test_an_aborted_transaction_takes_offsets_and_gives_no_record(log: Log) -> None:
    await log.abort(0, b"half")
    await log.outbox().send(records(log, 0, "whole"))
    assert await log.values(0) == [(2, b"key", b"whole")]
    assert await log.fetch(0, 0, 10) == Round([2], 3, is_end=True)


async def test_a_fetch_gives_records_the_place_behind_them_and_whether_that_is_the_end(log: Log) -> None:
    await log.outbox().send(records(log, 1, *"abcde"))
    assert await log.fetch(1, 0, 3) == Round([0, 1, 2], 3, is_end=False)
    assert await log.fetch(1, 3, 10) == Round([3, 4], 5, is_end=True)


async def test_a_fetch_passes_over_the_markers_of_transactions(log: Log) -> None:
    sending = log.sending()
    await sending.take_over(0)
    await sending.send(0, records(log, 0, "a"))
    await sending.send(0, records(log, 0, "b"))
    assert await log.fetch(0, 0, 10) == Round([0, 2], 4, is_end=True)
    assert await log.fetch(0, 3, 10) == Round([], 4, is_end=True)


async def test_offsets_of_a_member_that_was_replaced_are_refused(log: Log) -> None:
    first = await log.join()
    commits = OffsetCommits(Thread(first))
    assert await commits.commit(0, {log.topic: 0})
    assert await commits.prove_membership()
    second = await log.join()
    assert await OffsetCommits(Thread(second)).commit(0, {log.topic: 0})
    assert not await commits.commit(0, {log.topic: 1})
    assert not await commits.prove_membership()
    assert not await first._coordinator._do_heartbeat()
    assert await second._coordinator._do_heartbeat()


async def test_ends_are_behind_the_last_record(log: Log) -> None:
    consumer = await log.join()
    place = TopicPartition(log.topic, 1)
    assert (await consumer.end_offsets([place]))[place] == 0
    await log.outbox().send(records(log, 1, "a", "b"))
    assert (await consumer.end_offsets([place]))[place] == 2
    assert (await consumer.beginning_offsets([place]))[place] == 0
    assert consumer.partitions_for_topic(log.topic) == {0, 1}
    await consumer.commit({place: OffsetAndMetadata(2, "")})
