"""Topics of its own for each test on the broker, and no process left behind."""

import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from tests.engine.real import PARTITIONS, Run, Start, admin
from tests.engine.toy import Config


@pytest.fixture
async def config(kafka: str, tmp_path: Path) -> AsyncIterator[Config]:
    """Topics and app id of its own; both sources have the same number of partitions."""
    name = f"t{uuid.uuid4().hex[:10]}"
    made = Config(
        kafka=kafka,
        folder=str(tmp_path),
        app_id=f"{name}-app",
        topics=(f"{name}-clicks", f"{name}-conversions"),
        output=f"{name}-counts",
        partitions=PARTITIONS,
    )
    topics = [*made.topics, made.output, made.changelog]
    async with admin(kafka) as client:
        await client.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
    yield made
    async with admin(kafka) as client:
        await client.delete_topics(topics)


@pytest.fixture
def run(config: Config) -> Iterator[Start]:
    """Start the worker, with changes to its configuration; every process started so is gone at the end of the test."""
    runs: list[Run] = []

    def start(**changes: object) -> Run:
        runs.append(Run(dataclasses.replace(config, **changes)))  # type: ignore[arg-type]
        return runs[-1]

    yield start
    for one in runs:
        one.__exit__()
