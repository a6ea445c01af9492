"""What is sent to the coordinator, and what need not be."""

from types import SimpleNamespace
from typing import Any

from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from stream.engine.committing import OffsetCommits
from tests.engine.arrivals import A, B

OFFSETS = {A: 3, B: 5}


class Thread:
    """Faust's consumer thread, whose coordinator accepts or not."""

    def __init__(self) -> None:
        self.sent: list[dict[str, int]] = []
        self.is_member = True

    def _ensure_consumer(self) -> Any:  # noqa: ANN401 - stands for an aiokafka consumer
        return SimpleNamespace(commit=None)

    async def call_thread(self, _: object, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        if not self.is_member:
            raise CommitFailedError
        self.sent.append({tp.topic: place.offset for tp, place in offsets.items()})


async def test_offsets_that_were_accepted_are_not_sent_again() -> None:
    thread = Thread()
    commits = OffsetCommits(thread)
    assert [await commits.commit(0, OFFSETS) for _ in range(2)] == [True, True]
    assert thread.sent == [OFFSETS]
    await commits.commit(0, OFFSETS | {B: 6})
    await commits.commit(1, OFFSETS)
    assert thread.sent == [OFFSETS, OFFSETS | {B: 6}, OFFSETS]


async def test_a_new_assignment_sends_them_again() -> None:
    thread = Thread()
    commits = OffsetCommits(thread)
    await commits.commit(0, OFFSETS)
    commits.forget()
    await commits.commit(0, OFFSETS)
    assert thread.sent == [OFFSETS, OFFSETS]


async def test_offsets_that_were_not_accepted_are_sent_again() -> None:
    thread = Thread()
    commits = OffsetCommits(thread)
    thread.is_member = False
    assert not await commits.commit(0, OFFSETS)
    thread.is_member = True
    assert await commits.commit(0, OFFSETS)
    assert thread.sent == [OFFSETS]
