"""A Faust table whose values are bytes, written to its changelog in batches and recovered in bulk.

Every value carries the epoch of the worker that wrote it. A new owner first writes a record that begins its epoch;
recovery forgets the key of any value of an older epoch found after that. Such a value comes from a worker that had
already lost the partition (a paused process that woke up again), and which of the key's values is right cannot be told
any more, also because compaction may have removed the right one. A forgotten key is only slower: SQL answers for it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import faust
from aiokafka.structs import RecordMetadata
from faust.stores.base import Store
from faust.tables.manager import TableManager
from faust.types import TP, TopicT

from stream.engine.fetching import Fetched
from stream.engine.outbox import Outbox
from stream.engine.schema import WholeChunkSchema
from stream.wire.outgoing import OutgoingRecord

_EPOCH_BYTES = 8
_MARK = b"\0epoch:"  # no state key begins with a NUL byte


class KeptStates(Store[bytes, bytes]):
    """State of the assigned partitions in memory, bounded in keys: the least recently written leave."""

    partitions: dict[int, dict[bytes, bytes]]

    def __init__(self, *args: Any, bound: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.partitions = {}
        self.bound = bound
        self.evicted = 0
        self.stale_dropped = 0
        self.recovered = 0
        self._epochs: dict[int, int] = {}

    def get_state(self, partition: int, key: bytes) -> bytes | None:
        kept = self.partitions.get(partition)
        return kept.get(key) if kept else None

    def put_states(self, partition: int, values: Mapping[bytes, bytes | None]) -> None:
        """Absent values forget their keys."""
        kept = self.partitions.setdefault(partition, {})
        pop = kept.pop
        for key, value in values.items():
            pop(key, None)
            if value is not None:
                kept[key] = value  # at the end: written last, evicted last
        self._evict(kept)

    def _evict(self, kept: dict[bytes, bytes]) -> None:
        surplus = min(len(self) - self.bound, len(kept))
        for _ in range(surplus):
            del kept[next(iter(kept))]
            self.evicted += 1

    def oldest_keys(self, partition: int, count: int) -> list[bytes]:
        """Those written longest ago, first."""
        kept = self.partitions.get(partition, {})
        return [key for key, _ in zip(kept, range(count), strict=False)]

    def begin_epoch(self, partition: int, epoch: int) -> None:
        """Ours. Where the partition stays its record is not read, and a value of an older epoch may come behind it."""
        self._epochs[partition] = max(epoch, self._epochs.get(partition, 0))

    def drop_partition(self, partition: int) -> None:
        self.partitions.pop(partition, None)
        self._epochs.pop(partition, None)

    def drop_values(self) -> None:
        """Forget every key but no epoch: what losing the state at any moment comes to."""
        for kept in self.partitions.values():
            kept.clear()

    def apply_fetched(self, fetched: Fetched) -> None:
        """Apply the next records of a changelog partition."""
        partition = fetched.tp.partition
        kept = self.partitions.setdefault(partition, {})
        epoch = self._epochs.get(partition, 0)
        for record in fetched.records:
            key, value = record.key, record.value
            kept.pop(key, None)
            if value is None:
                continue
            if key.startswith(_MARK):
                epoch = max(epoch, int.from_bytes(value[:_EPOCH_BYTES], "big"))
            elif int.from_bytes(value[:_EPOCH_BYTES], "big") < epoch:
                self.stale_dropped += 1
            else:
                kept[key] = value[_EPOCH_BYTES:]
        self._epochs[partition] = epoch
        self.recovered += len(fetched.records)
        self._evict(kept)

    def __len__(self) -> int:
        return sum(map(len, self.partitions.values()))

    # What Faust asks of a store

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        for event in batch:
            self.apply_fetched(event.message.value)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        for tp in revoked:
            if tp.topic == self.table.changelog_topic.get_topic_name():
                self.drop_partition(tp.partition)

    def persisted_offset(self, tp: TP) -> int | None:
        return None

    def reset_state(self) -> None:
        self.partitions.clear()
        self._epochs.clear()

    def _clear(self) -> None:
        self.reset_state()

    async def backup_partition(self, *args: Any, **options: Any) -> None:
        raise TypeError("state in memory has no copies on disk: the changelog is the backup")

    def restore_backup(self, *args: Any, **options: Any) -> None:
        raise TypeError("state in memory has no copies on disk: the changelog is the backup")

    def __getitem__(self, key: bytes) -> bytes:
        raise KeyError(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        raise TypeError("states are written a chunk at a time, by StateTable.write")

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("states are written a chunk at a time, by StateTable.write")

    def __iter__(self) -> Any:
        return iter(())


class StateTable(faust.Table[bytes, bytes]):
    """The changelog-backed table of an engine; `kept` is its state in memory."""

    bound: int  # most keys that are kept; set before the table is first used
    _tenure = 0  # one more whenever everything kept was dropped
    outbox: Callable[[], Outbox]  # of the app that the table belongs to

    def _new_store(self) -> KeptStates:
        return KeptStates("memory://", self.app, self, table_name=self.name, bound=self.bound)

    @property
    def kept(self) -> KeptStates:
        return cast(KeptStates, self.data)

    def _new_changelog_topic(self, **options: Any) -> TopicT:
        topic = super()._new_changelog_topic(**options)
        topic.schema = WholeChunkSchema()
        return topic

    async def begin_epoch(self, partition: int, epoch: int, forget: Iterable[bytes]) -> None:
        """First write of a new owner: from here on, recovery trusts no value of an older epoch.

        Not noted as read: nobody waits for it at a revoke, so another owner may have written before it.
        """
        mark = _MARK + b"%d:%d" % (partition, epoch)
        await self._send(partition, {mark: b""} | dict.fromkeys(forget), epoch)
        self.kept.begin_epoch(partition, epoch)

    async def write(self, partition: int, epoch: int, values: Mapping[bytes, bytes | None]) -> None:
        """Keep the values and return once the changelog has acknowledged them."""
        self.kept.put_states(partition, values)
        tenure = self._tenure
        acknowledged = await self._send(partition, values, epoch)
        if tenure == self._tenure:
            self._note_written(self.changelog_topic.get_topic_name(), partition, acknowledged)

    async def _send(
        self, partition: int, values: Mapping[bytes, bytes | None], epoch: int
    ) -> list[tuple[RecordMetadata, int]]:
        if not values:
            return []
        prefix = epoch.to_bytes(_EPOCH_BYTES, "big")
        topic = self.changelog_topic.get_topic_name()
        return await self.outbox().send(
            OutgoingRecord(topic, partition, key, None if value is None else prefix + value, ())
            for key, value in values.items()
        )

    def _note_written(self, topic: str, partition: int, acknowledged: list[tuple[RecordMetadata, int]]) -> None:
        # What this process wrote it need not read again at the next rebalance.
        recovery = cast(TableManager, self.app.tables).recovery
        tp = TP(topic, partition)
        if acknowledged and tp in recovery.active_tps:
            metadata, count = acknowledged[-1]
            recovery.active_offsets[tp] = metadata.offset + count - 1

    def forget_all(self) -> None:
        """After a revoke that may have come too late: nothing kept here can be trusted.

        Nor what a chunk still under way will have written: its offset would end the next recovery too early.
        """
        self._tenure += 1
        recovery = cast(TableManager, self.app.tables).recovery
        topic = self.changelog_topic.get_topic_name()
        for partition in list(self.kept.partitions):
            self.kept.drop_partition(partition)
        for tp in [tp for tp in recovery.active_offsets if tp.topic == topic]:
            recovery.active_offsets.pop(tp, None)
