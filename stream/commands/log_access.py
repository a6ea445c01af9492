"""How does a command write to the log and read from it, and say in one sentence when it cannot?"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from stream.agents.topic_names import planned_counts
from stream.clock import unix_now
from stream.commands.topics import connected_admin
from stream.config import Settings
from stream.core.errors import Misconfigured, StartRefused, StreamError, Unavailable
from stream.core.keys import murmur2
from stream.engine.header_names import read_any_header_name
from stream.engine.outbox import Outbox
from stream.wire.outgoing import OutgoingRecord

ANSWER_LIMIT_S = 15
BATCH_BYTES = 512 * 1024
LARGEST_REQUEST_BYTES = 8 * 1024 * 1024  # more than the largest dead letter
CLOSE_LIMIT_S = 3
_BACKOFF_MS = 20  # aiokafka takes one for each topic that it is asked of for the first time


class TooLargeForTopic(StreamError):
    """The broker's topic takes no record of this size."""


async def partition_counts(settings: Settings, topics: Sequence[str]) -> Mapping[str, int]:
    """By topic. Raises StartRefused if the broker lacks one, Unavailable if there is no broker."""
    async with connected_admin(settings) as admin:
        # Asks for all topics: asking for one by name may create it.
        described = await admin.describe_topics()
    counts = {each["topic"]: len(each["partitions"]) for each in described if each["partitions"]}
    for topic in topics:
        if topic not in counts:
            raise StartRefused(
                f'Kafka at {settings.kafka} has no topic "{topic}"',
                hint='"python -m stream topics apply" creates what is missing',
            )
    return {topic: counts[topic] for topic in topics}


async def check_partitions(settings: Settings, topics: Sequence[str]) -> None:
    """Whoever locks a partition, or places a record, counts as the settings do.

    Raises Misconfigured where the broker's topics have other counts, and what `partition_counts` raises.
    """
    planned = planned_counts(settings)
    for topic, count in (await partition_counts(settings, topics)).items():
        if count != planned[topic]:
            raise partitions_differ(f'topic "{topic}"', count, planned[topic])


def partitions_differ(whose: str, found: int, expected: int) -> Misconfigured:
    return Misconfigured(
        f"{whose} has {found} partitions, expected {expected}",
        hint=f"set TOUCHSTREAM_PARTITIONS={found} for all commands and workers",
    )


class LogWriter:
    """Sends records, several thousand at a time, and returns once the broker has stored them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._counts: Mapping[str, int] = {}

    async def start(self, topics: Sequence[str]) -> None:
        """Raises Unavailable if there is no broker, StartRefused if it lacks one of the topics."""
        producer = AIOKafkaProducer(
            **self._settings.kafka_options(),
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=5,
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST_REQUEST_BYTES,
            request_timeout_ms=ANSWER_LIMIT_S * 1000,
        )
        self._producer = producer
        self._counts = await partition_counts(self._settings, topics)
        with broker_errors(self._settings):
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await producer.start()

    def partitions(self, topic: str) -> int:
        """How many the topic has; only of those given to `start`."""
        return self._counts[topic]

    async def send(self, records: Sequence[OutgoingRecord]) -> None:
        """Raises Unavailable if the broker has not stored all of them in time; some may be stored then.

        Raises TooLargeForTopic if the broker does not take one for its size.
        """
        assert self._producer is not None, "start comes first"
        with broker_errors(self._settings):
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await Outbox(self._producer).send([self._placed(record) for record in records])

    async def stop(self) -> None:
        """What the broker did not take in time is given up."""
        if self._producer is not None:
            # What is given up was reported already; asyncio would do so once more, with a stack, for each batch.
            asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await self._producer.stop()

    def _placed(self, record: OutgoingRecord) -> OutgoingRecord:
        """With the partition that Kafka's default partitioner gives; records without a partition go one by one."""
        if record.partition is not None:
            return record
        partition = (murmur2(record.key or b"") & 0x7FFFFFFF) % self._counts[record.topic]
        return record._replace(partition=partition)


@contextlib.asynccontextmanager
async def writing(settings: Settings, topics: Sequence[str]) -> AsyncIterator[LogWriter]:
    """A writer that is connected; see LogWriter.start for what it raises."""
    writer = LogWriter(settings)
    try:
        await writer.start(topics)
        yield writer
    finally:
        await writer.stop()


