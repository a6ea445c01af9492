"""An installation of Prosper202 as a database of its own: the tables that an import reads, and hands to change them."""

import contextlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pymysql
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from tables.sql.schema import schema_for
from tests.support.golden import GoldenSet

TABLES = ("202_clicks", "202_conversion_logs", "202_clicks_advance", "202_ppc_accounts", "202_aff_campaigns")

_CLICK: Mapping[str, Any] = {
    "click_id": 1,
    "user_id": 1,
    "aff_campaign_id": 10,
    "landing_page_id": 0,
    "ppc_account_id": 0,
    "click_cpc": "0",
    "click_filtered": 0,
    "click_bot": 0,
    "click_time": 1_790_000_000,
}
_CONVERSION: Mapping[str, Any] = {
    "conv_id": 1,
    "click_id": 1,
    "transaction_id": None,
    "campaign_id": 10,
    "click_payout": "10",
    "user_id": 1,
    "click_time": 1_790_000_000,
    "conv_time": 1_790_003_600,
    "time_difference": "",
    "ip": "",
    "pixel_type": 0,
    "user_agent": "",
    "deleted": 0,
}


class Prosper202:
    """`url` is that of a user who may do everything; `port` and `name` are those of the database."""

    def __init__(self, server_url: str, name: str) -> None:
        self.name = name
        self.port = urlsplit(server_url).port or 3306

    @property
    def url(self) -> str:
        return self.url_for("touchstream", "touchstream")

    def url_for(self, user: str, password: str) -> str:
        return f"mysql://{user}:{password}@127.0.0.1:{self.port}/{self.name}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}/{self.name}"

    # Whatever is done to it

    def execute(self, *statements: str, user: str = "root", database: bool = True) -> None:
        with self._connected(user, database=database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connected("root") as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def _connected(self, user: str, *, database: bool = True) -> Iterator[Any]:
        name = self.name if database else None
        with contextlib.closing(
            pymysql.connect(host="127.0.0.1", port=self.port, user=user, database=name, charset="utf8mb4")
        ) as connection:
            yield connection

    def create(self) -> None:
        """The tables, as the installer makes them; zero ids and the like are taken, as its own mode does."""
        relations = schema_for("mysql").tables
        statements = [f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4"]
        statements += [f"GRANT ALL ON {self.name}.* TO 'touchstream'@'127.0.0.1'", f"USE {self.name}"]
        for name in TABLES:
            relation = relations[name]
            statements.append(str(CreateTable(relation).compile(dialect=mysql.dialect())))
            statements += [
                str(CreateIndex(index).compile(dialect=mysql.dialect()))
                for index in sorted(relation.indexes, key=lambda index: str(index.name))
            ]
        self.execute(*statements, database=False)

    def drop(self) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {self.name}", database=False)

    # Rows

    def add_clicks(self, *clicks: Mapping[str, Any]) -> None:
        self._insert("202_clicks", [{**_CLICK, **click} for click in clicks])

    def add_conversions(self, *conversions: Mapping[str, Any]) -> None:
        self._insert("202_conversion_logs", [{**_CONVERSION, **conversion} for conversion in conversions])

    def add(self, relation: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Whole rows; columns that are not given have their type's own nothing."""
        self._insert(relation, rows)

    def _insert(self, relation: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        columns, marks = ", ".join(rows[0]), ", ".join(["%s"] * len(rows[0]))
        with self._connected("root") as connection, connection.cursor() as cursor:
            cursor.execute("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
            cursor.executemany(
                f"INSERT INTO `{relation}` ({columns}) VALUES ({marks})", [tuple(row.values()) for row in rows]
            )
            connection.commit()

    def load(self, golden: GoldenSet, *, seed: int = 1) -> None:
        """A golden set, its clicks in no order at all, for their table has none."""
        clicks = [json.loads(line.value, parse_float=Decimal) for line in golden.clicks]
        conversions = [json.loads(line.value, parse_float=Decimal) for line in golden.conversions]
        mixed = random.Random(seed).sample(clicks, len(clicks))
        self.add_clicks(*({_COLUMN_OF.get(name, name): value for name, value in each.items()} for each in mixed))
        self.add_conversions(*conversions)


_COLUMN_OF = {"campaign_id": "aff_campaign_id"}


@contextlib.contextmanager
def installed(server_url: str) -> Iterator[Prosper202]:
    """Empty tables in a database of their own, dropped at the end if the server still runs."""
    source = Prosper202(server_url, f"prosper202_{uuid.uuid4().hex[:10]}")
    source.create()
    try:
        yield source
    finally:
        with contextlib.suppress(pymysql.err.OperationalError):
            source.drop()


@contextlib.contextmanager
def reader(source: Prosper202, grants: Iterable[str], *, password: str = "secret") -> Iterator[str]:
    """URL of a user with these privileges alone, e.g. "SELECT ON {}.*"; {} is the database."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    account = f"'{name}'@'127.0.0.1'"
    granted = [f"GRANT {grant.replace('{}', source.name)} TO {account}" for grant in grants]
    source.execute(f"CREATE USER {account} IDENTIFIED BY '{password}'", *granted)
    try:
        yield source.url_for(name, password)
    finally:
        source.execute(f"DROP USER {account}", database=False)
