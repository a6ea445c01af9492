"""`db upgrade` and `db check`: does the database have the tables of this release, and if not, make them."""

import asyncio

import click

from stream.config import masked, read_settings
from stream.core.errors import StreamError
from tables.sql.upgrade import schema_differences, upgrade_schema


class SchemaDiffers(StreamError):
    """The database has not what this release wants."""


@click.group()
def command() -> None:
    """Migrate or compare the schema of the database."""


@command.command()
def upgrade() -> None:
    """Add the tables, columns and keys that are missing; drop nothing."""
    settings = read_settings()
    asyncio.run(upgrade_schema(settings.database_url))
    click.echo(f"the schema of {masked(settings.database_url)} is that of this release")


@command.command()
def check() -> None:
    """Compare the database with this release; exit 1 if anything is missing or different."""
    settings = read_settings()
    differences = asyncio.run(schema_differences(settings.database_url))
    for line in differences:
        click.echo(line, err=True)
    if differences:
        raise SchemaDiffers(
            f"{len(differences)} differences to the schema of this release",
            hint='"python -m stream db upgrade" adds what is missing; other types and keys need a person',
        )
    click.echo(f"the schema of {masked(settings.database_url)} is that of this release")
