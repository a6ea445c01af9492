"""SQL behind the ports of the hours: what a fire asks for and writes, and what the worker sees between two fires."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from stream.core.configuration import Configuration, configuration_of
from stream.core.errors import Fenced
from stream.core.facts import Journey
from stream.core.hours import HourKey
from stream.core.progress import Advance, PartitionProgress
from stream.core.results import NEVER_FIRED, CreditedAt, HourChange, HourContents, HourResults, HourRow, Removal
from tables.sql import hours as hour_rows
from tables.sql import progress as progress_rows
from tables.sql.accounts import lock_accounts
from tables.sql.audit import Author
from tables.sql.connections import Connection
from tables.sql.credits import read_credits
from tables.sql.cron import sign_of_life
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP, Writing
from tables.sql.hour_writing import write_changes
from tables.sql.journeys import read_journeys, read_journeys_of_hours
from tables.sql.model_store import WORKER, read_configuration_rows, seed_last_touch
from tables.sql.models import read_accounts_with_models
from tables.sql.ownership import first_progress, take_over
from tables.sql.removals import delete_removals_of_hours, read_removals
from tables.sql.snapshots import read_snapshots

_DRAINED_LAG_SECONDS = 60  # an event of before may still be on its way into a topic that was found drained


class SqlHourTransaction:
    """One SQL transaction; a rebuild uses it without a fence."""

    def __init__(self, connection: Connection, writing: Writing, *, scopes: str, author: Author = WORKER) -> None:
        self._connection = connection
        self._writing = writing
        self._scopes = scopes
        self._author = author

    async def pass_fence(self, advance: Advance) -> None:
        """First statement. Raises Fenced if owner or epoch are not ours."""
        writing = self._writing
        await progress_rows.pass_fence(
            self._connection, writing.topic_group, owner=writing.owner, advance=advance, now=writing.clock()
        )

    async def lock_accounts(self, user_ids: Collection[int]) -> None:
        """An account that never had a model gets Last Touch."""
        now = self._writing.clock()
        await lock_accounts(self._connection, user_ids, now=now)
        for user_id in sorted(set(user_ids) - await read_accounts_with_models(self._connection, user_ids)):
            await seed_last_touch(self._connection, user_id, now, self._author)

    async def read_configurations(self, user_ids: Collection[int]) -> Mapping[int, Configuration]:
        return await _configurations(self._connection, user_ids, scopes=self._scopes)

    async def read_journeys(self, conv_ids: Collection[int]) -> Sequence[Journey]:
        return await read_journeys(self._connection, "conv_id", conv_ids)

    async def read_credited(self, conv_ids: Collection[int]) -> Mapping[int, CreditedAt]:
        return await hour_rows.read_credited(self._connection, conv_ids)

    async def read_hours(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourRow]:
        return await hour_rows.read_hours(self._connection, keys)

    async def read_contents(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourContents]:
        """Journeys are read at several moments: one that moves meanwhile may be in none of its hours, or in both."""
        journeys: dict[HourKey, list[Journey]] = {key: [] for key in keys}
        for journey in await read_journeys_of_hours(self._connection, keys):
            key = HourKey(journey.conversion.user_id, journey.date_hour)
            if key in journeys:
                journeys[key].append(journey)
        credited = await hour_rows.read_credited_of_hours(self._connection, keys)
        snapshots = await read_snapshots(self._connection, keys)
        return {key: HourContents(journeys[key], credited[key], snapshots[key]) for key in keys}

    async def read_uncredited(self, keys: Collection[HourKey]) -> Collection[tuple[int, int]]:
        return await hour_rows.read_uncredited(self._connection, keys)

    async def keep_alive(self) -> None:
        await self._connection.keep_alive()

    async def write(self, changes: Sequence[HourChange]) -> Mapping[HourKey, Sequence[Removal]]:
        return await write_changes(self._connection, changes, now=self._writing.clock())

    async def read_results(self, keys: Collection[HourKey], *, with_credits: bool) -> Mapping[HourKey, HourResults]:
        connection = self._connection
        rows = await hour_rows.read_hours(connection, keys)
        snapshots = await read_snapshots(connection, keys)
        credits = await read_credits(connection, keys) if with_credits else {}
        removals: dict[HourKey, set[Removal]] = {}
        for stored in await read_removals(connection, keys):
            removals.setdefault(stored.hour, set()).add(stored.removal)
        return {
            key: HourResults(
                rows.get(key, NEVER_FIRED), snapshots[key], credits.get(key, ()), sorted(removals.get(key, ()))
            )
            for key in keys
        }


class SqlHourStore:
    """Satisfies `stream.agents.hour_ports.HourStore`. Raises Unavailable, RefusedByDatabase or Fenced."""

    def __init__(self, database: Database, writing: Writing, *, scopes: str, author: Author = WORKER) -> None:
        """`author` of the models that are seeded."""
        self._database = database
        self._writing = writing
        self._scopes = scopes
        self._author = author

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlHourTransaction]:
        async with self._database.transaction() as connection:
            yield SqlHourTransaction(connection, self._writing, scopes=self._scopes, author=self._author)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        first = first_progress(
            partition, owner=owner, topic_ids=topic_ids, partition_count=partition_count, history_from=history_from
        )
        return await take_over(self._database, self._writing.topic_group, first, clock=self._writing.clock)

    async def read_unsettled(self) -> Mapping[HourKey, HourRow]:
        async with self._database.reading() as connection:
            return await hour_rows.read_unsettled(connection)

    async def read_revisions(self, user_ids: Collection[int]) -> Mapping[int, int]:
        """A change that is committed between two of the statements may show as a revision that never was."""
        async with self._database.reading() as connection:
            found = await _configurations(connection, user_ids, scopes=self._scopes)
        return {user_id: configuration.revision for user_id, configuration in found.items()}

    async def read_watermark(self, partitions: int) -> int:
        async with self._database.reading() as connection:
            rows = {row.partition: row for row in await progress_rows.read_progress(connection, JOURNEYS_GROUP)}
        if any(number not in rows for number in range(partitions)):
            return 0
        return max(0, min((_effective_watermark(rows[number]) for number in range(partitions)), default=0))

    async def mark_published(self, partition: int, epoch: int, revisions: Mapping[HourKey, int]) -> None:
        """Raises Fenced, with nothing changed, if the partition is no longer ours at that epoch."""
        writing = self._writing
        async with self._database.transaction() as connection:
            row = await progress_rows.locked_progress(connection, writing.topic_group, partition)
            if row is None or (row.owner, row.epoch) != (writing.owner, epoch):
                raise Fenced(f'partition {partition} of "{writing.topic_group}" is not that of epoch {epoch} any more')
            await lock_accounts(connection, {key.user_id for key in revisions}, now=writing.clock())
            published = await hour_rows.mark_published(connection, revisions)
            await delete_removals_of_hours(connection, published)

    async def sign_of_life(self) -> None:
        async with self._database.transaction() as connection:
            await sign_of_life(connection, now=self._writing.clock())


def _effective_watermark(row: PartitionProgress) -> int:
    return max(row.watermark, row.drained_at - _DRAINED_LAG_SECONDS)


async def _configurations(
    connection: Connection, user_ids: Collection[int], *, scopes: str
) -> Mapping[int, Configuration]:
    rows = await read_configuration_rows(connection, user_ids)
    return {user_id: configuration_of(models, toggles, scopes=scopes) for user_id, (models, toggles) in rows.items()}
