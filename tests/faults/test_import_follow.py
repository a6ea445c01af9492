"""A source that is followed: its rows come and change, and import, source and broker go away and come back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.installation import Installation
from tests.support.processes import succeed, wait_for
from tests.support.prosper202 import Prosper202, installed
from tests.support.rows import difference, query
from tests.support.servers import RunningServer, running

BASE = 1_790_000_000
WITHIN_S = 20

_SOURCE_CLICKS = (
    "SELECT click_id, user_id, aff_campaign_id, click_time, click_cpc, click_bot, click_filtered FROM `202_clicks`"
)
_CLICKS = (
    "SELECT click_id, user_id, campaign_id, click_time, click_cpc, click_bot, click_filtered FROM `202_stream_clicks`"
)
_SOURCE_CONVERSIONS = (
    "SELECT conv_id, click_id, user_id, campaign_id, conv_time, click_payout, deleted, COALESCE(transaction_id, '')"
    " FROM `202_conversion_logs`"
)
_CONVERSIONS = (
    "SELECT conv_id, click_id, user_id, campaign_id, conv_time, click_payout, deleted, transaction_id"
    " FROM `202_stream_journeys`"
)


@pytest.fixture
def source(mariadb_url: str) -> Iterator[Prosper202]:
    with installed(mariadb_url) as made:
        yield made


@pytest.fixture
def target(kafka: str, fresh_sqlite: str, tmp_path: Path) -> Iterator[Installation]:
    made = Installation(kafka, fresh_sqlite, tmp_path, partitions=2, fire_interval_seconds=1)
    made.prepare()
    yield made
    made.remove()


class Following:
    """`import --follow` as a process; its output lies in files."""

    def __init__(self, source: Prosper202, target: Installation, *options: str) -> None:
        folder = Path(target.env["HOME"])
        self.said, self.warned = folder / "import.out", folder / "import.err"
        self._arguments = ["import", "--from", source.url, "--follow", *options]
        self._env = target.env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.said.open("ab") as said, self.warned.open("ab") as warned:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream", *self._arguments],
                env=self._env,
                cwd=self._env["HOME"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=warned,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def restart(self) -> None:
        """kill -9, and once more."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def warnings(self) -> str:
        assert self.process.poll() is None, self.warned.read_text()
        return self.warned.read_text()

    def wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        def holds() -> bool:
            assert self.process.poll() is None, f"import ended: {self.warned.read_text()}"
            return condition()

        try:
            wait_for(holds, what, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said.read_text()}\n{self.warned.read_text()}") from None


@contextlib.contextmanager
def following(source: Prosper202, target: Installation, *options: str) -> Iterator[Following]:
    made = Following(source, target, *options)
    made.start()
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def disagreement(source: Prosper202, target: Installation) -> str:
    """'' where our facts say what the rows of the source say."""
    texts = []
    for theirs, ours, what in (
        (_SOURCE_CLICKS, _CLICKS, "clicks"),
        (_SOURCE_CONVERSIONS, _CONVERSIONS, "conversions"),
    ):
        wanted = [tuple(map(str, row)) for row in source.rows(theirs)]
        texts.append(difference(wanted, [_as_text(row) for row in query(target.database_url, ours)], what=what))
    return "\n".join(text for text in texts if text)


def _as_text(row: tuple[Any, ...]) -> tuple[str, ...]:
    """SQLite gives numbers where MariaDB gives decimals of five places."""
    return (
        *map(str, row[:4]),
        *(f"{cell:.5f}" if place == _MONEY[len(row)] else str(cell) for place, cell in _rest(row)),
    )


_MONEY = {7: 4, 8: 5}  # place of the amount, by the number of columns


