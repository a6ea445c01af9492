"""SQL behind the ports of `stream.agents`: what a chunk asks for and writes, in transactions behind a fence."""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from stream.core.events import Click
from stream.core.facts import Facts, Journey, Needs
from stream.core.progress import Advance, PartitionProgress, Passed
from tables.sql import clicks as click_rows
from tables.sql import progress as progress_rows
from tables.sql.connections import Connection
from tables.sql.conversion_logs import replace_conversion_logs
from tables.sql.database import Database
from tables.sql.journeys import read_entered, read_journeys, read_reported, write_journey_rows
from tables.sql.ownership import first_progress, take_over
from tables.sql.toggles import with_shown_touches
from tables.sql.touchpoints import replace_touchpoints

JOURNEYS_GROUP = "journeys"
HOURS_GROUP = "hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a store writes: as whom, for which group of topics, and what else than our own rows."""

    owner: str
    writes_conversion_logs: bool
    clock: Callable[[], int]  # unix seconds, for created_at and updated_at alone
    topic_group: str = JOURNEYS_GROUP


class SqlFactTransaction:
    """One SQL transaction of one partition."""

    def __init__(
        self,
        connection: Connection,
        writing: Writing,
        *,
        is_hopeful: bool = True,
        versions: Mapping[int, int] | None = None,
    ) -> None:
        """`versions`: greatest ones that the rows of partitions have at least, so far as they are known."""
        self._connection = connection
        self._writing = writing
        self._is_hopeful = is_hopeful
        self.met_duplicates = False
        self._versions = versions or {}
        self._partition: int | None = None  # whose row is ours until the end
        self.raised: dict[int, int] = {}  # of these, what became of them here

    async def pass_fence(self, advance: Advance, *, after_failure: bool) -> Passed:
        """First statement. Raises Fenced if owner or epoch are not ours.

        What the last committed chunk left unsettled is told after a failure, or where another hand has changed facts.
        Otherwise nobody needs it, and nothing is read.
        """
        group = self._writing.topic_group
        self._partition = advance.partition
        keys: Sequence[str] = ()
        if after_failure:
            before = await progress_rows.locked_progress(self._connection, group, advance.partition)
            keys = before.unsettled_keys if before else ()
        passed = await progress_rows.pass_fence(
            self._connection, group, owner=self._writing.owner, advance=advance, now=self._writing.clock()
        )
        return passed._replace(unsettled=keys or passed.unsettled)

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]:
        stored = await click_rows.claim_clicks(self._connection, clicks, is_hopeful=self._is_hopeful)
        self.met_duplicates = bool(stored)
        return stored

    async def replace_clicks(self, clicks: Sequence[Click]) -> None:
        await click_rows.replace_clicks(self._connection, clicks)

    async def read(self, needs: Needs) -> Facts:
        return await read_facts(self._connection, needs)

    async def write_journeys(
        self, journeys: Sequence[Journey], *, displaced: Collection[int] = (), new: Collection[int] = ()
    ) -> None:
        """Keys: conv_id in each of the relations. Repeating it changes nothing but the times of writing."""
        await self._write(journeys, logged=journeys, displaced=displaced, new=new)

    async def _write(
        self,
        journeys: Sequence[Journey],
        *,
        logged: Sequence[Journey],
        displaced: Collection[int],
        new: Collection[int],
    ) -> None:
        """`logged`: those of the journeys whose log rows are not known to stand as they should."""
        ordered = sorted(journeys, key=lambda journey: journey.conversion.conv_id)
        now = self._writing.clock()
        if ordered:
            await write_journey_rows(self._connection, ordered, new=new, updated_at=now)
            await self._raise_version(max(journey.version for journey in ordered))
            await self._show(ordered, created_at=now)
        if self._writing.writes_conversion_logs and (logged or displaced):
            await replace_conversion_logs(self._connection, logged, displaced)

    async def _show(self, journeys: Sequence[Journey], *, created_at: int) -> None:
        shown = await with_shown_touches(self._connection, journeys)
        await replace_touchpoints(self._connection, shown, created_at=created_at)

    async def _raise_version(self, version: int) -> None:
        """Seldom more than a comparison: few journeys change more often than any other of their partition did."""
        if self._partition is not None and version > self._versions.get(self._partition, 1):
            await progress_rows.raise_version(self._connection, self._writing.topic_group, self._partition, version)
            self.raised[self._partition] = version

    async def settle(self, partition: int, unsettled_keys: Sequence[str]) -> None:
        if unsettled_keys:  # the fence has taken away those of before
            await progress_rows.settle(self._connection, self._writing.topic_group, partition, unsettled_keys)


class SqlFactStore:
    """The database as the workers see it. Raises Unavailable, RefusedByDatabase or Fenced."""

    def __init__(self, database: Database, writing: Writing) -> None:
        self._database = database
        self._writing = writing
        self._is_hopeful = True  # senders that repeat clicks do so all the time: as the last chunk, so the next
        self._versions: Mapping[int, int] = {}  # by partition, the greatest that was committed here

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlFactTransaction]:
        async with self._database.transaction() as connection:
            transaction = SqlFactTransaction(
                connection, self._writing, is_hopeful=self._is_hopeful, versions=self._versions
            )
            yield transaction
            self._is_hopeful = not transaction.met_duplicates
        self._versions = {**self._versions, **transaction.raised}

    async def read(self, needs: Needs) -> Facts:
        async with self._database.reading() as connection:
            return await read_facts(connection, needs)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        first = first_progress(
            partition, owner=owner, topic_ids=topic_ids, partition_count=partition_count, history_from=history_from
        )
        return await take_over(self._database, self._writing.topic_group, first, clock=self._writing.clock)

    async def progress(self) -> Sequence[PartitionProgress]:
        async with self._database.reading() as connection:
            return await progress_rows.read_progress(connection, self._writing.topic_group)


async def reset_progress(
    database: Database, *, now: int, topic_group: str = JOURNEYS_GROUP, history_from: int = 0
) -> None:
    """For `progress reset --to-log-start`: no worker may be alive, and one that is will be fenced."""
    async with database.transaction() as connection:
        await progress_rows.reset_progress(connection, topic_group, now=now, history_from=history_from)


async def list_progress(database: Database, *, topic_group: str = JOURNEYS_GROUP) -> Sequence[PartitionProgress]:
    async with database.reading() as connection:
        return await progress_rows.read_progress(connection, topic_group)


async def read_facts(connection: Connection, needs: Needs) -> Facts:
    """One statement for each kind of need, some more where a chunk needs thousands of one kind."""
    journeys: list[Journey] = []
    credited: Mapping[int, int] = {}
    if needs.with_credited:
        found, credited = await read_reported(connection, needs.conversions)
        journeys += found
    elif needs.conversions:
        journeys += await read_journeys(connection, "conv_id", needs.conversions)
    if needs.conversions_of_clicks:
        journeys += await read_journeys(connection, "click_id", needs.conversions_of_clicks)
    if needs.entered:
        journeys += await read_entered(connection, needs.entered)
    return Facts(
        journeys={journey.conversion.conv_id: journey for journey in journeys},
        clicks=await click_rows.read_clicks(connection, needs.clicks) if needs.clicks else {},
        histories=await click_rows.read_histories(connection, needs.histories) if needs.histories else {},
        credited=credited,
    )
