"""One installation that a test may break: topics, a database, workers, all that was sent, and what must come of it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import ConsumerRecord, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from stream.topics import hours_group_id
from tests.support.oracle import ExpectedRows, expected
from tests.support.processes import (
    PRODUCT,
    WITH_FAULTS,
    Worker,
    environment,
    remove_topics,
    succeed,
    wait_for,
    with_own_port,
)
from tests.support.rows import difference, differences, query, read_clicks
from tests.support.traffic import Sent, as_records

SOURCES = ("clicks", "conversions")
LARGEST_REQUEST = 6 * 1024 * 1024
SLICE_RECORDS = 100
COORDINATOR_SECONDS = 30

_JOURNEYS = "SELECT conv_id, version, touches FROM `202_stream_journeys`"
_PROGRESS = (
    "SELECT partition_id, owner, epoch, next_offsets FROM `202_stream_progress`"
    " WHERE topic_group = 'journeys' ORDER BY partition_id"
)

_Result = TypeVar("_Result")


class Installation:
    """`sent` is the log as the test made it; what workers sent on themselves repeats it and is not in there."""

    def __init__(
        self, kafka: str, database_url: str, folder: Path, *, partitions: int = 3, **settings: str | int
    ) -> None:
        self.env = environment(kafka, database_url, folder, partitions=partitions, **settings)
        self.kafka = kafka
        self.database_url = database_url
        self.partitions = partitions
        self.now = int(time.time())
        self.sent: list[Sent] = []

    def prepare(self) -> None:
        succeed("db", "upgrade", env=self.env)
        succeed("topics", "apply", env=self.env)

    def remove(self) -> None:
        asyncio.run(remove_topics(self.env))

    def worker(self, *, name: str = "worker", **faults: str | int) -> Worker:
        """Not started yet. `faults` as in `worker_with_faults`, in lower case without their prefix."""
        env = with_own_port(self.env) | {f"TESTFAULT_{fault.upper()}": str(value) for fault, value in faults.items()}
        return Worker(env, module=WITH_FAULTS if faults else PRODUCT, name=name)

    def topic(self, name: str) -> str:
        return self.env["TOUCHSTREAM_TOPIC_PREFIX"] + name

    # The log

    def send(self, records: Iterable[Sent]) -> None:
        """Returns once the broker has them all."""
        records = list(records)
        self.sent += records
        asyncio.run(self._send(records))

    @contextmanager
    def sending(self, records: Sequence[Sent]) -> Iterator[None]:
        """In slices, beside what the block does; at the end of the block all have been sent."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._send_in_slices(records))
            except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
                failures.append(error)

        self.sent += records
        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        assert not failures, failures

    async def _send_in_slices(self, records: Sequence[Sent]) -> None:
        for start in range(0, len(records), SLICE_RECORDS):
            await self._send(records[start : start + SLICE_RECORDS])
            await asyncio.sleep(0.05)  # the pace of the load; nothing is waited for

    async def _send(self, records: Sequence[Sent]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, max_request_size=LARGEST_REQUEST, linger_ms=5)
        await producer.start()
        try:
            futures = []
            for record in records:
                partition = (murmur2(record.key) & 0x7FFFFFFF) % self.partitions if record.key is not None else 0
                topic = self.topic(record.topic)
                if record.key is None and record.value is None:  # what a client refuses, the log may hold all the same
                    batch = producer.create_batch()
                    batch.append(timestamp=None, key=None, value=None)
                    batch.close()
                    futures.append(await producer.send_batch(batch, topic, partition=partition))
                else:
                    futures.append(await producer.send(topic, record.value, record.key, partition))
            await asyncio.gather(*futures)
        finally:
            await producer.stop()

    def read(self, topic: str) -> list[ConsumerRecord]:
        """All records of a topic, partition by partition."""
        return asyncio.run(self._read(self.topic(topic)))

    def read_changelog(self) -> list[ConsumerRecord]:
        return asyncio.run(self._read(f"{self.env['TOUCHSTREAM_APP_ID']}-journeys-state-changelog"))

    async def _read(self, topic: str) -> list[ConsumerRecord]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka, auto_offset_reset="earliest", max_partition_fetch_bytes=LARGEST_REQUEST
        )
        await consumer.start()
        try:
            found = []
            # A topic that nobody has asked for yet is not among the metadata of a new client.
            await consumer._client.set_topics([topic])
            tps = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
            ends = await consumer.end_offsets(tps)
            consumer.assign(tps)
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found += records
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            await consumer.stop()

    # The group

    def committed(self) -> dict[tuple[str, int], int]:
        """Where the group stands, by topic (without prefix) and partition; 0 where it has committed nothing."""
        group = self.env["TOUCHSTREAM_APP_ID"]
        found = self._ask(lambda admin: admin.list_consumer_group_offsets(group))
        offsets = dict.fromkeys(((topic, partition) for topic in SOURCES for partition in range(self.partitions)), 0)
        prefix = self.env["TOUCHSTREAM_TOPIC_PREFIX"]
        return offsets | {(tp.topic.removeprefix(prefix), tp.partition): at.offset for tp, at in found.items()}

    def ends(self) -> dict[tuple[str, int], int]:
        return asyncio.run(self._ends())

    async def _ends(self) -> dict[tuple[str, int], int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka)
        await consumer.start()
        try:
            tps = {
                (topic, partition): TopicPartition(self.topic(topic), partition)
                for topic in SOURCES
                for partition in range(self.partitions)
            }
            ends = await consumer.end_offsets(list(tps.values()))
            return {place: ends[tp] for place, tp in tps.items()}
        finally:
            await consumer.stop()

    def expel_members(self) -> None:
        """What the broker does to dead members once their session timeout is over, without that wait."""

        async def expel(admin: AIOKafkaAdminClient) -> None:
            app_id = self.env["TOUCHSTREAM_APP_ID"]
            for group in (app_id, hours_group_id(app_id)):
                for response in await admin.describe_consumer_groups([group]):
                    for member in response.groups[0][5]:
                        coordinator = await admin.find_coordinator(group)
                        await admin._send_request(LeaveGroupRequest(group, member[0]), coordinator)

        self._ask(expel)

    def _ask(self, question: Callable[[AIOKafkaAdminClient], Awaitable[_Result]]) -> _Result:
        return asyncio.run(self._answer(question))

    async def _answer(self, question: Callable[[AIOKafkaAdminClient], Awaitable[_Result]]) -> _Result:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        deadline = time.monotonic() + COORDINATOR_SECONDS
        try:
            while True:
                try:
                    return await question(admin)
                except KafkaError as error:
                    # A broker makes the topic of its groups when it is first asked for one.
                    if not error.retriable or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.2)
        finally:
            await admin.close()

    def wait_drained(self, *, seconds: float = 60) -> None:
        """Until the group has committed all there is. What is sent on is in the log before its cause is committed."""
        wait_for(self.is_drained, "the group to reach the ends of its topics", seconds=seconds)

    def is_drained(self) -> bool:
        return not self.lag()

    def lag(self) -> dict[tuple[str, int], int]:
        committed = self.committed()
        return {place: end - committed[place] for place, end in self.ends().items() if end > committed[place]}

    # The database

    def stored_clicks(self) -> int:
        return int(query(self.database_url, "SELECT COUNT(*) FROM `202_stream_clicks`")[0][0])

    def progress(self) -> list[tuple[Any, ...]]:
        """Partition, owner, epoch and next offsets of each row."""
        return query(self.database_url, _PROGRESS)

    def stored_offsets(self) -> dict[tuple[str, int], int]:
        """The same as `committed`, as the database has it."""
        prefix = self.env["TOUCHSTREAM_TOPIC_PREFIX"]
        return {(topic, partition): 0 for topic in SOURCES for partition in range(self.partitions)} | {
            (topic.removeprefix(prefix), partition): offset
            for partition, _, _, next_offsets in self.progress()
            for topic, offset in json.loads(next_offsets).items()
        }

    # What must have come of it

    def expected(self) -> ExpectedRows:
        return expected(as_records(self.sent, self.now))

    def assert_right(self) -> None:
        """Rows as the oracle says, none twice, none missing; the journeys topic and the offsets go with them."""
        wanted = self.expected()
        _agree(differences(wanted, self.database_url))
        _agree(difference(wanted.clicks.values(), read_clicks(self.database_url), what="clicks"))
        stored = query(self.database_url, _JOURNEYS)
        journeys = [
            (conv_id, version, *(touch[1] for touch in json.loads(touches))) for conv_id, version, touches in stored
        ]
        published = [(conv_id, version, *clicks) for conv_id, (version, clicks) in self.published().items()]
        _agree(difference(journeys, published, what="journeys topic"))
        stored_offsets, committed = self.stored_offsets(), self.committed()
        assert stored_offsets == committed, f"SQL stands at {stored_offsets}, Kafka at {committed}"

    def published(self) -> dict[int, tuple[int, list[int]]]:
        """The newest version of each conversion on the journeys topic, with the clicks of its touches."""
        found: dict[int, tuple[int, list[int]]] = {}
        for record in self.read("journeys"):
            journey = json.loads(record.value)
            version = journey["version"]
            if version >= found.get(journey["conv_id"], (0, []))[0]:
                found[journey["conv_id"]] = version, [touch["click_id"] for touch in journey["touches"]]
        return found


def _agree(found: str) -> None:
    """Fails with the differences; pytest explains asserts of test modules only."""
    assert not found, found


def metric(worker: Worker, name: str, **labels: str) -> float:
    """The sum of all samples of /metrics with this name (touchstream_ left out) and these labels."""
    status, text = worker.health("/metrics")
    assert status == 200, f"/metrics answers {status}"
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"touchstream_{name}" and _has(sample.labels, labels)
    )


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
