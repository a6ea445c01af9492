"""The worker as its operator meets it: cache, health, folders."""

import asyncio
import json
from pathlib import Path

import aiomcache

from tables.cache import journey_keys
from tests.support import golden
from tests.support.processes import Worker, environment, remove_topics, succeed, wait_for

SITE = "a" * 40


def prepared(kafka: str, database_url: str, folder: Path, **settings: str | int) -> dict[str, str]:
    env = environment(kafka, database_url, folder, partitions=2, **settings)
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    vectors = golden.load("sparse")
    succeed(
        "ingest",
        "--clicks",
        golden.write_lines(folder / "clicks.jsonl", vectors.clicks),
        "--conversions",
        golden.write_lines(folder / "conversions.jsonl", vectors.conversions),
        env=env,
    )
    return env


async def test_cached_journeys_of_the_tracking_servers_are_deleted(
    kafka: str, fresh_sqlite: str, memcached: str, tmp_path: Path
) -> None:
    host, _, port = memcached.rpartition(":")
    cache = aiomcache.Client(host, int(port))
    keys = [key for conv_id in (1, 2, 3) for key in journey_keys(conv_id, [SITE])]
    for key in keys:
        await cache.set(key, b"an old journey")
    env = prepared(kafka, fresh_sqlite, tmp_path, memcached=memcached, memcached_sites=SITE)
    with Worker(env) as worker:
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.to_thread(succeed, "status", "--wait-drained", "60", env=env)
        assert [await cache.get(key) for key in keys] == [None] * len(keys)
        assert "touchstream_cache_failures_total 0.0" in worker.health("/metrics")[1]
    await cache.close()
    await remove_topics(env)


async def test_a_cache_that_is_away_costs_no_journey_and_is_counted(
    kafka: str, fresh_sqlite: str, tmp_path: Path
) -> None:
    env = prepared(kafka, fresh_sqlite, tmp_path, memcached="127.0.0.1:9")
    with Worker(env) as worker:
        await asyncio.to_thread(worker.wait_ready)
        await asyncio.to_thread(succeed, "status", "--wait-drained", "60", env=env)
        failures = [
            line
            for line in worker.health("/metrics")[1].splitlines()
            if line.startswith("touchstream_cache_failures_total")
        ]
        assert float(failures[0].split()[-1]) >= 300
    await remove_topics(env)


async def test_two_workers_share_a_machine_with_one_environment(kafka: str, fresh_sqlite: str, tmp_path: Path) -> None:
    env = prepared(kafka, fresh_sqlite, tmp_path)
    with Worker(env, name="first") as first:
        await asyncio.to_thread(first.wait_ready)
        with Worker(env, name="second") as second:
            await asyncio.to_thread(succeed, "status", "--wait-drained", "60", env=env)
            await asyncio.to_thread(lambda: _until_logged(second, "health at http://127.0.0.1:"))
            port = int(env["TOUCHSTREAM_HEALTH"].rpartition(":")[2])
            assert f"http://127.0.0.1:{port}/readyz" in first.log_text()
            assert f"http://127.0.0.1:{port}/readyz" not in second.log_text()
            assert worker_folders(env) == ["1", "2"]
            assert (first.health("/healthz")[0], first.health("/nothing")[0]) == (200, 404)
    await remove_topics(env)


async def test_both_engines_are_ready_and_have_read_all_that_is_there(
    kafka: str, fresh_sqlite: str, tmp_path: Path
) -> None:
    env = prepared(kafka, fresh_sqlite, tmp_path, fire_interval_seconds="0.2")
    journeys = env["TOUCHSTREAM_TOPIC_PREFIX"] + "journeys"
    with Worker(env) as worker:
        await asyncio.to_thread(worker.wait_ready)
        readiness = json.loads(worker.health("/readyz")[1])
        assert readiness["assigned"] == readiness["open"] == [0, 1]
        assert readiness["hours"] == {"assigned": [0, 1], "open": [0, 1]}
        await asyncio.to_thread(succeed, "status", "--wait-drained", "60", env=env)
        lags = [f'touchstream_lag_records{{partition="{number}",topic="{journeys}"}} 0.0' for number in (0, 1)]
        await asyncio.to_thread(
            wait_for, lambda: all(lag in worker.health("/metrics")[1] for lag in lags), "journeys to be read"
        )
        assert worker.stop() == 0
    partitions = json.loads(succeed("progress", "show", "--json", env=env))["hours"]["partitions"]
    places = [each["topics"]["journeys"] for each in partitions]
    assert [place["committed"] for place in places] == [place["end"] for place in places]
    assert sum(place["end"] for place in places) > 0
    await remove_topics(env)


def worker_folders(env: dict[str, str]) -> list[str]:
    return sorted(path.name for path in Path(env["TOUCHSTREAM_DATA_DIR"], "workers").iterdir())


def _until_logged(worker: Worker, text: str) -> None:
    wait_for(lambda: text in worker.log_text(), f"{text!r} in the log")
