"""Does the log, together with what SQL has of it, reach back far enough for a range, and what if it does not?"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from stream.commands.replay_plan import Plan, Wish, check_reach, gaps
from stream.commands.replay_refused import Teller
from stream.commands.replay_work import Job, work
from stream.config import Settings, read_settings
from stream.core.errors import StartRefused, StreamError
from stream.core.keys import partition_of
from stream.core.progress import PartitionProgress
from tests.faults.events import CAMPAIGN, USER, click, conversion
from tests.faults.installation import Installation
from tests.support.processes import succeed
from tests.support.rebuilds import execute
from tests.support.replays import lately, partition_of_clicks, refused
from tests.support.rows import query
from tests.support.traffic import DAY, Sent

BEGINS_AT = 1_700_000_000
PLAN = Plan([], {0: BEGINS_AT}, {0: {"clicks": 20, "conversions": 7}})


def row(*, epoch: int = 1, partitions: int = 1, **next_offsets: int) -> PartitionProgress:
    return PartitionProgress(0, epoch, "w", next_offsets, partitions, {}, 0, 0, 0, ())


@pytest.mark.parametrize(
    ("of_partition", "is_gap"),
    [
        (row(clicks=20, conversions=7), False),
        (row(clicks=19, conversions=7), True),
        (row(clicks=20, conversions=6), True),
        (row(), True),  # taken, and nothing of it was stored before it was gone
        (row(epoch=2, partitions=0), False),  # reset, which notes itself what was lost
        (row(epoch=0, partitions=0), True),
    ],
)
def test_what_the_log_lost_is_a_gap_unless_it_was_stored(of_partition: PartitionProgress, *, is_gap: bool) -> None:
    assert gaps(PLAN, {0: of_partition}) == ({0: BEGINS_AT} if is_gap else {})


def test_of_a_partition_that_sql_does_not_know_all_that_was_removed_is_a_gap() -> None:
    assert gaps(PLAN, {}) == {0: BEGINS_AT}


ALL_STORED = row(clicks=20, conversions=7)


@pytest.mark.parametrize(
    ("of_partition", "plan", "begins"),
    [
        (replace(ALL_STORED, history_from=BEGINS_AT + DAY), Plan([], {}, {}), BEGINS_AT + DAY),
        (replace(ALL_STORED, history_from=BEGINS_AT + DAY), PLAN, BEGINS_AT + DAY),
        (row(), PLAN, BEGINS_AT),
        (ALL_STORED, PLAN, 0),
    ],
)
def test_for_journeys_alone_sql_has_to_reach_back_whatever_the_log_has(
    of_partition: PartitionProgress, plan: Plan, begins: int
) -> None:
    settings = Settings()
    rows, needs_all_from = {0: of_partition}, begins + settings.lookback_days * DAY
    wish = Wish(users=(), start=needs_all_from, end=needs_all_from + DAY, is_journeys_only=True)
    check_reach(settings, wish, plan, rows)
    if begins:
        earlier = replace(wish, start=needs_all_from - 1)
        with pytest.raises(StartRefused, match=r"partition 0: the clicks in SQL begin at .* are missing") as refusal:
            check_reach(settings, earlier, plan, rows)
        assert "without --journeys-only the log is read too" in refusal.value.hint
        check_reach(settings, replace(earlier, is_incomplete_allowed=True), plan, rows)


# A log whose beginning is gone


def remove_records(installation: Installation, before: int) -> None:
    """The clicks of the partition that has them, up to an offset."""
    place = TopicPartition(installation.topic("clicks"), partition_of_clicks(installation))

    async def remove() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=installation.kafka)
        await admin.start()
        try:
            await admin.delete_records({place: RecordsToDelete(before)})
        finally:
            await admin.close()

    asyncio.run(remove())


def incomplete(installation: Installation) -> list[tuple[Any, ...]]:
    return query(installation.database_url, "SELECT conv_id, incomplete FROM `202_stream_journeys`")


def test_a_log_that_lost_its_beginning_unread_is_refused_unless_that_is_allowed(installation: Installation) -> None:
    remove_records(installation, 20)
    said = refused(*lately(installation), env=installation.env, code=1)
    assert f"partition {partition_of_clicks(installation)}: the log begins at" in said
    assert "are missing" in said
    assert "hint: --allow-incomplete" in said
    assert incomplete(installation) == []
    told = json.loads(succeed("replay", *lately(installation), "--allow-incomplete", "--json", env=installation.env))
    assert (told["new_clicks"], told["new_conversions"]) == (8, 1)
    assert incomplete(installation) == [(1, 1)]
    with installation.worker() as worker:
        installation.wait_drained()
        assert worker.stop() == 0
    assert incomplete(installation) == [(1, 1)]


RESET = ("progress", "reset", "--to-log-start", "--yes")


def test_a_log_that_lost_what_a_worker_had_stored_is_enough(installation: Installation) -> None:
    """Also after a reset, whichever it is."""
    with installation.worker() as worker:
        installation.wait_drained()
        assert worker.stop() == 0
    remove_records(installation, 20)
    for _ in range(2):
        succeed(*RESET, env=installation.env)
    execute(installation.database_url, "DELETE FROM `202_conversion_touchpoints`")
    told = json.loads(succeed("replay", *lately(installation), "--json", env=installation.env))
    assert (told["new_clicks"], told["touchpoints"], told["written"]) == (0, 25, 1)
    assert incomplete(installation) == [(1, 0)]


@pytest.mark.parametrize("resets", [0, 2])
def test_a_log_that_lost_what_its_worker_had_not_come_to_is_refused(installation: Installation, resets: int) -> None:
    """A reset is the way out for the worker, and then it flags what may lack history, too."""
    with installation.worker() as worker:
        installation.wait_drained()
        assert worker.stop() == 0
    installation.send([click(number, installation.now - 100 + number) for number in range(100, 110)])
    remove_records(installation, 33)
    for _ in range(resets):
        succeed(*RESET, env=installation.env)
    if resets:
        with installation.worker() as worker:
            installation.wait_drained()
            assert worker.stop() == 0
        assert incomplete(installation) == [(1, 1)]
    assert "are missing" in refused(*lately(installation), env=installation.env, code=1)
    succeed("replay", *lately(installation), "--allow-incomplete", env=installation.env)
    assert incomplete(installation) == [(1, 1)], "newer clicks than its 25 touches may be among what is gone"


def test_records_that_go_while_they_are_read_are_told(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not retried for a minute, and not passed over."""
    for name, value in installation.env.items():
        monkeypatch.setenv(name, value)
    partition, topics = partition_of_clicks(installation), (installation.topic("clicks"),)
    remove_records(installation, 20)
    starts, ends = [dict.fromkeys(topics, 0)], [dict.fromkeys(topics, 28)]
    job = Job(
        run_id=1,
        is_facts=True,
        users=(),
        start=0,
        end=installation.now,
        batch_size=500,
        partitions=[partition],
        starts=starts,
        ends=ends,
    )
    with pytest.raises(StreamError, match="were removed from the log before they were read"):
        asyncio.run(work(read_settings(), job, Teller()))


