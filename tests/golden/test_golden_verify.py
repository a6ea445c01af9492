"""Does a verification find what a worker leaves right, every single row that was changed by hand, and write nothing?"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from tests.support import golden
from tests.support.hour_rows import store_golden_models
from tests.support.processes import (
    PRODUCT,
    Environment,
    Worker,
    cli,
    environment,
    remove_topics,
    succeed,
    wait_for,
    with_own_port,
)
from tests.support.rebuilds import execute
from tests.support.rows import query
from tests.support.verifying import ends_of_topics, hashes_of_rows, verify, verify_as_json

BOTH = pytest.mark.parametrize("database", ["sqlite", "mariadb"])
MARIADB_FIRST = pytest.mark.parametrize("database", ["mariadb", pytest.param("sqlite", marks=pytest.mark.full)])


class Installation:
    """A golden set that workers have processed; they are gone."""

    def __init__(self, kafka: str, url: str, folder: Path, *, now: int, partitions: int, workers: int) -> None:
        folder.mkdir(exist_ok=True)
        self.url = url
        self.env: Environment = environment(kafka, url, folder, partitions=partitions, fire_interval_seconds=1)
        vectors = golden.load_before("sparse", now)
        times = [line.event_time for line in vectors.conversions]
        self.range = ("--start", str(min(times)), "--end", str(max(times)))
        self._lines = [
            golden.write_lines(folder / f"{kind}.jsonl", lines)
            for kind, lines in (("clicks", vectors.clicks), ("conversions", vectors.conversions))
        ]
        self._workers = workers

    async def process(self) -> None:
        await self.prepare()
        with self.working():
            pass

    async def prepare(self) -> None:
        """All is in the log."""
        succeed("db", "upgrade", env=self.env)
        succeed("topics", "apply", env=self.env)
        await store_golden_models(self.url, "sparse")
        succeed("ingest", "--clicks", self._lines[0], "--conversions", self._lines[1], env=self.env)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Drained when left."""
        with ExitStack() as running:
            workers = [running.enter_context(Worker(with_own_port(self.env))) for _ in range(self._workers)]
            yield
            succeed("status", "--wait-drained", "60", env=self.env)
            assert [worker.stop() for worker in workers] == [0] * len(workers)


Make = Callable[..., Installation]


@pytest.fixture
async def make(request: pytest.FixtureRequest, kafka: str, tmp_path: Path) -> AsyncIterator[Make]:
    now, made = int(time.time()), list[Installation]()

    def one(database: str, *, partitions: int = 4, workers: int = 1) -> Installation:
        url = request.getfixturevalue(f"fresh_{database}")
        made.append(
            Installation(kafka, url, tmp_path / f"{len(made)}", now=now, partitions=partitions, workers=workers)
        )
        return made[-1]

    yield one
    for each in made:
        await remove_topics(each.env)


async def test_installations_with_the_same_log_have_the_same_certificate(make: Make) -> None:
    """Made live, or by a replay and a rebuild where no worker ever was; the workers that come then change nothing."""
    small, great = make("sqlite", partitions=1), make("mariadb", partitions=4, workers=2)
    await small.process()
    await great.prepare()
    succeed("replay", *great.range, "--workers", "2", "--batch-size", "7", env=great.env)
    succeed("rebuild", *great.range, env=great.env)
    replayed = verify(great.env, *great.range)
    assert (replayed.exit_code, replayed.lines) == (0, ["0 differences"])
    assert replayed.errors.startswith("warning: workers are ")
    with great.working():
        pass
    one, other = verify(small.env, *small.range), verify(great.env, *great.range, "--workers", "2", "--batch-size", "7")
    for verified in (one, other):
        assert (verified.exit_code, verified.lines, verified.errors) == (0, ["0 differences"], "")
    assert one.certificate == other.certificate == replayed.certificate
    assert list(one.days) == list(other.days)
    assert len(one.days) > 10
    # A single account, and a part of the range, are other certificates with the same days in them.
    of_user = verify(great.env, *great.range, "--user", "2")
    assert of_user.lines == ["0 differences"]
    assert list(of_user.days) == [line for line in one.days if " user 2 " in line]
    assert of_user.certificate != one.certificate
    said = verify_as_json(great.env, *great.range)
    assert (said["ok"], said["differences"], said["certificate"]["digest"]) == (True, 0, one.certificate)
    assert [each["digest"] for each in said["certificate"]["days"]] == [line.split()[3] for line in one.days]


