"""What do SQL and the topics hold of the hours? Read by plain drivers and a plain consumer, as a reader would."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from tables.sql.database import open_database
from tests.support.golden import SetName
from tests.support.golden_hours import models_of
from tests.support.hour_books import CREDITS, SNAPSHOTS, Books
from tests.support.hour_oracle import PARTS, Credit, ExpectedHours, Model, Snapshot
from tests.support.model_rows import store_model
from tests.support.rows import query

_SNAPSHOTS = (
    "SELECT user_id, model_id, date_hour, scope_type, COALESCE(scope_id, 0), attributed_clicks, attributed_conversions,"
    " attributed_revenue, attributed_cost FROM `202_attribution_snapshots`"
)
_CREDITS = (
    "SELECT s.user_id, s.model_id, s.date_hour, t.conv_id, t.position, t.click_id, t.credit, t.weight"
    " FROM `202_attribution_touchpoints` t LEFT JOIN `202_attribution_snapshots` s ON s.snapshot_id = t.snapshot_id"
)
# What docs/bi.md promises of the view: sums are right to a few 0.00001, beside totals that are rounded to 0.0001.
_TORN = (
    "SELECT s.snapshot_id, s.attributed_clicks, s.attributed_conversions, s.attributed_revenue, s.attributed_cost,"
    " COUNT(t.conv_id), COUNT(DISTINCT t.conv_id), SUM(t.credit), SUM(t.attributed_revenue), SUM(t.attributed_cost)"
    " FROM `202_attribution_snapshots` s LEFT JOIN `202_bi_attribution_credits` t ON t.model_id = s.model_id"
    " AND t.user_id = s.user_id AND t.date_hour = s.date_hour WHERE s.scope_type = 'global'"
    " GROUP BY s.snapshot_id, s.attributed_clicks, s.attributed_conversions, s.attributed_revenue, s.attributed_cost"
    " HAVING COUNT(t.conv_id) <> s.attributed_clicks OR COUNT(DISTINCT t.conv_id) <> s.attributed_conversions"
    " OR ABS(SUM(t.credit) - s.attributed_conversions) > 0.000001"
    " OR ABS(SUM(t.attributed_revenue) - s.attributed_revenue) > 0.0001"
    " OR ABS(SUM(t.attributed_cost) - s.attributed_cost) > 0.0001"
)
# Every conversion has a campaign: those of an hour are all of it, each rounded on its own.
_UNEVEN_CAMPAIGNS = (
    "SELECT s.snapshot_id, s.attributed_clicks, s.attributed_conversions, s.attributed_revenue, s.attributed_cost,"
    " SUM(c.attributed_clicks), SUM(c.attributed_conversions), SUM(c.attributed_revenue), SUM(c.attributed_cost)"
    " FROM `202_attribution_snapshots` s LEFT JOIN `202_attribution_snapshots` c ON c.model_id = s.model_id"
    " AND c.user_id = s.user_id AND c.date_hour = s.date_hour AND c.scope_type = 'campaign'"
    " WHERE s.scope_type = 'global'"
    " GROUP BY s.snapshot_id, s.attributed_clicks, s.attributed_conversions, s.attributed_revenue, s.attributed_cost"
    " HAVING COALESCE(SUM(c.attributed_clicks), 0) <> s.attributed_clicks"
    " OR SUM(c.attributed_conversions) <> s.attributed_conversions"
    " OR ABS(SUM(c.attributed_revenue) - s.attributed_revenue) > 0.00005 * (1 + COUNT(*)) + 0.00001"
    " OR ABS(SUM(c.attributed_cost) - s.attributed_cost) > 0.00005 * (1 + COUNT(*)) + 0.00001"
)
_REVISIONS = "SELECT user_id, date_hour, revision, published_revision FROM `202_stream_hours`"
_FINALS = "SELECT user_id, date_hour, revision, is_final FROM `202_stream_hours`"


def read_hours(database_url: str) -> ExpectedHours:
    """A row that stands twice is twice in here."""
    snapshots = [
        Snapshot._make((*row[:7], Decimal(str(row[7])), Decimal(str(row[8]))))
        for row in query(database_url, _SNAPSHOTS)
    ]
    credits = []
    for *place, credit, weight in query(database_url, _CREDITS):
        assert credit == weight
        credits.append(Credit._make((*place, int(Decimal(str(credit)) * PARTS))))
    return ExpectedHours(sorted(snapshots), sorted(credits))


def read_revisions(database_url: str) -> dict[tuple[int, int], int]:
    """By user and hour. Fails if a revision is not published."""
    found = {}
    for user_id, date_hour, revision, published in query(database_url, _REVISIONS):
        assert revision == published, f"hour {date_hour} of user {user_id} is at {revision}, published {published}"
        found[user_id, date_hour] = revision
    return found


def untrue_snapshots(database_url: str, books: Books) -> list[dict[str, object]]:
    """Records of snapshots that are ahead of their hour, or do not say what it is: open, or final.

    A record that a later fire found unchanged keeps its revision, and a credit's `final` may be older: decision 0010.
    """
    hours = {(user_id, date_hour): of_hour for user_id, date_hour, *of_hour in query(database_url, _FINALS)}
    untrue = []
    for value in books.records[SNAPSHOTS].values():
        fields = json.loads(value)
        revision, is_final = hours[fields["user_id"], fields["date_hour"]]
        if not 1 <= fields["revision"] <= revision or fields["final"] != bool(is_final):
            untrue.append(fields)
    return untrue


async def read_books(env: Mapping[str, str]) -> Books:
    """Both topics from their beginnings, the last record of each key."""
    books = Books()
    consumer = AIOKafkaConsumer(bootstrap_servers=env["TOUCHSTREAM_KAFKA"], auto_offset_reset="earliest")
    await consumer.start()
    try:
        for name in (SNAPSHOTS, CREDITS):
            topic = env["TOUCHSTREAM_TOPIC_PREFIX"] + name
            # A topic that nobody has asked for yet is not among the metadata of a new client.
            await consumer._client.set_topics([topic])
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            assert places, f"there is no topic {topic}"
            ends = await consumer.end_offsets(places)
            consumer.assign(places)
            while any([await consumer.position(place) < ends[place] for place in places]):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    for record in records:
                        books.take(name, record.key, record.value)
    finally:
        await consumer.stop()
    return books


def torn_hours(database_url: str) -> list[tuple[object, ...]]:
    """Global snapshots that differ from the sum of their credits or of their campaigns, as one statement sees them."""
    return query(database_url, _TORN) + query(database_url, _UNEVEN_CAMPAIGNS)


@contextmanager
def polled(database_url: str) -> Iterator[None]:
    """A reader asks again and again whether a global snapshot differs from the sum of its credits or campaigns."""
    torn: list[object] = []
    looks = 0
    is_over = threading.Event()

    def poll() -> None:
        nonlocal looks
        while not is_over.wait(0.05):
            torn.extend(torn_hours(database_url))
            looks += 1

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert torn == []
    assert looks, "the reader never looked, or failed"


def store_models(database_url: str, models: Sequence[Model]) -> None:
    """As rows of another hand."""
    asyncio.run(_store_models(database_url, models))


async def store_golden_models(database_url: str, name: SetName) -> None:
    """All models of a golden set for all its users."""
    await _store_models(database_url, models_of(name))


async def _store_models(database_url: str, models: Sequence[Model]) -> None:
    database = open_database(database_url)
    try:
        for model in models:
            await store_model(
                database,
                model.model_id,
                user_id=model.user_id,
                model_type=model.type,
                weighting_config=json.dumps(model.config) if model.config else None,
            )
    finally:
        await database.close()