def _rest(row: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    yield from list(enumerate(row))[4:]


def agree(source: Prosper202, target: Installation, follower: Following, what: str) -> None:
    follower.wait_for(lambda: not disagreement(source, target), f"our facts to follow: {what}")


def records(target: Installation, topic: str) -> list[tuple[int, int]]:
    """Id and revision of each record."""
    name = "click_id" if topic == "clicks" else "conv_id"
    found = [json.loads(record.value) for record in target.read(topic)]
    return sorted((each[name], each.get("revised_at", 0)) for each in found)


def pass_polls(source: Prosper202, target: Installation, follower: Following) -> None:
    """Four new rows, each after the one before was sent."""
    for number in range(200, 204):
        source.add_clicks({"click_id": number})
        follower.wait_for(partial(_is_sent, target, number), "the next new row")


def _is_sent(target: Installation, click_id: int) -> bool:
    return (click_id, 0) in records(target, "clicks")


def small_source(source: Prosper202, *, clicks: int = 60) -> None:
    source.add_clicks(
        *({"click_id": number, "click_time": BASE + number, "click_cpc": "0.5"} for number in range(1, clicks + 1))
    )
    source.add_conversions(
        *(
            {
                "conv_id": number,
                "click_id": 3 * number,
                "conv_time": BASE + 3 * number + 60,
                "transaction_id": f"t{number}",
            }
            for number in range(1, 21)
        )
    )


def test_rows_that_come_and_change_are_followed_through_kills_of_the_import(
    source: Prosper202, target: Installation
) -> None:
    small_source(source)
    with target.worker() as worker, following(source, target, "--batch-size", "7") as follower:
        worker.wait_ready()
        agree(source, target, follower, "the rows that were there")
        source.add_clicks({"click_id": 61, "aff_campaign_id": 0, "click_time": BASE + 61})
        source.add_conversions({"conv_id": 21, "click_id": 61, "conv_time": BASE + 200})
        added_at = time.monotonic()
        agree(source, target, follower, "new rows")
        # A poll a second, a chunk and this test's own looking come to two or three; the rest is for a busy machine.
        assert time.monotonic() - added_at < WITHIN_S, "from the row in the source to its journey"
        follower.restart()
        source.execute(
            "UPDATE `202_conversion_logs` SET deleted = 1 WHERE conv_id IN (1, 20)",
            "UPDATE `202_conversion_logs` SET click_payout = 99.12345 WHERE conv_id IN (2, 19)",
            "UPDATE `202_clicks` SET click_cpc = 0.75, click_filtered = 1 WHERE click_id IN (5, 57)",
            "UPDATE `202_clicks` SET aff_campaign_id = 10 WHERE click_id = 61",
            "UPDATE `202_clicks` SET click_bot = 1 WHERE click_id = 58",
        )
        agree(source, target, follower, "soft deletes, payouts, costs, flags, and a campaign that became known")
        follower.restart()
        source.execute(
            "UPDATE `202_conversion_logs` SET deleted = 0 WHERE conv_id = 1",
            "UPDATE `202_conversion_logs` SET click_payout = 10 WHERE conv_id = 2",
        )
        source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(70, 120)))
        follower.restart()
        agree(source, target, follower, "changes taken back, and rows that came in between")
        succeed("status", "--wait-drained", "60", env=target.env)
        touched = query(target.database_url, "SELECT DISTINCT conv_id FROM `202_conversion_touchpoints` ORDER BY 1")
        assert [conv_id for (conv_id,) in touched] == [*range(1, 20), 21]
        assert follower.stop() == 0
        assert worker.stop() == 0
    assert "had changed since they were sent before" in follower.said.read_text()
    assert follower.warned.read_text() == ""


def test_rows_that_are_committed_late_are_found_near_the_end_and_far_from_it(
    source: Prosper202, target: Installation
) -> None:
    source.add_clicks(
        *({"click_id": number, "click_time": BASE + number} for number in range(2, 2600) if number != 2500)
    )
    source.add_conversions({"conv_id": 2})
    with target.worker() as worker, following(source, target, "--batch-size", "50") as follower:
        worker.wait_ready()
        agree(source, target, follower, "the rows that were there")
        source.add_clicks({"click_id": 1, "click_time": BASE + 1}, {"click_id": 2500, "click_time": BASE + 2500})
        source.add_conversions({"conv_id": 1})
        agree(source, target, follower, "rows with lesser ids than those that were sent")
        assert follower.stop(signal.SIGINT) == 0


def test_what_has_not_passed_the_workers_is_not_sent_again(source: Prosper202, target: Installation) -> None:
    small_source(source)
    with following(source, target, "--batch-size", "7") as follower:
        follower.wait_for(lambda: len(records(target, "conversions")) == 20, "all to be sent")
        source.execute("UPDATE `202_conversion_logs` SET deleted = 1 WHERE conv_id = 3")
        pass_polls(source, target, follower)
        assert len(records(target, "clicks")) == 60 + 4
        assert records(target, "conversions") == [(number, 0) for number in range(1, 21)]
        with target.worker() as worker:
            worker.wait_ready()
            agree(source, target, follower, "the change that had to wait")
        assert follower.stop() == 0
    assert len([each for each in records(target, "conversions") if each[0] == 3]) == 2


