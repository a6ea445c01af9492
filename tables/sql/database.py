"""How is the database reached? Connections, transactions, and every failure in the words of our own errors.

SQLAlchemy keeps the pool and opens connections; statements go to the driver itself. Its layers between cost 50 µs a
statement on MariaDB and 350 µs on SQLite, and a chunk has ten statements.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from stream.core.errors import Unavailable
from tables.sql.addresses import MYSQL, SQLITE, address_of
from tables.sql.connections import Connection, MysqlConnection, SqliteConnection
from tables.sql.errors import TRANSLATING
from tables.sql.tls import tls_arguments

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 60  # a server that is stopped, not gone, must not hold a chunk for ever
LOCK_TIMEOUT_S = 20
# A worker that is stopped in the middle of a transaction would keep its locks until somebody wakes it: the server
# hangs up on connections that idle so long. Ours are replaced before that.
IDLE_TIMEOUT_S = 15
RECYCLE_S = 10

STRICT = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"


def open_database(url: str, *, pool_size: int = 5, is_scratch: bool = False) -> "Database":
    """Connects to nothing yet. Raises Misconfigured for a URL that cannot be used.

    `is_scratch`: a power cut may take all of it, which makes SQLite faster.
    """
    return Database(address_of(url), pool_size=pool_size, is_scratch=is_scratch)


class Database:
    """One database, from any number of tasks of one event loop. Close it at the end."""

    def __init__(self, address: URL, *, pool_size: int, is_scratch: bool = False) -> None:
        self.dialect = address.get_backend_name()
        self._engine = _engine(address, pool_size)
        if is_scratch and self.dialect == SQLITE:
            event.listen(self._engine.sync_engine, "connect", _prepare_scratch)
        # SQLite has one writer. Waiting here is fair and costs nothing; its own waiting is neither.
        self._writer = asyncio.Lock()

    async def close(self) -> None:
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commits when left without an exception, rolls back otherwise.

        Raises Unavailable also where only the answer to COMMIT was lost: the caller repeats everything.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self.dialect == SQLITE:
                await stack.enter_async_context(self._writer)
            connection = await stack.enter_async_context(self._connected())
            await connection.begin()
            yield connection
            await connection.run("COMMIT")

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Outside any transaction of ours: each statement sees what is committed when it starts."""
        async with self._connected() as connection:
            yield connection
            if self.dialect == MYSQL:
                await connection.run("COMMIT")  # an open snapshot would hold back schema changes

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        pooled = self._engine.connect()
        with TRANSLATING:
            driver = await _driver_of(pooled)
        connection = MysqlConnection(driver) if self.dialect == MYSQL else SqliteConnection(driver)
        try:
            yield connection
        except BaseException as error:
            await self._give_up(pooled, connection, is_lost=type(error) is Unavailable)
            raise
        await pooled.close()

    async def _give_up(self, pooled: AsyncConnection, connection: Connection, *, is_lost: bool) -> None:
        """Nothing of a failed transaction may survive; a connection in doubt is thrown away."""
        is_usable = False
        if not is_lost:
            with contextlib.suppress(Exception):
                await connection.roll_back()
                is_usable = True
        with contextlib.suppress(Exception):
            if not is_usable:
                await pooled.invalidate()
            await pooled.close()
        if is_lost and self.dialect == MYSQL:
            # The others of the pool were most likely lost with it: let each next attempt open a new one.
            with contextlib.suppress(Exception):
                await self._engine.dispose()


async def _driver_of(pooled: AsyncConnection) -> Any:  # noqa: ANN401 -- the driver's own class
    await pooled.start()
    return (await pooled.get_raw_connection()).driver_connection


def _engine(address: URL, pool_size: int) -> AsyncEngine:
    # The wrappers above end every transaction: no reset when a connection returns to the pool.
    shared: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 20, "pool_reset_on_return": None}
    if address.get_backend_name() == MYSQL:
        return create_async_engine(
            address,
            isolation_level="READ COMMITTED",
            pool_recycle=RECYCLE_S,
            pool_timeout=CONNECT_TIMEOUT_S,
            connect_args=mysql_arguments(address) | {"read_timeout": ANSWER_TIMEOUT_S},
            **shared,
        )
    engine = create_async_engine(address, connect_args=sqlite_arguments(), **shared)
    event.listen(engine.sync_engine, "connect", prepare_sqlite)
    return engine


def mysql_arguments(address: URL) -> dict[str, Any]:
    limits = f"innodb_lock_wait_timeout = {LOCK_TIMEOUT_S}, SESSION wait_timeout = {IDLE_TIMEOUT_S}"
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "sql_mode": f"'{STRICT}'",  # the installation's own mode may cut values off without a word
        "init_command": f"SET SESSION {limits}",
        **tls_arguments(address),
    }


def sqlite_arguments() -> dict[str, Any]:
    # No isolation level: the driver begins nothing by itself, transactions are BEGIN IMMEDIATE of our own.
    return {"timeout": LOCK_TIMEOUT_S, "isolation_level": None}


def prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 -- SQLAlchemy's adapter
    """For each new connection. WAL: readers and the writer do not wait for one another."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a commit survives a power cut. NORMAL would only survive a kill -9, and after a power cut the offsets in
    # Kafka could be ahead of the rows here.
    cursor.execute("PRAGMA synchronous=FULL")
    # Clicks come in the order of time and are indexed by key: with the defaults (2 MB, a checkpoint each 4 MB) the same
    # pages are written to the file again and again; measured, a third of the time of an insert.
    cursor.execute("PRAGMA cache_size=-65536")  # KiB
    cursor.execute("PRAGMA wal_autocheckpoint=10000")  # pages of 4 KiB
    cursor.close()


def _prepare_scratch(connection: Any, _record: object) -> None:  # noqa: ANN401 -- SQLAlchemy's adapter
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
