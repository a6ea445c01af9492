"""The hours in SQL, for commands: with the store that workers use, and no partition of their own."""

from stream.clock import unix_now
from stream.commands.authorship import author_of
from stream.config import Settings
from tables.sql.database import Database
from tables.sql.facts import HOURS_GROUP, Writing
from tables.sql.hour_store import SqlHourStore


def hour_store(settings: Settings, database: Database, *, owner: str) -> SqlHourStore:
    writing = Writing(owner=owner, writes_conversion_logs=False, clock=lambda: int(unix_now()), topic_group=HOURS_GROUP)
    return SqlHourStore(database, writing, scopes=settings.scopes, author=author_of(""))
