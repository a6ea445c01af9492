"""Where does a live database differ from the schema? Missing tables, columns, keys and views, and other types."""

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.types import TypeEngine

from tables.sql.schema import schema_for
from tables.sql.views import missing_views

_EXACT = "utf8mb4_bin"
_WIDTH = re.compile(r"((?:TINY|SMALL|MEDIUM|BIG)?INT(?:EGER)?)\(\d+\)")
_CHARACTERS = re.compile(r' (?:CHARACTER SET|COLLATE) "?(\w+)"?')


def differences(connection: Connection) -> list[str]:
    """One line each; empty: none. What a database has beyond the schema is its own affair."""
    metadata = schema_for(connection.dialect.name)
    present = set(inspect(connection).get_table_names())
    found: list[str] = []
    for name, declared in sorted(metadata.tables.items()):
        if name in present:
            found += _of_columns(connection, declared)
            found += _of_keys(connection, declared)
        else:
            found.append(f"table {name} is missing")
    return found + [f"view {name} is missing" for name in missing_views(connection)]


def _of_columns(connection: Connection, declared: Table) -> Iterator[str]:
    live = {column["name"]: column for column in inspect(connection).get_columns(declared.name)}
    for column in declared.columns:
        place = f"column {declared.name}.{column.name}"
        there = live.get(column.name)
        if there is None:
            yield f"{place} is missing"
            continue
        wanted, found = _type_text(connection, column.type), _type_text(connection, there["type"])
        if wanted != found:
            yield f"{place} is {found}, should be {wanted}"
        if bool(column.nullable) != there["nullable"]:
            yield f"{place} {'takes' if there['nullable'] else 'does not take'} NULL, should be the other way round"


def _type_text(connection: Connection, kind: TypeEngine[Any]) -> str:
    """Without display widths, which newer servers forget, and collations but for those that matter to us."""
    text = kind.compile(connection.dialect)
    is_exact = _EXACT in text
    text = _WIDTH.sub(r"\1", _CHARACTERS.sub("", text)).replace("INTEGER", "INT")
    return f"{text} {_EXACT}" if is_exact else text


def _of_keys(connection: Connection, declared: Table) -> Iterator[str]:
    primary = inspect(connection).get_pk_constraint(declared.name)["constrained_columns"]
    wanted_primary = [column.name for column in declared.primary_key.columns]
    if primary != wanted_primary:
        yield f"primary key of {declared.name} is ({', '.join(primary)}), should be ({', '.join(wanted_primary)})"
    live = {index["name"]: index for index in inspect(connection).get_indexes(declared.name)}
    for index in sorted(declared.indexes, key=lambda index: str(index.name)):
        place = f"key {index.name} of {declared.name}"
        there = live.get(str(index.name))
        if there is None:
            yield f"{place} is missing"
            continue
        wanted = _key_text([column.name for column in index.columns], unique=bool(index.unique))
        found = _key_text([str(name) for name in there["column_names"]], unique=bool(there["unique"]))
        if wanted != found:
            yield f"{place} is {found}, should be {wanted}"


def _key_text(columns: list[str], *, unique: bool) -> str:
    return f"{'UNIQUE ' if unique else ''}({', '.join(columns)})"
