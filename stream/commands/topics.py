"""`topics check` and `topics apply`: does the broker have the topics of topics.yaml, and if not, make them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence

import click
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from stream.agents.topic_names import planned_topics
from stream.config import Settings, read_settings
from stream.core.errors import Misconfigured, StartRefused, StreamError, Unavailable
from stream.engine.reaching import refusal
from stream.topics import PlannedTopic, TopicSpec, read_topics
from stream.wire.schemas import schema_text

REQUEST_LIMIT_S = 10
APPEAR_LIMIT_S = 15
REPLICAS = 3  # where there are as many brokers


class TopicsDiffer(StreamError):
    """The broker has not what topics.yaml wants."""


@contextlib.asynccontextmanager
async def connected_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client that has reached the broker; raises Unavailable where it cannot, or later fails.

    Raises Misconfigured where broker and settings do not go together: certificate, account, TLS or none.
    """
    options = settings.kafka_options()
    admin = AIOKafkaAdminClient(request_timeout_ms=REQUEST_LIMIT_S * 1000, **options)
    try:
        async with asyncio.timeout(REQUEST_LIMIT_S):
            await admin.start()
        yield admin
    except (KafkaError, TimeoutError, OSError) as error:
        refused = await refusal(options)
        if refused is not None:
            raise refused from error
        raise Unavailable(
            f"Kafka at {settings.kafka} did not answer: {error or type(error).__name__}",
            hint="is the broker running, and is TOUCHSTREAM_KAFKA its address? On this machine: dev/kafka start",
        ) from error
    finally:
        await admin.close()


async def apply_topics(settings: Settings) -> list[str]:
    """Create what is missing and wait for it; returns a line for each topic made and each setting that differs.

    Raises StartRefused, before it makes anything, if a topic that is there has another count of partitions.
    """
    planned = planned_topics(settings)
    async with connected_admin(settings) as admin:
        counts = await _partition_counts(admin, planned)
        mismatches = _mismatches(planned, counts)
        if mismatches:
            raise StartRefused("; ".join(mismatches), hint=_mismatch_hint(planned, counts))
        missing = [topic for topic in planned if topic.name not in counts]
        await _create(admin, missing)
        await _wait_for(admin, missing)
        made = [f'created topic "{topic.name}" with {_partitions(topic.partitions)}' for topic in missing]
        return made + await _config_differences(admin, planned)


async def compare_topics(settings: Settings) -> list[str]:
    """A line for each topic that is missing or different; none if all is as planned."""
    planned = planned_topics(settings)
    async with connected_admin(settings) as admin:
        counts = await _partition_counts(admin, planned)
        missing = [f'topic "{topic.name}" is missing' for topic in planned if topic.name not in counts]
        there = [topic for topic in planned if topic.name in counts]
        return missing + _mismatches(planned, counts) + await _config_differences(admin, there)


def check_schemas(specs: Sequence[TopicSpec]) -> None:
    """Raises Misconfigured if a topic names a schema that is not among ours, or that is no JSON."""
    for spec in specs:
        if not spec.schema:
            continue
        try:
            document = json.loads(schema_text(spec.schema))
        except (OSError, ValueError) as error:
            raise Misconfigured(f'schema "{spec.schema}" of topic "{spec.name}" cannot be read: {error}') from error
        if not isinstance(document, dict) or document.get("type") != "object":
            raise Misconfigured(f'schema "{spec.schema}" of topic "{spec.name}" does not describe an object')


async def _partition_counts(admin: AIOKafkaAdminClient, planned: Sequence[PlannedTopic]) -> Mapping[str, int]:
    """By name, of those topics that are there and can be written."""
    described = await admin.describe_topics([topic.name for topic in planned])
    counts = {}
    for topic in described:
        has_leaders = all(partition["leader"] >= 0 for partition in topic["partitions"])
        if topic["error_code"] == 0 and has_leaders:
            counts[topic["topic"]] = len(topic["partitions"])
    return counts