async def read_records(settings: Settings, topic: str) -> AsyncIterator[ConsumerRecord]:
    """All of a topic from its beginning up to the ends it has now; commits nothing, joins no group.

    Raises StartRefused if the broker lacks the topic, Unavailable if there is no broker.
    """
    counts = await partition_counts(settings, [topic])
    places = [TopicPartition(topic, partition) for partition in range(counts[topic])]
    async with reading_log(settings) as consumer:
        starts, ends = await _bounds(settings, consumer, places)
        unread = [place for place in places if starts[place] < ends[place]]
        # Once, and never to nothing: a consumer whose assignment was replaced takes long to stop.
        if unread:
            consumer.assign(unread)
        for place in unread:
            consumer.seek(place, starts[place])
        while unread:
            for record in await _next(settings, consumer, ends):
                yield record
            unread = [place for place in unread if await consumer.position(place) < ends[place]]


async def read_record(settings: Settings, topic: str, *, partition: int, offset: int) -> ConsumerRecord:
    """Raises StreamError if there is none at that place."""
    counts = await partition_counts(settings, [topic])
    if not 0 <= partition < counts[topic]:
        raise StreamError(f'topic "{topic}" has no partition {partition}, its last is {counts[topic] - 1}')
    place = TopicPartition(topic, partition)
    async with reading_log(settings) as consumer:
        starts, ends = await _bounds(settings, consumer, [place])
        start, end = starts[place], ends[place]
        if not start <= offset < end:
            held = f"it holds {start} to {end - 1}" if start < end else "it is empty"
            raise StreamError(f'topic "{topic}" has no offset {offset} in partition {partition}: {held}')
        consumer.assign([place])
        consumer.seek(place, offset)
        found = await _next(settings, consumer, ends)
        if not found or found[0].offset != offset:
            raise StreamError(f'there is no record at offset {offset} of partition {partition} of topic "{topic}"')
        return found[0]


@contextlib.asynccontextmanager
async def reading_log(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without group: to be assigned once, for one whose assignment was replaced takes long to stop."""
    read_any_header_name()
    consumer = AIOKafkaConsumer(
        **settings.kafka_options(),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        request_timeout_ms=ANSWER_LIMIT_S * 1000,
        retry_backoff_ms=_BACKOFF_MS,
    )
    try:
        with broker_errors(settings):
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await consumer.start()
        yield consumer
    finally:
        with contextlib.suppress(KafkaError, TimeoutError, OSError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await asyncio.sleep(0)  # a task of aiokafka's that has not begun would cancel whoever stops it
                await consumer.stop()


async def first_left(consumer: AIOKafkaConsumer, removed: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
    """Append time of the first record that is left, unix seconds; where none is, the time of now: all of it is gone."""
    if not removed:
        return {}
    found = await consumer.offsets_for_times(dict.fromkeys(removed, 0))
    return {place: found[place].timestamp // 1000 if found.get(place) else int(unix_now()) for place in removed}


async def _bounds(
    settings: Settings, consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]
) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
    with broker_errors(settings):
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return await consumer.beginning_offsets(places), await consumer.end_offsets(places)


async def _next(
    settings: Settings, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> list[ConsumerRecord]:
    """At least one record before the ends; none if what is left there are markers without content."""
    with broker_errors(settings):
        async with asyncio.timeout(ANSWER_LIMIT_S):
            while True:
                batches = await consumer.getmany(timeout_ms=500)
                found = [record for place, batch in batches.items() for record in batch if record.offset < ends[place]]
                if found or all([await consumer.position(place) >= ends[place] for place in consumer.assignment()]):
                    return found


@contextlib.contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """Within, what the broker does wrong is Unavailable, or TooLargeForTopic."""
    try:
        yield
    except MessageSizeTooLargeError as error:
        raise TooLargeForTopic("the broker refused a record as too large") from error
    except (KafkaError, TimeoutError, OSError) as error:
        why = str(error) or f"nothing within {ANSWER_LIMIT_S} s"
        raise Unavailable(
            f"Kafka at {settings.kafka} did not answer: {why}",
            hint="is the broker running, and is TOUCHSTREAM_KAFKA its address? On this machine: dev/kafka start",
        ) from error
