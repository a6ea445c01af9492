"""May a partition be worked on? Compares what Kafka and the database say of it, before anything is processed."""

from collections.abc import Mapping
from dataclasses import dataclass

from stream.core.errors import StartRefused
from stream.core.progress import PartitionProgress

_RESET_HINT = 'stop all workers and run "python -m stream progress reset --to-log-start": everything is read again'


@dataclass(frozen=True, slots=True)
class LogPlace:
    """What Kafka knows of one partition of the co-partitioned topics; each mapping is by topic."""

    partitions: int
    topic_ids: Mapping[str, str]
    committed: Mapping[str, int | None]
    begins: Mapping[str, int]
    ends: Mapping[str, int]
    history_from: int = 0  # where records were removed: append time of the first that is left, unix seconds


def start_refusal(row: PartitionProgress, log: LogPlace) -> StartRefused | None:
    """None where all fits. No committed offset is never a reason: then the log is read from its start."""
    if not row.partition_count:
        committed = {topic: offset for topic, offset in log.committed.items() if offset}
        if committed:
            return _refusal(row, f"Kafka has committed {committed}, but the database knows nothing of this partition")
        return None
    if row.partition_count != log.partitions:
        return _refusal(
            row, f"the topics have {log.partitions} partitions now and had {row.partition_count} when they were read"
        )
    for topic, topic_id in log.topic_ids.items():
        known = row.topic_ids.get(topic)
        if known and topic_id and known != topic_id:
            return _refusal(row, f'topic "{topic}" was created anew since it was read last')
    for topic, committed_offset in log.committed.items():
        refusal = None if committed_offset is None else _refused_offset(row, log, topic, committed_offset)
        if refusal is not None:
            return refusal
    return None


def _refused_offset(row: PartitionProgress, log: LogPlace, topic: str, committed: int) -> StartRefused | None:
    stored = row.next_offsets.get(topic, 0)
    if committed > stored:
        return _refusal(
            row,
            f'the database has "{topic}" up to offset {stored}, Kafka up to {committed}:'
            " the database is older, perhaps restored from a backup",
        )
    if log.begins[topic] > committed:
        return records_removed(topic, row.partition, committed, log.begins[topic])
    if committed > log.ends[topic]:
        return _refusal(row, f'"{topic}" ends at offset {log.ends[topic]}, but was read up to {committed}')
    return None


def records_removed(topic: str, partition: int, expected: int, begins: int | None) -> StartRefused:
    return StartRefused(
        f'records of "{topic}" partition {partition} from offset {expected} to {begins} were removed before they were'
        " processed",
        hint=_RESET_HINT,
    )


def _refusal(row: PartitionProgress, reason: str) -> StartRefused:
    return StartRefused(f"partition {row.partition}: {reason}", hint=_RESET_HINT)
