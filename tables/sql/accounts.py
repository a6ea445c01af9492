"""202_stream_accounts: one row an account, locked by whoever changes its hours, models or settings."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import TransactionConflict
from tables.sql.selects import in_batches

_Result = TypeVar("_Result")

_ATTEMPTS = 5


async def lock_accounts(connection: Connection, user_ids: Collection[int], *, now: int) -> None:
    """Until the transaction ends. Ascending, so that two who want several never wait for each other.

    A row that is missing is made. One that is there is locked by the same statement and stays as it is. On SQLite the
    transaction itself is the lock.
    """
    if connection.dialect == MYSQL:
        tail = "ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)"
    else:
        tail = "ON CONFLICT (user_id) DO NOTHING"
    for batch in in_batches(sorted(set(user_ids))):
        rows = ",".join(f"({user_id:d}, {now:d})" for user_id in batch)
        await connection.run(f"INSERT INTO `202_stream_accounts` (user_id, updated_at) VALUES {rows} {tail}")


async def behind_account(
    database: Database, user_id: int, work: Callable[[Connection], Awaitable[_Result]], *, now: int
) -> _Result:
    """One transaction that locks the account before anything else; begun again where another one was in its way."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(TransactionConflict):
            return await _once(database, user_id, work, now=now)
    return await _once(database, user_id, work, now=now)


async def _once(
    database: Database, user_id: int, work: Callable[[Connection], Awaitable[_Result]], *, now: int
) -> _Result:
    async with database.transaction() as connection:
        await lock_accounts(connection, [user_id], now=now)
        return await work(connection)
