"""`rebuild` as a person or a cron runs it: what it does, says and refuses, and when it is not done again."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stream.clock import unix_now
from stream.commands import rebuild as rebuild_module
from stream.commands.authorship import author_of
from stream.commands.rebuild import command
from stream.config import Settings
from stream.core.facts import Outcome
from tables.sql.upgrade import upgrade_schema
from tests.support.processes import Environment, cli, environment, succeed, wait_for
from tests.support.rebuilds import (
    BASE,
    HOUR,
    assert_hours_fit,
    conversions_by_hour,
    converted,
    execute,
    put,
    uniform,
)
from tests.support.rows import query

WINDOW = ("--start", str(BASE), "--end", str(BASE + 4 * HOUR))
SPAN = "2023-11-14T22:00:00Z to 2023-11-15T02:00:00Z"


def url_of(env: Environment) -> str:
    return env["TOUCHSTREAM_DATABASE_URL"]


def test_hours_follow_the_journeys_and_the_old_signs_are_left(env: Environment) -> None:
    journeys = uniform(4, 3) + uniform(2, 2, user_id=8, first_id=101)
    put(url_of(env), [*journeys, converted(999, BASE + 4 * HOUR)])
    text = succeed("rebuild", *WINDOW, env=env)
    assert text.splitlines() == [
        "user 7: 4 hours, 12 conversions, 12 credits, revenue 150.00000",
        "user 8: 2 hours, 4 conversions, 4 credits, revenue 50.00000",
        f"rebuilt 2 users, {SPAN}",
    ]
    assert_hours_fit(url_of(env), journeys)
    assert query(url_of(env), "SELECT cronjob_type, cronjob_time FROM `202_cronjobs`") == [("attr", BASE + 4 * HOUR)]
    assert [row[0] for row in query(url_of(env), "SELECT id FROM `202_cronjob_logs`")] == [2]
    (user_id, model_id, metadata), *others = query(
        url_of(env),
        "SELECT user_id, model_id, metadata FROM `202_attribution_audit` WHERE action = 'snapshot_rebuild'"
        " ORDER BY audit_id",
    )
    assert (user_id, model_id, len(others)) == (7, 1, 1)
    told = json.loads(metadata)
    assert (told.pop("source"), bool(told.pop("actor"))) == ("cli", True)
    assert {name: told[name] for name in told.keys() - {"before", "after"}} == {
        "lookback_start": BASE,
        "lookback_end": BASE + 4 * HOUR,
        "batches": 4,
        "hours_processed": 4,
        "clicks": 12,
        "conversions": 12,
        "revenue": "150.00000",
        "cost": "1.48140",
    }


def test_whole_hours_are_rebuilt_whatever_part_of_them_was_named(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), uniform(4, 2))
    answer = json.loads(
        succeed(
            *("rebuild", "--user", "7", "--start", "2023-11-14T23:59:59Z", "--end", "2023-11-15T00:00:01", "--json"),
            env=sqlite_env,
        )
    )
    assert (answer["start"], answer["end"], answer["ok"]) == (BASE + HOUR, BASE + 3 * HOUR, True)
    assert answer["users"] == [
        {
            "user_id": 7,
            "state": "rebuilt",
            "error": None,
            "hours": 2,
            "conversions": 4,
            "credits": 4,
            "revenue": "50.00000",
            "cost": "0.49380",
        }
    ]
    assert conversions_by_hour(url_of(sqlite_env)) == {BASE + HOUR: 2, BASE + 2 * HOUR: 2}


def test_foreign_totals_without_a_conversion_are_taken_away(env: Environment) -> None:
    put(url_of(env), uniform(1, 1))
    succeed("models", "create", "--user", "7", "--name", "Mine", "--type", "linear", env=env)
    execute(
        url_of(env),
        "INSERT INTO `202_attribution_snapshots` (model_id, user_id, scope_type, date_hour, lookback_start,"
        " lookback_end, attributed_conversions, created_at)"
        f" VALUES (1, 7, 'global', {BASE + HOUR}, 0, 0, 5, 1), (1, 7, 'global', {BASE}, 0, 0, 5, 1)",
    )
    succeed("rebuild", *WINDOW, env=env)
    assert conversions_by_hour(url_of(env)) == {BASE: 1}


# Once is enough


def test_a_window_is_done_again_when_forced_or_when_models_changed(env: Environment) -> None:
    put(url_of(env), uniform(2, 1))
    succeed("rebuild", *WINDOW, env=env)
    query_life = "SELECT last_execution_time FROM `202_cronjob_logs`"
    execute(url_of(env), "UPDATE `202_cronjob_logs` SET last_execution_time = 5")
    again = succeed("rebuild", *WINDOW, env=env)
    assert again.splitlines() == [
        f"user 7: already processed: {SPAN}; --force does it again",
        f"already processed: 1 user, {SPAN}",
    ]
    assert query(url_of(env), query_life) == [(5,)]
    assert f"rebuilt 1 user, {SPAN}" in succeed("rebuild", *WINDOW, "--force", env=env)
    assert query(url_of(env), query_life) != [(5,)]
    assert "already processed" in succeed("rebuild", *WINDOW, "--user", "7", env=env)
    succeed("models", "create", "--user", "7", "--name", "Linear", "--type", "linear", env=env)
    assert "user 7: 2 hours, 2 conversions, 6 credits" in succeed("rebuild", *WINDOW, env=env)
    assert "already processed" in succeed("rebuild", *WINDOW, env=env)
    succeed("models", "delete", "--user", "7", "--slug", "linear", env=env)
    assert "rebuilt 1 user" in succeed("rebuild", *WINDOW, env=env)
    states = query(url_of(env), "SELECT state, hours_done, hours_total FROM `202_stream_runs`")
    assert states == [("finished", 2, 2)] * 4


def test_hours_that_are_not_over_are_done_again_and_so_are_those_with_news(env: Environment) -> None:
    now = int(unix_now())
    hour = now - now % HOUR
    window = ("--start", str(hour), "--end", str(hour + 10 * HOUR))
    put(url_of(env), [converted(1, now)])
    assert "user 7: 1 hours, 1 conversions" in succeed("rebuild", *window, env=env)
    put(url_of(env), [converted(2, now)])
    assert "user 7: 1 hours, 2 conversions" in succeed("rebuild", *window, env=env)
    past = uniform(2, 1, first_id=11)
    put(url_of(env), past)
    assert "user 7: 2 hours, 2 conversions" in succeed("rebuild", *WINDOW, env=env)
    assert "already processed" in succeed("rebuild", *WINDOW, env=env)
    late, refunded = converted(3, BASE + HOUR + 70), past[0]._replace(version=2, outcome=Outcome.DELETED, touches=())
    put(url_of(env), [late, refunded])
    assert "user 7: 2 hours, 2 conversions" in succeed("rebuild", *WINDOW, env=env)
    assert conversions_by_hour(url_of(env)) == {BASE + HOUR: 2, hour: 2}
    assert "already processed" in succeed("rebuild", *WINDOW, env=env)


def test_a_user_that_fails_is_named_and_the_others_are_done(env: Environment) -> None:
    put(url_of(env), uniform(2, 1) + uniform(2, 1, user_id=8, first_id=101))
    touches = query(url_of(env), "SELECT touches FROM `202_stream_journeys` WHERE conv_id = 102")[0][0]
    execute(url_of(env), "UPDATE `202_stream_journeys` SET touches = '{' WHERE conv_id = 102")
    done = cli("rebuild", *WINDOW, env=env)
    assert done.returncode == 1
    assert "user 7: 2 hours" in done.stdout
    assert "rebuilt" not in done.stdout
    assert done.stderr.splitlines()[0].startswith("User 8: ")
    assert f"1 of 2 users failed, {SPAN}" in done.stderr
    assert query(url_of(env), "SELECT * FROM `202_cronjob_logs`") == []
    assert query(url_of(env), "SELECT * FROM `202_cronjobs`") == []
    execute(url_of(env), f"UPDATE `202_stream_journeys` SET touches = '{touches}' WHERE conv_id = 102")
    lines = succeed("rebuild", *WINDOW, env=env).splitlines()
    assert lines[0].startswith("user 7: already processed")
    assert lines[1].startswith("user 8: 2 hours, 2 conversions")
    assert lines[2] == f"rebuilt 1 user, {SPAN}; already processed before: 1 user"
    assert len(query(url_of(env), "SELECT * FROM `202_cronjob_logs`")) == 1


def test_without_an_active_model_it_says_so(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), uniform(2, 1))
    succeed("models", "create", "--user", "7", "--name", "Mine", "--type", "linear", "--inactive", env=sqlite_env)
    assert "user 7: no active model" in succeed("rebuild", *WINDOW, env=sqlite_env)
    assert conversions_by_hour(url_of(sqlite_env)) == {}


def test_an_account_whose_models_were_all_deleted_gets_no_other_one(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), uniform(2, 1))
    succeed("rebuild", *WINDOW, env=sqlite_env)
    ((metadata,),) = query(
        url_of(sqlite_env), "SELECT metadata FROM `202_attribution_audit` WHERE action = 'model_create'"
    )
    assert (json.loads(metadata)["source"], json.loads(metadata)["actor"]) == ("cli", author_of("").actor)
    gone = succeed("models", "delete", "--user", "7", "--slug", "last-touch", env=sqlite_env)
    assert "no active model: nothing is attributed" in gone
    assert "user 7: no active model" in succeed("rebuild", *WINDOW, env=sqlite_env)
    assert query(url_of(sqlite_env), "SELECT * FROM `202_attribution_models`") == []


def test_accounts_that_were_deleted_are_left_out_unless_named(sqlite_env: Environment) -> None:
    put(
        url_of(sqlite_env),
        uniform(1, 1) + uniform(1, 1, user_id=8, first_id=101) + uniform(1, 1, user_id=9, first_id=201),
    )
    user = dict.fromkeys(required_of(url_of(sqlite_env), "202_users"), "''")
    for user_id, is_deleted in ((8, 1), (9, 0)):
        user |= {"user_id": str(user_id), "user_deleted": str(is_deleted), "user_name": f"'u{user_id}'"}
        names, values = ", ".join(user), ", ".join(user.values())
        execute(url_of(sqlite_env), f"INSERT INTO `202_users` ({names}) VALUES ({values})")
    lines = succeed("rebuild", *WINDOW, env=sqlite_env).splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["user 7", "user 9"]
    assert "user 8: 1 hours" in succeed("rebuild", *WINDOW, "--user", "8", env=sqlite_env)


def required_of(url: str, relation: str) -> list[str]:
    """Columns that want a value."""
    rows = query(url, f"SELECT name FROM pragma_table_info('{relation}') WHERE \"notnull\" = 1 AND dflt_value IS NULL")
    return [name for (name,) in rows]


# Every hour


def test_sixty_hours_of_rebuilds_at_a_quarter_past_lose_nothing(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(upgrade_schema(fresh_database))
    monkeypatch.setenv("TOUCHSTREAM_DATABASE_URL", fresh_database)
    monkeypatch.chdir(tmp_path)
    journeys = uniform(60, 12)
    known = 0
    for hour in range(61):
        now = BASE + hour * HOUR + 900
        come = sum(journey.conversion.conv_time <= now for journey in journeys)
        if come > known:
            put(fresh_database, journeys[known:come])
        known = come
        done = CliRunner().invoke(command, ["--start", str(now - 86_400), "--end", str(now)])
        assert done.exit_code == 0, done.output
        assert sum(conversions_by_hour(fresh_database).values()) == known
    assert conversions_by_hour(fresh_database) == {BASE + hour * HOUR: 12 for hour in range(60)}
    assert_hours_fit(fresh_database, journeys)


def test_as_a_service_it_runs_at_once_and_stops_when_told(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), uniform(2, 1))
    output = Path(sqlite_env["HOME"]) / "service.log"
    with output.open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "stream", "rebuild", "--every", "hour"],
            env=sqlite_env,
            cwd=sqlite_env["HOME"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "rebuilt 1 user" in output.read_text(), "the first rebuild")
        assert service.poll() is None
        service.send_signal(signal.SIGTERM)
        assert service.wait(10) == 0
    finally:
        service.kill()
        service.wait()


async def test_as_a_service_it_runs_again_after_the_next_full_hour(
    fresh_sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upgrade_schema(fresh_sqlite)
    monkeypatch.chdir(tmp_path)
    now = BASE + HOUR + 900
    monkeypatch.setattr(rebuild_module, "unix_now", lambda: float(now))
    monkeypatch.setattr(rebuild_module, "_LONGEST_SLEEP_S", 0.01)
    early, late = uniform(1, 12), [converted(999, BASE + HOUR + 1800)]
    await asyncio.to_thread(put, fresh_sqlite, early)
    wish = rebuild_module.Wish(users=(), start=0, end=0, is_forced=False, is_json=False)
    service = asyncio.create_task(rebuild_module.rebuild_every_hour(Settings(database_url=fresh_sqlite), wish))
    await until_counted(fresh_sqlite, {BASE: 12})
    await asyncio.to_thread(put, fresh_sqlite, late)
    now = BASE + 2 * HOUR
    await asyncio.sleep(0.1)
    assert conversions_by_hour(fresh_sqlite) == {BASE: 12}, "some seconds are left for what comes late"
    now = BASE + 2 * HOUR + rebuild_module._AFTER_THE_HOUR_S
    await until_counted(fresh_sqlite, {BASE: 12, BASE + HOUR: 1})
    service.cancel()
    with pytest.raises(asyncio.CancelledError):
        await service


async def until_counted(url: str, conversions: dict[int, int]) -> None:
    await asyncio.to_thread(wait_for, lambda: conversions_by_hour(url) == conversions, f"{conversions}")


def test_as_a_service_it_outlives_a_failure(fresh_sqlite: str, tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", fresh_sqlite, tmp_path, partitions=1)
    with subprocess.Popen(
        [sys.executable, "-m", "stream", "rebuild", "--every", "hour"],
        env=env,
        cwd=env["HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        try:
            assert "no such table" in service.stderr.readline()
            assert "tried again" in service.stderr.readline()
            service.send_signal(signal.SIGINT)
            assert service.wait(10) == 0
        finally:
            service.kill()


# Wrong usage


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--start", "1700003600", "--end", "1700000000"), "is not before"),
        (("--start", "1700000000", "--end", "1700000000"), "is not before"),
        (("--start", "4000000000", "--end", "4000003600"), "in the future"),
        (("--user", "7", "--user", "12345"), "unknown user 12345"),
        (("--user", "0"), "--user"),
        (("--start", "yesterday"), "ISO 8601"),
        (("--every", "hour", "--end", "1700000000"), "--every"),
        (("--every", "day"), "--every"),
    ],
)
def test_wrong_usage_is_refused_with_the_reason(sqlite_env: Environment, options: tuple[str, ...], reason: str) -> None:
    put(url_of(sqlite_env), uniform(1, 1))
    done = cli("rebuild", *options, env=sqlite_env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_the_future_is_no_error_where_conversions_are(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), [converted(1, 4_000_001_000)])
    assert "1 conversions" in succeed("rebuild", "--start", "4000000000", "--end", "4000003600", env=sqlite_env)
