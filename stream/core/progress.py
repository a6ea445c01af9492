"""Where a partition stands: what a chunk moves forward, and what its row of 202_stream_progress says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Advance:
    """Where a partition stands once a chunk is stored; written to its row of 202_stream_progress."""

    partition: int
    epoch: int
    next_offsets: Mapping[str, int]  # by topic
    watermark: int  # greatest min(event time, append time) so far, unix seconds
    newest_conversion: int  # greatest conv_time so far
    drained_at: int | None = None  # unix seconds: nothing lay behind the chunk then; None: something may have
    outside_changes: int = 0  # as many as the writer knows of


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """A row of 202_stream_progress as read when a partition is taken over."""

    partition: int
    epoch: int
    owner: str
    next_offsets: Mapping[str, int]
    partition_count: int  # 0: never taken
    topic_ids: Mapping[str, str]
    watermark: int
    newest_conversion: int
    history_from: int  # clicks before this time may be missing; 0: history is complete
    unsettled_keys: Sequence[str]  # texts: keys whose changelog values may be wrong, conversions to restate
    # How often facts were changed beside the owner, who may remember them otherwise: by a replay, by retention.
    outside_changes: int = 0
    drained_at: int = 0  # when all its topics were last known to be read to their ends, unix seconds; 0: never
    greatest_version: int = 1  # of any journey that was ever written here, also of one that is gone


class Passed(NamedTuple):
    """What the fence has told who passed it."""

    unsettled: Sequence[str] = ()  # what the last committed chunk, or another hand, left unsettled; where it matters
    changed: PartitionProgress | None = None  # the row, where another hand has changed facts since the last time
