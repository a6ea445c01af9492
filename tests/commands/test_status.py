"""`status` on a real broker, database and worker: what it says, and what it waits for."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream.commands.draining import what_is_missing
from stream.commands.standing import SOURCES, Group, PartitionStanding, Place, Standing
from stream.config import Settings
from stream.core.keys import partition_of, record_key
from stream.core.progress import PartitionProgress
from tests.support import golden
from tests.support.processes import (
    Environment,
    Worker,
    cli,
    environment,
    free_port,
    remove_topics,
    succeed,
    wait_for,
    with_own_port,
)

PARTITIONS = 3


@pytest.fixture
async def env(kafka: str, fresh_database: str, tmp_path: Path) -> AsyncIterator[Environment]:
    """An installation with topics and tables, on each of the databases in turn."""
    async for installed in installation(environment(kafka, fresh_database, tmp_path, partitions=PARTITIONS)):
        yield installed


@pytest.fixture
async def sqlite_env(kafka: str, fresh_sqlite: str, tmp_path: Path) -> AsyncIterator[Environment]:
    """The same where the database makes no difference."""
    async for installed in installation(environment(kafka, fresh_sqlite, tmp_path, partitions=PARTITIONS)):
        yield installed


async def installation(env: Environment) -> AsyncIterator[Environment]:
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    yield env
    await remove_topics(env)


def ingest_golden(env: Environment) -> tuple[int, int]:
    """Counts of clicks and conversions."""
    vectors, folder = golden.load_before("sparse", int(time.time())), Path(env["HOME"])
    clicks = golden.write_lines(folder / "clicks.jsonl", vectors.clicks)
    conversions = golden.write_lines(folder / "conversions.jsonl", vectors.conversions)
    succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=env)
    return len(vectors.clicks), len(vectors.conversions)


def status_json(env: Environment, *options: str) -> dict[str, Any]:
    answer = json.loads(succeed("status", "--json", *options, env=env))
    assert isinstance(answer, dict)
    return answer


def ends(answer: Mapping[str, Any], topic: str, key: str) -> int:
    return sum(each["topics"][topic][key] or 0 for each in answer["journeys"]["partitions"])


def test_before_any_worker_all_that_was_ingested_is_lag(sqlite_env: Environment) -> None:
    clicks, conversions = ingest_golden(sqlite_env)
    answer = status_json(sqlite_env)
    assert answer["drained"] is False
    assert answer["group"] == {"state": "Dead", "members": 0}
    assert answer["journeys"]["lag"] == clicks + conversions
    assert (answer["journeys"]["watermark"], answer["journeys"]["watermark_utc"]) == (None, None)
    first = answer["journeys"]["partitions"][0]
    assert (first["partition"], first["owner"], first["epoch"]) == (0, None, None)
    assert first["topics"]["clicks"]["committed"] is None
    assert first["topics"]["clicks"]["stored"] is None
    text = succeed("status", env=sqlite_env)
    assert f"{clicks:,}" in text
    assert "members: 0" in text


def test_after_a_worker_all_is_drained_and_dead_letters_are_counted(env: Environment) -> None:
    broken = Path(env["HOME"]) / "broken.jsonl"
    broken.write_bytes(b"not json\n{}\n")
    with Worker(env):
        clicks, conversions = ingest_golden(env)
        succeed("ingest", "--clicks", broken, env=env)
        text = succeed("status", "--wait-drained", "60", env=env)
        answer = status_json(env)
    assert text.splitlines()[-1] == "drained: all that is in the log is in the database"
    assert 'dead letters: 2 of clicks, 0 of conversions; "python -m stream dead-letters list"' in text
    assert (answer["drained"], answer["missing"]) == (True, [])
    assert answer["group"] == {"state": "Stable", "members": 1}
    assert answer["dead_letters"] == {"clicks": 2, "conversions": 0}
    for key in ("end", "committed", "stored"):
        assert (ends(answer, "clicks", key), ends(answer, "conversions", key)) == (clicks, conversions)
    assert answer["journeys"]["lag"] == 0
    assert all(each["owner"] and each["epoch"] == 1 for each in answer["journeys"]["partitions"])
    watermarks = [each["watermark"] for each in answer["journeys"]["partitions"]]
    assert answer["journeys"]["watermark"] == min(watermarks)
    assert answer["journeys"]["partitions"][0]["watermark_utc"].endswith("Z")


def test_drained_records_are_not_enough_while_no_worker_has_joined(sqlite_env: Environment) -> None:
    with Worker(sqlite_env) as worker:
        ingest_golden(sqlite_env)
        succeed("status", "--wait-drained", "60", env=sqlite_env)
        assert worker.stop() == 0
    begun = time.monotonic()
    done = cli("status", "--wait-drained", "1", env=sqlite_env)
    assert done.returncode == 1
    assert 1 <= time.monotonic() - begun < 11
    assert "no worker has joined" in done.stderr
    assert "partition 0: no owner" in done.stderr
    assert "not drained within 1 s" in done.stderr
    assert status_json(sqlite_env)["journeys"]["lag"] == 0


def test_not_in_time_names_what_each_partition_misses(sqlite_env: Environment) -> None:
    clicks, conversions = ingest_golden(sqlite_env)
    done = cli("status", "--wait-drained", "0", "--json", env=sqlite_env)
    assert done.returncode == 1
    assert json.loads(done.stdout)["journeys"]["lag"] == clicks + conversions
    lines = done.stderr.splitlines()
    answer = status_json(sqlite_env)
    for each in answer["journeys"]["partitions"]:
        lags = {name: f"{place['lag']:,}" for name, place in each["topics"].items()}
        expected = (
            f"partition {each['partition']}: clicks {lags['clicks']} behind,"
            f" conversions {lags['conversions']} behind, no owner"
        )
        assert expected in lines


def test_waits_for_a_worker_that_comes_later(sqlite_env: Environment) -> None:
    ingest_golden(sqlite_env)
    with ExitStack() as running:
        waiting = running.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "stream", "status", "--wait-drained", "60"],
                env=sqlite_env,
                cwd=sqlite_env["HOME"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        running.callback(waiting.kill)
        workers = [running.enter_context(Worker(with_own_port(sqlite_env))) for _ in range(2)]
        out, err = waiting.communicate(timeout=75)
        assert (waiting.returncode, err) == (0, b""), out
        # The group may still have been settling around the second worker when the first one had drained it.
        succeed("status", "--wait-drained", "60", env=sqlite_env)
        wait_for(lambda: len(owners(sqlite_env)) == 2, "both workers to have partitions")
        assert [worker.stop() for worker in workers] == [0, 0]


def owners(env: Environment) -> set[str]:
    return {each["owner"] for each in status_json(env)["journeys"]["partitions"] if each["owner"]}


async def test_markers_of_transactions_at_the_end_keep_nobody_waiting(kafka: str, sqlite_env: Environment) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=sqlite_env["TOUCHSTREAM_APP_ID"])
    await producer.start()
    try:
        for is_kept in (True, False):
            await producer.begin_transaction()
            await send_click(producer, sqlite_env)
            await (producer.commit_transaction() if is_kept else producer.abort_transaction())
    finally:
        await producer.stop()
    with Worker(sqlite_env):
        succeed("status", "--wait-drained", "60", env=sqlite_env)
        assert ends(status_json(sqlite_env), "clicks", "committed") == 4  # two records, two markers


async def send_click(producer: AIOKafkaProducer, env: Environment) -> None:
    value = json.dumps({"click_id": 1, "user_id": 7, "campaign_id": 3, "click_time": 1_790_000_000}).encode()
    topic, partition = env["TOUCHSTREAM_TOPIC_PREFIX"] + "clicks", partition_of(7, 3, PARTITIONS)
    await producer.send_and_wait(topic, value, key=record_key(7, 3), partition=partition)


@pytest.mark.parametrize("seconds", [0, 2])
def test_a_broker_that_is_away_is_waited_for_and_named(fresh_sqlite: str, tmp_path: Path, seconds: int) -> None:
    env = environment(f"127.0.0.1:{free_port()}", fresh_sqlite, tmp_path, partitions=1)
    begun = time.monotonic()
    done = cli("status", "--json", "--wait-drained", str(seconds), env=env)
    assert done.returncode == 1
    assert seconds <= time.monotonic() - begun < seconds + 10
    assert "did not answer" in done.stderr
    assert json.loads(done.stdout)["drained"] is False


def test_a_broker_that_never_answers_does_not_hold_it_longer(fresh_sqlite: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        env = environment(f"127.0.0.1:{server.getsockname()[1]}", fresh_sqlite, tmp_path, partitions=1)
        begun = time.monotonic()
        done = cli("status", "--wait-drained", "1", env=env)
    assert done.returncode == 1
    assert time.monotonic() - begun < 11
    assert "not drained within 1 s" in done.stderr


def test_a_database_that_is_away_is_named_in_time(
    kafka: str, sqlite_env: Environment, mariadb_url: str, tmp_path: Path
) -> None:
    away = mariadb_url.replace(mariadb_url.rpartition("/")[0].rpartition(":")[2], str(free_port()))
    begun = time.monotonic()
    done = cli("status", "--wait-drained", "2", env=sqlite_env | {"TOUCHSTREAM_DATABASE_URL": away})
    assert done.returncode == 1
    assert 2 <= time.monotonic() - begun < 12
    assert "database" in done.stderr


def test_missing_topics_and_tables_are_named_with_the_remedy(kafka: str, fresh_sqlite: str, tmp_path: Path) -> None:
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=1)
    without_topics = cli("status", "--wait-drained", "30", env=env)
    assert without_topics.returncode == 1
    assert "topics apply" in without_topics.stderr
    succeed("topics", "apply", env=env)
    without_tables = cli("status", "--wait-drained", "30", env=env)
    assert without_tables.returncode == 1
    assert "db upgrade" in without_tables.stderr


@pytest.mark.parametrize("seconds", ["-1", "soon", "1.5", "nan"])
def test_seconds_that_are_none_are_wrong_usage(fresh_sqlite: str, tmp_path: Path, seconds: str) -> None:
    env = environment("127.0.0.1:1", fresh_sqlite, tmp_path, partitions=1)
    assert cli("status", "--wait-drained", seconds, env=env).returncode == 2


# What keeps the log from being drained, case by case.


def standing(
    *, committed: int | None = 10, stored: int | None = 10, member: str = "member", state: str = "Stable"
) -> Standing:
    """One partition, one topic of ten records."""
    row = PartitionProgress(0, 1, "worker", {"clicks": stored or 0}, 1, {}, 0, 0, 0, ())
    each = PartitionStanding(0, {"clicks": Place(0, 10, committed, stored)}, member, row)
    owners = {TopicPartition("clicks", 0): member} if member else {}
    return Standing(Group(state, 1, owners), [each], {}, {})


def test_nothing_is_missing_when_kafka_and_database_reach_the_end() -> None:
    assert what_is_missing(Settings(), standing()) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (standing(committed=None, stored=None), "partition 0: clicks 10 behind, owner worker"),
        (standing(committed=4, stored=7), "partition 0: clicks 6 behind, owner worker"),
        (
            standing(stored=3),
            "partition 0: clicks 7 behind, owner worker",
        ),
        (
            standing(committed=4),
            "partition 0: clicks 6 behind (in the database, not committed to Kafka), owner worker",
        ),
        (standing(member=""), "partition 0: no owner"),
        (standing(state="PreparingRebalance"), "the group is not settled: PreparingRebalance, members: 1"),
        (standing(state="CompletingRebalance"), "the group is not settled: CompletingRebalance, members: 1"),
    ],
)
def test_what_is_missing_is_named(seen: Standing, expected: str) -> None:
    assert what_is_missing(Settings(), seen) == [expected]


def test_a_partition_without_records_needs_no_owner() -> None:
    empty = PartitionStanding(0, {"clicks": Place(5, 5, None, None)}, "", None)
    assert what_is_missing(Settings(), Standing(Group("Stable", 1, {}), [empty], {}, {})) == []


def both_topics(*, place: Place, topic_id: str = "id") -> Standing:
    """A partition as a worker is given it; the database has read as far as Kafka has committed."""
    offsets = dict.fromkeys(SOURCES, place.committed or 0)
    row = PartitionProgress(0, 1, "worker", offsets, 1, dict.fromkeys(SOURCES, "id"), 0, 0, 0, ())
    each = PartitionStanding(0, dict.fromkeys(SOURCES, place), "member", row)
    return Standing(Group("Stable", 1, {}), [each], dict.fromkeys(SOURCES, topic_id), {})


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (both_topics(place=Place(0, 10, 10, 10), topic_id="another"), "was created anew"),
        (both_topics(place=Place(0, 10, 20, 20)), "ends at offset 10, but was read up to 20"),
        (both_topics(place=Place(10, 10, 4, 4)), "from offset 4 to 10 were removed before they were processed"),
    ],
)
def test_a_log_that_is_not_the_one_that_was_read_is_not_drained(seen: Standing, reason: str) -> None:
    # A worker that is about to refuse its start is a member of the group for a moment.
    (missing,) = what_is_missing(Settings(), seen)
    assert reason in missing


def test_a_log_that_was_read_to_its_end_is_drained() -> None:
    assert what_is_missing(Settings(), both_topics(place=Place(3, 10, 10, 10))) == []
