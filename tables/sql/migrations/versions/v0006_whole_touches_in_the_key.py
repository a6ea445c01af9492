"""Touches are read of the key alone, without the rows of their clicks; docs/decisions/0016."""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import Index, inspect, text

from tables.sql.additions import add_missing
from tables.sql.addresses import MYSQL
from tables.sql.schema import schema_for

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_RELATION = "202_stream_clicks"


def upgrade() -> None:
    connection = op.get_bind()
    keys = schema_for(connection.dialect.name).tables[_RELATION].indexes
    wanted = next(index for index in keys if str(index.name).endswith("newest_of_key"))
    columns = [column.name for column in wanted.columns]
    found = {index["name"]: index["column_names"] for index in inspect(connection).get_indexes(_RELATION)}
    if found.get(wanted.name, columns) != columns:
        _replace(wanted)
    add_missing(connection)


def _replace(wanted: Index) -> None:
    connection = op.get_bind()
    if connection.dialect.name == MYSQL:
        # In one statement, beside which workers go on: without the key they would read all clicks there are.
        columns = ", ".join(column.name for column in wanted.columns)
        change = f"ALTER TABLE `{_RELATION}` DROP KEY {wanted.name}, ADD KEY {wanted.name} ({columns})"
        connection.execute(text(change))
    else:
        wanted.drop(connection)
        wanted.create(connection)
