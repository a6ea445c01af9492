"""The steps of a chunk: their order, what a failing one repeats, and what stops the process."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from stream.core.errors import Fenced, InvalidEvent, RefusedByDatabase, StartRefused, Unavailable
from stream.engine import barrier as barrier_module
from stream.engine.barrier import STEPS, Barrier, Step, Stored, Taken
from stream.engine.chunk import Chunk
from stream.wire.outgoing import OutgoingRecord
from tests.engine.arrivals import A, B, chunk, places

OUTPUT = OutgoingRecord("out", 0, b"k", b"v", ())


class World:
    """Everything around the barrier; writes down each call, and fails as told."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.failures: dict[str, list[BaseException]] = defaultdict(list)
        self.doors: dict[int, asyncio.Event] = {}  # a partition's `store` waits here
        self.refused_offsets: set[int] = set()
        self.refuses_everything = False
        self.generation = 1
        self.rebalances_while_taking = 0
        self.admitted: set[int] = set()
        self.finished: list[int] = []
        self.opened: list[tuple[int, int]] = []
        self.written: list[tuple[int, int, dict[bytes, bytes | None]]] = []
        self.put: list[tuple[int, dict[bytes, bytes | None]]] = []
        self.committed: list[dict[str, int]] = []
        self.failed: list[BaseException] = []
        self.reasons: list[str] = []
        self.receipts: list[object] = []
        self.is_unfinished = False
        self.taken = Taken(epoch=5, forget=(b"f",), outputs=(OUTPUT,))
        self.kept = SimpleNamespace(put_states=lambda partition, states: self.put.append((partition, dict(states))))

    def note(self, call: str, name: str = "") -> None:
        self.journal.append(f"{call} {name}".strip())
        waiting = self.failures[call]
        if waiting:
            raise waiting.pop(0)

    # The handler

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        self.note("take", str(partition))
        self.generation += self.rebalances_while_taking
        return self.taken

    async def store(self, part: Chunk, *, is_repeated: bool) -> Stored:
        self.note("store", f"{_name(part)}{' again' if is_repeated else ''}")
        if part.partition in self.doors:
            await self.doors[part.partition].wait()
        for each in part.arrivals:
            if self.refuses_everything:
                raise RefusedByDatabase("whatever it is")
            if each.record.offset in self.refused_offsets and not isinstance(each.content, InvalidEvent):
                raise RefusedByDatabase("no such value")
        return Stored(
            (OUTPUT,), {b"k": _name(part).encode()}, (1,), receipt=_name(part), is_unfinished=self.is_unfinished
        )

    async def delete_cached(self, stored: Stored) -> None:
        self.note("cache")

    async def note_sent(self, stored: Stored) -> None:
        self.note("sent")
        self.receipts.append(stored.receipt)

    def refused(self, part: Chunk, error: RefusedByDatabase) -> Chunk:
        return part.with_content(InvalidEvent("refused_by_database", str(error)))

    # The outbox and the state

    async def take_over(self, partition: int) -> None:
        self.note("shut out")

    async def send(self, partition: int, records: Iterable[OutgoingRecord]) -> None:
        self.note("send")

    async def begin_epoch(self, partition: int, epoch: int, forget: Sequence[bytes]) -> None:
        self.note("mark", f"{partition}:{epoch}")

    async def write(self, partition: int, epoch: int, states: Mapping[bytes, bytes | None]) -> None:
        self.note("changelog")
        self.written.append((partition, epoch, dict(states)))

    # The consumer

    def admit(self, part: Chunk) -> bool:
        return part.generation == self.generation

    def open_partition(self, partition: int, generation: int) -> None:
        self.opened.append((partition, generation))

    def finish_chunk(self, partition: int) -> None:
        self.finished.append(partition)

    def hasten(self, partition: int) -> None:
        self.note("hasten")

    async def commit_chunk(self, part: Chunk) -> bool:
        self.note("commit")
        if part.generation == self.generation:
            self.committed.append(dict(part.next_offsets))
        return part.generation == self.generation

    # The observer

    def step_done(self, step: Step, part: Chunk, seconds: float) -> None:
        self.journal.append(f"done {step}")

    def waiting(self, reason: str) -> None:
        self.reasons.append(reason)

    def calls(self) -> list[str]:
        return [entry for entry in self.journal if not entry.startswith("done ")]


