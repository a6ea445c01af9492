"""`progress` on a real broker, database and worker: which start is refused, and that a reset mends it."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from stream.commands.resetting import epoch_record
from tests.support import golden
from tests.support.processes import Environment, Worker, cli, environment, remove_topics, succeed, wait_for
from tests.support.rebuilds import execute
from tests.support.rows import difference, query, read_all, read_touchpoints

PARTITIONS = 3
RESET = ("progress", "reset", "--to-log-start", "--yes")
_VERSIONS = "SELECT conv_id, version, touches FROM `202_stream_journeys` ORDER BY conv_id"


class Installation:
    """One whose log holds a golden set that a worker has drained."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.url = env["TOUCHSTREAM_DATABASE_URL"]
        self.folder = Path(env["HOME"])
        self.vectors = golden.load_before("sparse", int(time.time()))

    def set_up(self) -> None:
        succeed("db", "upgrade", env=self.env)
        succeed("topics", "apply", env=self.env)
        self.ingest()
        self.drain()

    def ingest(self) -> None:
        clicks = golden.write_lines(self.folder / "clicks.jsonl", self.vectors.clicks)
        conversions = golden.write_lines(self.folder / "conversions.jsonl", self.vectors.conversions)
        succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=self.env)

    def drain(self) -> str:
        """With a worker of its own; returns the worker's log."""
        with Worker(self.env) as worker:
            worker.wait_ready()
            succeed("status", "--wait-drained", "60", env=self.env)
            assert worker.stop() == 0
            return worker.log_text()

    def refused_start(self) -> str:
        """What the worker says."""
        with Worker(self.env) as worker:
            assert worker.wait_exit() == 1
            return worker.log_text()

    def rows(self) -> list[list[Any]]:
        return [*map(list, read_all(self.url)), query(self.url, _VERSIONS)]

    def show(self) -> dict[str, Any]:
        answer = json.loads(succeed("progress", "show", "--json", env=self.env))
        assert isinstance(answer, dict)
        return answer

    def refusals(self) -> set[str]:
        return {each["refusal"]["reason"] for each in self.show()["partitions"] if each["refusal"]}

    def epochs(self) -> list[int]:
        return [each["epoch"] for each in self.show()["partitions"]]

    def golden_difference(self) -> str:
        return difference(self.vectors.touchpoints, read_touchpoints(self.url))

    async def with_admin(self, work: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.env["TOUCHSTREAM_KAFKA"])
        await admin.start()
        try:
            await work(admin)
        finally:
            await admin.close()

    def topic(self, name: str) -> str:
        return self.env["TOUCHSTREAM_TOPIC_PREFIX"] + name

    @property
    def changelog(self) -> str:
        return f"{self.env['TOUCHSTREAM_APP_ID']}-journeys-state-changelog"