def test_changes_that_no_worker_takes_are_told_once_and_not_sent_for_ever(
    source: Prosper202, target: Installation
) -> None:
    small_source(source)
    far = target.now + 40 * 86_400  # no worker believes that yet
    with target.worker() as worker, following(source, target) as follower:
        worker.wait_ready()
        agree(source, target, follower, "the rows that were there")
        source.execute(
            "UPDATE `202_clicks` SET user_id = 2 WHERE click_id = 5",
            "UPDATE `202_conversion_logs` SET click_id = 4 WHERE conv_id = 5",
        )
        source.add_clicks({"click_id": 100, "click_time": far})
        follower.wait_for(lambda: "id 100 was sent" in follower.warnings(), "it to give up")
        pass_polls(source, target, follower)
        warnings = follower.warnings().splitlines()
        assert sorted(line.partition(":")[0] for line in warnings) == ["not sent", "not sent", "not sent again"]
        sent = records(target, "clicks")
        assert [each for each in sent if each[0] == 5] == [(5, 0)]
        assert len([each for each in sent if each[0] == 100]) <= 2
        assert [each for each in records(target, "conversions") if each[0] == 5] == [(5, 0)]
        assert follower.stop() == 0


def test_a_source_a_broker_and_our_own_database_that_go_away_are_waited_for(
    own_kafka: RunningServer, own_mariadb: RunningServer, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running("mariadb"))
        target = Installation(own_kafka.address, ours.value, tmp_path, partitions=2)
        target.prepare()
        source = stack.enter_context(installed(own_mariadb.value))
        small_source(source)
        worker = stack.enter_context(target.worker())
        worker.wait_ready()
        follower = stack.enter_context(following(source, target))
        agree(source, target, follower, "the rows that were there")

        own_mariadb.signal(signal.SIGKILL)
        follower.wait_for(lambda: "waiting: source" in follower.warnings(), "it to say what it waits for")
        own_mariadb.start()
        source.execute("UPDATE `202_conversion_logs` SET deleted = 1 WHERE conv_id = 7")
        source.add_clicks({"click_id": 100})
        agree(source, target, follower, "what happened after the source came back")
        assert "going on" in follower.warnings()

        own_kafka.stop()
        source.add_clicks({"click_id": 101})
        follower.wait_for(lambda: "waiting: Kafka" in follower.warnings(), "it to say what it waits for", seconds=90)
        source.execute("UPDATE `202_conversion_logs` SET click_payout = 77 WHERE conv_id = 8")
        own_kafka.start()
        worker.wait_ready(seconds=120)
        agree(source, target, follower, "what happened while the broker was away")

        ours.signal(signal.SIGKILL)
        source.execute("UPDATE `202_conversion_logs` SET click_payout = 88 WHERE conv_id = 9")
        follower.wait_for(lambda: follower.warnings().count("waiting: ") == 3, "it to say what it waits for")
        ours.start()
        worker.wait_ready(seconds=120)
        agree(source, target, follower, "what happened while our database was away")
        assert follower.stop() == 0
        assert worker.stop() == 0
    said = follower.warned.read_text()
    assert (said.count("waiting: "), said.count("going on")) == (3, 3), said


def test_a_first_pass_that_is_killed_goes_on_where_it_was(source: Prosper202, target: Installation) -> None:
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 3001)))
    arguments = ["import", "--from", source.url, "--batch-size", "25"]
    with subprocess.Popen(
        [sys.executable, "-m", "stream", *arguments],
        env=target.env,
        cwd=target.env["HOME"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:
        wait_for(lambda: len(target.read("clicks")) > 300, "it to be under way")
        os.kill(killed.pid, signal.SIGKILL)
    before = len(target.read("clicks"))
    assert before < 3000, "it was done before it could be killed"
    succeed(*arguments, env=target.env)
    sent = [each for each, _ in records(target, "clicks")]
    assert sorted(set(sent)) == list(range(1, 3001))
    assert len(sent) <= 3000 + 2 * 25, "no more than what was not noted is sent again"
