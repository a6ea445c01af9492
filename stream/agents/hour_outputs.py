"""What leaves with a fire: snapshots, credits, and tombstones for those that went."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from stream.core.hours import CreditRow, HourKey, credit_key, snapshot_key
from stream.core.keys import partition_of_account
from stream.core.results import HourResults, Removal, RemovalKind, SnapshotRow
from stream.wire.outgoing import OutgoingRecord
from stream.wire.results import encode_credit, encode_snapshot


@dataclass(frozen=True, slots=True)
class ResultTopics:
    """Of one installation, prefix included, with their partition counts."""

    snapshots: str
    credits: str
    snapshots_partitions: int
    credits_partitions: int


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be sent of an hour at a revision."""

    hour: HourKey
    revision: int
    is_final: bool
    snapshots: Sequence[SnapshotRow]
    credits: Sequence[CreditRow]
    removals: Sequence[Removal]


def whole(hour: HourKey, results: HourResults) -> Publication:
    row = results.row
    return Publication(hour, row.revision, row.is_final, results.snapshots, results.credits, results.removals)


class ResultRecords(Collection[OutgoingRecord]):
    """Made while they are sent: an hour may have a hundred thousand, and sending may be repeated."""

    def __init__(self, topics: ResultTopics, publications: Sequence[Publication]) -> None:
        self._topics = topics
        self._publications = publications

    def __iter__(self) -> Iterator[OutgoingRecord]:
        """Tombstones first: what was removed and came back stands behind its tombstone."""
        for each in self._publications:
            yield from _tombstones(self._topics, each)
            yield from _snapshots(self._topics, each)
            yield from _credits(self._topics, each)

    def __len__(self) -> int:
        return sum(len(each.removals) + len(each.snapshots) + len(each.credits) for each in self._publications)

    def __contains__(self, record: object) -> bool:
        return any(each == record for each in self)


def _tombstones(topics: ResultTopics, publication: Publication) -> Iterator[OutgoingRecord]:
    user_id = publication.hour.user_id
    for kind, key in publication.removals:
        if kind == RemovalKind.SNAPSHOT:
            topic, count = topics.snapshots, topics.snapshots_partitions
        else:
            topic, count = topics.credits, topics.credits_partitions
        yield OutgoingRecord(topic, partition_of_account(user_id, count), key.encode(), None, ())


def _snapshots(topics: ResultTopics, publication: Publication) -> Iterator[OutgoingRecord]:
    hour, revision, is_final = publication.hour, publication.revision, publication.is_final
    partition = partition_of_account(hour.user_id, topics.snapshots_partitions)
    for snapshot in publication.snapshots:
        value = encode_snapshot(hour, snapshot, revision=revision, is_final=is_final)
        key = snapshot_key(hour, snapshot.key).encode()
        yield OutgoingRecord(topics.snapshots, partition, key, value, ())


def _credits(topics: ResultTopics, publication: Publication) -> Iterator[OutgoingRecord]:
    hour, revision, is_final = publication.hour, publication.revision, publication.is_final
    partition = partition_of_account(hour.user_id, topics.credits_partitions)
    for credit in publication.credits:
        value = encode_credit(hour, credit, revision=revision, is_final=is_final)
        key = credit_key(hour, credit.model_id, credit.conv_id, credit.position).encode()
        yield OutgoingRecord(topics.credits, partition, key, value, ())
