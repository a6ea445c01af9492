"""How connections are set up, and what their failures are called."""

import sqlite3
from pathlib import Path

import pytest
from asyncmy.errors import InterfaceError, OperationalError
from sqlalchemy import exc

from stream.core.errors import Misconfigured, RefusedByDatabase, StartRefused, Unavailable
from tables.sql.database import Database, open_database
from tables.sql.errors import DuplicateKey, TransactionConflict, translated
from tests.support.rows import query


async def test_a_mariadb_connection_is_strict_and_lets_go_of_what_it_left_open(mariadb: Database) -> None:
    async with mariadb.reading() as connection:
        (row,) = await connection.fetch(
            "SELECT @@sql_mode, @@tx_isolation, @@character_set_client, @@innodb_lock_wait_timeout, @@wait_timeout,"
            " @@autocommit"
        )
    assert row == ("STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION", "READ-COMMITTED", "utf8mb4", 20, 15, 0)


async def test_an_sqlite_commit_survives_a_power_cut(schema_sqlite: str) -> None:
    database = open_database(schema_sqlite)
    async with database.reading() as connection:
        assert await connection.fetch("PRAGMA journal_mode") == [("wal",)]
        assert await connection.fetch("PRAGMA synchronous") == [(2,)]
        assert await connection.fetch("PRAGMA busy_timeout") == [(20_000,)]
    await database.close()


async def test_a_path_below_the_working_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = open_database("sqlite+aiosqlite:///var/touchstream.db")
    async with database.transaction() as connection:
        await connection.run("CREATE TABLE a (b INTEGER)")
    await database.close()
    assert query(f"sqlite+aiosqlite:///{tmp_path}/var/touchstream.db", "SELECT COUNT(*) FROM a") == [(0,)]


@pytest.mark.parametrize("driver", ["mysql", "mariadb", "mysql+asyncmy", "mariadb+asyncmy"])
async def test_each_name_of_the_driver_is_taken(driver: str, schema_mariadb: str) -> None:
    database = open_database(schema_mariadb.replace("mysql+asyncmy", driver).partition("?")[0])
    async with database.reading() as connection:
        assert list(await connection.fetch("SELECT @@character_set_client")) == [("utf8mb4",)]
    await database.close()


def sqlite_error(code: int, text: str = "") -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError(1213, "deadlock"), TransactionConflict),
        (OperationalError(1205, "lock wait timeout"), TransactionConflict),
        (OperationalError(1020, "record has changed"), TransactionConflict),
        (OperationalError(1062, "duplicate"), DuplicateKey),
        (OperationalError(1040, "too many connections"), Unavailable),
        (OperationalError(2006, "gone away"), Unavailable),
        (OperationalError(2013, "lost"), Unavailable),
        (OperationalError(1053, "shutdown"), Unavailable),
        (OperationalError(1290, "read only"), Unavailable),
        (InterfaceError("not connected"), Unavailable),
        (OperationalError(1264, "out of range"), RefusedByDatabase),
        (OperationalError(1366, "incorrect string"), RefusedByDatabase),
        (OperationalError(1406, "too long"), RefusedByDatabase),
        (OperationalError(1048, "null"), RefusedByDatabase),
        (OperationalError(4025, "check"), RefusedByDatabase),
        (OperationalError(1153, "packet"), RefusedByDatabase),
        (OperationalError(1045, "access denied"), Misconfigured),
        (OperationalError(1146, "no such table"), StartRefused),
        (ConnectionResetError(), Unavailable),
        (TimeoutError(), Unavailable),
        (exc.TimeoutError("pool"), Unavailable),
        (exc.OperationalError("SELECT", None, OperationalError(2003, "refused")), Unavailable),
        (sqlite_error(sqlite3.SQLITE_BUSY), Unavailable),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), TransactionConflict),
        (sqlite_error(sqlite3.SQLITE_IOERR_READ), Unavailable),
        (sqlite_error(sqlite3.SQLITE_FULL), Unavailable),
        (sqlite_error(sqlite3.SQLITE_CONSTRAINT_NOTNULL), RefusedByDatabase),
        (sqlite_error(sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY), DuplicateKey),
        (sqlite_error(sqlite3.SQLITE_ERROR, "no such table: x"), StartRefused),
        (sqlite_error(sqlite3.SQLITE_NOTADB), Misconfigured),
        (OverflowError(), RefusedByDatabase),
    ],
    ids=str,
)
def test_each_failure_has_its_name(error: Exception, expected: type[Exception]) -> None:
    assert type(translated(error)) is expected


@pytest.mark.parametrize(
    "error", [OperationalError(1064, "syntax"), sqlite_error(sqlite3.SQLITE_ERROR, "syntax"), KeyError("x")], ids=str
)
def test_what_is_not_understood_keeps_its_own_name(error: Exception) -> None:
    assert translated(error) is None
