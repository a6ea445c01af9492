"""The hours in SQL, for commands: with the store that workers use, and no partition of their own."""

from stream.clock import unix_now
from stream.config import Settings
from stream.topics import CLICKS, plan_topics, read_topics
from tables.sql.database import Database
from tables.sql.facts import HOURS_GROUP, Writing
from tables.sql.hour_store import SqlHourStore


def hour_store(settings: Settings, database: Database, *, owner: str) -> SqlHourStore:
    writing = Writing(owner=owner, writes_conversion_logs=False, clock=lambda: int(unix_now()), topic_group=HOURS_GROUP)
    return SqlHourStore(database, writing, scopes=settings.scopes)


def source_partitions(settings: Settings) -> int:
    """Of clicks and conversions, as they are planned; no broker is asked."""
    planned = plan_topics(
        read_topics(),
        prefix=settings.topic_prefix,
        app_id=settings.app_id,
        partitions=settings.partitions,
        lookback_days=settings.lookback_days,
    )
    return next(topic.partitions for topic in planned if topic.name == settings.topic_prefix + CLICKS)
