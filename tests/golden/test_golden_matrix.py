"""Does the whole way, from files to SQL, give the golden rows, whatever the circumstances?

Each case runs the commands as a user would, on a real broker and a real database, and compares every row.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import covering, golden
from tests.support.covering import Case
from tests.support.golden import ORDERS, SET_NAMES, GoldenSet, Line
from tests.support.golden_hours import credits_differ, expected_credits, expected_snapshots, models_of, snapshots_differ
from tests.support.hour_books import Books, disagreement
from tests.support.hour_oracle import earnings_of, expected_hours
from tests.support.hour_rows import read_books, read_hours, read_revisions, store_golden_models, untrue_snapshots
from tests.support.oracle import expected
from tests.support.processes import (
    PRODUCT,
    WITH_FAULTS,
    Environment,
    Worker,
    environment,
    remove_topics,
    succeed,
    wait_for,
    with_own_port,
)
from tests.support.rows import difference, differences, query, read_touchpoints

# Factors whose values change nothing but the work done.
FACTORS: dict[str, list[Any]] = {
    "order": list(ORDERS),
    "partitions": [1, 4, 8],
    "golden_set": list(SET_NAMES),
    "database": ["sqlite", "mariadb"],
    "workers": [1, 2],
    "worker_start": ["before", "after"],
    "state_keys": ["default", 100],
    "state_dropped": ["no", "yes"],
    "chunks": ["once", "twice"],
    "alignment": ["on", "off"],
}
PAIRS = covering.pairwise(FACTORS)
# With kill -9 in between, which costs a session timeout each.
KILLS: list[Case] = [
    {
        **{name: values[0] for name, values in FACTORS.items()},
        "golden_set": golden_set,
        "database": database,
        "partitions": partitions,
        "workers": workers,
        "kill": "yes",
    }
    for golden_set, database, partitions, workers in (
        ("dense", "sqlite", 1, 1),
        ("sparse", "sqlite", 4, 2),
        ("sparse", "mariadb", 1, 1),
        ("dense", "mariadb", 4, 2),
    )
]
MOST_CASES = 25  # of some 15 s each: more would not fit the time that `make test` has


def test_cases_hold_every_pair_of_circumstances() -> None:
    assert covering.missing_pairs(FACTORS, PAIRS) == set()
    assert len(PAIRS) <= MOST_CASES


@pytest.mark.parametrize("case", PAIRS, ids=covering.label)
async def test_golden_set_comes_out_row_for_row(case: Case, installation: "Installation") -> None:
    await installation.run(case)


@pytest.mark.parametrize("case", KILLS, ids=covering.label)
async def test_golden_set_comes_out_row_for_row_though_workers_are_killed(
    case: Case, installation: "Installation"
) -> None:
    await installation.run(case)


@pytest.mark.full
@pytest.mark.parametrize("case", covering.product(FACTORS), ids=covering.label)
async def test_golden_set_comes_out_row_for_row_in_every_combination(case: Case, installation: "Installation") -> None:
    await installation.run(case)


class Installation:
    """A database, topics and workers for one case."""

    def __init__(self, request: pytest.FixtureRequest, kafka: str, folder: Path) -> None:
        self.request = request
        self.kafka = kafka
        self.folder = folder
        self.now = int(time.time())

    async def run(self, case: Case) -> None:
        vectors = golden.load_before(case["golden_set"], self.now)
        env = self._environment(case)
        succeed("db", "upgrade", env=env)
        succeed("topics", "apply", env=env)
        await store_golden_models(env["TOUCHSTREAM_DATABASE_URL"], case["golden_set"])
        try:
            with ExitStack() as running:
                if case.get("kill") == "yes":
                    workers = self._start_workers(case, env, running)
                    self._kill_half_way(vectors, env, workers)
                    workers[:1] = self._start_workers({**case, "workers": 1}, env, running)
                elif case["worker_start"] == "before":
                    workers = self._start_workers(case, env, running)
                    self._ingest(case, vectors, env)
                else:
                    self._ingest(case, vectors, env)
                    workers = self._start_workers(case, env, running)
                succeed("status", "--wait-drained", "60", env=env)
                assert [worker.stop() for worker in workers] == [0] * len(workers)
            books = await read_books(env)
        finally:
            await remove_topics(env)
        self._compare(vectors, env["TOUCHSTREAM_DATABASE_URL"])
        self._compare_hours(case, vectors, env["TOUCHSTREAM_DATABASE_URL"], books)

    def _environment(self, case: Case) -> Environment:
        settings: dict[str, str | int] = {"fire_interval_seconds": 1, "align": 1 if case["alignment"] == "on" else 0}
        if case["state_keys"] != "default":
            settings["state_keys"] = case["state_keys"]
        if case["state_dropped"] == "yes":
            settings["TESTFAULT_DROP_STATE"] = 1
        if case["chunks"] == "twice":
            settings["TESTFAULT_TWICE"] = 1
        database_url = self.request.getfixturevalue(f"fresh_{case['database']}")
        return environment(self.kafka, database_url, self.folder, partitions=case["partitions"], **settings)

    def _start_workers(self, case: Case, env: Environment, running: ExitStack) -> list[Worker]:
        module = WITH_FAULTS if any(name.startswith("TESTFAULT_") for name in env) else PRODUCT
        workers = [
            running.enter_context(Worker(with_own_port(env), module=module, name=f"worker-{number}"))
            for number in range(case["workers"])
        ]
        for worker in workers:
            worker.wait_ready()
        return workers

    def _kill_half_way(self, vectors: GoldenSet, env: Environment, workers: list[Worker]) -> None:
        """The first worker dies while hours of the first half are fired and the second half comes in."""
        lines, url = golden.in_order(vectors, "merged"), env["TOUCHSTREAM_DATABASE_URL"]
        middle = len(lines) // 2
        self._ingest_lines(lines[:middle], env)
        wait_for(lambda: _stored(url) > 0.2 * len(lines), "the first half in SQL", seconds=60)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(self._ingest_lines, lines[middle:], env)
            workers[0].kill()
            assert 0.2 < _stored(url) / len(lines) < 0.8, "the worker had done all of it"
            rest.result()

    def _ingest_lines(self, lines: Sequence[Line], env: Environment) -> None:
        options: list[str | Path] = []
        for topic in ("clicks", "conversions"):
            of_topic = [each for each in lines if each.topic == topic]
            options += [f"--{topic}", golden.write_lines(self.folder / f"{topic}.jsonl", of_topic)]
        succeed("ingest", *options, env=env)

    def _ingest(self, case: Case, vectors: GoldenSet, env: Environment) -> None:
        clicks, conversions = vectors.clicks, vectors.conversions
        if case["order"] == "shuffled":
            clicks, conversions = golden.shuffled(clicks, seed=1), golden.shuffled(conversions, seed=2)
        clicks_option = ("--clicks", golden.write_lines(self.folder / "clicks.jsonl", clicks))
        conversions_option = ("--conversions", golden.write_lines(self.folder / "conversions.jsonl", conversions))
        if case["order"] == "clicks_first":
            succeed("ingest", *clicks_option, env=env)
            succeed("ingest", *conversions_option, env=env)
        elif case["order"] == "conversions_first":
            succeed("ingest", *conversions_option, env=env)
            succeed("ingest", *clicks_option, env=env)
        else:  # merged by event time; each file keeps its own order, so shuffled files stay shuffled
            succeed("ingest", *clicks_option, *conversions_option, env=env)

    def _compare(self, vectors: GoldenSet, database_url: str) -> None:
        lines = golden.in_order(vectors, "merged")
        assert difference(vectors.touchpoints, read_touchpoints(database_url), what="touchpoints") == ""
        # The golden files say nothing of conversion logs and outcomes; the oracle does.
        assert differences(expected(golden.records(lines, append_time=self.now)), database_url) == ""

    def _compare_hours(self, case: Case, vectors: GoldenSet, database_url: str, books: Books) -> None:
        """What the old system computed one model at a time; other scopes as the oracle has them; topics like rows."""
        name, found = case["golden_set"], read_hours(database_url)
        shift = (vectors.newest_time - golden.load(name).newest_time) // golden.HOUR
        of_global = [row for row in found.snapshots if row.scope == "global"]
        assert snapshots_differ(expected_snapshots(name, shift_hours=shift), of_global) == ""
        assert credits_differ(expected_credits(name, shift_hours=shift), found.credits) == ""
        rows = expected(golden.records(golden.in_order(vectors, "merged"), append_time=self.now))
        assert disagreement(expected_hours(earnings_of(rows), models_of(name)), found) == ""
        assert disagreement(found, books.read(), what="topics") == ""
        assert untrue_snapshots(database_url, books) == []
        read_revisions(database_url)


def _stored(database_url: str) -> int:
    """Events of which SQL has a row."""
    relations = ("202_stream_clicks", "202_stream_journeys")
    return sum(query(database_url, f"SELECT COUNT(*) FROM `{relation}`")[0][0] for relation in relations)


@pytest.fixture
def installation(request: pytest.FixtureRequest, kafka: str, tmp_path: Path) -> Installation:
    return Installation(request, kafka, tmp_path)