def _name(part: Chunk) -> str:
    return f"{part.partition}[{','.join(str(offset) for _, offset in places(part.arrivals))}]"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier_module, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(barrier_module, "_LONGEST_WAIT_SECONDS", 0.002)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def barrier(world: World) -> Barrier:
    return await opened(world, has_state=True)


async def opened(world: World, *, has_state: bool) -> Barrier:
    everything: Any = world
    made = Barrier(
        everything,
        consumer=lambda: everything,
        state=everything if has_state else None,
        sending=everything,
        observer=everything,
        fail=world.failed.append,
    )
    made.take_partitions({partition: {A: 0, B: 0} for partition in (0, 1)}, 1)
    await until(lambda: len(world.opened) == 2)
    world.journal.clear()
    world.put.clear()
    world.opened.clear()
    return made


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


async def driven(barrier: Barrier, world: World, part: Chunk) -> None:
    before = len(world.finished)
    barrier.begin(part)
    await until(lambda: len(world.finished) > before)
    await asyncio.sleep(0)  # `fail` hears of it right after


async def test_the_steps_follow_one_another_and_offsets_come_last(barrier: Barrier, world: World) -> None:
    await driven(barrier, world, chunk((A, 0), (A, 1)))
    assert world.journal == [
        "store 0[0,1]",
        "done sql",
        "cache",
        "done cache",
        "send",
        "done outputs",
        "sent",
        "changelog",
        "done changelog",
        "commit",
        "done offsets",
    ]
    assert tuple(entry.removeprefix("done ") for entry in world.journal if entry.startswith("done ")) == STEPS
    assert world.committed == [{A: 2, B: 0}]
    assert world.written == [(0, 5, {b"k": b"0[0,1]"})]
    assert world.receipts == ["0[0,1]"]
    assert world.failed == []


async def test_who_left_something_to_do_is_called_again_at_once(barrier: Barrier, world: World) -> None:
    world.is_unfinished = True
    await driven(barrier, world, chunk())
    assert world.calls()[-2:] == ["commit", "hasten"]


async def test_a_chunk_without_records_commits_its_offsets_too(barrier: Barrier, world: World) -> None:
    await driven(barrier, world, chunk(next_offsets={A: 7, B: 3}))
    assert world.committed == [{A: 7, B: 3}]


TRIED_TWICE_MORE = {
    "store": ["store 0[0]", "store 0[0] again", "store 0[0] again", "cache", "send", "sent", "changelog", "commit"],
    "send": ["store 0[0]", "cache", "send", "send", "send", "sent", "changelog", "commit"],
    "sent": ["store 0[0]", "cache", "send", "sent", "sent", "sent", "changelog", "commit"],
    "changelog": ["store 0[0]", "cache", "send", "sent", "changelog", "changelog", "changelog", "commit"],
}


@pytest.mark.parametrize("call", TRIED_TWICE_MORE)
@pytest.mark.parametrize("error", [Unavailable("gone"), KafkaConnectionError("gone"), ConnectionError("gone")])
async def test_a_step_is_tried_again_without_repeating_those_before(
    barrier: Barrier, world: World, call: str, error: Exception
) -> None:
    world.failures[call] = [error, error]
    await driven(barrier, world, chunk((A, 0)))
    assert world.calls() == TRIED_TWICE_MORE[call]
    assert world.committed == [{A: 1, B: 0}]
    assert world.failed == []


async def test_it_says_what_it_waits_for_and_when_that_is_over(barrier: Barrier, world: World) -> None:
    world.failures["store"] = [Unavailable("the database is away")] * 3
    await driven(barrier, world, chunk((A, 0)))
    assert world.reasons == ["the database is away", "the database is away", ""]