class Change(NamedTuple):
    """Made by hand, and taken back. `told`: the kind of row, and words of the only difference."""

    done: tuple[str, ...]
    undone: tuple[str, ...]
    told: tuple[str, ...]


def changes(url: str) -> Iterator[Change]:
    ((conv_id, click_id, at, number),) = query(
        url,
        "SELECT conv_id, click_id, click_time, touchpoint_id FROM `202_conversion_touchpoints` WHERE position = 1"
        " ORDER BY conv_id LIMIT 1",
    )
    touchpoint = f"`202_conversion_touchpoints` WHERE touchpoint_id = {number}"
    yield Change(
        (f"DELETE FROM {touchpoint}",),
        (
            "INSERT INTO `202_conversion_touchpoints` (touchpoint_id, conv_id, click_id, click_time, position,"
            f" created_at) VALUES ({number}, {conv_id}, {click_id}, {at}, 1, 1)",
        ),
        (f"touchpoint conversion {conv_id} position 1: expected click_id {click_id}", "found nothing"),
    )
    yield Change(
        (f"UPDATE `202_conversion_touchpoints` SET click_time = {at + 1} WHERE touchpoint_id = {number}",),
        (f"UPDATE `202_conversion_touchpoints` SET click_time = {at} WHERE touchpoint_id = {number}",),
        (f"touchpoint conversion {conv_id} position 1: expected click_time {at}, found click_time {at + 1}",),
    )
    for conversion in (conv_id, 4_000_000):
        yield Change(
            (
                "INSERT INTO `202_conversion_touchpoints` (touchpoint_id, conv_id, click_id, click_time, position,"
                f" created_at) VALUES (9000001, {conversion}, {click_id}, {at}, 1, 1)",
            ),
            ("DELETE FROM `202_conversion_touchpoints` WHERE touchpoint_id = 9000001",),
            (f"touchpoint conversion {conversion} position 1: expected nothing, found click_id {click_id}",),
        )
    yield Change(
        (f"UPDATE `202_stream_journeys` SET conv_id = 4000000 WHERE conv_id = {conv_id}",),
        (f"UPDATE `202_stream_journeys` SET conv_id = {conv_id} WHERE conv_id = 4000000",),
        (f"journey conversion {conv_id}: expected", "journey conversion 4000000: expected nothing"),
    )
    yield Change(
        (
            f"UPDATE `202_stream_journeys` SET conv_time = conv_time + 1, click_payout = click_payout + 1"
            f" WHERE conv_id = {conv_id}",
        ),
        (
            f"UPDATE `202_stream_journeys` SET conv_time = conv_time - 1, click_payout = click_payout - 1"
            f" WHERE conv_id = {conv_id}",
        ),
        (f"journey conversion {conv_id}: expected conv_time", "click_payout"),
    )
    ((snapshot_id, date_hour),) = query(
        url,
        "SELECT snapshot_id, date_hour FROM `202_attribution_snapshots` WHERE scope_type = 'campaign'"
        " ORDER BY snapshot_id LIMIT 1",
    )
    for column, step in (("attributed_revenue", "0.0001"), ("attributed_clicks", "1")):
        yield Change(
            (f"UPDATE `202_attribution_snapshots` SET {column} = {column} + {step} WHERE snapshot_id = {snapshot_id}",),
            (f"UPDATE `202_attribution_snapshots` SET {column} = {column} - {step} WHERE snapshot_id = {snapshot_id}",),
            ("snapshot user", column.removeprefix("attributed_")),
        )
    yield Change(
        (
            "INSERT INTO `202_attribution_snapshots` (snapshot_id, model_id, user_id, scope_type, scope_id, date_hour,"
            " lookback_start, lookback_end, attributed_clicks, created_at)"
            f" VALUES (9000001, 100, 1, 'campaign', 77, {date_hour}, 0, 0, 5, 1)",
        ),
        ("DELETE FROM `202_attribution_snapshots` WHERE snapshot_id = 9000001",),
        ("snapshot user 1", "expected nothing, found clicks 5"),
    )
    ((number, snapshot_id, conv_id, click_id, position, credit),) = query(
        url,
        "SELECT touchpoint_id, snapshot_id, conv_id, click_id, position, credit FROM `202_attribution_touchpoints`"
        " ORDER BY touchpoint_id LIMIT 1",
    )
    there = (
        "INSERT INTO `202_attribution_touchpoints` (touchpoint_id, snapshot_id, conv_id, click_id, position, credit,"
    )
    yield Change(
        (f"DELETE FROM `202_attribution_touchpoints` WHERE touchpoint_id = {number}",),
        (
            f"{there} weight, created_at) VALUES ({number}, {snapshot_id}, {conv_id}, {click_id}, {position},"
            f" {credit}, {credit}, 1)",
        ),
        ("credit user", f"conversion {conv_id} position {position}", "found nothing"),
    )
    yield Change(
        (f"{there} weight, created_at) VALUES (9000001, 9000001, {conv_id}, {click_id}, 0, 1, 1, 1)",),
        ("DELETE FROM `202_attribution_touchpoints` WHERE touchpoint_id = 9000001",),
        (f"credit without snapshot conversion {conv_id}",),
    )
    yield Change(
        (f"UPDATE `202_attribution_touchpoints` SET credit = credit + 0.00001 WHERE touchpoint_id = {number}",),
        (f"UPDATE `202_attribution_touchpoints` SET credit = {credit} WHERE touchpoint_id = {number}",),
        ("credit user", "unlike its weight"),
    )
    ((payout,),) = query(url, f"SELECT click_payout FROM `202_conversion_logs` WHERE conv_id = {conv_id}")
    yield Change(
        (f"UPDATE `202_conversion_logs` SET click_payout = click_payout + 1 WHERE conv_id = {conv_id}",),
        (f"UPDATE `202_conversion_logs` SET click_payout = {payout} WHERE conv_id = {conv_id}",),
        (f"conversion log conversion {conv_id}: expected click_payout",),
    )


