"""`explain`: a journey and the records that it comes from, as the database has them."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream.core.events import Click
from stream.core.facts import Journey, Outcome, Touch, touch_of
from stream.core.money import Units
from tables.sql.database import open_database
from tables.sql.facts import SqlFactStore, Writing
from tests.support import golden
from tests.support.processes import Environment, Worker, cli, environment, remove_topics, succeed
from tests.support.sql_examples import advance, click, conversion, journey

OWNER = "a test"
HOUR = 1_700_000_000 - 1_700_000_000 % 3600
HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]\u202e\r\n"


async def store(env: Environment, clicks: Sequence[Click], journeys: Sequence[Journey]) -> None:
    """As a worker writes them."""
    database = open_database(env["TOUCHSTREAM_DATABASE_URL"])
    writing = Writing(owner=OWNER, writes_conversion_logs=True, clock=lambda: 1_800_000_000)
    facts = SqlFactStore(database, writing)
    taken = await facts.take_over(0, owner=OWNER, topic_ids={}, partition_count=1, history_from=0)
    try:
        async with facts.transaction() as transaction:
            await transaction.pass_fence(advance(epoch=taken.epoch), after_failure=False)
            await transaction.claim_clicks(clicks)
            await transaction.write_journeys(journeys)
    finally:
        await database.close()


async def run_sql(env: Environment, *statements: str) -> None:
    """What somebody does by hand."""
    database = open_database(env["TOUCHSTREAM_DATABASE_URL"])
    try:
        async with database.transaction() as connection:
            for statement in statements:
                await connection.run(statement)
    finally:
        await database.close()


def explained(env: Environment, conv_id: int) -> dict[str, Any]:
    answer = json.loads(succeed("explain", str(conv_id), "--json", env=env))
    assert isinstance(answer, dict)
    return answer


FIRST = click(1, click_time=HOUR + 100, click_cpc=Units(50_000))
SECOND = click(2, click_time=HOUR + 4_000, ppc_account_id=11, click_filtered=1)
COUNTED = conversion(
    10, click_id=2, click_time=HOUR + 4_000, conv_time=HOUR + 7_300, transaction_id="order 5", revised_at=HOUR + 9_000
)


def touches(*clicks: Click) -> tuple[Touch, ...]:
    return tuple(map(touch_of, clicks))


async def test_a_counted_conversion_is_told_with_all_its_touches(env: Environment) -> None:
    await store(env, [FIRST, SECOND], [journey(COUNTED, touches=touches(FIRST, SECOND), version=3)])
    answer = explained(env, 10)
    assert answer["conversion"] | {"click_payout": "12.50000", "transaction_id": "order 5"} == answer["conversion"]
    assert answer["conversion"]["conv_time"] == HOUR + 7_300
    assert answer["conversion"]["conv_time_utc"] == "2023-11-15T00:01:40Z"
    assert answer["conversion"]["revised_at"] == HOUR + 9_000
    assert (answer["outcome"], answer["reason"], answer["counts_instead"]) == ("counted", None, None)
    assert answer["journey"]["identity"] == "campaign"
    assert (answer["journey"]["version"], answer["journey"]["date_hour"]) == (3, HOUR + 7_200)
    assert answer["window"]["since"] == HOUR + 7_300 - 30 * 86_400
    assert answer["window"]["until"] == HOUR + 7_300
    first, second = answer["touches"]
    assert (first["position"], first["click_id"], first["seconds_before"]) == (0, 1, 7_200)
    assert (first["is_converting"], second["is_converting"]) == (False, True)
    assert first["click"]["click_cpc"] == "0.50000"
    assert (second["click"]["ppc_account_id"], second["click"]["click_filtered"]) == (11, True)
    assert answer["converting_click"] == second["click"]
    assert answer["touchpoint_rows_differ"] is False
    assert answer["touchpoint_rows"] == [
        {"position": 0, "click_id": 1, "click_time": HOUR + 100},
        {"position": 1, "click_id": 2, "click_time": HOUR + 4_000},
    ]
    text = succeed("explain", "10", env=env)
    for expected in ("12.50000", "order 5", "2:00:00", "converting", "filtered", "the same 2 rows", "2023-11-15T00:01"):
        assert expected in text


async def test_a_duplicate_names_the_conversion_that_counts(env: Environment) -> None:
    other = COUNTED._replace(conv_id=11)
    third = COUNTED._replace(conv_id=12, transaction_id="order 6")
    await store(
        env,
        [SECOND],
        [
            journey(COUNTED, touches=touches(SECOND)),
            journey(other, outcome=Outcome.DUPLICATE, touches=()),
            journey(third, touches=touches(SECOND)),
        ],
    )
    answer = explained(env, 11)
    assert (answer["outcome"], answer["counts_instead"]) == ("duplicate", 10)
    assert answer["reason"] == "conversion 10 counts for the same click and transaction"
    assert (answer["touches"], answer["touchpoint_rows"]) == ([], [])
    assert answer["converting_click"]["click_id"] == 2
    assert "duplicate: conversion 10 counts" in succeed("explain", "11", env=env)


async def test_a_deleted_conversion_says_so(env: Environment) -> None:
    deleted = COUNTED._replace(deleted=1)
    await store(env, [SECOND], [journey(deleted, outcome=Outcome.DELETED, touches=())])
    answer = explained(env, 10)
    assert (answer["outcome"], answer["conversion"]["deleted"]) == ("deleted", True)
    assert "deleted: the conversion is deleted" in succeed("explain", "10", env=env)


async def test_an_unknown_click_and_missing_history_are_told(env: Environment) -> None:
    unknown = Touch(HOUR + 4_000, 2, 0, 0, 0, 0)
    await store(env, [], [journey(COUNTED, touches=(unknown,), click_unknown=True, incomplete=True)])
    answer = explained(env, 10)
    assert (answer["journey"]["click_unknown"], answer["journey"]["incomplete"]) == (True, True)
    assert (answer["touches"][0]["click"], answer["converting_click"]) == (None, None)
    text = succeed("explain", "10", env=env)
    assert "the click has not come yet" in text
    assert "earlier clicks may have been removed" in text


async def test_a_visitors_journey_ends_with_the_click_that_converted(env: Environment) -> None:
    converting = SECOND._replace(visitor_id="anna", click_bot=1)
    await store(env, [converting], [journey(COUNTED, visitor_id="anna", touches=touches(converting))])
    answer = explained(env, 10)
    assert (answer["journey"]["identity"], answer["journey"]["visitor_id"]) == ("visitor", "anna")
    assert answer["window"]["until"] == HOUR + 4_000
    assert answer["touches"][0]["click"]["click_bot"] is True
    assert "visitor anna" in succeed("explain", "10", env=env)


async def test_text_from_outside_moves_no_terminal(env: Environment) -> None:
    converting = SECOND._replace(visitor_id=HOSTILE)
    hostile = COUNTED._replace(transaction_id=HOSTILE, visitor_id=HOSTILE)
    await store(env, [converting], [journey(hostile, visitor_id=HOSTILE, touches=touches(converting))])
    text = succeed("explain", "10", env=env)
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "\\x1b]0;owned\\x07\\x1b[2J[red]\\u202e\\r\\n" in text
    assert explained(env, 10)["conversion"]["transaction_id"] == HOSTILE


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM `202_conversion_touchpoints` WHERE click_id = 1", "missing: position 0, click 1"),
        (
            "UPDATE `202_conversion_touchpoints` SET position = 7 WHERE click_id = 1",
            f"there: position 7, click 1, 2023-11-14T22:01:40Z ({HOUR + 100}), not of the journey",
        ),
        (
            "INSERT INTO `202_conversion_touchpoints` (conv_id, click_id, click_time, position, created_at)"
            " VALUES (10, 99, 5, 2, 0)",
            "there: position 2, click 99, 1970-01-01T00:00:05Z (5), not of the journey",
        ),
    ],
)
async def test_rows_edited_by_hand_are_warned_of(env: Environment, statement: str, said: str) -> None:
    await store(env, [FIRST, SECOND], [journey(COUNTED, touches=touches(FIRST, SECOND))])
    await run_sql(env, statement)
    done = cli("explain", "10", env=env)
    assert done.returncode == 0
    assert "warning: 202_conversion_touchpoints holds other rows than the journey" in done.stderr
    assert said in done.stderr
    assert explained(env, 10)["touchpoint_rows_differ"] is True


@pytest.mark.parametrize("conv_id", ["1", "99999999999999999999999"])
async def test_an_unknown_conversion_is_an_error_with_a_hint(env: Environment, conv_id: str) -> None:
    done = cli("explain", conv_id, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"conversion {conv_id} is not in the database" in done.stderr
    assert "status" in done.stderr
    assert "dead-letters list" in done.stderr


@pytest.mark.parametrize("conv_id", ["0", "-4", "abc", ""])
async def test_what_is_no_id_is_wrong_usage(env: Environment, conv_id: str) -> None:
    assert cli("explain", conv_id, env=env).returncode == 2


def test_a_database_without_tables_is_named_with_the_remedy(fresh_sqlite: str, tmp_path: Path) -> None:
    done = cli("explain", "1", env=environment("127.0.0.1:1", fresh_sqlite, tmp_path, partitions=1))
    assert done.returncode == 1
    assert "db upgrade" in done.stderr


@pytest.fixture
async def golden_env(kafka: str, fresh_sqlite: str, tmp_path: Path) -> AsyncIterator[Environment]:
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=2)
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    yield env
    await remove_topics(env)


async def test_what_a_worker_wrote_is_explained(golden_env: Environment, tmp_path: Path) -> None:
    vectors = golden.load_before("sparse", int(time.time()))
    clicks = golden.write_lines(tmp_path / "clicks.jsonl", vectors.clicks)
    conversions = golden.write_lines(tmp_path / "conversions.jsonl", vectors.conversions)
    succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=golden_env)
    with Worker(golden_env) as worker:
        worker.wait_ready()
        succeed("status", "--wait-drained", "60", env=golden_env)
        assert worker.stop() == 0
    conv_id = vectors.touchpoints[-1].conv_id
    answer = explained(golden_env, conv_id)
    expected = [row for row in vectors.touchpoints if row.conv_id == conv_id]
    assert [(each["position"], each["click_id"], each["click_time"]) for each in answer["touches"]] == [
        (row.position, row.click_id, row.click_time) for row in expected
    ]
    assert answer["touchpoint_rows_differ"] is False
    assert answer["converting_click"]["click_id"] == answer["conversion"]["click_id"]