@pytest.mark.parametrize("call", ["store", "cache", "send", "sent", "changelog", "commit"])
@pytest.mark.parametrize("error", [ValueError("what is this"), MessageSizeTooLargeError("never fits"), Fenced("lost")])
async def test_an_error_that_waiting_cannot_mend_stops_everything_uncommitted(
    barrier: Barrier, world: World, call: str, error: Exception
) -> None:
    world.failures[call] = [error]
    await driven(barrier, world, chunk((A, 0)))
    assert world.failed == [error]
    assert world.committed == []
    assert world.calls()[-1].startswith(call)


async def test_refused_data_is_halved_down_to_the_one_record(barrier: Barrier, world: World) -> None:
    world.refused_offsets = {2}
    await driven(barrier, world, chunk((A, 0), (A, 1), (A, 2), (A, 3)))
    stores = [entry for entry in world.calls() if entry.startswith("store")]
    # The last one but one is the dead letter: stored once more, read as something else.
    assert stores == ["store 0[0,1,2,3]", "store 0[0,1]", "store 0[2,3]", "store 0[2]", "store 0[2]", "store 0[3]"]
    assert world.committed == [{A: 2, B: 0}, {A: 3, B: 0}, {A: 4, B: 0}]
    assert world.finished == [0]
    assert world.failed == []


async def test_each_half_passes_all_steps_before_the_next_begins(barrier: Barrier, world: World) -> None:
    world.refused_offsets = {0}
    await driven(barrier, world, chunk((A, 0), (B, 0)))
    # Both records have offset 0: each is refused alone, and then stored as a dead letter.
    passed = ["cache", "send", "sent", "changelog", "commit"]
    assert world.calls() == ["store 0[0,0]", *(["store 0[0]", "store 0[0]", *passed] * 2)]
    assert world.committed == [{A: 1, B: 0}, {A: 1, B: 1}]


async def test_a_database_that_refuses_the_dead_letter_too_stops_the_process(barrier: Barrier, world: World) -> None:
    world.refuses_everything = True
    await driven(barrier, world, chunk((A, 1), (A, 2)))
    assert world.calls() == ["store 0[1,2]", "store 0[1]", "store 0[1]"]
    assert [type(error) for error in world.failed] == [RefusedByDatabase]
    assert world.committed == []


async def test_a_database_that_refuses_offsets_alone_stops_the_process(barrier: Barrier, world: World) -> None:
    world.failures["store"] = [RefusedByDatabase("not even this")]
    await driven(barrier, world, chunk(next_offsets={A: 7, B: 3}))
    assert len(world.failed) == 1
    assert world.committed == []


async def test_a_chunk_that_a_rebalance_overtook_is_not_begun(barrier: Barrier, world: World) -> None:
    world.generation = 2
    barrier.begin(chunk((A, 0), generation=1))
    await asyncio.sleep(0)
    assert world.journal == []


async def test_a_chunk_of_an_older_generation_commits_no_offsets(barrier: Barrier, world: World) -> None:
    world.doors[0] = asyncio.Event()
    barrier.begin(chunk((A, 0), generation=1))
    await until(lambda: "store 0[0]" in world.journal)
    world.generation = 2
    world.doors[0].set()
    await until(lambda: world.finished == [0])
    assert world.committed == []


@pytest.mark.parametrize("call", ["store", "send", "sent", "changelog"])
async def test_a_chunk_overtaken_while_it_waited_is_given_up(barrier: Barrier, world: World, call: str) -> None:
    # The partition went to another worker and came back: what the chunk still knows is older than the state of today.
    world.failures[call] = [Unavailable("gone")] * 1_000
    barrier.begin(chunk((A, 0), generation=1))
    await until(lambda: len(world.reasons) > 1)
    world.taken = Taken(epoch=7)
    world.generation = 2
    world.failures[call].clear()
    await until(lambda: world.finished == [0])
    assert (world.written, world.committed, world.failed) == ([], [], [])
    assert world.reasons[-1] == ""


async def test_chunks_of_different_partitions_overlap(barrier: Barrier, world: World) -> None:
    world.doors[0] = asyncio.Event()
    barrier.begin(chunk((A, 0), partition=0))
    await driven(barrier, world, chunk((A, 0), partition=1))
    assert world.finished == [1]
    assert world.journal[:2] == ["store 0[0]", "store 1[0]"]
    world.doors[0].set()
    await until(lambda: world.finished == [1, 0])
    assert len(world.committed) == 2


