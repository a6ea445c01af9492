"""I5 of the changelog: when offsets are committed, the keys of all clicks below them have been written after SQL."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

from stream.core.keys import murmur2
from tests.simulation.log import Broker
from tests.simulation.storage import Commit, Storage
from tests.support.oracle_events import Unusable, read_click

CLICKS = "clicks"


class ChangelogWatch:
    """Told of commits, of what the changelog takes, and of offsets, in the order in which they happen."""

    def __init__(self, storage: Storage, broker: Broker) -> None:
        self._storage = storage
        self._topics = broker.topics
        self._passed: dict[tuple[str, int], int] = {}  # by owner and partition: clicks that it has committed to SQL
        self._unwritten: dict[int, dict[bytes, int]] = defaultdict(dict)  # keys by partition, and where the chunk ended

    def committed(self, commit: Commit, offset: int) -> None:
        """`offset`: the group's, where an owner begins."""
        partition, end = commit.partition, commit.next_offsets.get(CLICKS, 0)
        assert partition is not None
        begin = max(offset, self._passed.get((commit.owner, partition), 0))
        self._passed[commit.owner, partition] = end
        ids = set(self._click_ids(partition, begin, end))
        for key in self._keys(partition, ids) if ids else ():
            self._unwritten[partition][key] = end

    def written(self, partition: int, key: bytes | None) -> None:
        self._unwritten[partition].pop(key or b"", None)

    def ahead(self, partition: int, offsets: Mapping[str, int]) -> str:
        """'' where the changelog has all that the offsets tell of."""
        late = [key for key, end in self._unwritten[partition].items() if end <= offsets.get(CLICKS, 0)]
        return f"offsets of partition {partition} are ahead of the changelog: {late}" if late else ""

    def forget(self) -> None:
        self._passed.clear()
        self._unwritten.clear()

    def _click_ids(self, partition: int, begin: int, end: int) -> Iterator[int]:
        records, _ = self._topics[CLICKS][partition].fetch(begin, end - begin)
        for record in records:
            if record.offset >= end:
                return
            with contextlib.suppress(Unusable):
                click = read_click(record.value, record.timestamp // 1000)
                if self._partition_of(f"{click.user_id}:{click.campaign_id}") == partition:  # else it is sent on
                    yield click.click_id

    def _keys(self, partition: int, ids: set[int]) -> Iterator[bytes]:
        for click in self._storage.clicks():
            if click.click_id in ids and click.campaign_id and not (click.visitor_id and click.click_bot):
                place = f"{click.user_id}:{click.campaign_id}"
                if self._partition_of(place) == partition:
                    yield (f"{place}:{click.visitor_id}" if click.visitor_id else place).encode()

    def _partition_of(self, place: str) -> int:
        return (murmur2(place.encode()) & 0x7FFFFFFF) % len(self._topics[CLICKS])
