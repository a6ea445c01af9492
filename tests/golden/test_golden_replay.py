"""Does a replay leave the golden rows: where no worker ever was, and after everything was taken away?"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import golden
from tests.support.golden import GoldenSet
from tests.support.oracle import expected
from tests.support.processes import Environment, Worker, environment, remove_topics, succeed, with_own_port
from tests.support.rows import difference, differences, read_touchpoints

BOTH = pytest.mark.parametrize("database", ["sqlite", "mariadb"])


class Replayed:
    """An installation with a golden set in its log."""

    def __init__(self, request: pytest.FixtureRequest, kafka: str, folder: Path, name: golden.SetName) -> None:
        self.now = int(time.time())
        self.vectors: GoldenSet = golden.load_before(name, self.now)
        self.database_url = request.getfixturevalue(f"fresh_{request.node.callspec.params['database']}")
        self.env: Environment = environment(kafka, self.database_url, folder, partitions=4, fire_interval_seconds=1)
        succeed("db", "upgrade", env=self.env)
        succeed("topics", "apply", env=self.env)
        lines = [
            golden.write_lines(folder / f"{n}.jsonl", v)
            for n, v in (("c", self.vectors.clicks), ("v", self.vectors.conversions))
        ]
        succeed("ingest", "--clicks", lines[0], "--conversions", lines[1], env=self.env)

    @property
    def range(self) -> Sequence[str]:
        times = [line.event_time for line in self.vectors.conversions]
        return ("--start", str(min(times)), "--end", str(max(times)))

    def agrees(self) -> None:
        assert difference(self.vectors.touchpoints, read_touchpoints(self.database_url), what="touchpoints") == ""
        lines = golden.in_order(self.vectors, "merged")
        assert differences(expected(golden.records(lines, append_time=self.now)), self.database_url) == ""


Make = Callable[[golden.SetName], Replayed]


@pytest.fixture
def make(request: pytest.FixtureRequest, kafka: str, tmp_path: Path) -> Make:
    return lambda name: Replayed(request, kafka, tmp_path, name)


@BOTH
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_replay_alone_gives_the_golden_rows(make: Make, database: str, workers: str) -> None:
    made = make("sparse")
    try:
        succeed("replay", *made.range, "--workers", workers, "--batch-size", "7", env=made.env)
        made.agrees()
        with Worker(with_own_port(made.env)) as worker:
            worker.wait_ready()
            succeed("status", "--wait-drained", "60", env=made.env)
            assert worker.stop() == 0
        made.agrees()
    finally:
        asyncio.run(remove_topics(made.env))


@pytest.mark.parametrize(
    ("database", "name", "options"),
    [("sqlite", "sparse", ()), ("mariadb", "dense", ()), ("mariadb", "sparse", ("--journeys-only",))],
)
def test_what_was_purged_comes_back(make: Make, database: str, name: golden.SetName, options: tuple[str, ...]) -> None:
    made = make(name)
    try:
        with Worker(with_own_port(made.env)) as worker:
            worker.wait_ready()
            succeed("status", "--wait-drained", "60", env=made.env)
            made.agrees()
            succeed("purge", "--start", "0", "--end", str(2**32 - 1), env=made.env)
            assert read_touchpoints(made.database_url) == []
            succeed("replay", *made.range, *options, env=made.env)
            succeed("status", "--wait-drained", "60", env=made.env)
            assert worker.stop() == 0
        made.agrees()
    finally:
        asyncio.run(remove_topics(made.env))
