"""`purge` as a person runs it: what it does, says and refuses, and what stands behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomcache
import pytest

from stream.core.facts import Journey
from tables.cache import journey_keys
from tables.sql.database import open_database
from tables.sql.purge_ranges import Meant
from tables.sql.purges import look_to_purge, purge_batch
from tests.faults.installation import Installation
from tests.support.processes import Environment, cli, environment, free_port, succeed
from tests.support.rebuilds import BASE, HOUR, converted, execute, put, uniform
from tests.support.rows import query

ALL = ("--start", "0", "--end", "4294967295")
SITE = "a" * 40
COMMAND_LINE = "9c1185a5c5e9fc54612808977ee8f548b2258d31"  # Prosper202's own seed where no web server calls it
SEEDS = ("", SITE, COMMAND_LINE)
FORMS = 1 + len(SEEDS)  # the documented key, and one for each seed


def url_of(env: Environment) -> str:
    return env["TOUCHSTREAM_DATABASE_URL"]


def shown(env: Environment) -> list[int]:
    """Conversions that have touchpoint rows."""
    rows = query(url_of(env), "SELECT DISTINCT conv_id FROM `202_conversion_touchpoints` ORDER BY 1")
    return [conv_id for (conv_id,) in rows]


def purged(env: Environment) -> dict[int, int]:
    """Versions by conversion."""
    return dict(query(url_of(env), "SELECT conv_id, version FROM `202_stream_journeys` WHERE purged = 1"))


@pytest.fixture
async def with_log(kafka: str, fresh_database: str, memcached: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """A broker, a cache, and no worker."""
    settings = {"memcached": memcached, "memcached_sites": SITE}
    installation = Installation(kafka, fresh_database, tmp_path, partitions=2, **settings)
    await asyncio.to_thread(installation.prepare)
    yield installation
    await asyncio.to_thread(installation.remove)


def published(installation: Installation) -> list[tuple[int, int, bool, list[int]]]:
    """Conversion, version, whether it is purged, and clicks, of all records."""
    journeys = [json.loads(record.value) for record in installation.read("journeys")]
    return sorted(
        (each["conv_id"], each["version"], each["purged"], [touch["click_id"] for touch in each["touches"]])
        for each in journeys
    )


def as_published(*journeys: Journey, version: int = 2) -> list[tuple[int, int, bool, list[int]]]:
    return [(each.conversion.conv_id, version, True, [each.conversion.click_id]) for each in journeys]


async def cached(env: Environment, *conv_ids: int) -> list[bool]:
    """For every form of every key."""
    host, _, port = env["TOUCHSTREAM_MEMCACHED"].rpartition(":")
    client = aiomcache.Client(host, int(port))
    keys = [key for conv_id in conv_ids for key in journey_keys(conv_id, SEEDS)]
    found = [await client.get(key) is not None for key in keys]
    await client.close()
    return found


async def fill_cache(env: Environment, *conv_ids: int) -> None:
    host, _, port = env["TOUCHSTREAM_MEMCACHED"].rpartition(":")
    client = aiomcache.Client(host, int(port))
    for conv_id in conv_ids:
        for key in journey_keys(conv_id, SEEDS):
            await client.set(key, b"x")
    await client.close()


def test_conversions_go_by_id_and_unknown_ids_are_named(with_log: Installation) -> None:
    env = with_log.env
    journeys = uniform(1, 3)
    put(url_of(env), journeys)
    asyncio.run(fill_cache(env, 1, 2, 3))
    done = cli("purge", "--conversion", "2", "--conversion", "77", "--conversion", "1", "--conversion", "2", env=env)
    assert (done.returncode, done.stdout) == (1, "purged: 2 conversions, 4 rows removed, 2 journeys purged\n")
    assert done.stderr.splitlines() == [
        "conversion 77: unknown: neither journeys, logs nor touchpoints name it",
        "error: 1 of 3 conversions are unknown, the others are done",
        'hint: "python -m stream status" shows whether workers are behind',
    ]
    assert (shown(env), purged(env)) == ([3], {1: 2, 2: 2})
    assert published(with_log) == as_published(*journeys[:2])
    assert asyncio.run(cached(env, 1, 2, 3)) == [False] * 2 * FORMS + [True] * FORMS


def test_a_range_goes_by_account_and_a_second_time_changes_nothing(with_log: Installation) -> None:
    env = with_log.env
    seven, eight = uniform(2, 3), uniform(1, 2, user_id=8, first_id=101)
    put(url_of(env), [*seven, *eight])
    last = seven[-1].conversion.conv_time
    span = ("--user", "8", "--user", "7", "--start", str(BASE + 30), "--end", str(last - 1))
    assert succeed("purge", *span, env=env).splitlines() == [
        "user 7: 5 conversions, 10 rows removed, 5 journeys purged",
        "user 8: 2 conversions, 4 rows removed, 2 journeys purged",
        "purged: 7 conversions, 14 rows removed, 7 journeys purged",
    ]
    assert (shown(env), sorted(purged(env))) == ([6], [1, 2, 3, 4, 5, 101, 102])
    rows = "SELECT * FROM `202_stream_journeys` ORDER BY conv_id"
    before = query(url_of(env), rows)
    answer = json.loads(succeed("purge", *span, "--json", env=env))
    assert answer == {
        "ok": True,
        "is_dry_run": False,
        "start": BASE + 30,
        "start_utc": "2023-11-14T22:00:30Z",
        "end": last - 1,
        "end_utc": "2023-11-14T23:40:29Z",
        "conversions": 7,
        "rows": 0,
        "journeys": 0,
        "cache_failures": 0,
        "unknown": [],
        "users": [
            {"user_id": 7, "conversions": 5, "rows": 0, "journeys": 0},
            {"user_id": 8, "conversions": 2, "rows": 0, "journeys": 0},
        ],
        "scopes": [],
    }
    assert query(url_of(env), rows) == before
    sixth = ("--start", str(last), "--end", str(last))
    assert "user 7: 1 conversions, 2 rows" in succeed("purge", *sixth, env=env)
    assert (shown(env), len(purged(env))) == ([], 8)


def test_a_purge_killed_behind_its_commit_is_repaired_by_repeating_it(with_log: Installation) -> None:
    env = with_log.env
    journeys = uniform(1, 2)
    put(url_of(env), journeys)

    async def killed() -> None:
        database = open_database(url_of(env))
        try:
            meant = [Meant(1, 7, 70), Meant(2, 7, 70)]
            await purge_batch(database, meant, look_to_purge(), partitions=2, now=1)
        finally:
            await database.close()

    asyncio.run(killed())
    asyncio.run(fill_cache(env, 1, 2))
    assert published(with_log) == []
    assert "2 conversions, 0 rows removed, 0 journeys purged" in succeed("purge", *ALL, env=env)
    assert published(with_log) == as_published(*journeys)
    assert not any(asyncio.run(cached(env, 1, 2)))


def test_a_cache_that_is_away_is_warned_of(with_log: Installation) -> None:
    env = with_log.env | {"TOUCHSTREAM_MEMCACHED": f"127.0.0.1:{free_port()}"}
    put(url_of(env), uniform(1, 2))
    done = cli("purge", *ALL, env=env)
    assert (done.returncode, shown(env)) == (0, [])
    assert done.stderr == "warning: 2 conversions may still have an entry in the cache\n"


def test_another_count_of_partitions_than_the_topics_have_is_refused_before_anything_is_locked(
    with_log: Installation,
) -> None:
    """It would lock the rows of other partitions than workers do; those that `put` took are of a log with one."""
    put(url_of(with_log.env), uniform(1, 2))
    env = with_log.env | {"TOUCHSTREAM_PARTITIONS": "3"}
    rows = "SELECT partition_id, epoch FROM `202_stream_progress`"
    before = query(url_of(env), rows)
    topics = f'topic "{with_log.topic("clicks")}" has 2 partitions'
    for options, says, right in (
        (("purge", *ALL), topics, 2),
        (("purge", "--conversion", "1"), topics, 2),
        (("purge", "--disabled"), "the log that workers have read has 1 partitions", 1),
        (("replay", *ALL), topics, 2),
    ):
        done = cli(*options, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        hint = f"set TOUCHSTREAM_PARTITIONS={right} for all commands and workers"
        assert done.stderr.splitlines() == [f"error: {says}, expected 3", f"hint: {hint}"]
    assert query(url_of(env), rows) == before
    assert (shown(env), purged(env)) == ([1, 2], {})


def test_explain_says_that_a_journey_is_purged(with_log: Installation) -> None:
    env = with_log.env
    put(url_of(env), uniform(1, 2))
    succeed("purge", "--conversion", "1", env=env)
    answers = [json.loads(succeed("explain", conv_id, "--json", env=env)) for conv_id in ("1", "2")]
    assert [answer["journey"]["purged"] for answer in answers] == [True, False]
    assert [answer["touchpoint_rows_differ"] for answer in answers] == [False, False]
    assert [touch["is_converting"] for touch in answers[0]["touches"]] == [True]
    done = cli("explain", "1", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "purged:         by hand; the converting click earns alone" in done.stdout
    assert "202_conversion_touchpoints holds the same 0 rows" in done.stdout
    assert "purged" not in succeed("explain", "2", env=env)


# Without a broker


def test_without_a_broker_nothing_is_begun(env: Environment) -> None:
    put(url_of(env), uniform(1, 2))
    for options in (ALL, ("--conversion", "1")):
        done = cli("purge", *options, env=env)
        assert (done.returncode, done.stdout) == (1, "")
        assert "error: Kafka at 127.0.0.1:1 did not answer" in done.stderr
        assert "dev/kafka start; what was done stays, and the same command does the rest" in done.stderr
    assert (shown(env), purged(env)) == ([1, 2], {})


def test_without_a_database_it_fails_with_the_remedy(tmp_path: Path) -> None:
    url = f"mysql+asyncmy://nobody:nothing@127.0.0.1:{free_port()}/none"
    done = cli("purge", *ALL, env=environment("127.0.0.1:1", url, tmp_path, partitions=1))
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: database" in done.stderr
    assert "hint: what was done stays" in done.stderr


def test_a_dry_run_counts_and_changes_nothing(env: Environment) -> None:
    put(url_of(env), uniform(1, 2))
    assert succeed("purge", *ALL, "--dry-run", env=env).splitlines() == [
        "user 7: 2 conversions, 4 rows to remove, 2 journeys to purge",
        "dry run, nothing was changed: 2 conversions, 4 rows to remove, 2 journeys to purge",
    ]
    assert json.loads(succeed("purge", "--conversion", "1", "--dry-run", "--json", env=env))["is_dry_run"] is True
    assert (shown(env), purged(env)) == ([1, 2], {})


def off(env: Environment, *options: str) -> None:
    succeed("settings", "set", *options, "--multi-touch", "off", env=env)


def test_scopes_without_multi_touch_are_told_with_their_counts(env: Environment, memcached: str) -> None:
    """And need no broker, for no journey changes; entries of the cache go."""
    env |= {"TOUCHSTREAM_MEMCACHED": memcached, "TOUCHSTREAM_MEMCACHED_SITES": SITE}
    put(url_of(env), [*uniform(1, 2), converted(9, BASE + 5 * HOUR), *uniform(1, 3, user_id=8, first_id=101)])
    off(env, "--user", "7", "--scope", "global", "--since", str(BASE + 5 * HOUR))
    off(env, "--user", "8", "--scope", "campaign", "--id", "70", "--since", "5")
    off(env, "--user", "8", "--scope", "advertiser", "--id", "44", "--since", "5")
    for conv_id in (1, 9, 101):
        execute(
            url_of(env),
            "INSERT INTO `202_conversion_touchpoints` (conv_id, click_id, click_time, position, created_at)"
            f" VALUES ({conv_id}, 99, 5, 9, 0)",
        )
    lines = [
        "user 7, global: 1 conversions, 1 rows removed",
        "user 8, advertiser:44: 0 conversions, 0 rows removed",
        "user 8, campaign:70: 3 conversions, 1 rows removed",
        "purged of 3 scopes: 4 conversions, 2 rows removed",
    ]
    asyncio.run(fill_cache(env, 1, 2, 9, 101, 102, 103))
    assert succeed("purge", "--disabled", "--user", "7", env=env).splitlines() == [
        lines[0],
        "purged of 1 scopes: 1 conversions, 1 rows removed",
    ]
    assert asyncio.run(cached(env, 9, 101)) == [False] * FORMS + [True] * FORMS
    again = [line.replace("1 rows", "0 rows").replace("2 rows", "1 rows") for line in lines]
    again[2] = lines[2]
    assert succeed("purge", "--disabled", env=env).splitlines() == again
    assert asyncio.run(cached(env, 1, 2)) == [True] * 2 * FORMS
    assert not any(asyncio.run(cached(env, 9, 101, 102, 103)))
    answer: dict[str, Any] = json.loads(succeed("purge", "--disabled", "--json", env=env))
    assert answer["scopes"][2] == {
        "user_id": 8,
        "scope": "campaign",
        "scope_id": 70,
        "conversions": 3,
        "rows": 0,
        "journeys": 0,
    }
    assert (shown(env), purged(env)) == ([1, 2], {})
    on = ("--scope", "campaign", "--id", "70", "--multi-touch", "on", "--since", "5")
    assert "3 restored" in succeed("settings", "set", "--user", "8", *on, env=env)


def test_without_such_a_scope_there_is_one_line(sqlite_env: Environment) -> None:
    put(url_of(sqlite_env), uniform(1, 2))
    assert succeed("purge", "--disabled", env=sqlite_env) == "no scope has multi-touch off: nothing to purge\n"
    assert shown(sqlite_env) == [1, 2]


# Wrong usage


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "say what to purge"),
        (("--user", "7"), "say what to purge"),
        (("--start", "1700000000"), "--start and --end go together"),
        (("--end", "1700000000"), "--start and --end go together"),
        (("--start", "1700003600", "--end", "1700000000"), "is after --end"),
        (("--start", "4000000000", "--end", "4000003600"), "in the future"),
        (("--conversion", "1", *ALL), "--conversion and --start and --end exclude each other"),
        (("--conversion", "1", "--disabled"), "--conversion and --disabled exclude each other"),
        (("--conversion", "1", "--user", "7"), "--conversion and --user exclude each other"),
        (("--disabled", *ALL), "--start and --end and --disabled exclude each other"),
        (("--user", "7", "--user", "12345", *ALL), "unknown user 12345"),
        (("--user", "12345", "--disabled"), "unknown user 12345"),
        (("--user", "0", *ALL), "--user"),
        (("--conversion", "0"), "--conversion"),
        (("--conversion", "one"), "--conversion"),
        (("--start", "yesterday", "--end", "1700000000"), "ISO 8601"),
    ],
)
def test_wrong_usage_is_refused_with_the_reason(sqlite_env: Environment, options: tuple[str, ...], reason: str) -> None:
    put(url_of(sqlite_env), uniform(1, 1))
    done = cli("purge", *options, env=sqlite_env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in " ".join(done.stderr.split())
    assert (shown(sqlite_env), purged(sqlite_env)) == ([1], {})
