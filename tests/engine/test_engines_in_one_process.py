"""On a real broker: an engine without state, ticks, gathering, and two engines in one process."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from stream.engine.barrier import STEPS
from tests.engine.real import PARTITIONS, Run, Start, admin, committed, ends, producer, send
from tests.engine.toy import Config


async def test_an_engine_without_state_needs_no_changelog_and_goes_on_where_it_was(config: Config, run: Start) -> None:
    async with admin(config.kafka) as client:
        await client.delete_topics([config.changelog])
    async with producer(config) as client:
        await send(client, config.topics[0], [str(number) for number in range(500)])
        first = run(state_name="")
        await first.done(500)
        assert await first.stop() == 0
        assert await committed(config) == await ends(config)
        await send(client, config.topics[1], ["new"])
    second = await run(state_name="").open()
    await second.done(1)
    assert [value for note in second.notes("stored") for value in note["values"]] == ["new"]
    steps = [note["step"] for note in second.notes("step")]
    assert steps == list(STEPS)
    assert [note["records"] for note in second.notes("sent")] == [1]
    assert await second.stop() == 0


async def test_an_idle_partition_gets_ticks_and_says_that_nothing_lies_behind(config: Config, run: Start) -> None:
    worker = await run(state_name="", tick_seconds=0.2).open()

    def drained(partition: int) -> list[dict[str, int]]:
        notes = [note for note in worker.notes("stored") if note["partition"] == partition and note["is_last"]]
        return [note["ends"] for note in notes]

    await worker.until(lambda: all(len(drained(partition)) >= 3 for partition in range(PARTITIONS)), "ticks")
    assert all(note["values"] == [] for note in worker.notes("stored"))
    async with producer(config) as client:
        await send(client, config.topics[0], ["one"], partition=1)
    await worker.done(1)
    await worker.until(lambda: drained(1)[-1][config.topics[0]] == 1, "the end behind the record")
    assert await worker.stop() == 0
    assert (await committed(config))[config.topics[0], 1] == 1


async def test_records_are_gathered_until_a_chunk_is_full(config: Config, run: Start) -> None:
    worker = await run(state_name="", gather_seconds=3600.0, chunk_records=50).open()
    async with producer(config) as client:
        await send(client, config.topics[0], ["first"], partition=0)
        await worker.done(1)
        for count in (20, 29, 1):
            await send(client, config.topics[0], ["more"] * count, partition=0)
        await worker.done(51)
    assert [len(note["values"]) for note in worker.notes("stored")] == [1, 50]
    assert await worker.stop() == 0


@pytest.fixture
async def other(config: Config, tmp_path: Path) -> AsyncIterator[Config]:
    """A second engine as the hours' is: a topic and a group of its own, no state, ticks."""
    folder = tmp_path / "other"
    folder.mkdir()
    made = dataclasses.replace(
        config,
        folder=str(folder),
        app_id=f"{config.app_id}-other",
        topics=(f"{config.output}-read",),
        state_name="",
        state_keys=0,
        tick_seconds=0.2,
    )
    async with admin(config.kafka) as client:
        await client.create_topics([NewTopic(made.topics[0], PARTITIONS, 1)])
    yield made
    async with admin(config.kafka) as client:
        await client.delete_topics(list(made.topics))


@asynccontextmanager
async def both_at_work(config: Config, other: Config) -> AsyncIterator[tuple[Run, Run]]:
    """The process as the first engine notes it, and as the second does."""
    with Run(config, other) as worker:
        beside = worker.seen_from(other)
        await worker.open()
        await beside.open()
        yield worker, beside


async def test_two_engines_work_and_stop_as_each_does_alone(config: Config, other: Config) -> None:
    records = 1_000
    async with producer(config) as client, both_at_work(config, other) as (worker, beside):
        await send(client, config.topics[0], [str(number) for number in range(records)])
        await send(client, other.topics[0], [f"other {number}" for number in range(records)])
        await worker.done(records)
        await beside.until(
            lambda: sum(len(note["values"]) for note in beside.notes("stored")) >= records, "the other's records"
        )
        assert await worker.stop() == 0
    assert all(value.startswith("other") for note in beside.notes("stored") for value in note["values"])
    assert not any(value.startswith("other") for note in worker.notes("stored") for value in note["values"])
    for each in (config, other):
        assert await committed(each) == await ends(each)
    with Run(config) as again:  # the other's bound of 0 keys was not ours
        await again.open()
        assert sum(len(note["states"]) for note in again.notes("taken")) == 40
        assert await again.stop() == 0


async def test_what_refuses_the_second_engine_ends_the_process(config: Config, other: Config) -> None:
    topic = other.topics[0]
    async with producer(config) as client:
        async with both_at_work(config, other) as (worker, beside):
            await send(client, topic, ["one"], partition=0)
            await beside.until(lambda: any(note["values"] for note in beside.notes("stored")), "the record")
            assert await worker.stop() == 0
        await send(client, topic, ["two", "three"], partition=0)
    async with admin(config.kafka) as client:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(2)})
    with Run(config, other) as refused:
        assert await refused.exit() == 1
        assert "were removed before they were processed" in refused.log.read_text()


@pytest.mark.parametrize("which", [0, 1])
async def test_either_engine_that_comes_down_takes_the_process_with_it(
    config: Config, other: Config, which: int
) -> None:
    async with both_at_work(config, other) as (worker, _):
        (config, other)[which].crash.touch()
        assert await worker.exit() != 0
        assert "the test says so" in worker.log.read_text()
