"""Old clicks: found in pages of the primary key, and removed by id where no stored conversion names them.

There is no index on click_time, and none is needed: a page is a range of ids, so that no statement looks at more rows
than a page has, however few of them are old.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from stream.core.progress import PartitionProgress
from stream.core.retention import OldClick, OldClicks
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.facts import JOURNEYS_GROUP
from tables.sql.inserts import whole_list
from tables.sql.progress import lock_partition, note_outside_change, read_progress
from tables.sql.selects import in_batches

PAGE_CLICKS = 20_000

_CLICKS = "202_stream_clicks"
_NAMED_BY = "LEFT JOIN `202_stream_journeys` j ON j.click_id = c.click_id"  # a lookup for each old click
_SELECT = f"SELECT c.click_id, c.user_id, c.campaign_id, c.visitor_id FROM `{_CLICKS}` c"


class SqlRetentionTransaction:
    """One step of the removal, of one partition."""

    def __init__(self, connection: Connection, clock: Callable[[], int]) -> None:
        self._connection = connection
        self._clock = clock

    async def lock(self, partition: int) -> PartitionProgress:
        """First of all: writers of a partition follow one another."""
        return await lock_partition(self._connection, JOURNEYS_GROUP, partition, now=self._clock())

    async def removable(self, click_ids: Sequence[int], before: int) -> list[OldClick]:
        """Those of them that are still there, are older, and that no stored conversion names; locked."""
        lock = " FOR UPDATE" if self._connection.dialect == MYSQL else ""
        found: list[OldClick] = []
        for ids in in_batches(click_ids):
            rows = await self._connection.fetch(
                f"{_SELECT} WHERE c.click_id IN ({whole_list(ids)}) AND c.click_time < {before:d}{lock}"
            )
            named = await self._named([row[0] for row in rows])
            found += [OldClick(*row) for row in rows if row[0] not in named]
        return sorted(found)

    async def _named(self, click_ids: Sequence[int]) -> set[int]:
        if not click_ids:
            return set()
        rows = await self._connection.fetch(
            f"SELECT click_id FROM `202_stream_journeys` WHERE click_id IN ({whole_list(click_ids)})"
        )
        return {row[0] for row in rows}

    async def remove(self, click_ids: Sequence[int]) -> None:
        for ids in in_batches(click_ids):
            await self._connection.run(f"DELETE FROM `{_CLICKS}` WHERE click_id IN ({whole_list(ids)})")

    async def note(self, changed: PartitionProgress) -> None:
        await note_outside_change(self._connection, JOURNEYS_GROUP, changed)


class SqlRetentionStore:
    """The clicks as their removal sees them. Raises Unavailable."""

    def __init__(self, database: Database, clock: Callable[[], int], *, page_clicks: int = PAGE_CLICKS) -> None:
        self._database = database
        self._clock = clock
        self._page_clicks = page_clicks

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlRetentionTransaction]:
        async with self._database.transaction() as connection:
            yield SqlRetentionTransaction(connection, self._clock)

    async def progress(self) -> Sequence[PartitionProgress]:
        async with self._database.reading() as connection:
            return await read_progress(connection, JOURNEYS_GROUP)

    async def old_clicks(self, after: int, before: int) -> OldClicks:
        """Of the next page of ids above `after`: clicks with a time before `before` that no conversion names."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"SELECT click_id FROM `{_CLICKS}` WHERE click_id > {after:d} ORDER BY click_id"
                f" LIMIT 1 OFFSET {self._page_clicks - 1:d}"
            )
            up_to = int(rows[0][0]) if rows else None
            end = f" AND c.click_id <= {up_to:d}" if up_to is not None else ""
            found = await connection.fetch(
                f"{_SELECT} {_NAMED_BY} WHERE c.click_id > {after:d}{end} AND c.click_time < {before:d}"
                " AND j.click_id IS NULL"
            )
        return OldClicks(sorted(OldClick(*row) for row in found), up_to)
