"""One connection, as the two drivers have it. Statements hold numbers and names; text is bound, or written as hex.

So a question mark in a statement is always a parameter, on MySQL too.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from tables.sql.addresses import MYSQL, SQLITE
from tables.sql.errors import TRANSLATING
from tables.sql.inserts import Insert

_Item = TypeVar("_Item")
Row = tuple[Any, ...]

ROWS_A_STATEMENT = 2000  # far below max_allowed_packet, also with the longest texts


class Connection(ABC):
    """Within a transaction, or reading outside one. Raises the errors of `tables.sql.errors`."""

    dialect: ClassVar[str]

    @abstractmethod
    async def begin(self) -> None: ...

    @abstractmethod
    async def fetch(self, statement: str, parameters: Sequence[object] = ()) -> Sequence[Row]: ...

    @abstractmethod
    async def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Returns the number of rows that matched or were written."""

    @abstractmethod
    async def insert(self, insert: Insert[_Item], items: Sequence[_Item]) -> None:
        """DuplicateKey: of the last statement no row is stored on MySQL; on SQLite some may be."""

    async def keep_alive(self) -> None:
        """Called now and then by whoever is silent for long: others get their turn, and the server does not hang up."""
        await asyncio.sleep(0)

    async def roll_back(self) -> None:
        await self.run("ROLLBACK")


class MysqlConnection(Connection):
    """MySQL and MariaDB. Without autocommit the first statement begins a transaction."""

    dialect = MYSQL

    def __init__(self, driver: Any) -> None:  # noqa: ANN401 -- asyncmy's connection
        self._driver = driver

    async def begin(self) -> None:
        return

    async def fetch(self, statement: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        cursor = await self._execute(statement, parameters)
        rows: Sequence[Row] = await cursor.fetchall()
        return rows

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        return int((await self._execute(statement, parameters)).rowcount)

    async def keep_alive(self) -> None:
        await self.fetch("SELECT 1")

    async def insert(self, insert: Insert[_Item], items: Sequence[_Item]) -> None:
        for start in range(0, len(items), ROWS_A_STATEMENT):
            with TRANSLATING:
                rows = ",".join(map(insert.literal, items[start : start + ROWS_A_STATEMENT]))
            await self._execute(insert.mysql_head + rows + insert.mysql_tail, ())

    async def _execute(self, statement: str, parameters: Sequence[object]) -> Any:  # noqa: ANN401
        cursor = self._driver.cursor()
        with TRANSLATING:
            if parameters:
                await cursor.execute(statement.replace("?", "%s"), tuple(parameters))
            else:
                await cursor.execute(statement)
        return cursor


class SqliteConnection(Connection):
    """Each call is one hop to the driver's thread and back: few of them, with many rows each."""

    dialect = SQLITE

    def __init__(self, driver: Any) -> None:  # noqa: ANN401 -- aiosqlite's connection
        self._driver = driver

    async def begin(self) -> None:
        await self.run("BEGIN IMMEDIATE")

    async def fetch(self, statement: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        with TRANSLATING:
            rows = await self._driver.execute_fetchall(statement, parameters)
        return list(rows)

    async def run(self, statement: str, parameters: Sequence[object] = ()) -> int:
        with TRANSLATING:
            cursor = await self._driver.execute(statement, parameters)
            await cursor.close()
        return int(cursor.rowcount)

    async def insert(self, insert: Insert[_Item], items: Sequence[_Item]) -> None:
        with TRANSLATING:
            cursor = await self._driver.executemany(insert.sqlite, map(insert.parameters, items))
            await cursor.close()
