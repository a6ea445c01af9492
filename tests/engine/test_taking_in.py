"""Which fetches enter the buffers of a partition, and what becomes of the others."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from faust.types import TP

from stream.clock import unix_now
from stream.core.errors import StartRefused
from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Arrival
from stream.engine.consumer import ChunkConsumer
from stream.engine.fetching import Fetch, Fetched
from tests.engine.arrivals import A, record

PLACE = TP(A, 0)
EXPECTED = 100


class Consumer:
    """What `_take_in` needs of a consumer; the log begins where it is told to."""

    _take_in = ChunkConsumer._take_in
    _holds = ChunkConsumer._holds
    _mark_ends = ChunkConsumer._mark_ends
    _is_end_known = ChunkConsumer._is_end_known

    def __init__(self, begins: int | None) -> None:
        self._begins = begins
        self.counts = {"gaps": 0, "rewinds": 0}
        self.intake = SimpleNamespace(read=lambda one: Arrival(one, 0, None), topics=(A,))
        self.is_current = True
        self._answers_ms: dict[TP, int] = {}
        self.intakes = {0: PartitionIntake(0, 1, {A: EXPECTED}, is_aligned=True)}
        self.sought: list[int] = []
        self.lost: list[StartRefused] = []

    async def earliest_offsets(self, tp: TP) -> dict[TP, int]:
        if self._begins is None:
            raise KafkaTimeoutError
        return {tp: self._begins}

    def _is_current(self, fetch: Fetch) -> bool:
        return self.is_current

    async def _seek(self, tp: TP, offset: int) -> None:
        self.sought.append(offset)

    def on_lost_records(self, refusal: StartRefused) -> None:
        self.lost.append(refusal)

    def buffered(self) -> tuple[int, int]:
        return self.intakes[0].waiting(A), self.intakes[0].expected(A)


async def taken(begins: int | None, offsets: range, start: int, next_offset: int) -> Consumer:
    consumer: Any = Consumer(begins)
    await consumer._take_in(Fetched(PLACE, [record(A, offset) for offset in offsets], start, next_offset))
    found: Consumer = consumer
    return found


async def test_what_continues_the_buffer_enters_it() -> None:
    consumer = await taken(0, range(98, 103), 98, 103)
    assert (consumer.buffered(), consumer.sought, consumer.lost) == ((3, 103), [], [])


async def test_a_gap_in_the_fetches_seeks_back() -> None:
    consumer = await taken(0, range(150, 160), 150, 160)
    assert (consumer.buffered(), consumer.sought, consumer.lost) == ((0, EXPECTED), [EXPECTED], [])


async def test_a_gap_because_records_were_removed_ends_the_process_and_seeks_nothing() -> None:
    # aiokafka goes to the log's beginning by itself; seeking back would lead there again, and so for ever.
    consumer = await taken(150, range(150, 160), 150, 160)
    assert (consumer.buffered(), consumer.sought) == ((0, EXPECTED), [])
    assert "from offset 100 to 150 were removed" in str(consumer.lost[0])


@pytest.mark.parametrize("offsets", [range(150, 160), range(0)])
async def test_offsets_without_records_are_passed_over_only_where_the_log_reaches_back(offsets: range) -> None:
    passed = await taken(0, offsets, EXPECTED, 160)
    assert (passed.buffered(), passed.lost) == ((len(offsets), 160), [])
    removed = await taken(150, offsets, EXPECTED, 160)
    assert (removed.buffered(), len(removed.lost)) == ((0, EXPECTED), 1)


async def test_while_the_broker_does_not_say_where_the_log_begins_nothing_is_passed_over() -> None:
    consumer = await taken(None, range(150, 160), EXPECTED, 160)
    assert (consumer.buffered(), consumer.sought, consumer.lost) == ((0, EXPECTED), [EXPECTED], [])


# Is a partition read to its end?


async def is_last(consumer: Any, part: Fetched | None) -> bool:  # noqa: ANN401 - stands for a ChunkConsumer
    """After a fetch whose position has reached the end of the log."""
    if part is not None:
        await consumer._take_in(part)
    consumer._mark_ends(Fetch(1, [part] if part else [], {PLACE: True}, {}))
    consumer.intakes[0].add(A, [], consumer.intakes[0].expected(A) + 1)  # so that there is a chunk
    found: bool = consumer.intakes[0].next_chunk(1_000, 0.0).is_last
    return found


async def test_a_topic_is_at_its_end_once_all_was_taken_in() -> None:
    assert await is_last(Consumer(0), None)
    assert await is_last(Consumer(0), Fetched(PLACE, [record(A, EXPECTED)], EXPECTED, EXPECTED + 1))


async def test_records_that_were_not_taken_in_still_lie_behind() -> None:
    assert not await is_last(Consumer(0), Fetched(PLACE, [record(A, 150)], 150, 151))
    overtaken = Consumer(0)
    overtaken.is_current = False
    assert not await is_last(overtaken, None)


def test_the_end_is_known_only_while_the_broker_answers() -> None:
    consumer: Any = Consumer(0)
    assert not consumer._is_end_known(0)
    consumer._answers_ms = {PLACE: int(unix_now() * 1000)}
    assert consumer._is_end_known(0)
    consumer._answers_ms = {PLACE: int(unix_now() * 1000) - 60_000}
    assert not consumer._is_end_known(0)
