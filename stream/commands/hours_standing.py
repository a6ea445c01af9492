"""What is left to do for the hours, as the database says, and what keeps some of them from having results."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stream.agents.topic_names import topic_names
from stream.commands.hour_access import hour_store
from stream.commands.standing import Standing, StandingReader, hours_reading, reading_standing
from stream.config import Settings
from stream.core.hours import HourKey, final_before
from stream.core.results import HourRow
from tables.sql.database import Database, open_database
from tables.sql.models import StoredModel, read_accounts_without_active_model, read_active_models


class BrokenModel(NamedTuple):
    """An active model that gives no results, in all hours or in some."""

    user_id: int
    model_id: int
    slug: str
    reason: str


@dataclass(frozen=True, slots=True)
class HoursWork:
    """Hours that ask for something. One may be counted as open, unpublished and outdated."""

    open: int  # may become final
    unpublished: int  # have a revision that the topics do not have
    outdated: int  # open, and computed with other models or settings than those of now
    oldest_due: int | None  # unix seconds, of those that a worker will look at by itself now
    broken_models: Sequence[BrokenModel]
    users_without_model: Sequence[int]  # with conversions


@dataclass(frozen=True, slots=True)
class HoursStanding:
    """The hours' side of the workers: how far the journeys topic is read, and what stands in SQL."""

    log: Standing
    work: HoursWork


@dataclass(frozen=True, slots=True)
class FullStanding:
    """Sources first, then the hours: what the sources gave was in the journeys topic when that was looked at."""

    sources: Standing
    hours: HoursStanding


class FullStandingReader:
    """Connected to everything; reads as often as it is asked to."""

    def __init__(
        self, settings: Settings, database: Database, *, sources: StandingReader, hours: StandingReader
    ) -> None:
        self._settings = settings
        self._database = database
        self._sources = sources
        self._hours = hours

    async def read(self) -> FullStanding:
        """Raises KafkaError, or Unavailable for the database."""
        sources = await self._sources.read()
        log = await self._hours.read()
        # After the offsets: whatever they take in was written, and published, before they were committed.
        return FullStanding(sources, HoursStanding(log, await read_hours_work(self._settings, self._database)))

    async def read_sources(self) -> Standing:
        return await self._sources.read()


async def read_hours_work(settings: Settings, database: Database) -> HoursWork:
    store = hour_store(settings, database, owner="status")
    unsettled = await store.read_unsettled()
    revisions = await store.read_revisions({key.user_id for key in unsettled})
    watermark = await store.read_watermark(topic_names(settings).partitions)
    final_from = final_before(watermark, settings.allowed_lateness_seconds)
    unpublished = {key for key, row in unsettled.items() if row.published_revision != row.revision}
    outdated = {
        key for key, row in unsettled.items() if not row.is_final and row.configuration != revisions[key.user_id]
    }
    ended = {key for key, row in unsettled.items() if not row.is_final and key.date_hour < final_from}
    async with database.reading() as connection:
        models = await read_active_models(connection)
        users_without_model = await read_accounts_without_active_model(connection)
    return HoursWork(
        open=sum(not row.is_final for row in unsettled.values()),
        unpublished=len(unpublished),
        outdated=len(outdated),
        oldest_due=min((key.date_hour for key in unpublished | outdated | ended), default=None),
        broken_models=_broken_models(models, unsettled),
        users_without_model=users_without_model,
    )


def _broken_models(models: Sequence[StoredModel], hours: Mapping[HourKey, HourRow]) -> Sequence[BrokenModel]:
    """By what they say themselves, and by what the hours say that are not settled."""
    reasons = {
        (key.user_id, model_id): reason
        for key, row in sorted(hours.items())
        for model_id, reason in row.problems.items()
    }
    broken = []
    for model in models:
        reason = model.problem or reasons.get((model.user_id, model.model_id), "")
        if reason:
            broken.append(BrokenModel(model.user_id, model.model_id, model.slug, reason))
    return broken


@contextlib.asynccontextmanager
async def reading_full_standing(settings: Settings) -> AsyncIterator[FullStandingReader]:
    """Raises what `reading_standing` raises."""
    async with contextlib.AsyncExitStack() as stack:
        sources = await stack.enter_async_context(reading_standing(settings))
        hours = await stack.enter_async_context(reading_standing(settings, hours_reading(settings)))
        database = open_database(settings.database_url)
        stack.push_async_callback(database.close)
        yield FullStandingReader(settings, database, sources=sources, hours=hours)


async def read_full_standing(settings: Settings) -> FullStanding:
    """Once. Raises what `reading_standing` raises."""
    async with reading_full_standing(settings) as reader:
        return await reader.read()
