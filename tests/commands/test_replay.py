"""`replay` asked for what cannot be, or away from its servers: what does it say, and with which exit code?"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.faults.events import HOUR, click, conversion
from tests.faults.installation import Installation
from tests.support.processes import PRODUCT, Environment, cli, succeed
from tests.support.rebuilds import execute
from tests.support.replays import lately, partition_of_clicks, refused
from tests.support.rows import difference, query, read_touchpoints
from tests.support.traffic import DAY

TABLES = ("202_stream_clicks", "202_stream_journeys", "202_stream_progress", "202_stream_runs", "202_stream_run_places")


def rows(installation: Installation) -> list[list[tuple[Any, ...]]]:
    return [query(installation.database_url, f"SELECT * FROM `{relation}`") for relation in TABLES]


# Without a broker: each is refused before one is asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--start", "2026-02-01", "--end", "2026-01-01"), "is after --end"),
        (("--batch-size", "0"), "--batch-size"),
        (("--workers", "0"), "--workers"),
        (("--user", "0"), "--user"),
        (("--start", "4000000000", "--end", "4000000001"), "future"),
        (("--user", "77"), "unknown user 77"),
        (("--resume", "12"), "there is no replay 12"),
        (("--resume", "12", "--user", "1"), "--resume has the users"),
        (("--resume", "12", "--journeys-only"), "--resume has the users"),
        (("--resume", "12", "--allow-incomplete"), "--resume has the users"),
        (("--user", "77", "--journeys-only"), "the log is asked without --journeys-only"),
        (("--start", "yesterday"), "--start"),
        (("--verify", "--journeys-only"), "--verify goes with"),
    ],
)
def test_what_cannot_be_is_wrong_usage(sqlite_env: Environment, options: tuple[str, ...], says: str) -> None:
    assert says in refused(*options, env=sqlite_env, code=2)


def test_a_finished_replay_cannot_be_resumed(sqlite_env: Environment) -> None:
    put_finished_run(sqlite_env["TOUCHSTREAM_DATABASE_URL"])
    assert "has finished" in refused("--resume", "1", env=sqlite_env, code=2)


def test_an_absent_broker_is_named(sqlite_env: Environment) -> None:
    assert "127.0.0.1:1" in refused(env=sqlite_env, code=1)


def test_an_absent_database_is_named(sqlite_env: Environment) -> None:
    env = sqlite_env | {"TOUCHSTREAM_DATABASE_URL": "mysql+asyncmy://u:p@127.0.0.1:1/db"}
    assert "127.0.0.1" in refused(env=env, code=1)


def put_finished_run(url: str) -> None:
    arguments = json.dumps({"users": [], "start": 5, "end": 9, "allow_incomplete": False})
    execute(
        url,
        "INSERT INTO `202_stream_runs` (kind, user_id, range_start, range_end, state, owner, lease_until, arguments,"
        f" started_at) VALUES ('replay', 0, 5, 9, 'finished', 'somebody', 1, '{arguments}', 1)",
    )


# With a log


def test_topics_that_are_missing_are_named(kafka: str, sqlite_env: Environment) -> None:
    said = refused(env=sqlite_env | {"TOUCHSTREAM_KAFKA": kafka}, code=1)
    assert "clicks" in said
    assert "topics apply" in said


def test_a_dry_run_tells_and_writes_nothing(installation: Installation) -> None:
    before = rows(installation)
    said = succeed("replay", *lately(installation), "--dry-run", env=installation.env)
    assert "29 records to read from 1 partitions, 0 stored conversions to compute" in said
    told = json.loads(succeed("replay", *lately(installation), "--dry-run", "--json", env=installation.env))
    assert told == {"ok": True, "records": 29, "conversions": 0}
    assert rows(installation) == before


def test_journeys_alone_are_computed_of_what_is_stored_and_nothing_of_the_log_is_read(
    installation: Installation,
) -> None:
    env, again = installation.env, (*lately(installation), "--journeys-only", "--json")
    assert json.loads(succeed("replay", *again, env=env))["conversions"] == 0
    assert query(installation.database_url, "SELECT COUNT(*) FROM `202_stream_clicks`") == [(0,)]
    succeed("replay", *lately(installation), env=env)
    installation.send([conversion(2, 28, installation.now - DAY)])
    succeed("purge", "--conversion", "1", env=env)
    told = json.loads(succeed("replay", *again, env=env))
    assert (told["records"], told["conversions"], told["touchpoints"], told["written"]) == (0, 1, 25, 1)
    assert len(read_touchpoints(installation.database_url)) == 25
    told = json.loads(succeed("replay", *again, "--workers", "2", env=env))
    assert (told["conversions"], told["written"]) == (1, 0)


def test_start_and_end_are_both_included(installation: Installation) -> None:
    at = installation.now - DAY
    succeed("replay", *lately(installation), env=installation.env)
    execute(installation.database_url, "DELETE FROM `202_conversion_touchpoints`")
    for start, end, written in ((at - HOUR, at - 1, 0), (at + 1, at + HOUR, 0), (at, at, 1), (at, at, 0)):
        said = succeed("replay", "--start", str(start), "--end", str(end), "--json", env=installation.env)
        assert json.loads(said)["written"] == written


def test_the_same_replay_twice_at_once_is_refused_and_another_is_not(installation: Installation) -> None:
    start, end = installation.now - 2 * DAY, installation.now
    succeed("replay", *lately(installation), env=installation.env)
    at_work = f"state = 'running', owner = 'somebody', lease_until = {int(time.time()) + 60}"
    execute(installation.database_url, f"UPDATE `202_stream_runs` SET {at_work}")
    said = refused(*lately(installation), env=installation.env, code=1)
    assert "replay 1 of this range is at work (somebody)" in said
    assert "hint: wait for its end" in said
    said = refused("--resume", "1", env=installation.env, code=1)
    assert "is at work" in said
    succeed("replay", "--start", str(start + 1), "--end", str(end), env=installation.env)
    execute(installation.database_url, "UPDATE `202_stream_runs` SET lease_until = 1 WHERE run_id = 1")
    assert "replay 1:" in succeed("replay", "--resume", "1", env=installation.env)
    states = query(installation.database_url, "SELECT run_id, state FROM `202_stream_runs` ORDER BY run_id")
    assert states == [(1, "finished"), (2, "finished")]
    assert query(installation.database_url, "SELECT * FROM `202_stream_run_places`") == []


def on_terminal(*options: str, env: Mapping[str, str]) -> tuple[str, str]:
    """STDOUT, which is none, and what was drawn on STDERR, without its colours."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen(
        [sys.executable, "-m", PRODUCT, "replay", *options],
        env={**env, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while more := os.read(ours, 65536):
                drawn += more
        assert process.stdout is not None
        said = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, drawn.decode()
    return said, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())


