"""Every statement of the store, as MySQL 8 must take it: there is no such server here, so its words are checked."""

import re

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import mysql

from stream.core.facts import EnteredNeed, HistoryNeed, Moment, Needs
from stream.core.keys import JourneyKey
from tables.sql.connections import MysqlConnection, SqliteConnection
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore, list_progress, reset_progress
from tests.sql.conftest import StoreFactory
from tests.support.sql_examples import advance, click, conversion, journey

ONLY_MARIADB = re.compile(r"\b(RETURNING|LATERAL|SEQUENCE|MINUS|EXCEPT|INTERSECT|NOWAIT|FETCH|IGNORE|REPLACE INTO)\b")
ONLY_NEWER_MYSQL = re.compile(r"\bVALUES .* AS \w+ ON DUPLICATE|\bLATERAL\b|\bSKIP LOCKED\b")
NEEDS = Needs(
    conversions=frozenset([1]),
    conversions_of_clicks=frozenset([1]),
    clicks=frozenset([1]),
    entered=[EnteredNeed(JourneyKey(7, 70, "v"), 0, 9)] * 2,
    histories=[HistoryNeed(JourneyKey(7, 70, visitor), Moment(9, 9), 2) for visitor in ("", "v")],
)


async def do_everything(store: SqlFactStore, database: Database) -> None:
    await store.take_over(0, owner="worker-1", topic_ids={"clicks": "a"}, partition_count=1, history_from=0)
    for _ in range(2):
        async with store.transaction() as transaction:
            await transaction.pass_fence(advance(), after_failure=True)
            await transaction.claim_clicks([click(1), click(2, visitor_id="v")])
            await transaction.replace_clicks([click(1)])
            await transaction.read(NEEDS)
            await transaction.write_journeys([journey(conversion(1, transaction_id="t"))], displaced=(5,))
            await transaction.settle(0, ["a"])
    await store.read(NEEDS)
    await list_progress(database)
    await reset_progress(database, now=1)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    statements: list[str] = []
    execute = MysqlConnection._execute

    async def listen(self: MysqlConnection, statement: str, parameters: tuple[object, ...]) -> object:
        statements.append(statement)
        return await execute(self, statement, parameters)

    monkeypatch.setattr(MysqlConnection, "_execute", listen)
    return statements


async def test_no_statement_needs_what_only_one_of_the_servers_has(
    said: list[str], store_of: StoreFactory, database: Database
) -> None:
    await do_everything(store_of(), database)
    if database.dialect == SqliteConnection.dialect:
        assert said == []
        return
    assert len({re.sub(r"\d+", "0", statement) for statement in said}) > 15
    for statement in said:
        assert not ONLY_MARIADB.search(statement), statement
        assert not ONLY_NEWER_MYSQL.search(statement), statement
        assert str(text(statement.replace(":", "\\:")).compile(dialect=mysql.dialect())) == statement


async def test_no_text_stands_in_a_statement_but_as_hexadecimal_digits(
    said: list[str], store_of: StoreFactory, mariadb: Database
) -> None:
    hostile = "x' OR 1=1 -- "
    store = SqlFactStore(mariadb, store_of()._writing)
    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1, visitor_id=hostile)])
        await transaction.write_journeys(
            [journey(conversion(1, transaction_id=hostile, visitor_id=hostile), visitor_id=hostile)]
        )
        await transaction.read(Needs(histories=[HistoryNeed(JourneyKey(7, 70, hostile), Moment(9, 9), 2)]))
    assert said
    assert not [statement for statement in said if "OR 1=1" in statement]
    assert [statement for statement in said if hostile.encode().hex() in statement]
