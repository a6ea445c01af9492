"""What a conversion was credited as, in the transaction of the fire; the view of credits takes it from there."""

from collections.abc import Sequence

from alembic import op

from tables.sql.additions import add_missing
from tables.sql.views import create_views

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    connection = op.get_bind()
    add_missing(connection)
    create_views(connection)
