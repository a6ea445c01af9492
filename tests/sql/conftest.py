"""A database with our schema, on SQLite and on MariaDB in turn."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tables.sql.database import Database, open_database
from tables.sql.facts import SqlFactStore, Writing
from tables.sql.upgrade import upgrade_schema
from tests.support.servers import run_sql

NOW = 1_800_000_000
StoreFactory = Callable[..., SqlFactStore]

_WRITTEN = (
    "202_stream_progress",
    "202_stream_clicks",
    "202_stream_journeys",
    "202_conversion_touchpoints",
    "202_conversion_logs",
)


@pytest.fixture(scope="session")
def shared_mariadb(mariadb_url: str) -> Iterator[str]:
    """Making all tables takes longer than most tests: once a process."""
    name = f"touchstream_{uuid.uuid4().hex[:12]}"
    run_sql(mariadb_url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    url = mariadb_url.replace("/touchstream?", f"/{name}?")
    asyncio.run(upgrade_schema(url))
    yield url
    run_sql(mariadb_url, f"DROP DATABASE {name}")


@pytest.fixture
def schema_mariadb(shared_mariadb: str) -> str:
    """URL of a MariaDB database with our schema, without rows."""
    name = shared_mariadb.rpartition("/")[2].partition("?")[0]
    run_sql(shared_mariadb, "".join(f"DELETE FROM {name}.`{relation}`;" for relation in _WRITTEN))
    return shared_mariadb


@pytest.fixture
def schema_sqlite(fresh_sqlite: str) -> str:
    """URL of an SQLite file with our schema, without rows."""
    asyncio.run(upgrade_schema(fresh_sqlite))
    return fresh_sqlite


@pytest.fixture(params=["sqlite", "mariadb"])
def schema_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"schema_{request.param}"))


@pytest.fixture
async def database(schema_url: str) -> AsyncIterator[Database]:
    opened = open_database(schema_url)
    yield opened
    await opened.close()


@pytest.fixture
async def mariadb(schema_mariadb: str) -> AsyncIterator[Database]:
    """Where two connections must meet in one row."""
    opened = open_database(schema_mariadb)
    yield opened
    await opened.close()


@pytest.fixture
def store_of(database: Database) -> StoreFactory:
    def make(owner: str = "worker-1", *, writes_conversion_logs: bool = True) -> SqlFactStore:
        writing = Writing(owner=owner, writes_conversion_logs=writes_conversion_logs, clock=lambda: NOW)
        return SqlFactStore(database, writing)

    return make


@pytest.fixture
def store(store_of: StoreFactory) -> SqlFactStore:
    return store_of()
