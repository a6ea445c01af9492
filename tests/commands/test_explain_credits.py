"""`explain` on credits: what each model gives, beside what is stored, and why the two may differ."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tables.sql.upgrade import upgrade_schema
from tests.support.processes import Environment, cli, environment, succeed
from tests.support.rebuilds import BASE, HOUR, converted, execute, put

WINDOW = ("--start", str(BASE), "--end", str(BASE + 4 * HOUR))
FIRST, SECOND = 20, 21  # clicks of conversion 10


@pytest.fixture
def env(fresh_sqlite: str, tmp_path: Path) -> Environment:
    """Most of it is the same on any database."""
    return installation(fresh_sqlite, tmp_path)


@pytest.fixture
def each_env(fresh_database: str, tmp_path: Path) -> Environment:
    """On each of the databases in turn."""
    return installation(fresh_database, tmp_path)


def installation(url: str, tmp_path: Path) -> Environment:
    """A conversion with two touches, three models, and its hour not yet written."""
    asyncio.run(upgrade_schema(url))
    env = environment("127.0.0.1:1", url, tmp_path, partitions=1)
    put(url, [converted(10, BASE + HOUR + 600, payout=1_000_001)])
    for name, options in (
        ("Last", ("--type", "last_touch")),
        ("Linear", ("--type", "linear")),
        ("Off", ("--type", "first_touch", "--inactive")),
    ):
        succeed("models", "create", "--user", "7", "--name", name, *options, env=env)
    return env


def by_hand(env: Environment, statement: str) -> None:
    execute(env["TOUCHSTREAM_DATABASE_URL"], statement)


def credits(env: Environment, *options: str) -> dict[str, Any]:
    answer = json.loads(succeed("explain", "10", "--json", *options, env=env))["credits"]
    assert isinstance(answer, dict)
    return answer


def stored(env: Environment, *options: str) -> dict[str, str]:
    return {each["slug"]: each["stored"] for each in credits(env, *options)["models"]}


def shares(model: dict[str, Any]) -> list[tuple[object, ...]]:
    names = ("position", "touch_position", "click_id", "parts", "credit", "revenue", "cost")
    return [tuple(share[name] for name in names) for share in model["touches"]]


def test_an_hour_not_yet_written_is_due(env: Environment) -> None:
    answer = credits(env)
    assert (answer["stand_in_hour"], answer["of_version"], answer["hour"]["revision"]) == (None, None, 0)
    assert stored(env) == {"last": "due", "linear": "due"}
    done = cli("explain", "10", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "linear (2): not yet written: the hour is due" in done.stdout


def test_each_active_model_shares_parts_and_money_to_the_last_unit(each_env: Environment) -> None:
    succeed("rebuild", *WINDOW, env=each_env)
    answer = credits(each_env)
    last, linear = answer["models"]
    assert shares(last) == [(0, 1, SECOND, 100_000, "1.00000", "10.00001", "0.12345")]
    assert shares(linear) == [
        (0, 0, FIRST, 50_000, "0.50000", "5.00001", "0.06173"),
        (1, 1, SECOND, 50_000, "0.50000", "5.00000", "0.06172"),
    ]
    assert linear["rows"] == [
        {"date_hour": BASE + HOUR, "position": 0, "click_id": FIRST, "credit": "0.50000"},
        {"date_hour": BASE + HOUR, "position": 1, "click_id": SECOND, "credit": "0.50000"},
    ]
    assert stored(each_env) == {"last": "same", "linear": "same"}
    assert (
        answer["hour"] | {"revision": 1, "is_published": False, "is_final": False, "is_current": True}
        == (answer["hour"])
    )
    assert (answer["stand_in_hour"], answer["of_version"]) == (BASE + HOUR, 1)
    text = succeed("explain", "10", env=each_env)
    assert "revision 1, open, not yet published" in text
    assert "linear (2): stored likewise" in text


def test_one_model_is_shown_alone_also_an_inactive_one(env: Environment) -> None:
    succeed("rebuild", *WINDOW, env=env)
    (only,) = credits(env, "--model", "off")["models"]
    assert (only["is_active"], only["rows"], only["stored"]) == (False, [], "same")
    assert [share[2:4] for share in shares(only)] == [(FIRST, 100_000)]
    unknown = cli("explain", "10", "--model", "none", env=env)
    assert unknown.returncode == 2
    assert 'no model "none"; there are: last, linear, off' in unknown.stderr


def test_rows_edited_by_hand_differ_and_want_a_rebuild(env: Environment) -> None:
    succeed("rebuild", *WINDOW, env=env)
    by_hand(env, f"UPDATE `202_attribution_touchpoints` SET credit = 0.4 WHERE click_id = {FIRST}")
    assert stored(env) == {"last": "same", "linear": "different"}
    done = cli("explain", "10", env=env)
    assert done.returncode == 0
    assert "linear (2): stored differently: rebuild the hour with --force" in done.stdout
    assert "warning: 202_attribution_touchpoints holds other rows of linear (2)" in done.stderr
    assert f"position 0, click {FIRST}, credit 0.40000" in done.stderr


@pytest.mark.parametrize(("is_final", "expected"), [(0, "due"), (1, "different")])
def test_a_new_model_is_due_in_an_open_hour_and_wants_a_rebuild_in_a_final_one(
    env: Environment, is_final: int, expected: str
) -> None:
    succeed("rebuild", *WINDOW, env=env)
    by_hand(env, f"UPDATE `202_stream_hours` SET is_final = {is_final}")
    succeed("models", "update", "--user", "7", "--slug", "off", "--active", env=env)
    assert stored(env) == {"last": "same", "linear": "same", "off": expected}
    assert credits(env)["hour"]["is_current"] is False
    assert "computed with other models or settings" in succeed("explain", "10", env=env)


def test_a_change_on_its_way_is_due_even_in_a_final_hour(env: Environment) -> None:
    succeed("rebuild", *WINDOW, env=env)
    by_hand(env, "UPDATE `202_stream_hours` SET is_final = 1")
    moved = converted(10, BASE + 600, payout=1_000_001, version=2)
    put(env["TOUCHSTREAM_DATABASE_URL"], [moved])
    assert stored(env) == {"last": "due", "linear": "due"}
    assert credits(env)["stand_in_hour"] == BASE + HOUR
    assert "credits stand" in succeed("explain", "10", env=env)


def test_a_broken_model_is_named_with_its_reason(env: Environment) -> None:
    by_hand(
        env,
        "UPDATE `202_attribution_models` SET model_type = 'time_decay', weighting_config = '{' WHERE model_id = 2",
    )
    succeed("rebuild", *WINDOW, env=env)
    last, broken = credits(env)["models"]
    assert (last["problem"], last["stored"]) == (None, "same")
    assert (broken["problem"], broken["touches"], broken["stored"]) == (
        "the weighting config is not JSON",
        [],
        "same",
    )
    assert "linear (2): cannot be computed: the weighting config is not JSON" in succeed("explain", "10", env=env)


def test_with_multi_touch_off_all_goes_to_the_converting_click(env: Environment) -> None:
    succeed("settings", "set", "--user", "7", "--scope", "global", "--multi-touch", "off", "--since", "1", env=env)
    succeed("rebuild", *WINDOW, env=env)
    answer = credits(env)
    assert answer["is_multi_touch_on"] is False
    assert [shares(each) for each in answer["models"]] == [
        [(0, 1, SECOND, 100_000, "1.00000", "10.00001", "0.12345")]
    ] * 2
    assert set(stored(env).values()) == {"same"}
    done = cli("explain", "10", env=env)
    assert "multi-touch:    off at the time of the conversion" in done.stdout
    assert done.stderr == "", "202_conversion_touchpoints holds no rows, as it should"


def test_without_an_active_model_it_says_so(env: Environment) -> None:
    for slug in ("last", "linear"):
        succeed("models", "update", "--user", "7", "--slug", slug, "--inactive", env=env)
    assert credits(env)["models"] == []
    assert "no active model: nothing is attributed" in succeed("explain", "10", env=env)
