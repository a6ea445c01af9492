"""The engine on a real broker, with a handler that counts: what passes Faust, is recovered, is refused."""

from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from stream.engine.barrier import STEPS
from tests.engine.real import KEYS, PARTITIONS, Start, admin, committed, ends, producer, send
from tests.engine.toy import Config


def counted(values: Sequence[str]) -> list[str]:
    return sorted(values)


async def test_faust_sees_one_message_a_chunk_and_the_steps_keep_their_order(config: Config, run: Start) -> None:
    records = 4_000
    async with producer(config) as client:
        for topic in config.topics:
            await send(client, topic, [f"{topic} {number}" for number in range(records)])
    worker = run()
    await worker.done(2 * records)
    await worker.until(lambda: worker.figures()["counts"].get("records", 0) >= 2 * records, "figures")
    figures = worker.figures()

    handed_out = figures["counts"]["chunks"]
    assert figures["counts"]["records"] == 2 * records
    assert 2 * records / config.chunk_records <= handed_out < 2 * records / 20
    # A record that passed Faust's path of single messages would be one more message, or one of the second topic.
    assert {topic: figures["messages"].get(topic, 0) for topic in config.topics} == {
        config.topics[0]: handed_out,
        config.topics[1]: 0,
    }
    assert len(worker.notes("stored")) == handed_out
    values = [value for note in worker.notes("stored") for value in note["values"]]
    assert counted(values) == counted([f"{topic} {number}" for topic in config.topics for number in range(records)])

    for partition in range(PARTITIONS):
        # One chunk of a partition at a time, each through all the steps.
        steps = [note for note in worker.notes("step") if note["partition"] == partition]
        chunks = [note["ends"] for note in worker.notes("stored") if note["partition"] == partition]
        assert [note["step"] for note in steps] == list(STEPS) * len(chunks)
        assert [note["ends"] for note in steps] == [end for end in chunks for _ in STEPS]
    assert await worker.stop() == 0
    assert await committed(config) == await ends(config)


async def test_after_a_restart_the_state_is_what_was_written(config: Config, run: Start) -> None:
    records = 2_000
    async with producer(config) as client:
        await send(client, config.topics[0], [str(number) for number in range(records)])
        first = run()
        await first.done(records)
        assert await first.stop() == 0

        second = await run().open()
        recovered = second.notes("taken")
        states = [item for note in recovered for item in note["states"].items()]
        assert dict(states) == {key.decode(): records // len(KEYS) for key in KEYS}
        assert len(states) == len(KEYS)
        assert second.notes("stored") == []

        # And it goes on from there: counted again, the sums are those of both lives.
        await send(client, config.topics[1], [str(number) for number in range(len(KEYS))])
        await second.done(len(KEYS))
        assert await second.stop() == 0
    third = await run().open()
    states = [item for note in third.notes("taken") for item in note["states"].items()]
    assert dict(states) == {key.decode(): records // len(KEYS) + 1 for key in KEYS}


async def test_a_large_changelog_is_recovered_in_bulk(
    config: Config, run: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    records = 200_000
    async with producer(config) as client:
        value = (1).to_bytes(8, "big") + b"1"
        for partition in range(PARTITIONS):
            pairs = [(b"%d" % key, value) for key in range(records // PARTITIONS)]
            await _fill(client, TopicPartition(config.changelog, partition), pairs)
    worker = await run().open()
    figures = worker.figures()
    assert figures["recovered"] == records
    assert figures["keys"] == records
    # As few messages as there were fetches, not one a record.
    assert figures["messages"].get(config.changelog, 0) < records / 50
    with capsys.disabled():
        speed = records / figures["recovery_seconds"]
        print(f"\nrecovered {records:,} changelog records at {speed:,.0f} records/s")  # noqa: T201
    assert await worker.stop() == 0


async def _fill(client: AIOKafkaProducer, place: TopicPartition, pairs: Sequence[tuple[bytes, bytes]]) -> None:
    """Whole batches: a record at a time would take longer than the recovery."""
    batch = client.create_batch()
    for key, value in pairs:
        if batch.append(key=key, value=value, timestamp=None) is None:
            batch.close()
            await client.send_batch(batch, place.topic, partition=place.partition)
            batch = client.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    batch.close()
    await client.send_batch(batch, place.topic, partition=place.partition)
    await client.flush()


async def test_aborted_records_never_arrive_and_markers_are_passed_over(config: Config, run: Start) -> None:
    worker = await run().open()
    async with producer(config, transactional_id=f"{config.app_id}-tx") as client:
        for turn in range(3):
            await client.begin_transaction()
            await send(client, config.topics[0], [f"good {turn} {number}" for number in range(100)])
            await client.commit_transaction()
            await client.begin_transaction()
            await send(client, config.topics[0], [f"aborted {turn} {number}" for number in range(100)])
            await client.abort_transaction()
    await worker.done(300)

    def has_passed_all() -> bool:
        last = {
            note["partition"]: note["ends"][config.topics[0]]
            for note in worker.notes("step")
            if note["step"] == "offsets"
        }
        return all(last.get(partition) == log_ends[config.topics[0], partition] for partition in range(PARTITIONS))

    log_ends = await ends(config)
    await worker.until(has_passed_all, "offsets behind the last markers")
    values = [value for note in worker.notes("stored") for value in note["values"]]
    assert counted(values) == counted([f"good {turn} {number}" for turn in range(3) for number in range(100)])
    assert await worker.stop() == 0
    found = await committed(config)
    assert {place: found[place] for place in log_ends if place[0] == config.topics[0]} == {
        place: end for place, end in log_ends.items() if place[0] == config.topics[0]
    }


async def test_records_removed_before_they_were_processed_end_the_process_with_the_hint(
    config: Config, run: Start
) -> None:
    topic = config.topics[0]
    async with producer(config) as client:
        await send(client, topic, [str(number) for number in range(100)], partition=0)
        first = run()
        await first.done(100)
        assert await first.stop() == 0
        await send(client, topic, [str(number) for number in range(100, 200)], partition=0)
    async with admin(config.kafka) as client:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(150)})
    second = run()
    assert await second.exit() == 1
    log = second.log.read_text()
    assert f'records of "{topic}" partition 0 from offset 100 to 150 were removed before they were processed' in log
    assert "progress reset --to-log-start" in log
    assert second.notes("stored") == []
    assert (await committed(config))[topic, 0] == 100