async def test_without_state_all_steps_are_told_and_nothing_is_kept(world: World) -> None:
    made = await opened(world, has_state=False)
    await driven(made, world, chunk((A, 0)))
    assert world.calls() == ["store 0[0]", "cache", "send", "sent", "commit"]
    assert tuple(entry.removeprefix("done ") for entry in world.journal if entry.startswith("done ")) == STEPS
    made.take_partitions({0: {A: 1, B: 0}}, 1)
    await until(lambda: world.opened == [(0, 1)])
    assert world.calls()[-3:] == ["shut out", "take 0", "send"]
    assert (world.written, world.put, world.failed) == ([], [], [])


# Taking a partition over


async def test_a_partition_opens_once_fence_outputs_and_mark_are_in_place(barrier: Barrier, world: World) -> None:
    world.taken = Taken(epoch=6, forget=(b"x",), outputs=(OUTPUT,))
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: world.opened == [(0, 1)])
    assert world.calls() == ["shut out", "take 0", "send", "mark 0:6"]
    assert world.put == [(0, {b"x": None})]
    await driven(barrier, world, chunk((A, 3)))
    assert world.written[-1][:2] == (0, 6)


@pytest.mark.parametrize("call", ["take", "send", "mark"])
async def test_taking_over_waits_for_broker_and_database(barrier: Barrier, world: World, call: str) -> None:
    world.failures[call] = [Unavailable("gone"), KafkaConnectionError("gone")]
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: world.opened == [(0, 1)])
    assert [entry.split()[0] for entry in world.calls()].count(call) == 3


@pytest.mark.parametrize("call", ["take", "send", "mark"])
async def test_what_refuses_the_start_stops_the_process_and_opens_nothing(
    barrier: Barrier, world: World, call: str
) -> None:
    refusal = StartRefused("the database is older", hint="progress reset")
    world.failures[call] = [refusal]
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: world.failed == [refusal])
    assert world.opened == []


@pytest.mark.parametrize("call", ["take", "send", "mark"])
async def test_a_partition_lost_while_taking_it_waited_stays_shut(barrier: Barrier, world: World, call: str) -> None:
    world.failures[call] = [Unavailable("gone")] * 1_000
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: len(world.reasons) > 1)
    world.generation = 2
    tried = len(world.journal)
    world.failures[call].clear()
    await until(lambda: world.reasons[-1] == "")
    assert (world.journal[tried:], world.opened, world.put, world.failed) == ([], [], [], [])


async def test_a_partition_lost_while_it_was_taken_writes_no_mark(barrier: Barrier, world: World) -> None:
    world.rebalances_while_taking = 1
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: world.reasons == [""])
    assert (world.calls(), world.opened, world.failed) == (["shut out", "take 0"], [], [])


async def test_a_partition_lost_before_it_was_taken_is_left_alone(barrier: Barrier, world: World) -> None:
    world.generation = 2
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: world.reasons == [""])
    assert (world.calls(), world.opened, world.failed) == ([], [], [])


async def test_a_taking_that_has_come_to_sql_is_waited_for_and_goes_no_further(barrier: Barrier, world: World) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def take(partition: int, committed: Mapping[str, int | None]) -> Taken:
        asked.set()
        await answer.wait()
        return Taken(epoch=6, outputs=(OUTPUT,))

    world.take = take  # type: ignore[method-assign]
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await asked.wait()
    settling = asyncio.ensure_future(barrier.settle_takings(5))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(settling), 0.02)
    answer.set()
    await settling
    assert (world.calls(), world.opened, world.failed) == (["shut out"], [], [])


async def test_a_taking_without_an_answer_is_given_up(barrier: Barrier, world: World) -> None:
    world.failures["take"] = [Unavailable("gone")] * 1_000
    barrier.take_partitions({0: {A: 3, B: None}}, 1)
    await until(lambda: len(world.reasons) > 1)
    await barrier.settle_takings(0.01)
    tried = len(world.journal)
    world.failures["take"].clear()
    await asyncio.sleep(0.02)
    assert (world.journal[tried:], world.opened, world.failed) == ([], [], [])
