"""Hours and what they need: natural keys of snapshots and credits, our own tables, views for BI programs."""

from collections.abc import Sequence

from alembic import op

from tables.sql.additions import add_missing
from tables.sql.doubles import remove_doubles
from tables.sql.views import create_views

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    connection = op.get_bind()
    remove_doubles(connection)
    add_missing(connection)
    create_views(connection)
