"""Transaction ids compared byte for byte. What is missing is added by the last migration."""

from collections.abc import Sequence

from alembic import op

from tables.sql.additions import compare_transactions_by_byte

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    compare_transactions_by_byte(op.get_bind())
