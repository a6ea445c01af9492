"""What SQL holds of hours, and what a fire changes there."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from stream.core.facts import Journey
from stream.core.hours import CreditedAs, CreditRow, HourKey
from stream.core.totals import ScopeKey


class HourRow(NamedTuple):
    """A row of 202_stream_hours."""

    revision: int  # one more for each fire that changed something
    published_revision: int  # greatest one that the topics have
    configuration: int  # revision of the models and settings that it was computed with
    is_final: bool
    problems: Mapping[int, str]  # models that have no results in this hour, with the reason


NEVER_FIRED = HourRow(0, 0, 0, is_final=False, problems={})


class SnapshotRow(NamedTuple):
    """A row of 202_attribution_snapshots. Money in steps of 0.0001, as its columns have it."""

    key: ScopeKey
    clicks: int
    conversions: int
    revenue: int
    cost: int


class CreditedAt(NamedTuple):
    """A row of 202_stream_credited: where the credits of a conversion stand, and of which version they are."""

    hour: HourKey
    version: int


class RemovalKind(StrEnum):
    """Which topic a removed row has a record on."""

    SNAPSHOT = "snapshot"
    CREDIT = "credit"


class Removal(NamedTuple):
    """A row of 202_stream_removals: a record of the topics that must become a tombstone."""

    kind: RemovalKind
    record_key: str


@dataclass(frozen=True, slots=True)
class HourContents:
    """All that belongs to an hour in SQL."""

    journeys: Sequence[Journey] = ()  # of conversions in the hour, whatever became of them
    credited: Mapping[int, int] = field(default_factory=dict)  # version, by conversions whose credits stand in it
    snapshots: Sequence[SnapshotRow] = ()


@dataclass(frozen=True, slots=True)
class HourResults:
    """What readers see of an hour, to be published."""

    row: HourRow
    snapshots: Sequence[SnapshotRow] = ()
    credits: Sequence[CreditRow] = ()
    removals: Sequence[Removal] = ()


@dataclass(frozen=True, slots=True)
class HourChange:
    """What one fire writes of one hour. All of it is seen at once, or nothing."""

    key: HourKey
    row: HourRow  # as it will be; its published_revision is not written
    snapshots: Sequence[SnapshotRow]  # new and changed ones
    removed_snapshots: Sequence[ScopeKey]
    cleared: Collection[int] | None  # conversions whose stored credits go first; None: all credits of the hour
    credits: Sequence[CreditRow]  # written after that
    credited: Mapping[int, CreditedAs]  # by conversions whose credits stand here now
    uncredited: Collection[int]  # conversions whose credits stood here and stand nowhere now