# Clicks that are older than every lookback


def send_as_of(installation: Installation, records: Mapping[int, Sequence[Sent]]) -> None:
    """By append time, unix seconds: as if they had been sent then."""

    async def send() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=installation.kafka)
        producer = AIOKafkaProducer(bootstrap_servers=installation.kafka)
        unused = 1 - partition_of(USER, CAMPAIGN, 2)
        await admin.start()
        await producer.start()
        try:
            for name in ("clicks", "conversions"):
                config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
                topic = installation.topic(name)
                await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
                # The broker follows a moment later; these records are nobody's events, in the partition without any.
                is_obeyed = False
                while not is_obeyed:
                    stored = await producer.send_and_wait(topic, b"{", b"1:1", unused, 1000)
                    is_obeyed = stored.timestamp_type == 0
            for at, sent in records.items():
                for each in sent:
                    partition = (murmur2(each.key) & 0x7FFFFFFF) % installation.partitions
                    topic = installation.topic(each.topic)
                    await producer.send_and_wait(topic, each.value, each.key, partition, timestamp_ms=at * 1000)
        finally:
            await producer.stop()
            await admin.close()

    asyncio.run(send())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_converting_click_from_before_the_range_that_is_read_is_found(
    kafka: str, fresh_sqlite: str, tmp_path: Path, workers: str
) -> None:
    """As well as the earlier report of a payment, which counts in place of the later one."""
    installation = Installation(kafka, fresh_sqlite, tmp_path, partitions=2)
    installation.prepare()
    try:
        old, at = installation.now - 200 * DAY, installation.now - DAY
        of_old = {"click_time": old, "transaction_id": "t"}
        records = {
            old: [click(1, old, visitor_id="ann", click_cpc=0.5), click(2, old, visitor_id="bob")],
            old + DAY: [conversion(1, 1, old + DAY, **of_old)],
            at: [
                click(3, at - 9, visitor_id="ann"),
                conversion(2, 1, at, **of_old),
                conversion(3, 1, at, click_time=old),
            ],
        }
        send_as_of(installation, records)
        told = json.loads(
            succeed("replay", *lately(installation), "--workers", workers, "--json", env=installation.env)
        )
        assert (told["new_clicks"], told["new_conversions"]) == (2, 3), "not click 2, which nobody names"
        outcomes = (
            "SELECT conv_id, outcome, click_unknown, journey_visitor_id FROM `202_stream_journeys` ORDER BY conv_id"
        )
        assert query(installation.database_url, outcomes) == [
            (1, "counted", 0, "ann"),
            (2, "duplicate", 0, "ann"),
            (3, "counted", 0, "ann"),
        ]
        again = json.loads(succeed("replay", *lately(installation), "--json", env=installation.env))
        assert (again["new_clicks"], again["written"]) == (0, 0)
    finally:
        installation.remove()
