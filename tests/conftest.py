"""The real parts, one of each kind a test process; a part that is missing fails the tests that need it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import RunningServer, run_sql, running


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of a broker that all tests of this process share; topics need names of their own."""
    with running("kafka") as server:
        yield server.address


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """Database URL of a server that all tests of this process share; `fresh_mariadb` is a database of one's own."""
    with running("mariadb") as server:
        yield server.value


@pytest.fixture(scope="session")
def memcached() -> Iterator[str]:
    """Address of a cache that all tests of this process share."""
    with running("memcached") as server:
        yield server.address


@pytest.fixture
def own_kafka() -> Iterator[RunningServer]:
    """A broker that the test may stop, kill and start again."""
    with running("kafka") as server:
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[RunningServer]:
    """A database server that the test may stop, kill and start again."""
    with running("mariadb") as server:
        yield server


@pytest.fixture
def own_memcached() -> Iterator[RunningServer]:
    """A cache that the test may stop, kill and start again."""
    with running("memcached") as server:
        yield server


@pytest.fixture
def fresh_sqlite(tmp_path: Path) -> str:
    """URL of an SQLite file that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'touchstream.db'}"


@pytest.fixture
def fresh_mariadb(mariadb_url: str) -> Iterator[str]:
    """URL of an empty database, dropped at the end."""
    name = f"touchstream_{uuid.uuid4().hex[:12]}"
    run_sql(mariadb_url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield mariadb_url.replace("/touchstream?", f"/{name}?")
    run_sql(mariadb_url, f"DROP DATABASE {name}")


@pytest.fixture(params=["sqlite", "mariadb"])
def fresh_database(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, on each of the two in turn."""
    return str(request.getfixturevalue(f"fresh_{request.param}"))
