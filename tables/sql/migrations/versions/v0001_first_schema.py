"""Prosper202's tables where they are missing, our own, and transaction ids compared byte for byte."""

from collections.abc import Sequence

from alembic import op

from tables.sql.additions import add_missing, compare_transactions_by_byte

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    connection = op.get_bind()
    compare_transactions_by_byte(connection)
    add_missing(connection)
