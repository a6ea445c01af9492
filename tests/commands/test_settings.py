"""`settings` as a person runs it, and times as they are written."""

import json
from typing import Any

import click
import pytest

from stream.commands.times import parse_time
from tests.support.processes import Environment, cli, succeed
from tests.support.rebuilds import BASE, HOUR, execute, put, uniform
from tests.support.rows import query


@pytest.fixture
def env(sqlite_env: Environment) -> Environment:
    """Both databases are tried where the store is tested."""
    return sqlite_env


def answer(env: Environment, *arguments: str) -> dict[str, Any]:
    found = json.loads(succeed("settings", *arguments, "--json", env=env))
    assert isinstance(found, dict)
    return found


def test_settings_are_set_and_listed(env: Environment) -> None:
    assert "on for all conversions" in succeed("settings", "list", "--user", "9", env=env)
    scope = ("--user", "9", "--scope", "campaign", "--id", "5")
    text = succeed(
        "settings", "set", *scope, "--multi-touch", "off", "--since", "2026-01-01", "--actor", "bob", env=env
    )
    assert "multi-touch is now off for conversions since 2026-01-01T00:00:00Z (1767225600)" in text
    assert "was already off" in succeed("settings", "set", *scope, "--multi-touch", "off", env=env)
    change = answer(env, "set", *scope, "--multi-touch", "on", "--since", "1767225000")
    assert change["superseded"] == [
        {
            "scope": "campaign",
            "scope_id": 5,
            "since": 1_767_225_600,
            "since_utc": "2026-01-01T00:00:00Z",
            "multi_touch": False,
        }
    ]
    assert change["conversions"] == {"looked_at": 0, "hidden": 0, "restored": 0}
    listed = answer(env, "list", "--user", "9")
    assert [(each["since"], each["multi_touch"]) for each in listed["toggles"]] == [(1_767_225_000, True)]
    assert [(row["scope"], row["scope_id"], row["has_effect"]) for row in listed["rows"]] == [("campaign", 5, True)]
    assert "2025-12-31T23:50:00Z" in succeed("settings", "list", "--user", "9", env=env)
    rows = query(env["TOUCHSTREAM_DATABASE_URL"], "SELECT action, metadata FROM `202_attribution_audit`")
    assert [action for action, _ in rows] == ["settings_update"] * 2
    assert json.loads(rows[0][1])["actor"] == "bob"


def test_final_hours_that_a_setting_concerns_are_told_to_be_rebuilt(env: Environment) -> None:
    url = env["TOUCHSTREAM_DATABASE_URL"]
    put(url, uniform(3, 1))
    window = ("--start", str(BASE), "--end", str(BASE + 3 * HOUR))
    succeed("rebuild", *window, env=env)
    execute(url, f"UPDATE `202_stream_hours` SET is_final = date_hour < {BASE + 2 * HOUR}")
    scope = ("--user", "7", "--scope", "global", "--multi-touch")
    text = succeed("settings", "set", *scope, "off", "--since", str(BASE + 1), env=env)
    command = f"rebuild --user 7 --start {BASE} --end {BASE + 2 * HOUR}"
    assert f"2 hours are final: their credits follow with {command}" in text
    assert "rebuilt 1 user" in succeed(*command.split(), env=env)
    assert answer(env, "set", *scope, "on", "--since", str(BASE + HOUR))["final_hours"] == 1
    assert "final" not in succeed("settings", "set", *scope, "off", env=env)


def test_without_a_time_it_is_from_now_on(env: Environment) -> None:
    change = answer(env, "set", "--user", "9", "--scope", "global", "--multi-touch", "off")
    assert (change["is_changed"], change["setting"]["scope_id"]) == (True, None)
    assert change["since"] > 1_700_000_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--scope", "landing_page", "--id", "5", "--multi-touch", "off"), "has never had an effect"),
        (("--scope", "moon", "--id", "5", "--multi-touch", "off"), '"moon" is none of'),
        (("--scope", "global", "--id", "5", "--multi-touch", "off"), "--id goes with"),
        (("--scope", "campaign", "--multi-touch", "off"), "--id goes with"),
        (("--scope", "global", "--multi-touch", "maybe"), "maybe"),
        (("--scope", "global", "--multi-touch", "on", "--since", "soon"), '"soon" is neither'),
    ],
)
def test_what_cannot_be_exits_2_and_says_why(env: Environment, arguments: tuple[str, ...], reason: str) -> None:
    done = cli("settings", "set", "--user", "9", *arguments, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in " ".join(done.stderr.split())
    assert answer(env, "list", "--user", "9")["rows"] == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 1790000000 ", 1_790_000_000),
        ("4294967295", 2**32 - 1),
        ("2026-09-21T14:13:20Z", 1_790_000_000),
        ("2026-09-21T16:13:20+02:00", 1_790_000_000),
        ("2026-09-21 14:13:20", 1_790_000_000),
        ("2026-09-21T14:13:20.999", 1_790_000_000),
        ("1970-01-01", 0),
    ],
)
def test_times_are_unix_seconds_or_iso_8601(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "1.5", "4294967296", "9" * 5000, "1969-12-31", "2200-01-01", "0001-01-01T00:00+14:00"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_time(text)
