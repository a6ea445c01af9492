"""Which versions journeys have had, so that what somebody deleted comes back behind them; docs/decisions/0014."""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import text

from tables.sql.additions import add_missing

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    connection = op.get_bind()
    add_missing(connection)
    for relation in ("202_stream_journeys", "202_stream_credited"):
        greatest = connection.execute(text(f"SELECT COALESCE(MAX(version), 1) FROM `{relation}`")).scalar()
        connection.execute(
            text("UPDATE `202_stream_progress` SET greatest_version = :greatest WHERE greatest_version < :greatest"),
            {"greatest": greatest},
        )