def test_on_a_terminal_a_bar_shows_rate_and_time_left_also_of_what_goes_on(installation: Installation) -> None:
    """On STDOUT the same plain lines as without."""
    said, drawn = on_terminal(*lately(installation), env=installation.env)
    plain = cli("replay", *lately(installation), env=installation.env)
    assert plain.stderr == ""
    assert [line.split()[0] for line in said.splitlines()] == ["replay", "log:", "Processed"]
    assert [line.split()[0] for line in plain.stdout.splitlines()] == ["replay", "log:", "Processed"]
    for done in ("records .* 29/29", "conversions .* 1/1"):
        assert re.search(rf"{done} [0-9,]+/s 0:00:00", drawn), drawn
    place = {"phase": "facts", "offsets": {installation.topic("clicks"): 20}}
    execute(installation.database_url, "UPDATE `202_stream_runs` SET state = 'failed'")
    execute(
        installation.database_url,
        "INSERT INTO `202_stream_run_places` (run_id, partition_id, place)"
        f" VALUES (2, {partition_of_clicks(installation)}, '{json.dumps(place)}')",
    )
    said, drawn = on_terminal(*lately(installation), env=installation.env)
    assert "going on with replay 2" in drawn
    assert re.search("records .* 9/9 [0-9,]+/s 0:00:00", drawn), drawn