@MARIADB_FIRST
@pytest.mark.parametrize("share", [0, pytest.param(1, marks=pytest.mark.full)])
async def test_every_row_that_was_changed_by_hand_is_found_alone(make: Make, database: str, share: int) -> None:
    made = make(database)
    await made.process()
    right = verify(made.env, *made.range)
    assert right.lines == ["0 differences"]
    for change in list(changes(made.url))[share::2]:
        for statement in change.done:
            await asyncio.to_thread(execute, made.url, statement)
        found = verify(made.env, *made.range)
        for statement in change.undone:
            await asyncio.to_thread(execute, made.url, statement)
        told = len([words for words in change.told if ": expected" in words]) or 1
        assert len(found.lines) == told + 1, (change, found.lines)
        assert all(words in "\n".join(found.lines) for words in change.told), (change, found.lines)
        assert (found.exit_code, found.lines[-1]) == (1, f"{told} differences")
        assert "hint: " in found.errors
    # A journey row that is missing is one difference, and no touchpoint or credit of it is another.
    journey = query(made.url, "SELECT MAX(conv_id) FROM `202_stream_journeys` WHERE outcome = 'counted'")[0][0]
    await asyncio.to_thread(execute, made.url, f"DELETE FROM `202_stream_journeys` WHERE conv_id = {journey}")
    found = verify(made.env, *made.range)
    assert [line.split(":")[0] for line in found.lines] == [f"journey conversion {journey}", "1 differences"]


def stop_half_way(made: Installation) -> None:
    """Asserts that it says so, and leaves no file."""
    data = Path(made.env["TOUCHSTREAM_DATA_DIR"])
    process = subprocess.Popen(
        [sys.executable, "-m", PRODUCT, "replay", "--verify", *made.range],
        env=made.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: bool(list(data.glob("verify-*/computed.db"))), "the database of the verification")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors.decode()) == (1, "error: stopped\nhint: the same command begins anew\n")
    assert list(data.glob("*verify-*")) == []


