"""Outputs that their owner alone may send, on a real broker: each sending is a transaction under the partition's id."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaTimeoutError

from stream.core.errors import Fenced
from stream.engine import sending as sending_module
from stream.engine.sending import FencedSending
from stream.wire.outgoing import OutgoingRecord
from tests.engine.toy import Config


def sending_of(config: Config) -> FencedSending:
    return FencedSending(config.app_id, {"bootstrap_servers": config.kafka, "compression_type": "zstd"})


@pytest.fixture
async def first(config: Config) -> AsyncIterator[FencedSending]:
    made = sending_of(config)
    yield made
    await made.close()


@pytest.fixture
async def second(config: Config) -> AsyncIterator[FencedSending]:
    made = sending_of(config)
    yield made
    await made.close()


def records(config: Config, *values: str) -> list[OutgoingRecord]:
    return [OutgoingRecord(config.output, 0, b"key", value.encode(), ()) for value in values]


async def committed_values(config: Config) -> list[str]:
    consumer = AIOKafkaConsumer(
        config.output, bootstrap_servers=config.kafka, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        found: list[str] = []
        while fetched := await consumer.getmany(timeout_ms=1000):
            found += [(each.value or b"").decode() for part in fetched.values() for each in part]
        return found
    finally:
        await consumer.stop()


async def test_who_took_over_last_is_the_only_one_to_send(
    config: Config, first: FencedSending, second: FencedSending
) -> None:
    await first.take_over(0)
    await first.send(0, records(config, "a", "b"))
    await second.take_over(0)
    with pytest.raises(Fenced):
        await first.send(0, records(config, "stale"))
    await second.send(0, records(config, "c"))
    with pytest.raises((Fenced, AssertionError)):
        await first.send(0, records(config, "stale again"))
    assert await committed_values(config) == ["a", "b", "c"]


async def test_one_partition_shuts_nobody_out_of_another(
    config: Config, first: FencedSending, second: FencedSending
) -> None:
    await first.take_over(0)
    await second.take_over(1)
    await first.send(0, records(config, "a"))
    await second.send(1, records(config, "b"))
    assert sorted(await committed_values(config)) == ["a", "b"]


async def test_what_failed_half_way_is_not_seen_and_is_sent_again(config: Config, first: FencedSending) -> None:
    def broken() -> Iterable[OutgoingRecord]:
        yield from records(config, "half")
        raise ConnectionError("the rest cannot be made, says the test")

    await first.take_over(0)
    with pytest.raises(ConnectionError):
        await first.send(0, broken())
    await first.send(0, records(config, "whole"))
    assert await committed_values(config) == ["whole"]


async def test_taking_over_again_goes_on(config: Config, first: FencedSending) -> None:
    await first.take_over(0)
    await first.send(0, records(config, "a"))
    await first.take_over(0)
    await first.send(0, records(config, "b"))
    assert await committed_values(config) == ["a", "b"]


async def test_what_had_no_answer_in_time_is_waited_for_before_it_is_sent_again(
    config: Config, first: FencedSending, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = asyncio.Event()
    transact: Any = sending_module._transact

    async def slow(*arguments: object) -> None:
        await transact(*arguments)
        await door.wait()

    await first.take_over(0)
    monkeypatch.setattr(sending_module, "_transact", slow)
    monkeypatch.setattr(sending_module, "_ANSWER_SECONDS", 0.5)
    for _ in range(2):
        with pytest.raises(KafkaTimeoutError):
            await first.send(0, records(config, "a"))
    door.set()
    await first.send(0, records(config, "b"))
    assert await committed_values(config) == ["a", "b"]
