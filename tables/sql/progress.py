"""202_stream_progress: where each partition stands, and who may move it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import orjson

from stream.core.errors import Fenced
from stream.core.progress import Advance, PartitionProgress, Passed
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row

_RELATION = "202_stream_progress"
_COLUMNS = (
    "partition_id, epoch, owner, next_offsets, partition_count, topic_ids, watermark, newest_conversion,"
    " history_from, unsettled_keys, outside_changes, drained_at, greatest_version"
)
_SELECT = f"SELECT {_COLUMNS} FROM `{_RELATION}` WHERE topic_group = ?"

_decode_offsets = msgspec.json.Decoder(dict[str, int]).decode
_decode_texts = msgspec.json.Decoder(dict[str, str]).decode
_decode_keys = msgspec.json.Decoder(tuple[str, ...]).decode


def _json(value: Mapping[str, object] | Sequence[str]) -> str:
    return orjson.dumps(value).decode()


def _progress_of(row: Row) -> PartitionProgress:
    partition, epoch, owner, offsets, count, topics, watermark, newest, history_from, keys, *told = row
    changes, drained_at, greatest_version = told
    return PartitionProgress(
        partition=partition,
        epoch=epoch,
        owner=owner,
        next_offsets=_decode_offsets(offsets),
        partition_count=count,
        topic_ids=_decode_texts(topics),
        watermark=watermark,
        newest_conversion=newest,
        history_from=history_from,
        unsettled_keys=_decode_keys(keys) if keys else (),
        outside_changes=changes,
        drained_at=drained_at,
        greatest_version=greatest_version,
    )


async def read_progress(
    connection: Connection, topic_group: str, *, is_locking: bool = False
) -> list[PartitionProgress]:
    """Ascending by partition. Locking: they are held until the transaction ends."""
    lock = " FOR UPDATE" if is_locking and connection.dialect == MYSQL else ""
    rows = await connection.fetch(f"{_SELECT} ORDER BY partition_id{lock}", [topic_group])
    return [_progress_of(row) for row in rows]


async def locked_progress(connection: Connection, topic_group: str, partition: int) -> PartitionProgress | None:
    """One row, held until the transaction ends."""
    lock = " FOR UPDATE" if connection.dialect == MYSQL else ""
    rows = await connection.fetch(f"{_SELECT} AND partition_id = ?{lock}", [topic_group, partition])
    return _progress_of(rows[0]) if rows else None


async def pass_fence(connection: Connection, topic_group: str, *, owner: str, advance: Advance, now: int) -> Passed:
    """Move the row if it is still ours. The row stays locked, so writers of a partition follow one another."""
    if await _move(connection, topic_group, owner, advance, now=now):
        return Passed()
    row = await locked_progress(connection, topic_group, advance.partition)
    if row is not None and row.outside_changes != advance.outside_changes:
        seen = replace(advance, outside_changes=row.outside_changes)
        if await _move(connection, topic_group, owner, seen, now=now):
            return Passed(row.unsettled_keys, row)
    raise Fenced(f'partition {advance.partition} of "{topic_group}" has another owner than "{owner}"')


async def _move(connection: Connection, topic_group: str, owner: str, advance: Advance, *, now: int) -> bool:
    matched = await connection.run(
        # Another hand may have stored a conversion that the owner has not come to.
        f"UPDATE `{_RELATION}` SET next_offsets = ?, watermark = ?, unsettled_keys = NULL,"
        " newest_conversion = CASE WHEN newest_conversion > ? THEN newest_conversion ELSE ? END,"
        " drained_at = COALESCE(?, drained_at), updated_at = ?"
        " WHERE topic_group = ? AND partition_id = ? AND owner = ? AND epoch = ? AND outside_changes = ?",
        [
            _json(advance.next_offsets),
            advance.watermark,
            advance.newest_conversion,
            advance.newest_conversion,
            advance.drained_at,
            now,
            topic_group,
            advance.partition,
            owner,
            advance.epoch,
            advance.outside_changes,
        ],
    )
    return matched == 1


async def lock_partition(connection: Connection, topic_group: str, partition: int, *, now: int) -> PartitionProgress:
    """For whoever writes facts or journeys without owning the partition; the row is made if there is none."""
    found = await locked_progress(connection, topic_group, partition)
    if found is None:
        await insert_progress(connection, topic_group, partition, now=now)
        found = await locked_progress(connection, topic_group, partition)
    assert found is not None, "the row was made a moment ago"
    return found


async def note_outside_change(connection: Connection, topic_group: str, changed: PartitionProgress) -> None:
    """The owner meets it at its next chunk. The caller holds the row, and has changed what it may."""
    await connection.run(
        f"UPDATE `{_RELATION}` SET unsettled_keys = ?, newest_conversion = ?, history_from = ?, outside_changes = ?"
        " WHERE topic_group = ? AND partition_id = ?",
        [
            _json(changed.unsettled_keys) if changed.unsettled_keys else None,
            changed.newest_conversion,
            changed.history_from,
            changed.outside_changes,
            topic_group,
            changed.partition,
        ],
    )


async def raise_version(connection: Connection, topic_group: str, partition: int, version: int) -> None:
    """A journey of the partition has that version. The caller holds the row, or has written it."""
    await connection.run(
        f"UPDATE `{_RELATION}` SET greatest_version = ?"
        " WHERE topic_group = ? AND partition_id = ? AND greatest_version < ?",
        [version, topic_group, partition, version],
    )


async def settle(connection: Connection, topic_group: str, partition: int, keys: Sequence[str]) -> None:
    await connection.run(
        f"UPDATE `{_RELATION}` SET unsettled_keys = ? WHERE topic_group = ? AND partition_id = ?",
        [_json(keys) if keys else None, topic_group, partition],
    )


async def insert_progress(connection: Connection, topic_group: str, partition: int, *, now: int) -> None:
    """Raises DuplicateKey if another worker was faster."""
    await connection.run(
        f"INSERT INTO `{_RELATION}` (topic_group, partition_id, next_offsets, topic_ids, updated_at)"
        " VALUES (?, ?, ?, ?, ?)",
        [topic_group, partition, "{}", "{}", now],
    )


async def store_taking_over(connection: Connection, topic_group: str, taken: PartitionProgress, *, now: int) -> None:
    await connection.run(
        f"UPDATE `{_RELATION}` SET epoch = ?, owner = ?, partition_count = ?, topic_ids = ?, newest_conversion = ?,"
        " history_from = ?, greatest_version = ?, updated_at = ? WHERE topic_group = ? AND partition_id = ?",
        [
            taken.epoch,
            taken.owner,
            taken.partition_count,
            _json(taken.topic_ids),
            taken.newest_conversion,
            taken.history_from,
            taken.greatest_version,
            now,
            topic_group,
            taken.partition,
        ],
    )


async def reset_progress(connection: Connection, topic_group: str, *, now: int, history_from: int = 0) -> None:
    """Back to the log's start: every owner is shut out, and the next one takes over its own topics and partitions.

    Keys may move to other partitions then, so each row remembers the newest conversion and the greatest version of all
    of them, and where the history of the least complete one begins. `history_from`: where that of the log begins, if
    SQL lacks what is gone.
    """
    rows = await read_progress(connection, topic_group, is_locking=True)  # a replay may be raising what is read here
    newest = max((row.newest_conversion for row in rows), default=0)
    greatest = max((row.greatest_version for row in rows), default=1)
    history_from = max([history_from, *(row.history_from for row in rows)])
    await connection.run(
        f"UPDATE `{_RELATION}` SET epoch = epoch + 1, owner = '', partition_count = 0, next_offsets = ?,"
        " topic_ids = ?, watermark = 0, newest_conversion = ?, history_from = ?, unsettled_keys = NULL, drained_at = 0,"
        " greatest_version = ?, updated_at = ? WHERE topic_group = ?",
        ["{}", "{}", newest, history_from, greatest, now, topic_group],
    )
