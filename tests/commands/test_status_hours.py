"""`status` on hours: what it says of them, and that --wait-drained waits for them too."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from stream.commands.draining import all_that_is_missing, has_moved
from stream.commands.hours_standing import FullStanding, HoursStanding, HoursWork
from stream.commands.standing import HOURS_SOURCES, SOURCES, Group, PartitionStanding, Place, Standing
from stream.config import Settings
from stream.core.progress import PartitionProgress
from stream.topics import JOURNEYS
from tests.support import golden
from tests.support.processes import Environment, Worker, cli, environment, remove_topics, succeed
from tests.support.rebuilds import BASE, HOUR, converted, execute, put
from tests.support.rows import query

WINDOW = ("--start", str(BASE), "--end", str(BASE + 4 * HOUR))


@pytest.fixture
def env(kafka: str, fresh_sqlite: str, tmp_path: Path) -> Iterator[Environment]:
    env = environment(kafka, fresh_sqlite, tmp_path, partitions=2, fire_interval_seconds=1)
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    yield env
    asyncio.run(remove_topics(env))


def url_of(env: Environment) -> str:
    return env["TOUCHSTREAM_DATABASE_URL"]


def hours_of(env: Environment, *options: str) -> dict[str, Any]:
    answer = json.loads(succeed("status", "--json", *options, env=env))["hours"]
    assert isinstance(answer, dict)
    return answer


def test_without_a_worker_what_a_rebuild_wrote_is_unpublished_and_what_changed_outdated(env: Environment) -> None:
    put(url_of(env), [converted(1, BASE + 30), converted(2, BASE + HOUR + 30), converted(3, BASE, user_id=8)])
    succeed("models", "create", "--user", "7", "--name", "Mine", "--type", "linear", env=env)
    succeed("models", "create", "--user", "8", "--name", "Off", "--type", "linear", "--inactive", env=env)
    before = hours_of(env)
    assert before["group"] == {"state": "Dead", "members": 0}
    assert before["unsettled"] == {"open": 0, "unpublished": 0, "outdated": 0}
    assert (before["oldest_due"], before["users_without_active_model"]) == (None, [8])
    succeed("rebuild", *WINDOW, "--user", "7", env=env)
    after = hours_of(env)
    assert after["unsettled"] == {"open": 2, "unpublished": 2, "outdated": 0}
    assert (after["oldest_due"], after["oldest_due_utc"]) == (BASE, "2023-11-14T22:00:00Z")
    execute(url_of(env), "UPDATE `202_attribution_models` SET model_type = 'magic' WHERE user_id = 7")
    changed = hours_of(env)
    assert changed["unsettled"] == {"open": 2, "unpublished": 2, "outdated": 2}
    (broken,) = changed["broken_models"]
    assert (broken["user_id"], broken["model_id"], broken["slug"]) == (7, 1, "mine")
    assert broken["reason"].startswith('model type "magic" is none of')
    text = succeed("status", env=env)
    assert "hours: open: 2, not yet published: 2, computed with older models or settings: 2" in text
    assert '"mine" (model 1) of user 7 cannot be computed: model type "magic"' in text
    assert "nothing is attributed: user 8" in text
    assert f'group "{env["TOUCHSTREAM_APP_ID"]}-hours"' in text
    done = cli("status", "--wait-drained", "0", env=env)
    assert done.returncode == 1
    assert "hours: not yet published: 2" in done.stderr
    assert "hours: computed with other models or settings than those of now: 2" in done.stderr


def test_drained_means_hours_written_and_published_and_fitting_the_models_of_now(env: Environment) -> None:
    vectors, folder = golden.load_before("sparse", int(time.time())), Path(env["HOME"])
    clicks = golden.write_lines(folder / "clicks.jsonl", vectors.clicks)
    conversions = golden.write_lines(folder / "conversions.jsonl", vectors.conversions)
    with Worker(env) as worker:
        succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=env)
        succeed("status", "--wait-drained", "60", env=env)
        counted = query(url_of(env), "SELECT COUNT(*) FROM `202_stream_journeys` WHERE outcome = 'counted'")
        assert query(url_of(env), "SELECT COUNT(*) FROM `202_stream_credited`") == counted
        (user_id,) = query(url_of(env), "SELECT MIN(user_id) FROM `202_stream_journeys`")[0]
        succeed("models", "create", "--user", str(user_id), "--name", "New", "--type", "linear", env=env)
        hours = hours_of(env, "--wait-drained", "60")
        assert (hours["lag"], hours["group"]) == (0, {"state": "Stable", "members": 1})
        assert (hours["unsettled"]["unpublished"], hours["unsettled"]["outdated"]) == (0, 0)
        assert all(each["owner"] and each["epoch"] == 1 for each in hours["partitions"])
        assert sum(each["topics"]["journeys"]["end"] for each in hours["partitions"]) > 0
        # Open hours have the new model, final ones wait for a rebuild; whatever a rebuild writes is published.
        succeed("rebuild", "--start", "1", "--user", str(user_id), env=env)
        succeed("status", "--wait-drained", "60", env=env)
        wrong = "SELECT COUNT(*) FROM `202_stream_hours` WHERE published_revision <> revision"
        assert query(url_of(env), wrong) == [(0,)]
        assert worker.stop() == 0


# What keeps the hours from being drained, case by case.


def standing(names: tuple[str, ...], *, end: int = 10, read: int = 10, member: str = "member") -> Standing:
    offsets = dict.fromkeys(names, read)
    row = PartitionProgress(0, 1, "worker", offsets, 1, {}, 0, 0, 0, ())
    each = PartitionStanding(0, dict.fromkeys(names, Place(0, end, read, read)), member, row)
    group = Group("Stable", 1, {TopicPartition(name, 0): member for name in names})
    return Standing(group, [each], {}, {}, names)


def full(*, log: Standing | None = None, **work: int) -> FullStanding:
    nothing = {"open": 3, "unpublished": 0, "outdated": 0, "oldest_due": None}
    done = HoursWork(**{**nothing, **work}, broken_models=(), users_without_model=())  # type: ignore[arg-type]
    return FullStanding(standing(SOURCES), HoursStanding(log or standing(HOURS_SOURCES), done))


def test_open_hours_that_nothing_is_to_be_done_about_are_drained() -> None:
    assert all_that_is_missing(Settings(), full()) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (full(log=standing(HOURS_SOURCES, read=7)), f"hours: partition 0: {JOURNEYS} 3 behind, owner worker"),
        (full(log=standing(HOURS_SOURCES, member="")), "hours: partition 0: no owner"),
        (full(unpublished=2), "hours: not yet published: 2"),
        (full(outdated=1), "hours: computed with other models or settings than those of now: 1"),
    ],
)
def test_what_is_missing_is_named(seen: FullStanding, expected: str) -> None:
    assert all_that_is_missing(Settings(), seen) == [expected]


def test_a_log_that_grew_between_two_looks_has_moved() -> None:
    assert not has_moved(standing(SOURCES), standing(SOURCES))
    assert has_moved(standing(SOURCES), standing(SOURCES, end=11))
