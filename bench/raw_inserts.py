"""What MariaDB takes at most: the rows of a database once more, as ready-made multi-row inserts and nothing else.

The statements are written before the clock starts, so all that is measured is sending them and the server's work.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import pymysql
from pymysql.cursors import SSCursor

from tests.support.servers import run_sql

# A column of each deals its rows out to the processes.
FACTS = {"202_stream_clicks": "click_id"}
JOURNEYS = {"202_stream_journeys": "conv_id", "202_conversion_logs": "conv_id", "202_conversion_touchpoints": "conv_id"}

ROWS_A_STATEMENT = 2000
_START_LIMIT_S = 600

_COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
    " AND generation_expression IS NULL ORDER BY ordinal_position"
)


def insert_seconds(database_url: str, relations: dict[str, str], processes: int) -> float:
    """Copy them into a new database of the same server, dropped at the end; each statement is a transaction."""
    parts = urlsplit(database_url)
    source = parts.path.lstrip("/")
    run_sql(database_url, f"CREATE DATABASE {source}_raw CHARACTER SET utf8mb4")
    try:
        for name in relations:
            run_sql(database_url, f"CREATE TABLE {source}_raw.`{name}` LIKE {source}.`{name}`")
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(processes + 1)
        target = urlunsplit(parts._replace(path=f"/{source}_raw"))
        shares = [(database_url, target, relations, number, processes) for number in range(processes)]
        workers = [context.Process(target=_insert_share, args=(ready, *share)) for share in shares]
        for worker in workers:
            worker.start()
        ready.wait(_START_LIMIT_S)
        began = time.monotonic()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - began
        assert all(worker.exitcode == 0 for worker in workers), "a process of the raw inserts failed"
        for name in relations:
            counts = run_sql(
                database_url,
                f"SELECT (SELECT COUNT(*) FROM {source}.`{name}`), (SELECT COUNT(*) FROM {source}_raw.`{name}`)",
            ).split()
            assert counts[0] == counts[1], f"{name}: {counts}"
        return seconds
    finally:
        run_sql(database_url, f"DROP DATABASE {source}_raw")


def _insert_share(ready: Barrier, source: str, target: str, *share: Any) -> None:  # noqa: ANN401 - as `_statements`
    with closing(_connect(source)) as connection:
        statements = list(_statements(connection, *share))
    with closing(_connect(target)) as connection, connection.cursor() as cursor:
        ready.wait(_START_LIMIT_S)
        for statement in statements:
            cursor.execute(statement)


def _connect(database_url: str) -> "pymysql.Connection[Any]":
    parts = urlsplit(database_url)
    return pymysql.connect(
        host=parts.hostname or "",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.lstrip("/"),
        charset="utf8mb4",
        autocommit=True,
    )


def _statements(
    connection: "pymysql.Connection[Any]", relations: dict[str, str], number: int, processes: int
) -> Iterator[bytes]:
    for name, dealt_by in relations.items():
        with connection.cursor() as cursor:
            cursor.execute(_COLUMNS, [name])
            columns = ", ".join(f"`{column}`" for (column,) in cursor.fetchall())
        with connection.cursor(SSCursor) as cursor:
            cursor.execute(f"SELECT {columns} FROM `{name}` WHERE `{dealt_by}` %% {processes} = {number}", [])
            while rows := cursor.fetchmany(ROWS_A_STATEMENT):
                yield f"INSERT INTO `{name}` ({columns}) VALUES {_literals(connection, rows)}".encode()


def _literals(connection: "pymysql.Connection[Any]", rows: Sequence[Sequence[Any]]) -> str:
    return ",".join("(" + ",".join(map(connection.literal, row)) + ")" for row in rows)
