"""Removal of old clicks beside a running worker, and what later journeys make of what is gone."""

import json
import time
from pathlib import Path
from typing import Any

from tables.sql.database import open_database
from tests.support.processes import Environment, Worker, environment, remove_topics, succeed, wait_for

DAY = 86_400


async def rows(env: Environment, statement: str, *, is_change: bool = False) -> list[tuple[Any, ...]]:
    database = open_database(env["TOUCHSTREAM_DATABASE_URL"])
    async with database.transaction() as connection:
        found = [] if is_change else list(await connection.fetch(statement))
        if is_change:
            await connection.run(statement)
    await database.close()
    return found


def send(env: Environment, kind: str, *events: dict[str, Any]) -> None:
    """Of one user and campaign; returns when they are in the database."""
    file = Path(env["HOME"], "some.jsonl")
    file.write_text("".join(json.dumps({"user_id": 1, "campaign_id": 10, **event}) + "\n" for event in events))
    succeed("ingest", f"--{kind}", str(file), env=env)
    succeed("status", "--wait-drained", "60", env=env)


async def test_old_clicks_go_and_late_conversions_are_flagged(kafka: str, fresh_database: str, tmp_path: Path) -> None:
    env = environment(kafka, fresh_database, tmp_path, partitions=2, click_retention_days=31, clicks="installed")
    succeed("db", "upgrade", env=env)
    succeed("db", "check", env=env)
    succeed("topics", "apply", env=env)
    theirs = "(click_id, user_id, ppc_account_id, click_cpc, click_time) VALUES (77, 1, 0, 0, 5)"
    await rows(env, f"INSERT INTO `202_clicks` {theirs}", is_change=True)
    now = int(time.time())
    old, older = now - 32 * DAY, now - 40 * DAY
    first = {"click_time": old - 60, "click_id": 2, "click_payout": 1}
    with Worker(env) as worker:
        # The watermark is at `old` then: nothing is too old yet, and conversion 1 has both touches.
        send(env, "clicks", {"click_id": 1, "click_time": older}, {"click_id": 2, "click_time": old - 60})
        send(env, "conversions", {**first, "conv_id": 1, "conv_time": old - 30})
        send(env, "clicks", {"click_id": 3, "click_time": now - 5})
        wait_for(lambda: "touchstream_clicks_removed_total 1.0" in worker.health("/metrics")[1], "the removal")
        send(env, "conversions", {**first, "conv_id": 2, "conv_time": old - 20})
        send(env, "conversions", {**first, "conv_id": 1, "conv_time": old - 30, "click_payout": 2, "revised_at": now})
        assert worker.stop() == 0
    clicks = await rows(env, "SELECT click_id FROM `202_stream_clicks` ORDER BY click_id")
    journeys = await rows(env, "SELECT conv_id, incomplete, touches FROM `202_stream_journeys` ORDER BY conv_id")
    # Conversion 1 names click 2, which stays; what it knew of click 1 stays with it, and conversion 2 cannot know.
    assert [row[0] for row in clicks] == [2, 3]
    shown = [(conv_id, bool(flag), [touch[1] for touch in json.loads(touches)]) for conv_id, flag, touches in journeys]
    assert shown == [(1, True, [1, 2]), (2, True, [2])]
    assert [row[0] for row in await rows(env, "SELECT click_id FROM `202_clicks`")] == [77]
    await remove_topics(env)
