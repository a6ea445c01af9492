"""What a migration does to a database: adds what the schema has and it has not. Nothing is dropped or narrowed."""

import logging

from sqlalchemy import Connection, Table, exc, inspect, text
from sqlalchemy.schema import CreateColumn

from tables.sql.addresses import MYSQL
from tables.sql.schema import schema_for

log = logging.getLogger(__name__)

_LOGS = "202_conversion_logs"


def add_missing(connection: Connection) -> None:
    """Tables, columns and keys. Repeating it changes nothing."""
    metadata = schema_for(connection.dialect.name)
    present = set(inspect(connection).get_table_names())
    for declared in metadata.tables.values():
        if declared.name not in present:
            declared.create(connection)
        else:
            _add_missing_columns(connection, declared)
            _add_missing_keys(connection, declared)


def compare_transactions_by_byte(connection: Connection) -> None:
    """Only where the column exists with another collation; docs/decisions/0001."""
    if connection.dialect.name != MYSQL or not inspect(connection).has_table(_LOGS):
        return
    collation = connection.execute(
        text(
            "SELECT collation_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = :name AND column_name = 'transaction_id'"
        ),
        {"name": _LOGS},
    ).scalar()
    if collation != "utf8mb4_bin":
        connection.execute(
            text(
                f"ALTER TABLE `{_LOGS}` MODIFY transaction_id"
                " VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT NULL"
            )
        )


def _add_missing_columns(connection: Connection, declared: Table) -> None:
    present = {column["name"] for column in inspect(connection).get_columns(declared.name)}
    for column in declared.columns:
        if column.name not in present:
            definition = str(CreateColumn(column).compile(dialect=connection.dialect))
            connection.execute(text(f"ALTER TABLE `{declared.name}` ADD COLUMN {definition}"))


def _add_missing_keys(connection: Connection, declared: Table) -> None:
    present = {index["name"] for index in inspect(connection).get_indexes(declared.name)}
    for index in sorted(declared.indexes, key=lambda index: str(index.name)):
        if index.name in present:
            continue
        try:
            index.create(connection)
        except exc.IntegrityError:
            # Old rows that are doubles: `db check` goes on naming the key until a person has settled them.
            log.warning("key %s of %s is left out: rows stand in its way", index.name, declared.name)
