"""An installation with tables and without a broker, for the commands that need none."""

from pathlib import Path

import pytest

from tables.sql.upgrade import upgrade_schema
from tests.support.processes import Environment, environment


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