def _mismatches(planned: Sequence[PlannedTopic], counts: Mapping[str, int]) -> list[str]:
    return [
        f'topic "{topic.name}" has {_partitions(counts[topic.name])}, expected {topic.partitions}'
        for topic in planned
        if counts.get(topic.name, topic.partitions) != topic.partitions
    ]


def _mismatch_hint(planned: Sequence[PlannedTopic], counts: Mapping[str, int]) -> str:
    found = sorted({counts[t.name] for t in planned if counts.get(t.name, t.partitions) != t.partitions})
    if len(found) == 1:
        return f"set TOUCHSTREAM_PARTITIONS={found[0]}, or delete the topics named and apply again"
    return "delete the topics named and apply again: co-partitioned topics need equal counts"


async def _create(admin: AIOKafkaAdminClient, missing: Sequence[PlannedTopic]) -> None:
    if not missing:
        return
    cluster = await admin.describe_cluster()
    replicas = min(len(cluster["brokers"]), REPLICAS)
    topics = [NewTopic(t.name, t.partitions, replicas, topic_configs=dict(t.config)) for t in missing]
    answer = await admin.create_topics(topics)
    for name, code, message in answer.topic_errors:
        # Somebody who applies at the same moment may have been first; the counts are compared again below.
        if code not in {0, TopicAlreadyExistsError.errno}:
            raise TopicsDiffer(f'topic "{name}" could not be created: {message or for_code(code).__name__}')


async def _wait_for(admin: AIOKafkaAdminClient, topics: Sequence[PlannedTopic]) -> None:
    """Until each has leaders; what is used before that fails once and confuses."""
    async with asyncio.timeout(APPEAR_LIMIT_S):
        while topics:
            counts = await _partition_counts(admin, topics)
            if all(topic.name in counts for topic in topics):
                mismatches = _mismatches(topics, counts)
                if mismatches:
                    raise StartRefused("; ".join(mismatches), hint=_mismatch_hint(topics, counts))
                return
            await asyncio.sleep(0.05)


async def _config_differences(admin: AIOKafkaAdminClient, topics: Sequence[PlannedTopic]) -> list[str]:
    if not topics:
        return []
    wanted = {topic.name: topic.config for topic in topics}
    resources = [ConfigResource(ConfigResourceType.TOPIC, t.name, dict.fromkeys(t.config)) for t in topics]
    lines = []
    for answer in await admin.describe_configs(resources):
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(message)
            found = {entry[0]: entry[1] for entry in entries}
            lines += [
                f'{setting} of topic "{name}" is {found.get(setting, "unknown")}, expected {value}'
                for setting, value in wanted[name].items()
                if found.get(setting) != value
            ]
    return lines


def _partitions(count: int) -> str:
    return f"{count} partition" if count == 1 else f"{count} partitions"


@click.group(name="topics")
def command() -> None:
    """Compare or create the topics of topics.yaml."""


@command.command()
@click.option("--offline", is_flag=True, help="Only the file and the schemas that it names; no broker.")
def check(offline: bool) -> None:
    """Compare the broker's topics with topics.yaml; exit 1 if any is missing or different."""
    specs = read_topics()
    check_schemas(specs)
    if offline:
        click.echo(f"topics.yaml is well: {len(specs)} topics")
        return
    differences = asyncio.run(compare_topics(read_settings()))
    for line in differences:
        click.echo(line, err=True)
    if differences:
        raise TopicsDiffer(
            f"{len(differences)} differences to topics.yaml",
            hint='"python -m stream topics apply" creates what is missing',
        )
    click.echo(f"all {len(specs)} topics are as topics.yaml wants them")


@command.command()
def apply() -> None:
    """Create what is missing; say what differs, and change nothing that is there."""
    settings = read_settings()
    for line in asyncio.run(apply_topics(settings)):
        click.echo(line)
    click.echo(f"all {len(planned_topics(settings))} topics are there")
