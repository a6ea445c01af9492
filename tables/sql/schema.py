"""Which tables are there? One MetaData for MySQL and MariaDB, and its likeness for SQLite."""

from functools import cache

from sqlalchemy import MetaData, quoted_name

from tables.sql.columns import define
from tables.sql.schema_accounts import ACCOUNT_TABLES
from tables.sql.schema_attribution import ATTRIBUTION_TABLES
from tables.sql.schema_campaigns import CAMPAIGN_TABLES
from tables.sql.schema_clicks import CLICK_TABLES
from tables.sql.schema_own import OWN_TABLES

VERSION_TABLE = "202_stream_schema_version"  # Alembic's own

_DECLARED = (*ATTRIBUTION_TABLES, *CLICK_TABLES, *ACCOUNT_TABLES, *CAMPAIGN_TABLES, *OWN_TABLES)


@cache
def _schema() -> MetaData:
    metadata = MetaData()
    for declaration in _DECLARED:
        define(metadata, declaration)
    return metadata


@cache
def schema_for(dialect_name: str) -> MetaData:
    """Of "mysql" or "sqlite"; both have the same tables and columns."""
    if dialect_name == "mysql":
        return _schema()
    likeness = MetaData()
    for original in _schema().tables.values():
        copied = original.to_metadata(likeness)
        for index in copied.indexes:
            # MySQL names an index within its table, SQLite within the database.
            index.name = quoted_name(f"{copied.name}_{index.name}", quote=None)
    return likeness
