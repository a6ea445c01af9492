"""`doctor --deep`: silent on what workers have left, sees each row broken by hand, no false alarm beside work."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from stream.commands.checkup import Checked, Level
from stream.commands.doctor import examine
from stream.commands.replay_plan import Wish
from stream.config import Settings
from tests.faults.conftest import install
from tests.faults.installation import Installation
from tests.support import golden
from tests.support.hour_rows import store_golden_models
from tests.support.processes import Environment, Worker, cli, environment, remove_topics, succeed, with_own_port
from tests.support.rebuilds import execute
from tests.support.rows import query
from tests.support.traffic import DAY, Rates, traffic

__all__ = ["install"]

LOG, LETTERS, CREDITS, TOUCHES, TOTALS, OUTPUTS, AUDIT = (
    "log and rows (I1, I6)",
    "dead letters (I1)",
    "credits (I2)",
    "touches (I3)",
    "totals (I4)",
    "outputs (I5)",
    "audit (I7)",
)
EVERYTHING = Wish(users=(), start=0, end=2**31 - 1, is_incomplete_allowed=True)


@pytest.fixture
async def installation(kafka: str, fresh_database: str, tmp_path: Path) -> AsyncIterator[Environment]:
    """The first third of a golden set, which a worker has processed; it is gone."""
    env = environment(kafka, fresh_database, tmp_path, partitions=2, fire_interval_seconds="0.2")
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    await store_golden_models(fresh_database, "sparse")
    await asyncio.to_thread(_note_models, fresh_database)
    events = golden.in_order(golden.load_before("sparse", int(time.time())), "merged")
    events = events[: len(events) // 3]
    lines = [
        golden.write_lines(tmp_path / f"{topic}.jsonl", [each for each in events if each.topic == topic])
        for topic in ("clicks", "conversions")
    ]
    succeed("ingest", "--clicks", lines[0], "--conversions", lines[1], env=env)
    with Worker(with_own_port(env)) as worker:
        succeed("status", "--wait-drained", "60", env=env)
        assert worker.stop() == 0
    yield env
    await remove_topics(env)


def _note_models(url: str) -> None:
    """Golden models are stored without a default, and without a word of who did it."""
    for user_id, model_id in query(url, "SELECT user_id, MIN(model_id) FROM `202_attribution_models` GROUP BY user_id"):
        execute(url, f"UPDATE `202_attribution_models` SET is_default = 1 WHERE model_id = {model_id}")
        execute(
            url,
            "INSERT INTO `202_attribution_audit` (user_id, model_id, action, created_at)"
            f" VALUES ({user_id}, {model_id}, 'model_update', 2000000000)",
        )


class Break(NamedTuple):
    """Made by hand and taken back; the checks that must see it."""

    done: str
    undone: str
    seen_by: set[str]


def breaks(url: str) -> Iterator[Break]:
    # A click that converted nothing, in the middle of a journey.
    number, conv_id, click_id, at = query(
        url,
        "SELECT t.touchpoint_id, t.conv_id, t.click_id, t.click_time FROM `202_conversion_touchpoints` t"
        " JOIN `202_stream_journeys` j ON j.conv_id = t.conv_id"
        " WHERE t.position = 1 AND t.click_id <> j.click_id ORDER BY t.conv_id LIMIT 1",
    )[0]
    touch = "`202_conversion_touchpoints`"
    columns = "(touchpoint_id, conv_id, click_id, click_time, position, created_at)"
    row = f"INSERT INTO {touch} {columns} VALUES"
    yield Break(
        f"DELETE FROM {touch} WHERE touchpoint_id = {number}",
        f"{row} ({number}, {conv_id}, {click_id}, {at}, 1, 1)",
        {LOG, TOUCHES, "touchpoints"},  # its credit is now one of a stranger
    )
    yield Break(
        f"{row} (9000001, {conv_id}, {click_id}, {at}, 1, 1)",
        f"DELETE FROM {touch} WHERE touchpoint_id = 9000001",
        {LOG, "touchpoints"},
    )
    for wrong_time in (1, 2**31 - 1):
        yield Break(
            f"UPDATE {touch} SET click_time = {wrong_time} WHERE touchpoint_id = {number}",
            f"UPDATE {touch} SET click_time = {at} WHERE touchpoint_id = {number}",
            {LOG, TOUCHES},
        )
    yield Break(
        f"UPDATE `202_stream_clicks` SET campaign_id = campaign_id + 1 WHERE click_id = {click_id}",
        f"UPDATE `202_stream_clicks` SET campaign_id = campaign_id - 1 WHERE click_id = {click_id}",
        {LOG, TOUCHES},
    )
    # Columns of a click, and a click, that no journey shows.
    for column in ("click_cpc", "click_filtered"):
        yield Break(
            f"UPDATE `202_stream_clicks` SET {column} = {column} + 1 WHERE click_id = {click_id}",
            f"UPDATE `202_stream_clicks` SET {column} = {column} - 1 WHERE click_id = {click_id}",
            {LOG},
        )
    ((last,),) = query(url, "SELECT MAX(click_id) FROM `202_stream_clicks`")
    yield Break(
        f"UPDATE `202_stream_clicks` SET click_id = click_id + 1 WHERE click_id = {last}",
        f"UPDATE `202_stream_clicks` SET click_id = click_id - 1 WHERE click_id = {last + 1}",
        {LOG},
    )
    yield Break(
        f"UPDATE `202_stream_journeys` SET click_payout = click_payout + 1 WHERE conv_id = {conv_id}",
        f"UPDATE `202_stream_journeys` SET click_payout = click_payout - 1 WHERE conv_id = {conv_id}",
        {LOG},  # credits and totals are still of what was credited
    )
    yield Break(
        f"UPDATE `202_stream_credited` SET payout = payout + 1 WHERE conv_id = {conv_id}",
        f"UPDATE `202_stream_credited` SET payout = payout - 1 WHERE conv_id = {conv_id}",
        {TOTALS},
    )
    yield from _breaks_of_results(url)


def _breaks_of_results(url: str) -> Iterator[Break]:
    (((number, credit)),) = query(
        url, "SELECT touchpoint_id, credit FROM `202_attribution_touchpoints` ORDER BY touchpoint_id LIMIT 1"
    )
    less, one = Decimal(str(credit)) - Decimal("0.00001"), f"WHERE touchpoint_id = {number}"
    yield Break(
        f"UPDATE `202_attribution_touchpoints` SET credit = {less}, weight = {less} {one}",
        f"UPDATE `202_attribution_touchpoints` SET credit = {credit}, weight = {credit} {one}",
        {LOG, CREDITS, OUTPUTS},
    )
    yield Break(
        f"UPDATE `202_attribution_touchpoints` SET weight = weight - 0.00001 {one}",
        f"UPDATE `202_attribution_touchpoints` SET weight = credit {one}",
        {LOG, CREDITS, OUTPUTS},
    )
    yield Break(
        f"UPDATE `202_attribution_touchpoints` SET position = position + 100 {one}",
        f"UPDATE `202_attribution_touchpoints` SET position = position - 100 {one}",
        {LOG, OUTPUTS},
    )
    ((conv_id,),) = query(url, "SELECT MAX(conv_id) FROM `202_stream_journeys`")
    yield Break(
        f"UPDATE `202_stream_journeys` SET version = version - 1 WHERE conv_id = {conv_id}",
        f"UPDATE `202_stream_journeys` SET version = version + 1 WHERE conv_id = {conv_id}",
        {OUTPUTS},
    )
    ((snapshot, slot),) = query(
        url,
        "SELECT MIN(snapshot_id), MIN(model_id) FROM `202_attribution_snapshots` WHERE scope_type = 'global'"
        " AND attributed_conversions > 0",
    )
    for column, step in (
        ("attributed_revenue", "0.001"),
        ("attributed_conversions", "1"),
        ("attributed_clicks", "1"),
    ):
        yield Break(
            f"UPDATE `202_attribution_snapshots` SET {column} = {column} + {step} WHERE snapshot_id = {snapshot}",
            f"UPDATE `202_attribution_snapshots` SET {column} = {column} - {step} WHERE snapshot_id = {snapshot}",
            {LOG, TOTALS, OUTPUTS},
        )
    yield Break(
        f"UPDATE `202_attribution_models` SET updated_at = 2000000001 WHERE model_id = {slot}",
        f"UPDATE `202_attribution_models` SET updated_at = 1 WHERE model_id = {slot}",
        {AUDIT},
    )


def seen(done: list[Checked]) -> set[str]:
    """Checks that found an error; without a worker, nobody owns the partitions."""
    for _, finding in done:
        assert bool(finding.remedy) is (finding.level is not Level.OK)
    return {check.name for check, finding in done if finding.level is Level.ERROR} - {"owners"}


@pytest.mark.parametrize("share", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("fresh_database", ["mariadb", pytest.param("sqlite", marks=pytest.mark.full)], indirect=True)
async def test_what_is_well_and_every_row_that_was_broken_by_hand(installation: Environment, share: int) -> None:
    url = installation["TOUCHSTREAM_DATABASE_URL"]
    settings = Settings.from_env(installation)
    assert seen(await examine(settings, EVERYTHING)) == set()
    for each in list(breaks(url))[share::2]:
        await asyncio.to_thread(execute, url, each.done)
        found = seen(await examine(settings, EVERYTHING))
        await asyncio.to_thread(execute, url, each.undone)
        assert found == each.seen_by, each.done
    assert seen(await examine(settings, EVERYTHING)) == set()


@pytest.mark.parametrize(
    "case",
    [
        ("model_update", "before", Level.ERROR),
        ("model_update", "after", Level.ERROR),
        ("model_update", "actor", Level.ERROR),
        ("model_create", "after", Level.ERROR),
        ("model_create", "before", Level.OK),
        ("model_delete", "before", Level.ERROR),
        ("settings_update", "after", Level.ERROR),
        ("settings_update", "before", Level.OK),
        ("model_update", "source", Level.WARNING),  # then it is none of ours
        ("model_update", "everything", Level.WARNING),
    ],
)
def test_audit_rows_say_who_whence_before_and_after(
    case: tuple[str, str, Level], kafka: str, fresh_sqlite: str, tmp_path: Path
) -> None:
    action, lacks, level = case
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=1)
    succeed("db", "upgrade", env=env)
    row = {"model_name": "Ours"}
    said = {"actor": "ann", "source": "cli", "before": row, "after": row}
    nothing: tuple[object, ...] = (None, "", {})
    for value in nothing:  # each way of saying nothing; of an object it is a row without columns
        metadata = "NULL" if lacks == "everything" else f"'{json.dumps(said | {lacks: value})}'"
        columns = "(user_id, model_id, action, metadata, created_at)"
        execute(fresh_sqlite, f"INSERT INTO `202_attribution_audit` {columns} VALUES (1, 7, '{action}', {metadata}, 9)")
        done = asyncio.run(examine(Settings.from_env(env), EVERYTHING))
        (finding,) = [finding for check, finding in done if check.name == AUDIT]
        assert finding.level is level, finding
        if level is not Level.OK:
            assert f"{action}: no {'actor' if lacks == 'everything' else lacks}" in finding.details[0]
        execute(fresh_sqlite, "DELETE FROM `202_attribution_audit`")


def test_clicks_that_the_retention_removed_are_not_missing(install: Any, fresh_mariadb: str) -> None:  # noqa: ANN401
    installation: Installation = install(fresh_mariadb, partitions=2, fire_interval_seconds="0.3")
    installation.send(traffic(8, 600, now=installation.now))
    with installation.worker() as worker:
        succeed("status", "--wait-drained", "60", env=installation.env)
        assert worker.stop() == 0
    settings = Settings.from_env(installation.env)
    bound = installation.now - 30 * DAY
    named = "SELECT click_id FROM `202_stream_journeys`"
    old = f"click_time < {bound} AND click_id NOT IN ({named})"
    ((number,),) = query(fresh_mariadb, f"SELECT COUNT(*) FROM `202_stream_clicks` WHERE {old}")
    assert number > 20
    execute(fresh_mariadb, f"DELETE FROM `202_stream_clicks` WHERE {old}")
    only_clicks = Wish(users=(), start=0, end=2**31 - 1, is_incomplete_allowed=True)
    assert LOG in seen(asyncio.run(examine(settings, only_clicks)))
    execute(fresh_mariadb, f"UPDATE `202_stream_progress` SET history_from = {bound} WHERE topic_group = 'journeys'")
    assert LOG not in seen(asyncio.run(examine(settings, only_clicks)))


def test_a_record_without_its_dead_letter_is_named(install: Any, fresh_mariadb: str) -> None:  # noqa: ANN401
    """A worker at work has passed it; its letter goes with the records of a topic that is made anew."""
    installation: Installation = install(fresh_mariadb, partitions=2, fire_interval_seconds="0.3")
    installation.send(traffic(9, 400, now=installation.now, rates=Rates(broken=0.1)))
    with installation.worker() as worker:
        succeed("status", "--wait-drained", "60", env=installation.env)
        code, checks = deep(installation.env)
        broken = len(installation.expected().dead_letters)
        assert (code, checks[LETTERS]["found"]) == (0, f"{broken} records cannot be read, each has one")
        letters = installation.read("clicks-dead-letters")
        asyncio.run(_without_first_letters(installation, letters, lost=2))
        code, checks = deep(installation.env)
        assert (code, checks[LETTERS]["level"]) == (1, "error")
        assert checks[LETTERS]["found"] == "2 records can neither be read nor have a dead letter"
        origins = [dict(letter.headers) for letter in letters[:2]]
        for origin in origins:
            place = (
                f"partition {origin['touchstream-partition'].decode()} offset {origin['touchstream-offset'].decode()}:"
            )
            assert any(place in line for line in checks[LETTERS]["details"])
        assert worker.stop() == 0


async def _without_first_letters(installation: Installation, letters: list[Any], *, lost: int) -> None:
    """The topic anew, with all of them but the first."""
    name = installation.topic("clicks-dead-letters")
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.kafka)
    await admin.start()
    try:
        await admin.delete_topics([name])
    finally:
        await admin.close()
    succeed("topics", "apply", env=installation.env)
    producer = AIOKafkaProducer(bootstrap_servers=installation.kafka)
    await producer.start()
    try:
        for letter in letters[lost:]:
            if letter.key is not None or letter.value is not None:  # what a client refuses to send
                await producer.send_and_wait(name, letter.value, letter.key, 0, headers=list(letter.headers))
    finally:
        await producer.stop()


def deep(env: Environment, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = cli("doctor", "--deep", "--json", *options, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize("fresh_database", ["mariadb"], indirect=True)
async def test_as_a_user_runs_it(installation: Environment) -> None:
    url = installation["TOUCHSTREAM_DATABASE_URL"]
    await asyncio.to_thread(
        execute, url, "DELETE FROM `202_conversion_touchpoints` WHERE position = 0 AND conv_id % 2 = 0"
    )
    with Worker(with_own_port(installation)) as worker:
        worker.wait_ready()
        code, checks = deep(installation)
        assert code == 1
        assert checks[LOG]["level"] == "error"
        assert "replay" in checks[LOG]["remedy"]
        assert any("touchpoint conversion" in line for line in checks[LOG]["details"])
        users = {row[0] for row in query(url, "SELECT DISTINCT user_id FROM `202_stream_journeys`")}
        _, checks = deep(installation, "--user", str(min(users)), "--start", "2000-01-01", "--end", "2000-01-02")
        assert checks[LOG]["level"] == "ok", "nothing of that time"
        code, checks = deep(installation, "--sample", "0.01")
        assert checks[LOG]["level"] == "error", "a sample has at least one account"
    done = cli("doctor", "--sample", "0.5", env=installation)
    assert (done.returncode, "go with --deep" in done.stderr) == (2, True)


def test_no_false_alarm_while_work_goes_on(install: Any, fresh_mariadb: str) -> None:  # noqa: ANN401
    installation: Installation = install(fresh_mariadb, partitions=2, fire_interval_seconds="0.3")
    sent = traffic(7, 3000, now=installation.now)
    installation.send(sent[:1000])
    with installation.worker() as worker:
        worker.wait_ready()
        with installation.sending(sent[1000:]):
            for _ in range(2):
                code, checks = deep(installation.env)
                wrong = {name: each for name, each in checks.items() if each["level"] == "error"}
                assert (code, wrong) == (0, {})
        assert worker.stop() == 0
