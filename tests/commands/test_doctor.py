"""`doctor`: on an installation that is well, on one that was broken by hand, and without broker or database."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tables.sql.database import open_database
from tests.support import golden
from tests.support.processes import (
    Environment,
    Worker,
    cli,
    environment,
    free_port,
    remove_topics,
    succeed,
    with_own_port,
)


@pytest.fixture
async def installation(kafka: str, fresh_database: str, tmp_path: Path) -> AsyncIterator[Environment]:
    env = environment(kafka, fresh_database, tmp_path, partitions=1, fire_interval_seconds="0.2", clicks="installed")
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    yield env
    await remove_topics(env)


def doctor(env: Environment, *, code: int) -> dict[str, dict[str, Any]]:
    """By the name of the check."""
    done = cli("doctor", "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is (code == 0)
    for each in answer["checks"]:
        assert each["meaning"]
        assert bool(each["remedy"]) is (each["level"] != "ok")
    return {each["check"]: each for each in answer["checks"]}


def errors(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, each in checks.items() if each["level"] == "error"]


def ingest(env: Environment) -> None:
    vectors, folder = golden.load_before("sparse", int(time.time())), Path(env["HOME"])
    clicks = golden.write_lines(folder / "clicks.jsonl", vectors.clicks)
    conversions = golden.write_lines(folder / "conversions.jsonl", vectors.conversions)
    succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=env)


async def run(env: Environment, *statements: str) -> None:
    database = open_database(env["TOUCHSTREAM_DATABASE_URL"])
    async with database.transaction() as connection:
        for statement in statements:
            await connection.run(statement)
    await database.close()


async def test_what_is_well_and_what_was_broken_by_hand(installation: Environment) -> None:
    env = installation
    with Worker(with_own_port(env)) as worker:
        ingest(env)
        succeed("status", "--wait-drained", "60", env=env)
        well = doctor(env, code=0)
        assert [
            name for name in ("topics", "retention", "log", "owners", "offsets") if well[name]["level"] != "ok"
        ] == []
        assert [name for name in ("lag", "hours", "touchpoints", "models") if well[name]["level"] != "ok"] == []
        await run(
            env,
            "UPDATE `202_conversion_touchpoints` SET position = 30 WHERE conv_id = 1 AND position = 0",
            "DELETE FROM `202_conversion_touchpoints` WHERE conv_id = 2",
            "UPDATE `202_stream_journeys` SET purged = 1 WHERE conv_id = 3",
            "INSERT INTO `202_stream_toggles` (user_id, scope_type, scope_id, since, is_enabled)"
            " SELECT user_id, 'campaign', campaign_id, conv_time, 0 FROM `202_stream_journeys` WHERE conv_id = 4",
            "INSERT INTO `202_stream_toggles` (user_id, scope_type, scope_id, since, is_enabled)"
            " SELECT user_id, 'campaign', campaign_id, conv_time + 1, 1 FROM `202_stream_journeys` WHERE conv_id = 4",
            "UPDATE `202_attribution_models` SET is_default = 0",
            "DELETE FROM `202_cronjob_logs`",
            "INSERT INTO `202_cronjob_logs` (id, last_execution_time) VALUES (2, 1700000000)",
        )
        broken = doctor(env, code=1)
        assert worker.stop() == 0
    assert broken["touchpoints"]["details"] == ["conversion 1"]
    assert broken["converting clicks"]["details"] == [f"conversion {number}" for number in (2, 3, 4)]
    assert len(broken["default models"]["details"]) >= 1
    assert {"touchpoints", "converting clicks", "default models"} <= set(errors(broken))
    text = cli("doctor", env=env)
    assert text.returncode == 1
    assert "error    owners: no worker is running\n         remedy: start one: " in text.stdout
    assert "checks failed: " in text.stderr


async def altered(env: Environment, topic: str, **settings: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    await admin.start()
    configs = {name.replace("_", "."): value for name, value in settings.items()}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    await admin.close()


async def cut(env: Environment, topic: str, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)})
    await admin.close()


async def test_a_log_that_was_cut_and_a_retention_that_was_altered(
    kafka: str, fresh_sqlite: str, tmp_path: Path
) -> None:
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=1)
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    clicks = env["TOUCHSTREAM_TOPIC_PREFIX"] + "clicks"
    broken = Path(env["HOME"]) / "broken.jsonl"
    broken.write_bytes(b"not json\n")
    succeed("ingest", "--clicks", broken, env=env)
    with Worker(env):
        ingest(env)
        succeed("status", "--wait-drained", "60", env=env)
        before = doctor(env, code=0)
        assert (before["dead letters"]["level"], before["dead letters"]["found"]) == ("warning", "1 in the last day")
        await cut(env, clicks, 5)
        too_short = 37 * 86_400_000 - 1
        await altered(env, clicks, retention_ms=str(too_short))
        after = doctor(env, code=1)
    assert errors(after) == ["topics", "retention", "log"]
    (line,) = after["log"]["details"]
    assert f'topic "{clicks}", partition 0: begins at ' in line
    assert line.endswith("are missing")
    assert "--allow-incomplete" in after["log"]["remedy"]
    assert f" is {too_short}, " in after["retention"]["details"][0]
    without_database = f"mysql+asyncmy://nobody:nothing@127.0.0.1:{free_port()}/gone?charset=utf8mb4"
    assert "log" in errors(doctor({**env, "TOUCHSTREAM_DATABASE_URL": without_database}, code=1))
    await run(env, "DELETE FROM `202_stream_clicks`", "DELETE FROM `202_stream_journeys`")
    # All that was removed had been read, and nothing is known of that time: no traffic.
    assert doctor(env, code=1)["log"]["level"] == "ok"
    await run(env, "UPDATE `202_stream_progress` SET next_offsets = '{}'")
    assert doctor(env, code=1)["log"]["level"] == "error"
    await remove_topics(env)


def test_topics_that_are_missing_are_named_by_each_check(kafka: str, fresh_sqlite: str, tmp_path: Path) -> None:
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=1)
    succeed("db", "upgrade", env=env)
    checks = doctor(env, code=1)
    for name in ("topics", "retention", "log", "dead letters"):
        assert (checks[name]["level"], "topics apply" in checks[name]["remedy"]) == ("error", True)


def test_without_a_broker_the_rest_is_looked_at(env: Environment) -> None:
    checks = doctor(env, code=1)
    assert errors(checks) == ["broker"]
    assert (checks["database"]["level"], checks["touchpoints"]["level"]) == ("ok", "ok")
    assert checks["lag"]["found"] == "not looked at: broker is not well"


def test_without_a_database_the_rest_is_looked_at(kafka: str, tmp_path: Path) -> None:
    url = f"mysql+asyncmy://nobody:nothing@127.0.0.1:{free_port()}/gone?charset=utf8mb4"
    checks = doctor(environment(kafka, url, tmp_path, partitions=1), code=1)
    assert errors(checks) == ["database", "topics", "retention", "log", "dead letters"]
    assert "nothing" not in json.dumps(checks).replace("nothing is processed", "")
    assert checks["hours"]["found"] == "not looked at: database is not well"


def test_an_old_schema_is_named(fresh_database: str, tmp_path: Path) -> None:
    checks = doctor(environment("127.0.0.1:1", fresh_database, tmp_path, partitions=1), code=1)
    assert checks["schema"]["level"] == "error"
    assert "db upgrade" in checks["schema"]["remedy"]
    assert "db upgrade" in checks["touchpoints"]["remedy"]
