"""Replays beside workers at work, behind them, without them, after kills: rows, hours and topics as the oracle says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.conftest import Install
from tests.faults.events import Story
from tests.faults.installation import Installation
from tests.support.hour_books import disagreement
from tests.support.hour_oracle import Model, earnings_of, expected_hours
from tests.support.hour_rows import read_books, read_hours, read_revisions, store_models
from tests.support.processes import Worker, cli, succeed, wait_for
from tests.support.rebuilds import execute
from tests.support.replay_with_faults import EXIT_CODE
from tests.support.rows import differences, query
from tests.support.traffic import DAY, Rates, traffic

RATES = Rates(
    conversions=0.3, late=0.3, revised_clicks=0.25, campaign_later=0.15, other_campaign=0.25, revised_conversions=0.2,
    same_transaction=0.25,
)  # fmt: skip
MODELS = [
    Model(user_id, user_id * 100 + number, kind, config)
    for user_id in range(1, 4)
    for number, (kind, config) in enumerate(
        (("last_touch", {}), ("linear", {}), ("time_decay", {"half_life_hours": 9}))
    )
]
TOUCHPOINTS = "SELECT touchpoint_id, conv_id, position, click_id FROM `202_conversion_touchpoints`"


class Replays:
    """An installation, and replays of everything in it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.url, self.env = installation.database_url, installation.env
        store_models(self.url, MODELS)

    def everything(self, *, days: int = 45) -> tuple[str, ...]:
        now = self.installation.now
        return "--start", str(now - days * DAY), "--end", str(now)

    def replay(self, *options: str) -> dict[str, Any]:
        """What it says of itself."""
        said: dict[str, Any] = json.loads(succeed("replay", *self.everything(), *options, "--json", env=self.env))
        assert said["ok"] is True
        return said

    def killed(self, place: str) -> None:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.support.replay_with_faults",
                "replay",
                *self.everything(),
                "--batch-size",
                "10",
            ],
            env=self.env | {"TESTFAULT_REPLAY_EXIT_AT": place},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == EXIT_CODE, f"{place}: {done.stdout.decode()}{done.stderr.decode()}"
        self.let_lease_end()

    def let_lease_end(self) -> None:
        """As if half a minute had gone by since the kill."""
        refused = cli("replay", *self.everything(), env=self.env)
        assert refused.returncode == 1
        assert "is at work" in refused.stderr
        execute(self.url, "UPDATE `202_stream_runs` SET lease_until = 1")

    def computed_in_part(self) -> int:
        """Partitions whose journeys were begun and are not done."""
        places = [json.loads(place) for (place,) in query(self.url, "SELECT place FROM `202_stream_run_places`")]
        return sum(place["phase"] == "journeys" and bool(place.get("after")) for place in places)

    def worker(self, **faults: int) -> Worker:
        return self.installation.worker(name="worker", **faults)

    def drain(self) -> None:
        succeed("status", "--wait-drained", "90", env=self.env)

    def check_rows(self) -> None:
        wanted = self.installation.expected()
        assert differences(wanted, self.url) == ""
        found = read_hours(self.url)
        assert disagreement(expected_hours(earnings_of(wanted), MODELS), found) == ""
        assert disagreement(found, asyncio.run(read_books(self.env)).read(), what="topics") == ""
        read_revisions(self.url)

    def check(self) -> None:
        self.installation.assert_right()
        self.check_rows()


def made(install: Install, database_url: str, *, partitions: int = 3, **settings: str | float) -> Replays:
    options: dict[str, Any] = {"chunk_records": 40, "fire_interval_seconds": 0.3, **settings}
    return Replays(install(database_url, partitions=partitions, **options))


def test_replays_beside_live_traffic_into_the_same_hours(install: Install, fresh_mariadb: str) -> None:
    replays = made(install, fresh_mariadb)
    sent = traffic(21, 3000, now=replays.installation.now, rates=RATES)
    replays.installation.send(sent[:1500])
    with replays.worker() as worker:
        with replays.installation.sending(sent[1500:]):
            replays.replay("--workers", "2", "--batch-size", "7")
            replays.replay("--batch-size", "100")
        replays.drain()
        replays.check()
        ids = sorted(query(replays.url, TOUCHPOINTS))
        assert replays.replay()["written"] == 0
        assert sorted(query(replays.url, TOUCHPOINTS)) == ids
        replays.drain()
        replays.check()
        assert worker.stop() == 0


