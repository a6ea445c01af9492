"""`models` as a person runs it, before any event came."""

import json
from pathlib import Path
from typing import Any

import pytest

from stream.core.totals import Scope
from tests.support.processes import Environment, cli, environment, succeed
from tests.support.rows import query


@pytest.fixture
def env(sqlite_env: Environment) -> Environment:
    """Both databases are tried where the store is tested."""
    return sqlite_env


def answer(env: Environment, *arguments: str) -> dict[str, Any]:
    found = json.loads(succeed("models", *arguments, "--json", env=env))
    assert isinstance(found, dict)
    return found


def test_a_model_lives_from_create_to_delete(env: Environment) -> None:
    assert "no active model" in succeed("models", "list", "--user", "9", env=env)
    made = answer(
        env, "create", "--user=9", "--name", "Decay", "--type", "TIME_DECAY", "--config", '{"half_life_hours": 12}'
    )
    assert made["model"]["slug"] == "decay"
    assert (made["model"]["type"], made["model"]["config"]) == ("time_decay", {"half_life_hours": 12})
    assert made["default_model_id"] == made["model"]["model_id"]
    second = succeed(
        *("models", "create", "--user", "9", "--name", "Last", "--type", "last_touch", "--slug", "Mine"), env=env
    )
    assert '"Mine" created' in second
    off = succeed("models", "update", "--user", "9", "--slug", "decay", "--inactive", env=env)
    assert '"Mine" (model 2) is the default now' in off
    assert "nothing was written" in succeed("models", "update", "--user", "9", "--slug", "Mine", "--active", env=env)
    renamed = answer(env, "update", "--user", "9", "--model-id", "2", "--new-slug", "ours", "--name", "Ours")
    assert (renamed["model"]["slug"], renamed["model"]["name"]) == ("ours", "Ours")
    gone = answer(env, "delete", "--user", "9", "--slug", "ours", "--actor", "bob")
    assert (gone["default_model_id"], gone["hours"], gone["campaigns"]) == (None, 0, [])
    listed = answer(env, "list", "--user", "9")
    assert [model["slug"] for model in listed["models"]] == ["decay"]
    assert listed["notes"] == ["no active model: nothing is attributed"]
    rows = query(env["TOUCHSTREAM_DATABASE_URL"], "SELECT metadata FROM `202_attribution_audit` ORDER BY audit_id")
    authors = [(json.loads(text)["actor"], json.loads(text)["source"]) for (text,) in rows]
    assert authors[-1] == ("bob", "cli")
    assert authors[0][0] not in {"", "bob"}


def test_a_broken_model_is_listed_with_the_reason(env: Environment) -> None:
    succeed("models", "create", "--user", "9", "--name", "A", "--type", "time_decay", *_HALF_LIFE, env=env)
    query_of_another_hand(env, "UPDATE `202_attribution_models` SET weighting_config = '{'")
    text = succeed("models", "list", "--user", "9", env=env)
    assert '"a" (model 1) is not computed: the weighting config is not JSON' in text
    assert "no active model can be computed" in text
    assert answer(env, "list", "--user", "9")["models"][0]["problem"] == "the weighting config is not JSON"


_HALF_LIFE = ("--config", '{"half_life_hours": 12}')


def query_of_another_hand(env: Environment, statement: str) -> None:
    import sqlite3  # noqa: PLC0415 -- only here is a plain writer wanted

    with sqlite3.connect(env["TOUCHSTREAM_DATABASE_URL"].partition(":///")[2]) as connection:
        connection.execute(statement)
    connection.close()


def test_a_deletion_tells_each_hour(env: Environment) -> None:
    succeed("models", "create", "--user", "9", "--name", "A", "--type", "linear", env=env)
    query_of_another_hand(
        env,
        "INSERT INTO `202_attribution_snapshots` (model_id, user_id, scope_type, date_hour, lookback_start,"
        f" lookback_end, created_at) VALUES (1, 9, '{Scope.GLOBAL}', 3600, 0, 0, 1), (1, 9, 'global', 7200, 0, 0, 1)",
    )
    lines = succeed("models", "delete", "--user", "9", "--slug", "a", env=env).splitlines()
    assert lines[:2] == [
        "hour 3600 (1 of 2): snapshots and credits removed",
        "hour 7200 (2 of 2): snapshots and credits removed",
    ]
    assert "with the rows of 2 hours" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "--user", "9", "--name", "A", "--type", "magic"), '"magic" is none of'),
        (("create", "--user", "9", "--name", " ", "--type", "linear"), "the name must have 1 to 255"),
        (("create", "--user", "9", "--name", "A", "--type", "linear", "--slug", "a b"), "spaces"),
        (("create", "--user", "9", "--name", "A", "--type", "time_decay"), "needs a weighting config"),
        (("create", "--user", "9", "--name", "A", "--type", "time_decay", "--config", "{"), "not JSON"),
        (("create", "--user", "9", "--name", "A", "--type", "algorithmic", "--config", '{"a": NaN}'), "not JSON"),
        (("create", "--user", "0", "--name", "A", "--type", "linear"), "0 is not in the range"),
        (("create", "--user", "16777216", "--name", "A", "--type", "linear"), "is not in the range"),
        (("update", "--user", "9", "--slug", "no", "--active"), 'user 9 has no model with the slug "no"'),
        (("update", "--user", "9", "--active"), "by --slug or by --model-id"),
        (("delete", "--user", "9", "--slug", "a", "--model-id", "1"), "by --slug or by --model-id"),
        (("delete", "--user", "9", "--model-id", "1"), "user 9 has no model 1"),
    ],
)
def test_what_cannot_be_exits_2_and_says_why(env: Environment, arguments: tuple[str, ...], reason: str) -> None:
    done = cli("models", *arguments, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_slug_that_is_taken_exits_2_and_writes_nothing(env: Environment) -> None:
    create = ("models", "create", "--user", "9", "--name", "A", "--type", "linear", "--slug", "a")
    succeed(*create, env=env)
    done = cli(*create, env=env)
    assert (done.returncode, done.stderr) == (2, 'error: another model of the user has the slug "a"\n')
    assert len(answer(env, "list", "--user", "9")["models"]) == 1


def test_a_database_that_is_away_exits_1(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", "mysql+asyncmy://u:p@127.0.0.1:1/d", tmp_path, partitions=1)
    done = cli("models", "list", "--user", "9", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: database")
