"""How does a database get its tables? Alembic, from code; and the comparison of what is there with what should be."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, NullPool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from stream.core.errors import Unavailable
from tables.sql.additions import add_missing
from tables.sql.addresses import MYSQL, address_of
from tables.sql.database import CONNECT_TIMEOUT_S, mysql_arguments, prepare_sqlite, sqlite_arguments
from tables.sql.differences import differences
from tables.sql.errors import TRANSLATING

WAIT_S = 600  # for another process that upgrades; adding a key to many rows takes its time
_MIGRATIONS = Path(__file__).parent / "migrations"


async def upgrade_schema(url: str) -> None:
    """Make the database what this release needs. Two at a time follow one another; repeating it changes nothing."""
    # The driver logs what servers remark on the installer's own doubled keys; nobody can do anything about those.
    logging.getLogger("asyncmy").setLevel(logging.ERROR)
    async with _engine(address_of(url)) as engine, _alone(engine) as connection:
        await connection.run_sync(_run_migrations)


async def schema_differences(url: str) -> list[str]:
    """One line for each; empty: none."""
    async with _engine(address_of(url)) as engine:
        with TRANSLATING:
            async with _connected(engine) as connection:
                return await connection.run_sync(differences)


@contextlib.asynccontextmanager
async def _engine(address: URL) -> AsyncIterator[AsyncEngine]:
    """Without the time limits of a worker: a change of the schema may take minutes."""
    if address.get_backend_name() == MYSQL:
        arguments = mysql_arguments(address) | {"init_command": f"SET SESSION wait_timeout = {WAIT_S}"}
        engine = create_async_engine(address, poolclass=NullPool, connect_args=arguments)
    else:
        engine = create_async_engine(address, poolclass=NullPool, connect_args=sqlite_arguments())
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Statements may take long; a server that says nothing at all to a new client may not."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await stack.enter_async_context(engine.connect())
        except TimeoutError as error:
            raise Unavailable(f"database did not answer within {CONNECT_TIMEOUT_S} s") from error
        yield connection


@contextlib.asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that no other process upgrades beside."""
    alone = _alone_on_mysql if engine.dialect.name == MYSQL else _alone_on_sqlite
    with TRANSLATING:
        async with alone(engine) as connection:
            yield connection


@contextlib.asynccontextmanager
async def _alone_on_mysql(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with _connected(engine) as connection:
        # Names of locks are the server's: the database's own name belongs into it. It ends with the connection.
        lock = "CONCAT('touchstream:', LEFT(DATABASE(), 50))"
        got = (await connection.execute(text(f"SELECT GET_LOCK({lock}, {WAIT_S})"))).scalar()
        if got != 1:
            raise Unavailable("another process has been upgrading the database for too long")
        yield connection
        await connection.commit()


@contextlib.asynccontextmanager
async def _alone_on_sqlite(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction for everything: the other process waits at BEGIN, and then finds nothing left to do."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    while True:
        try:
            with TRANSLATING:
                connection = await engine.connect()
                try:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                except BaseException:
                    await connection.close()
                    raise
        except Unavailable:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            break
    try:
        yield connection
        await connection.exec_driver_sql("COMMIT")
    finally:
        await connection.close()


def _run_migrations(connection: Connection) -> None:
    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")
    add_missing(connection)  # what hands have taken away since