def test_a_lagging_worker_remembers_nothing_wrong_afterwards(install: Install, fresh_database: str) -> None:
    """It is stopped, the replay stores revisions that it has not come to, and it wakes up."""
    replays = made(install, fresh_database)
    installation, story = replays.installation, Story(replays.installation.now)
    with replays.worker() as worker:
        installation.send(story.before())
        replays.drain()
        worker.signal(signal.SIGSTOP)
        installation.send(story.revisions())
        assert replays.replay()["revised"] == len(story.revisions())
        worker.signal(signal.SIGCONT)
        for number in range(3):
            installation.send(story.after(number))
        replays.drain()
        replays.check()
        assert worker.stop() == 0
        assert "another owner" not in worker.log_text()


def test_a_worker_after_a_replay_without_one_that_was_killed_half_way(install: Install, fresh_mariadb: str) -> None:
    """With both of its processes, in the midst of the journeys; the same command then computes the rest alone."""
    replays = made(install, fresh_mariadb)
    replays.installation.send(traffic(22, 1500, now=replays.installation.now, rates=RATES))
    replaying = subprocess.Popen(
        [sys.executable, "-m", "stream", "replay", *replays.everything(), "--workers", "2", "--batch-size", "1"],
        env=replays.env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: replays.computed_in_part() == 2, "both processes to be under way", seconds=60)
    finally:
        os.killpg(replaying.pid, signal.SIGKILL)
    assert replaying.wait(10) == -signal.SIGKILL
    assert replays.computed_in_part() > 0, "it was done before it could be killed"
    conversions = query(replays.url, "SELECT COUNT(*) FROM `202_stream_journeys`")[0][0]
    replays.let_lease_end()
    said = replays.replay("--workers", "2")
    assert said["unreadable"] == said["new_clicks"] == 0, "all facts were stored before"
    assert 0 < said["conversions"] < conversions
    with replays.worker() as worker:
        replays.drain()
        replays.check()
        assert worker.stop() == 0


def test_two_overlapping_replays_at_once_with_other_sizes_of_batches(install: Install, fresh_mariadb: str) -> None:
    replays = made(install, fresh_mariadb)
    replays.installation.send(traffic(23, 1500, now=replays.installation.now, rates=RATES))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "stream", "replay", *replays.everything(days=days), "--batch-size", size],
            env=replays.env,
            stdout=subprocess.DEVNULL,
        )
        for days, size in ((45, "3"), (44, "200"))
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    assert replays.replay()["written"] == 0
    with replays.worker() as worker:
        replays.drain()
        replays.check()
        assert worker.stop() == 0


def test_after_kills_between_commit_and_sending_hours_follow(install: Install, fresh_mariadb: str) -> None:
    """Nobody else would tell them: the workers have passed all of the log."""
    replays = made(install, fresh_mariadb)
    replays.installation.send(traffic(24, 1200, now=replays.installation.now, rates=RATES))
    with replays.worker() as worker:
        replays.drain()
        for gone in ("202_stream_clicks", "202_stream_journeys", "202_conversion_touchpoints", "202_conversion_logs"):
            execute(replays.url, f"DELETE FROM `{gone}` WHERE MOD({_id_of(gone)}, 3) = 1")
        succeed("rebuild", "--start", "1", "--end", str(replays.installation.now), "--force", env=replays.env)
        replays.drain()
        for place in ("chunk-stored:1", "chunk-stored:3", "chunk-sent:1", "batch-stored:2", "batch-sent:2"):
            replays.killed(place)
        replays.replay("--batch-size", "11")
        replays.drain()
        replays.check_rows()
        succeed("purge", *replays.everything(), env=replays.env)
        replays.drain()
        for place in ("batch-stored:1", "batch-sent:1", "batch-stored:3"):
            replays.killed(place)
        replays.replay()
        replays.drain()
        replays.check_rows()
        assert worker.stop() == 0


def _id_of(relation: str) -> str:
    return "click_id" if relation == "202_stream_clicks" else "conv_id"


@pytest.mark.full
def test_replays_beside_a_worker_that_loses_state_and_replies(install: Install, fresh_database: str) -> None:
    replays = made(install, fresh_database)
    sent = traffic(25, 4000, now=replays.installation.now, rates=RATES)
    with replays.worker(lose_reply=5, drop_state=1) as worker:
        with replays.installation.sending(sent):
            for size in ("5", "50", "500"):
                replays.replay("--workers", "3", "--batch-size", size)
        replays.drain()
        replays.check()
        assert worker.stop() == 0
