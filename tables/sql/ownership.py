"""Who owns a partition of a group of topics? The row of 202_stream_progress says so, and taking over changes it."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from stream.core.progress import PartitionProgress
from tables.sql import progress as progress_rows
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import TransactionConflict

_ATTEMPTS = 3


def first_progress(
    partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
) -> PartitionProgress:
    """The row as it would be, had nobody had the partition before."""
    return PartitionProgress(
        partition=partition,
        epoch=1,
        owner=owner,
        next_offsets={},
        partition_count=partition_count,
        topic_ids=topic_ids,
        watermark=0,
        newest_conversion=0,
        history_from=history_from,
        unsettled_keys=(),
    )


async def take_over(
    database: Database, topic_group: str, first: PartitionProgress, *, clock: Callable[[], int]
) -> PartitionProgress:
    """Raise the epoch and become the owner; returns the row as it was before, but with the new epoch.

    `history_from` counts for a partition that nobody ever had: what its log lacks then, SQL lacks too. Topic ids
    and partition count are stored only where there are none: those of a row that was in use stay, so that a start
    that was refused for them is refused again.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(TransactionConflict):
            return await _try_to_take_over(database, topic_group, first, now=clock())
    return await _try_to_take_over(database, topic_group, first, now=clock())


async def _try_to_take_over(
    database: Database, topic_group: str, first: PartitionProgress, *, now: int
) -> PartitionProgress:
    async with database.transaction() as connection:
        before = await _before_taking_over(connection, topic_group, first.partition, now=now)
        if before.epoch == first.epoch:
            before = replace(before, history_from=max(before.history_from, first.history_from))
        taken = replace(before, owner=first.owner)
        if not before.partition_count:
            taken = replace(taken, partition_count=first.partition_count, topic_ids=first.topic_ids)
        await progress_rows.store_taking_over(connection, topic_group, taken, now=now)
    return before


async def _before_taking_over(
    connection: Connection, topic_group: str, partition: int, *, now: int
) -> PartitionProgress:
    """With the new epoch. The row is made if there is none."""
    found = await progress_rows.lock_partition(connection, topic_group, partition, now=now)
    newest, history_from, greatest = found.newest_conversion, found.history_from, found.greatest_version
    if not found.partition_count:
        # Never taken: after a change of the partition count its keys may come from any other partition.
        rows = await progress_rows.read_progress(connection, topic_group)
        newest = max(row.newest_conversion for row in rows)
        greatest = max(row.greatest_version for row in rows)
        # Not of those that are taken for the first time beside it: their logs begin where they begin.
        history_from = max([history_from, *(row.history_from for row in rows if row.epoch > 1)])
    return replace(
        found,
        epoch=found.epoch + 1,
        newest_conversion=newest,
        history_from=history_from,
        greatest_version=greatest,
    )
