"""Who changes models and settings from a command line, and of which account."""

import os
import pwd

import click

from tables.sql.audit import Author

MOST_USERS = 2**24 - 1  # of the columns user_id

user_option = click.option(
    "--user", "user_id", type=click.IntRange(1, MOST_USERS), required=True, help="Whose: the id of the account."
)
actor_option = click.option(
    "--actor", metavar="NAME", default="", help="Who makes the change, for the audit row; else the system's user name."
)
json_option = click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")


def author_of(actor: str) -> Author:
    return Author(actor.strip() or _system_user(), "cli")


def _system_user() -> str:
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container may run as a number without a name
        return f"uid {number}"
