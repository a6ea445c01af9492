"""Which buffered records of a partition may be processed next: merges its topics by time.

A consumer with a backlog reads whole megabytes of one topic before the first record of the other, and then every
conversion would be computed before its clicks and once more after them. So no record is released while another topic of
its partition may still give an earlier one. This is for speed alone; results must be right without it.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from stream.engine.chunk import Arrival, Chunk

HELD_AT_MOST_SECONDS = 60.0


class _Lane:
    """One topic of the partition: what was fetched and waits."""

    def __init__(self, start: int) -> None:
        self.waiting: deque[Arrival] = deque()
        self.fetched_to = start  # the next offset to arrive
        self.released_to = start  # the next offset to be processed
        self.is_at_end = False

    def next_offset(self) -> int:
        """Offsets that held no record (markers, compaction) are passed over."""
        return self.waiting[0].record.offset if self.waiting else self.fetched_to


class PartitionIntake:
    """Buffers of one partition. Not thread-safe; times are of a monotonic clock.

    A chunk that is not full waits until `gather_seconds` have passed since the one before that moved something; after
    `tick_seconds` without a chunk there is one without records (0: never), unless some wait to be gathered. The first
    of a partition waits for neither.
    """

    def __init__(
        self,
        partition: int,
        generation: int,
        starts: Mapping[str, int],
        *,
        is_aligned: bool,
        gather_seconds: float = 0.0,
        tick_seconds: float = 0.0,
    ) -> None:
        self.partition = partition
        self.generation = generation
        self._lanes = {topic: _Lane(start) for topic, start in starts.items()}
        self._is_aligned = is_aligned
        self._gather_seconds = gather_seconds
        self._tick_seconds = tick_seconds
        self._held_since: float | None = None
        self._handed_out_at = -math.inf
        self._moved_at = -math.inf  # a chunk that was no tick

    def expected(self, topic: str) -> int:
        """The offset at which the next fetch of a topic has to begin."""
        return self._lanes[topic].fetched_to

    def released(self, topic: str) -> int:
        """The offset up to which chunks were handed out."""
        return self._lanes[topic].released_to

    def waiting(self, topic: str) -> int:
        return len(self._lanes[topic].waiting)

    def is_empty(self) -> bool:
        return not any(lane.waiting for lane in self._lanes.values())

    def add(self, topic: str, arrivals: Iterable[Arrival], next_offset: int) -> None:
        lane = self._lanes[topic]
        lane.waiting.extend(arrivals)
        lane.fetched_to = next_offset

    def mark_ends(self, ends: Mapping[str, bool]) -> None:
        """A topic is at its end if its position has reached the last stable offset of a fetch since the assignment."""
        for topic, lane in self._lanes.items():
            lane.is_at_end = ends.get(topic, False)

    def oldest_waiting(self) -> int | None:
        """The smallest `ordered_at` at the heads of the buffers."""
        return min((lane.waiting[0].ordered_at for lane in self._lanes.values() if lane.waiting), default=None)

    def next_chunk(self, limit: int, now: float) -> Chunk | None:
        """At most `limit` records in their order, or only offsets to pass over, or a tick; None: nothing yet."""
        is_tick_due = self._is_tick_due(now)
        if self.gathers_for(limit, now) > 0 and not (is_tick_due and self.is_empty()):
            return None
        arrivals = self._release(limit, now)
        moved = {topic: lane.next_offset() for topic, lane in self._lanes.items()}
        has_moved = any(moved[topic] != lane.released_to for topic, lane in self._lanes.items())
        if not arrivals and not has_moved and not is_tick_due:
            return None
        for topic, lane in self._lanes.items():
            lane.released_to = moved[topic]
        self._handed_out_at = now
        if arrivals or has_moved:
            self._moved_at = now
        is_last = all(lane.is_at_end and not lane.waiting for lane in self._lanes.values())
        return Chunk(self.partition, self.generation, arrivals, moved, is_last)

    def _is_tick_due(self, now: float) -> bool:
        return self._tick_seconds > 0 and now - self._handed_out_at >= self._tick_seconds

    def gathers_for(self, limit: int, now: float) -> float:
        """Seconds until a chunk that is not full may be handed out; 0: nothing stands against it."""
        if sum(len(lane.waiting) for lane in self._lanes.values()) >= limit:
            return 0.0
        return max(0.0, self._moved_at + self._gather_seconds - now)

    def hasten(self) -> None:
        """The next chunk, a tick if there is nothing else, waits for nothing."""
        self._handed_out_at = self._moved_at = -math.inf

    def _release(self, limit: int, now: float) -> Sequence[Arrival]:
        lanes = list(self._lanes.values())
        released: list[Arrival] = []
        is_patient = self._is_aligned
        if self._held_since is not None and now - self._held_since >= HELD_AT_MOST_SECONDS:
            is_patient = False
        is_held = False
        while len(released) < limit:
            filled = [lane for lane in lanes if lane.waiting]
            if not filled:
                break
            if is_patient and any(not lane.waiting and not lane.is_at_end for lane in lanes):
                is_held = True
                break
            if len(filled) == 1 or not self._is_aligned:
                _move(filled[0].waiting, released, limit - len(released))
            else:
                self._merge(filled, released, limit)
        if not is_held:
            self._held_since = None
        elif released or self._held_since is None:
            self._held_since = now
        return released

    @staticmethod
    def _merge(lanes: Sequence[_Lane], released: list[Arrival], limit: int) -> None:
        """Until one of the buffers is empty: always the earliest head, the first topic between equals."""
        append = released.append
        while len(released) < limit:
            first = min(lanes, key=lambda lane: lane.waiting[0].ordered_at)
            bound = min(lane.waiting[0].ordered_at for lane in lanes if lane is not first)
            waiting = first.waiting
            append(waiting.popleft())
            while waiting and len(released) < limit and waiting[0].ordered_at < bound:
                append(waiting.popleft())
            if not waiting:
                return


def _move(waiting: deque[Arrival], released: list[Arrival], count: int) -> None:
    if count >= len(waiting):
        released.extend(waiting)
        waiting.clear()
    else:
        released.extend(waiting.popleft() for _ in range(count))
