"""A database with our schema, on SQLite and on MariaDB in turn."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tables.sql.database import Database, open_database
from tables.sql.facts import HOURS_GROUP, SqlFactStore, Writing
from tables.sql.hour_store import SqlHourStore
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
    "202_attribution_models",
    "202_attribution_settings",
    "202_attribution_snapshots",
    "202_attribution_touchpoints",
    "202_attribution_audit",
    "202_cronjobs",
    "202_cronjob_logs",
    "202_stream_accounts",
    "202_stream_hours",
    "202_stream_credited",
    "202_stream_removals",
    "202_stream_toggles",
    "202_stream_runs",
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
def hour_store(database: Database) -> SqlHourStore:
    return hour_store_of(database)


def hour_store_of(database: Database, owner: str = "worker-1") -> SqlHourStore:
    writing = Writing(owner=owner, writes_conversion_logs=False, clock=lambda: NOW, topic_group=HOURS_GROUP)
    return SqlHourStore(database, writing, scopes="all")


@pytest.fixture
def store(store_of: StoreFactory) -> SqlFactStore:
    return store_of()
