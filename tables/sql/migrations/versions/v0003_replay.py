"""Replay, purge, import: what they remember, and what they tell the workers."""

from collections.abc import Sequence

from alembic import op

from tables.sql.additions import add_missing

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    add_missing(op.get_bind())