@pytest.fixture
async def drained(kafka: str, fresh_database: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """On each of the databases in turn."""
    installation = Installation(environment(kafka, fresh_database, tmp_path, partitions=PARTITIONS))
    installation.set_up()
    yield installation
    await remove_topics(installation.env)


@pytest.fixture
async def drained_sqlite(kafka: str, fresh_sqlite: str, tmp_path: Path) -> AsyncIterator[Installation]:
    installation = Installation(environment(kafka, fresh_sqlite, tmp_path, partitions=PARTITIONS))
    installation.set_up()
    yield installation
    await remove_topics(installation.env)


async def test_show_has_the_log_kafka_and_the_database_side_by_side(drained: Installation) -> None:
    answer = drained.show()
    assert answer["app_id"] == drained.env["TOUCHSTREAM_APP_ID"]
    assert answer["group"]["members"] == 0
    assert [each["partition"] for each in answer["partitions"]] == [0, 1, 2]
    for each in answer["partitions"]:
        assert (each["epoch"], each["is_owned"], each["partition_count"]) == (1, False, PARTITIONS)
        assert each["last_owner"]
        assert each["refusal"] is None
        for place in each["topics"].values():
            assert place["begin"] == 0
            assert place["end"] == place["committed"] == place["stored"]
            assert place["topic_id"] == place["stored_topic_id"]
    hours = answer["hours"]
    assert hours["group_id"] == drained.env["TOUCHSTREAM_APP_ID"] + "-hours"
    assert [(each["epoch"], each["is_owned"], each["refusal"]) for each in hours["partitions"]] == [
        (1, False, None)
    ] * 3
    for each in hours["partitions"]:
        (place,) = each["topics"].values()
        assert place["begin"] == 0
        assert place["end"] >= place["committed"] == place["stored"]
        assert place["topic_id"] == place["stored_topic_id"]
    text = succeed("progress", "show", env=drained.env)
    assert "none, last " in text
    assert f'group "{hours["group_id"]}": ' in text
    assert text.splitlines()[-1] == "a start would not be refused"


async def test_after_a_reset_everything_is_read_again_and_the_rows_are_the_same(drained: Installation) -> None:
    before = drained.rows()
    assert drained.golden_difference() == ""
    succeed(*RESET, env=drained.env)
    places = [place for each in drained.show()["partitions"] for place in each["topics"].values()]
    assert all((place["committed"], place["stored"]) == (None, None) for place in places)
    assert drained.epochs() == [2, 2, 2]
    for each in drained.show()["hours"]["partitions"]:
        (place,) = each["topics"].values()
        assert (each["epoch"], place["committed"], place["stored"]) == (2, None, None)
    assert drained.rows() == before  # facts and journeys stay
    drained.drain()
    assert [each["epoch"] for each in drained.show()["hours"]["partitions"]] == [3, 3, 3]
    places = [place for each in drained.show()["partitions"] for place in each["topics"].values()]
    assert all(place["committed"] == place["stored"] == place["end"] for place in places)
    assert drained.epochs() == [3, 3, 3]
    assert drained.rows() == before
    # The new changelog is one that a worker recovers from, and then it goes on where it was.
    drained.drain()
    assert drained.epochs() == [4, 4, 4]
    assert drained.rows() == before


async def test_a_reset_may_be_repeated(drained_sqlite: Installation) -> None:
    """And a replay that was broken off does not pass over what is to be read again."""
    before = drained_sqlite.rows()
    await asyncio.to_thread(execute, drained_sqlite.url, "INSERT INTO `202_stream_run_places` VALUES (1, 0, '{}')")
    for _ in range(2):
        succeed(*RESET, env=drained_sqlite.env)
    assert query(drained_sqlite.url, "SELECT * FROM `202_stream_run_places`") == []
    drained_sqlite.drain()
    assert drained_sqlite.rows() == before


async def test_no_reset_under_a_living_worker(drained_sqlite: Installation) -> None:
    before = drained_sqlite.show()["partitions"][0]["topics"]
    with Worker(drained_sqlite.env) as worker:
        worker.wait_ready()
        done = cli(*RESET, env=drained_sqlite.env)
        assert done.returncode == 1
        assert "are alive: 1" in done.stderr
        assert "stop all of them" in done.stderr
        assert worker.is_running()
        assert worker.stop() == 0
    assert drained_sqlite.show()["partitions"][0]["topics"] == before


async def test_no_reset_under_a_member_of_the_hours_group(drained_sqlite: Installation) -> None:
    env = drained_sqlite.env
    group_id = env["TOUCHSTREAM_APP_ID"] + "-hours"
    member = AIOKafkaConsumer(
        drained_sqlite.topic("journeys"), bootstrap_servers=env["TOUCHSTREAM_KAFKA"], group_id=group_id
    )
    await member.start()
    try:
        done = await asyncio.to_thread(cli, *RESET, env=env)
    finally:
        await member.stop()
    assert done.returncode == 1
    assert f'workers of group "{group_id}" are alive: 1' in done.stderr
    assert drained_sqlite.epochs() == [1, 1, 1]


async def test_a_reset_asks_first_and_takes_only_yes(drained_sqlite: Installation) -> None:
    before = drained_sqlite.show()
    for answer in (b"", b"n\n"):
        done = cli("progress", "reset", "--to-log-start", env=drained_sqlite.env, stdin=answer)
        assert done.returncode == 1
    assert drained_sqlite.show() == before
    assert cli("progress", "reset", "--to-log-start", env=drained_sqlite.env, stdin=b"y\n").returncode == 0
    assert drained_sqlite.epochs() == [2, 2, 2]


async def test_where_to_has_to_be_said(fresh_sqlite: str, tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", fresh_sqlite, tmp_path, partitions=1)
    done = cli("progress", "reset", env=env)
    assert done.returncode == 2
    assert "--to-log-start" in done.stderr


async def test_an_emptied_database_is_refused_and_a_reset_mends_it(drained_sqlite: Installation) -> None:
    before = drained_sqlite.rows()
    empty_sqlite(drained_sqlite.url)
    succeed("db", "upgrade", env=drained_sqlite.env)
    assert len(drained_sqlite.refusals()) == PARTITIONS
    said = drained_sqlite.refused_start()
    assert "the database knows nothing of this partition" in said
    assert "progress reset --to-log-start" in said
    text = succeed("progress", "show", env=drained_sqlite.env)
    assert "a start would be refused: partition 0: " in text
    assert "progress reset --to-log-start" in text.splitlines()[-1]
    succeed(*RESET, env=drained_sqlite.env)
    assert drained_sqlite.refusals() == set()
    drained_sqlite.drain()
    assert drained_sqlite.rows() == before


def empty_sqlite(url: str) -> None:
    path = sqlite_path(url)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sqlite_path(url: str) -> Path:
    return Path(url.partition("///")[2])


async def test_an_older_database_is_refused_and_a_reset_mends_it(drained_sqlite: Installation) -> None:
    path = sqlite_path(drained_sqlite.url)
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)  # nobody has it open: all is in this one file
    drained_sqlite.ingest()  # the same events again: no other rows, greater offsets
    drained_sqlite.drain()
    before = drained_sqlite.rows()
    empty_sqlite(drained_sqlite.url)
    shutil.copy(backup, path)
    assert len(drained_sqlite.refusals()) == PARTITIONS
    assert "the database is older" in drained_sqlite.refused_start()
    succeed(*RESET, env=drained_sqlite.env)
    drained_sqlite.drain()
    assert drained_sqlite.rows() == before


async def test_a_topic_created_anew_is_refused_and_a_reset_mends_it(drained: Installation) -> None:
    before = drained.rows()
    await drained.with_admin(lambda admin: admin.delete_topics([drained.topic("clicks")]))
    wait_for(lambda: "is missing" in cli("topics", "check", env=drained.env).stderr, "the topic to go")
    succeed("topics", "apply", env=drained.env)
    reasons = drained.refusals()
    assert len(reasons) == PARTITIONS
    assert all("was created anew" in reason for reason in reasons)
    assert "was created anew" in drained.refused_start()
    succeed(*RESET, env=drained.env)
    drained.drain()
    # The clicks are in the database alone now: journeys come out the same.
    assert drained.rows() == before
    assert drained.refusals() == set()


async def test_another_partition_count_is_refused_and_a_reset_mends_it(drained: Installation) -> None:
    before = drained.rows()
    partitioned = ("clicks", "conversions", "journeys", "attribution-snapshots", "attribution-credits")
    more = {drained.topic(name): NewPartitions(PARTITIONS + 2) for name in partitioned}
    await drained.with_admin(lambda admin: admin.create_partitions(more))
    wrong_setting = cli(*RESET, env=drained.env)
    assert wrong_setting.returncode == 1
    assert "TOUCHSTREAM_PARTITIONS=5" in wrong_setting.stderr
    drained.env["TOUCHSTREAM_PARTITIONS"] = "5"
    assert any("have 5 partitions now and had 3" in reason for reason in drained.refusals())
    succeed(*RESET, env=drained.env)
    drained.drain()  # records that lie on their old partition are sent on
    assert drained.rows() == before
    assert [each["partition_count"] for each in drained.show()["partitions"]] == [5] * 5


async def test_a_worker_of_before_cannot_spoil_the_new_changelog(drained_sqlite: Installation) -> None:
    before = drained_sqlite.rows()
    succeed(*RESET, env=drained_sqlite.env)
    producer = AIOKafkaProducer(bootstrap_servers=drained_sqlite.env["TOUCHSTREAM_KAFKA"])
    await producer.start()
    try:
        for partition in range(PARTITIONS):
            stale = (1).to_bytes(8, "big") + b"a state of epoch 1"
            await producer.send_and_wait(drained_sqlite.changelog, stale, key=b"1:1", partition=partition)
    finally:
        await producer.stop()
    with Worker(drained_sqlite.env) as worker:
        worker.wait_ready()
        succeed("status", "--wait-drained", "60", env=drained_sqlite.env)
        assert f"touchstream_state_stale_dropped {PARTITIONS}.0" in worker.health("/metrics")[1]
        assert worker.stop() == 0
    assert drained_sqlite.rows() == before


def test_the_record_of_an_epoch_is_the_one_that_the_engine_writes() -> None:
    from stream.engine import changelog  # noqa: PLC0415 - Faust, for this one test

    key, value = epoch_record(3, 70_000)
    assert key == changelog._MARK + b"3:70000"
    assert value == (70_000).to_bytes(changelog._EPOCH_BYTES, "big")
