"""`topics check` and `topics apply` on a real broker."""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream.agents.topic_names import planned_topics
from stream.commands.topics import apply_topics, compare_topics, connected_admin
from stream.config import Settings
from stream.core.errors import StartRefused, Unavailable
from tests.support.commands import run_stream


@pytest.fixture
def settings(kafka: str) -> Settings:
    name = f"test-{uuid.uuid4().hex[:8]}"
    return Settings(kafka=kafka, app_id=name, topic_prefix=f"{name}-", partitions=2)


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    async with connected_admin(settings) as client:
        yield client


async def test_apply_creates_all_that_check_misses_and_again_nothing(settings: Settings) -> None:
    assert len(await compare_topics(settings)) == 8
    made = await apply_topics(settings)
    assert made[0] == f'created topic "{settings.topic_prefix}clicks" with 2 partitions'
    assert len(made) == 8
    assert await compare_topics(settings) == []
    assert await apply_topics(settings) == []


async def test_the_broker_has_what_the_file_says(settings: Settings, admin: AIOKafkaAdminClient) -> None:
    await apply_topics(settings)
    described = await admin.describe_topics([topic.name for topic in planned_topics(settings)])
    assert {topic["topic"].removeprefix(settings.topic_prefix): len(topic["partitions"]) for topic in described} == {
        "clicks": 2,
        "conversions": 2,
        "clicks-dead-letters": 1,
        "conversions-dead-letters": 1,
        "journeys": 2,
        "attribution-snapshots": 2,
        "attribution-credits": 2,
        "journeys-state-changelog": 2,
    }


async def test_two_that_apply_at_once_both_succeed(settings: Settings) -> None:
    lines = await asyncio.gather(apply_topics(settings), apply_topics(settings))
    assert await compare_topics(settings) == []
    assert all("created" in line for each in lines for line in each)


async def test_another_partition_count_is_refused_before_anything_is_made(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    name = f"{settings.topic_prefix}clicks"
    await admin.create_topics([NewTopic(name, 3, 1)])
    async with asyncio.timeout(30):
        while not any("has 3 partitions" in line for line in await compare_topics(settings)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # a topic is there a moment after it was made
    with pytest.raises(StartRefused) as caught:
        await apply_topics(settings)
    assert str(caught.value) == f'topic "{name}" has 3 partitions, expected 2'
    assert "TOUCHSTREAM_PARTITIONS=3" in caught.value.hint
    differences = await compare_topics(settings)
    assert f'topic "{name}" has 3 partitions, expected 2' in differences
    assert sum("is missing" in line for line in differences) == 7


async def test_a_setting_that_differs_is_reported_and_left_alone(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    name = f"{settings.topic_prefix}clicks"
    await admin.create_topics([NewTopic(name, 2, 1, topic_configs={"retention.ms": "1000"})])
    expected = f'retention.ms of topic "{name}" is 1000, expected 5356800000'
    assert expected in await apply_topics(settings)
    assert expected in await compare_topics(settings)


async def test_a_broker_that_is_away_is_named_with_the_remedy() -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await apply_topics(Settings(kafka="127.0.0.1:1"))
    assert "127.0.0.1:1" in str(caught.value)
    assert "dev/kafka start" in caught.value.hint
    assert time.monotonic() - begun < 15


async def test_a_broker_that_listens_and_never_answers_is_given_up() -> None:
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Unavailable, match=str(port)):
            await compare_topics(Settings(kafka=f"127.0.0.1:{port}"))
    assert time.monotonic() - begun < 15


def test_the_commands_tell_success_and_failure_apart(kafka: str) -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    settings = {"kafka": kafka, "app_id": name, "topic_prefix": f"{name}-", "partitions": "1"}

    before = run_stream("topics", "check", settings=settings)
    assert (before.returncode, before.stdout) == (1, "")
    assert f'topic "{name}-clicks" is missing' in before.stderr
    assert "topics apply" in before.stderr

    applied = run_stream("topics", "apply", settings=settings)
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout.splitlines()[-1] == "all 8 topics are there"

    after = run_stream("topics", "check", settings=settings)
    assert (after.returncode, after.stderr) == (0, "")

    mismatch = run_stream("topics", "apply", settings={**settings, "partitions": "3"})
    assert mismatch.returncode == 1
    assert "has 1 partition, expected 3" in mismatch.stderr

    away = run_stream("topics", "check", settings={"kafka": "127.0.0.1:1"})
    assert away.returncode == 1
    assert away.stderr.startswith("error: Kafka at 127.0.0.1:1 did not answer")


def test_check_offline_needs_no_broker() -> None:
    done = run_stream("topics", "check", "--offline", settings={"kafka": "127.0.0.1:1"})
    assert (done.returncode, done.stderr) == (0, "")
