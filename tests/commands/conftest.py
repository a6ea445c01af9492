"""An installation with tables and without a broker, for the commands that need none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tables.sql.upgrade import upgrade_schema
from tests.commands.replay_desk import desk
from tests.faults.events import click, conversion
from tests.faults.installation import Installation
from tests.support.processes import Environment, environment
from tests.support.traffic import DAY

__all__ = ["desk"]  # a fixture of its own module


@pytest.fixture
async def env(fresh_database: str, tmp_path: Path) -> Environment:
    """On each of the databases in turn."""
    await upgrade_schema(fresh_database)
    return environment("127.0.0.1:1", fresh_database, tmp_path, partitions=1)


@pytest.fixture
async def sqlite_env(fresh_sqlite: str, tmp_path: Path) -> Environment:
    """Where the database makes no difference, or is tried elsewhere."""
    await upgrade_schema(fresh_sqlite)
    return environment("127.0.0.1:1", fresh_sqlite, tmp_path, partitions=1)


@pytest.fixture
def installation(kafka: str, fresh_sqlite: str, tmp_path: Path) -> Iterator[Installation]:
    """With a click a day, of campaign 101 and thus in one partition, and a conversion at the end."""
    made = Installation(kafka, fresh_sqlite, tmp_path, partitions=2, fire_interval_seconds=1)
    made.prepare()
    start = made.now - 30 * DAY
    made.send([*(click(number, start + number * DAY) for number in range(1, 29)), conversion(1, 28, start + 29 * DAY)])
    yield made
    made.remove()