@BOTH
async def test_nothing_is_written_and_no_file_is_left(make: Make, database: str) -> None:
    made = make(database)
    await made.process()
    before = (hashes_of_rows(made.url), await ends_of_topics(made.env))
    assert verify(made.env, *made.range).exit_code == 0
    await asyncio.to_thread(stop_half_way, made)
    assert (hashes_of_rows(made.url), await ends_of_topics(made.env)) == before


@MARIADB_FIRST
async def test_what_the_log_cannot_tell_is_no_difference(make: Make, database: str) -> None:
    """Journeys that were purged, settings, a log that was cut, and workers that lag: said, where it is to be said."""
    made = make(database)
    await made.process()
    purged = [str(row[0]) for row in query(made.url, "SELECT conv_id FROM `202_stream_journeys` WHERE user_id = 1")][:7]
    times = query(made.url, "SELECT MAX(conv_time) FROM `202_stream_journeys`")[0][0]
    with made.working():
        succeed("purge", *(part for conv_id in purged for part in ("--conversion", conv_id)), env=made.env)
        off = ("--scope", "global", "--multi-touch", "off", "--since", str(times - 86_400))
        succeed("settings", "set", "--user", "3", *off, env=made.env)
    verified = verify(made.env, *made.range)
    assert verified.lines[-1] == "0 differences"
    assert "hours were not compared: computed with other models or settings" in verified.lines[0]
    succeed("rebuild", "--user", "3", *made.range, env=made.env)
    assert "records behind" not in verified.errors
    assert verify(made.env, *made.range).lines == ["0 differences"]
    await _cut(made.env)
    refused = cli("replay", "--verify", *made.range, env=made.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the log begins at" in refused.stderr
    assert "hint: --allow-incomplete verifies" in refused.stderr
    verified = verify(made.env, *made.range, "--allow-incomplete")
    assert (verified.exit_code, verified.lines[-1]) == (0, "0 differences")
    assert "conversions cannot be verified: the log begins after what they rest on" in verified.lines[0]


async def test_workers_that_lag_are_said_first(make: Make) -> None:
    made = make("sqlite", partitions=1)
    await made.process()
    newest = query(made.url, "SELECT MAX(conv_time), MAX(conv_id) FROM `202_stream_journeys`")[0]
    late = {"conv_id": newest[1] + 1, "click_id": 1, "user_id": 1, "campaign_id": 10, "click_payout": 1}
    late |= {"click_time": newest[0] - 60, "conv_time": newest[0]}
    folder = Path(made.env["HOME"])
    (folder / "late.jsonl").write_text(json.dumps(late) + "\n")
    succeed("ingest", "--conversions", folder / "late.jsonl", env=made.env)
    found = verify(made.env, *made.range)
    assert found.errors.startswith("warning: workers are 1 records behind: differences may be theirs\n")
    assert found.exit_code == 1
    assert any(line.startswith(f"journey conversion {late['conv_id']}: ") for line in found.lines)


def test_options_that_do_not_go_together_are_wrong_usage(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", f"sqlite+aiosqlite:///{tmp_path / 'no.db'}", tmp_path, partitions=1)
    for other in (("--dry-run",), ("--resume", "1")):
        done = cli("replay", "--verify", *other, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--verify goes with neither" in done.stderr


async def _cut(env: Environment) -> None:
    """The first half of each source partition is removed, as retention does it."""
    ends = await ends_of_topics(env)
    sources = {env["TOUCHSTREAM_TOPIC_PREFIX"] + name for name in ("clicks", "conversions")}
    admin = AIOKafkaAdminClient(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    await admin.start()
    try:
        for name, end in ends.items():
            topic, _, part = name.rpartition("/")
            if topic in sources and end > 1:
                await admin.delete_records({TopicPartition(topic, int(part)): RecordsToDelete(end // 2)})
    finally:
        await admin.close()
