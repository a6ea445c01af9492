"""What Alembic runs: `tables.sql.upgrade` has put an open connection into its configuration."""

from alembic import context

from tables.sql.schema import VERSION_TABLE


def run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        version_table=VERSION_TABLE,
        # SQLite takes back a half-made schema; MySQL commits each statement, and a second run finds what is there.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
