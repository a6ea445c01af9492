"""The tables as the servers have them, against the installer's own list."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from tables.sql.schema import schema_for
from tables.sql.upgrade import schema_differences, upgrade_schema
from tests.support.rows import query

# What we add to tables of Prosper202: two rows of one hour cannot stand there.
OUR_COLUMNS = {"scope_key"}
OUR_KEYS = {"natural_key"}
REFERENCE = (Path(__file__).parent / "prosper202_tables.md").read_text(encoding="utf-8")


class ReferenceColumn(NamedTuple):
    name: str
    kind: str
    nullable: str
    default: str | None
    extra: str


class ReferenceTable(NamedTuple):
    name: str
    columns: list[ReferenceColumn]
    keys: set[tuple[str, bool, str]]  # name, unique, columns with prefix lengths


def reference() -> list[ReferenceTable]:
    found = []
    for block in re.split(r"\n(?=\*\*`202_)", REFERENCE)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (no|yes) \|(.*)\|\s*$", block, re.MULTILINE)
        columns = []
        for name, kind, nullable, text in rows:
            shown = text.strip()
            default = None if shown in {"none", "NULL", "auto increment"} else shown.replace("''", "")
            extra = "auto_increment" if shown == "auto increment" else ""
            columns.append(ReferenceColumn(name, kind, nullable.upper(), default, extra))
        listed = re.search(r"^Keys: (.*)$", block, re.MULTILINE)
        assert listed is not None
        keys = set()
        for text in re.findall(r"PRIMARY \(.*?\)(?=;|$)|(?:UNIQUE|KEY) `.*?\)(?=;|$)", listed[1]):
            parts = re.fullmatch(r"(?:(UNIQUE|KEY) `(\w+)`|(PRIMARY)) \((.*)\)", text)
            assert parts is not None
            keys.add((parts[2] or "PRIMARY", parts[1] != "KEY", parts[4]))
        name = re.match(r"\*\*`(202_\w+)`", block)
        assert name is not None
        found.append(ReferenceTable(name[1], columns, keys))
    return found


def test_the_reference_is_read_whole() -> None:
    listed = reference()
    assert len(listed) == REFERENCE.count("\n**`202_")
    assert sum(len(each.columns) for each in listed) == REFERENCE.count("\n| `")


@pytest.mark.parametrize("expected", reference(), ids=lambda expected: expected.name)
def test_our_schema_declares_every_reference_column(expected: ReferenceTable) -> None:
    declared = schema_for("mysql").tables[expected.name]
    ours = [column.name for column in declared.columns if column.name not in OUR_COLUMNS]
    assert ours == [column.name for column in expected.columns]


def test_types_defaults_and_keys_on_mariadb_are_those_of_the_installer(schema_mariadb: str) -> None:
    columns = query(
        schema_mariadb,
        "SELECT table_name, column_name, column_type, is_nullable, column_default, extra"
        " FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position",
    )
    keys = query(
        schema_mariadb,
        "SELECT table_name, index_name, non_unique = 0, GROUP_CONCAT(CONCAT(column_name,"
        " IF(sub_part IS NULL, '', CONCAT('(', sub_part, ')'))) ORDER BY seq_in_index) FROM"
        " information_schema.statistics WHERE table_schema = DATABASE() GROUP BY table_name, index_name, non_unique",
    )
    for expected in reference():
        found = [
            ReferenceColumn(name, kind, nullable, _plain(default), extra)
            for where, name, kind, nullable, default, extra in columns
            if where == expected.name and name not in OUR_COLUMNS
        ]
        assert found == expected.columns, expected.name
        assert {
            (name, bool(unique), listed)
            for where, name, unique, listed in keys
            if where == expected.name and name not in OUR_KEYS
        } == expected.keys, expected.name


def _plain(default: str | None) -> str | None:
    """MariaDB shows a default as SQL: quoted text, NULL as a word."""
    return None if default in {None, "NULL"} else str(default).strip("'")


def test_every_table_is_innodb_in_utf8mb4(schema_mariadb: str) -> None:
    kinds = query(
        schema_mariadb,
        "SELECT DISTINCT engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
        " AND table_name <> '202_stream_schema_version' AND table_type = 'BASE TABLE'",
    )
    assert kinds == [("InnoDB", "utf8mb4_general_ci")]


def test_ids_of_visitors_and_transactions_are_compared_by_byte(schema_mariadb: str) -> None:
    exact = query(
        schema_mariadb,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        " AND collation_name = 'utf8mb4_bin' AND column_type = 'varchar(255)' AND table_name NOT LIKE '202_bi_%'",
    )
    assert set(exact) == {
        ("202_conversion_logs", "transaction_id"),
        ("202_stream_clicks", "visitor_id"),
        ("202_stream_journeys", "journey_visitor_id"),
        ("202_stream_journeys", "own_visitor_id"),
        ("202_stream_journeys", "transaction_id"),
        ("202_stream_progress", "owner"),
        ("202_stream_runs", "owner"),
    }


async def test_sqlite_has_the_same_tables_and_columns(fresh_sqlite: str) -> None:
    await upgrade_schema(fresh_sqlite)
    for expected in schema_for("mysql").tables.values():
        names = [row[0] for row in query(fresh_sqlite, f"SELECT name FROM pragma_table_xinfo('{expected.name}')")]
        assert names == [column.name for column in expected.columns]


async def test_ids_on_sqlite_are_not_used_twice_and_decimals_are_plain(fresh_sqlite: str) -> None:
    await upgrade_schema(fresh_sqlite)
    (definition,) = query(fresh_sqlite, "SELECT sql FROM sqlite_master WHERE name = '202_attribution_snapshots'")
    assert "AUTOINCREMENT" in definition[0]
    assert "NUMERIC(12, 4)" in definition[0]


async def test_a_new_schema_has_no_differences(schema_url: str) -> None:
    assert await schema_differences(schema_url) == []


def test_every_create_compiles_for_mysql_without_what_only_mariadb_has() -> None:
    dialect = mysql.dialect()
    statements = []
    for declared in schema_for("mysql").tables.values():
        statements.append(str(CreateTable(declared).compile(dialect=dialect)))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in declared.indexes]
    assert len(statements) > 100
    for statement in statements:
        assert not re.search(r"IF NOT EXISTS|RETURNING|nopad|uca1400|PAGE_|SYSTEM VERSIONING", statement), statement