def refuse(url: str, relation: str, column: str, number: int) -> None:
    execute(
        url,
        f"CREATE TRIGGER refused_{column} BEFORE INSERT ON `{relation}` WHEN NEW.{column} = {number}"
        " BEGIN SELECT RAISE(ABORT, 'no such row here'); END",
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_the_database_refuses_is_named_and_the_same_command_tries_just_that_again(
    installation: Installation, workers: str
) -> None:
    env, partition = installation.env, partition_of_clicks(installation)
    refuse(installation.database_url, "202_stream_clicks", "click_id", 20)
    refuse(installation.database_url, "202_stream_journeys", "conv_id", 1)
    said = cli("replay", *lately(installation), "--workers", workers, "--json", env=env)
    told = json.loads(said.stdout)
    assert (said.returncode, told["ok"], told["refused"], told["new_clicks"]) == (1, False, 2, 27)
    assert [each["conv_id"] for each in told["errors"]] == [1]
    assert "no such row here" in told["errors"][0]["error"]
    (refused_click,) = told["refused_clicks"]
    assert refused_click.pop("error")
    topic = installation.topic("clicks")
    assert refused_click == {"click_id": 20, "topic": topic, "partition": partition, "offset": 19}
    lines = said.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["click 20", "conversion 1", "error", "hint"]
    assert lines[0].endswith(f"({topic} partition {partition} offset 19)")
    assert lines[2] == "error: 1 conversions and 1 clicks failed"
    states = "SELECT state, error FROM `202_stream_runs`"
    assert query(installation.database_url, states) == [("failed", "1 conversions and 1 clicks failed")]
    for column in ("click_id", "conv_id"):
        execute(installation.database_url, f"DROP TRIGGER refused_{column}")
    said = cli("replay", *lately(installation), "--workers", workers, "--json", env=env)
    told = json.loads(said.stdout)
    assert (said.returncode, said.stderr) == (0, "going on with replay 1, which was broken off\n")
    assert (told["records"], told["new_clicks"], told["new_conversions"], told["refused_clicks"]) == (2, 1, 1, [])
    assert query(installation.database_url, states) == [("finished", None)]
    touches = query(installation.database_url, "SELECT COUNT(*) FROM `202_conversion_touchpoints`")
    assert touches == [(25,)]


def test_a_replay_that_was_broken_off_does_not_go_on_in_topics_that_were_made_anew(installation: Installation) -> None:
    env, at = installation.env, installation.now - DAY
    refuse(installation.database_url, "202_stream_journeys", "conv_id", 1)
    assert cli("replay", *lately(installation), env=env).returncode == 1
    execute(installation.database_url, "DROP TRIGGER refused_conv_id")
    delete_topics(installation, "clicks", "conversions")
    succeed("topics", "apply", env=env)
    others = [*(click(number, at) for number in range(101, 111)), conversion(2, 110, at)]
    installation.send(others)
    said = refused("--resume", "1", env=env, code=1)
    assert "replay 1 has read another log" in said
    assert "hint: give its users and its range" in said
    told = json.loads(succeed("replay", *lately(installation), "--json", env=env))
    assert (told["run_id"], told["records"], told["new_clicks"], told["new_conversions"]) == (2, 11, 10, 1)


def delete_topics(installation: Installation, *names: str) -> None:
    topics = {installation.topic(name) for name in names}

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=installation.kafka)
        await admin.start()
        try:
            await admin.delete_topics(sorted(topics))
            async with asyncio.timeout(30):
                while topics & {*await admin.list_topics()}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # a topic is gone a moment after it was deleted
        finally:
            await admin.close()

    asyncio.run(delete())


# Accounts that only the log knows


def test_an_account_that_only_the_log_knows_is_replayed(installation: Installation) -> None:
    lines = succeed("replay", *lately(installation), "--user", "1", "--dry-run", env=installation.env)
    assert "0 stored conversions to compute and those that the records add" in lines
    # A click of somebody else's converts, and lies in a time that was read already, for this account alone.
    at = installation.now - DAY
    others = [click(number, at - HOUR, user_id=2) for number in (500, 501)]
    installation.send([*others, conversion(2, 500, at)])
    told = json.loads(succeed("replay", *lately(installation), "--user", "1", "--json", env=installation.env))
    assert (told["new_clicks"], told["new_conversions"], told["touchpoints"]) == (28 + 1, 2, 25 + 26)
    assert query(installation.database_url, "SELECT SUM(click_unknown) FROM `202_stream_journeys`") == [(0,)]
    assert difference(installation.expected().touchpoints, read_touchpoints(installation.database_url)) == ""
    said = refused(*lately(installation), "--user", "1", "--user", "77", env=installation.env, code=2)
    assert "unknown user 77: neither users, clicks, conversions nor models name it, nor does the log" in said
