"""The database server as its own root sees it: switches and tables that the product's account may not touch."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pymysql

from tests.faults.matrix.contract import Run
from tests.support.servers import RunningServer

_OPEN = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0"
# InnoDB answers from a copy of its transactions, which stays as it is while it is read more often than every 0.1 s.
_COPY_SECONDS = 0.11
_DEADLOCKS = "SELECT COUNT FROM information_schema.INNODB_METRICS WHERE NAME = 'lock_deadlocks'"


class Root:
    """One connection over the server's socket."""

    def __init__(self, connection: Any, run: Run) -> None:  # noqa: ANN401 - pymysql has no types
        self._connection = connection
        self.database = run.installation.database_url.rpartition("/")[2].partition("?")[0]

    def do(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def rollback(self) -> None:
        self._connection.rollback()

    def open_transactions(self) -> int:
        """Those that have changed rows."""
        time.sleep(_COPY_SECONDS)
        return int(self.do(_OPEN)[0][0])

    def deadlocks(self) -> int:
        """Since the server's start."""
        return int(self.do(_DEADLOCKS)[0][0])


@contextmanager
def root(run: Run, *, autocommit: bool = True) -> Iterator[Root]:
    server = run.servers.parts["mariadb"]
    name = run.installation.database_url.rpartition("/")[2].partition("?")[0]
    connection = pymysql.connect(
        unix_socket=_socket(server), user="root", database=name, charset="utf8mb4", autocommit=autocommit
    )
    with closing(connection):
        yield Root(connection, run)


def _socket(server: RunningServer) -> str:
    return str(json.loads((server.data / "server.json").read_text(encoding="utf-8"))["extra"]["socket"])


def pid_of(server: RunningServer) -> int:
    return int(json.loads((server.data / "server.json").read_text(encoding="utf-8"))["pid"])


def log_of(server: RunningServer) -> str:
    return (server.data / f"{server.part}.log").read_text(encoding="utf-8", errors="replace")
