"""How is a column declared? Prosper202's exact types on MySQL and MariaDB, and their likeness on SQLite."""

from typing import Any, NamedTuple

from sqlalchemy import Column, Computed, Index, Integer, LargeBinary, MetaData, Numeric, Table, Text, text
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import String, TypeEngine


def _whole(mysql_type: TypeEngine[Any]) -> TypeEngine[Any]:
    return mysql_type.with_variant(Integer(), "sqlite")


# The display widths are those of the installer; servers ignore them, but a schema read back shows them.
TINYINT = _whole(mysql.TINYINT(display_width=4))
FLAG = _whole(mysql.TINYINT(display_width=1))
UNSIGNED_FLAG = _whole(mysql.TINYINT(display_width=1, unsigned=True))
POSITION = _whole(mysql.SMALLINT(display_width=5, unsigned=True))
SIGNED_MEDIUM = _whole(mysql.MEDIUMINT(display_width=8))
SIGNED_MEDIUM_9 = _whole(mysql.MEDIUMINT(display_width=9))
MEDIUM = _whole(mysql.MEDIUMINT(display_width=8, unsigned=True))
SIGNED_INT_1 = _whole(mysql.INTEGER(display_width=1))
SIGNED_INT_10 = _whole(mysql.INTEGER(display_width=10))
SIGNED_INT = _whole(mysql.INTEGER(display_width=11))
INT = _whole(mysql.INTEGER(display_width=10, unsigned=True))
INT_11 = _whole(mysql.INTEGER(display_width=11, unsigned=True))
SIGNED_BIG = _whole(mysql.BIGINT(display_width=20))
BIG = _whole(mysql.BIGINT(display_width=20, unsigned=True))
SHORT_TEXT = Text()
MEDIUM_TEXT = mysql.MEDIUMTEXT().with_variant(Text(), "sqlite")
LONG_TEXT = mysql.LONGTEXT().with_variant(Text(), "sqlite")


def amount(digits: int, decimals: int) -> TypeEngine[Any]:
    return mysql.DECIMAL(digits, decimals).with_variant(Numeric(digits, decimals), "sqlite")


def varchar(length: int) -> TypeEngine[Any]:
    return String(length)


def char(length: int) -> TypeEngine[Any]:
    return mysql.CHAR(length).with_variant(String(length), "sqlite")


def exact_varchar(length: int) -> TypeEngine[Any]:
    """Equal means the same bytes, whatever the server's collation takes for equal."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return exact.with_variant(String(length), "sqlite")


def varbinary(length: int) -> TypeEngine[Any]:
    return mysql.VARBINARY(length).with_variant(LargeBinary(length), "sqlite")


def numbered(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    """The table's own running number and primary key."""
    return Column(name, kind, primary_key=True, autoincrement=True)


def required(name: str, kind: TypeEngine[Any], default: int | str | None = None) -> Column[Any]:
    return Column(name, kind, nullable=False, autoincrement=False, server_default=_default(default))


def optional(name: str, kind: TypeEngine[Any], default: str | None = None) -> Column[Any]:
    return Column(name, kind, nullable=True, autoincrement=False, server_default=_default(default))


def generated(name: str, kind: TypeEngine[Any], expression: str) -> Column[Any]:
    """Never stored, only computed. MariaDB takes no NOT NULL for it."""
    return Column(name, kind, Computed(expression, persisted=False), nullable=True, autoincrement=False)


def key(name: str, *columns: str, lengths: dict[str, int] | None = None) -> Index:
    return Index(name, *columns, mysql_length=lengths or {})


def unique_key(name: str, *columns: str) -> Index:
    return Index(name, *columns, unique=True)


class Declared(NamedTuple):
    """A table as it is to be, not yet of any MetaData."""

    name: str
    parts: tuple[SchemaItem, ...]


def declared(name: str, *parts: SchemaItem) -> Declared:
    return Declared(name, parts)


def define(metadata: MetaData, declaration: Declared) -> Table:
    is_numbered = any(isinstance(part, Column) and part.autoincrement is True for part in declaration.parts)
    return Table(
        declaration.name,
        metadata,
        *declaration.parts,
        mysql_engine="InnoDB",
        mysql_default_charset="utf8mb4",
        mysql_collate="utf8mb4_general_ci",
        sqlite_autoincrement=is_numbered,
    )


def _default(value: int | str | None) -> Any:  # noqa: ANN401 -- SQLAlchemy takes text or a clause
    return text(str(value)) if isinstance(value, int) else value
