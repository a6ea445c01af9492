"""`python -m bench`: all contestants, one after another, on the same backlog of the same broker."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click

from bench import report
from bench.backlog import Ends, produce, read_ends
from bench.contestants import HOT_HOUR, MARIADB, MARIADB_HOURS, OURS, SQLITE, WITH_HOURS, Course, chosen
from bench.hot_hour import HotHour, measure_hot_hour
from bench.hours import count_credits, lay_models, wrong_hours, wrong_sums
from bench.measuring import Contestant, DidNotRun, Measurement, measure
from bench.recovery import measure_recovery
from bench.rows import wrong_counts, wrong_rows
from bench.surroundings import FOLDER, fresh_name, server
from bench.traffic import Event, Expected, Traffic
from tests.support.servers import run_sql

CHECK_EVENTS = 20_000
CHECK_HOT_HOUR = 2_000
EVENTS_A_KEY = 16  # about what the full run has


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    events: int
    keys: int
    partitions: int
    peers: Sequence[str]
    hot_hour: int  # conversions; 0: no such run
    only_checks: bool
    kafka: str
    database_url: str  # '': a server of our own


class Bench:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.results: dict[str, Measurement] = {}
        self.recovery: report.Recovery | None = None
        self.hot_hour: HotHour | None = None
        self.now = int(time.time())
        self._around = ExitStack()

    def run(self) -> None:
        run_name = fresh_name()
        with ExitStack() as around:
            self._around = around
            kafka = around.enter_context(server("kafka", self.plan.kafka))
            mariadb = around.enter_context(server("mariadb", self.plan.database_url))
            folder = FOLDER / run_name
            folder.mkdir(parents=True)
            course = Course(kafka, f"{run_name}-", self.plan.events, self.plan.partitions, folder)
            ours = {name: course.ours(name, self._database_url(course, name, mariadb)) for name in OURS}
            ends, wanted = self._lay_traffic(course)
            for contestant in [*(course.peer(peer) for peer in self.plan.peers), *ours.values()]:
                self._measure(kafka, contestant, ends)
                if contestant.name in {SQLITE, MARIADB}:
                    self._check_rows(contestant, wanted)
            self.recovery = asyncio.run(measure_recovery(ours[SQLITE]))
            for name in WITH_HOURS:
                url = self._database_url(course, name, mariadb)
                contestant = course.with_hours(name, url)
                lay_models(url, self._traffic().users())
                self._measure(kafka, contestant, ends)
                self._check_rows(contestant, wanted)
                self._check_hours(contestant, wanted)
            if asyncio.run(read_ends(kafka, ends)) != ends:
                raise DidNotRun("a contestant wrote to the source topics: not all had the same backlog")
            if self.plan.hot_hour:
                hot_url = self._database_url(course, HOT_HOUR, mariadb)
                self.hot_hour = measure_hot_hour(course, hot_url, self.plan.hot_hour)
            shutil.rmtree(folder)

    def _database_url(self, course: Course, name: str, mariadb: str) -> str:
        """A new and empty one."""
        if name not in {MARIADB, MARIADB_HOURS, HOT_HOUR}:
            return course.sqlite_url(name)
        parts = urlsplit(mariadb)
        database = f"touchstream_{course.prefix}{name}".replace("-", "_")
        run_sql(mariadb, f"CREATE DATABASE {database} CHARACTER SET utf8mb4")
        if self.plan.database_url:
            self._around.callback(run_sql, mariadb, f"DROP DATABASE {database}")
        return urlunsplit(parts._replace(path=f"/{database}"))

    def _check_hours(self, contestant: Contestant, wanted: Expected) -> None:
        name, url = contestant.name, contestant.env["TOUCHSTREAM_DATABASE_URL"]
        wrong = wrong_sums(url, wanted)
        if not wrong and self.plan.only_checks:
            wrong = wrong_hours(url, list(self._traffic()), self.now)
        if wrong:
            raise DidNotRun(f"{contestant.label} left wrong hours: {wrong}")
        self.results[name] = replace(self.results[name], credits=count_credits(url))
        print(f"{contestant.label}: {self.results[name].credits:,} credits, as expected", flush=True)

    def _traffic(self) -> Traffic:
        return Traffic(self.plan.events, keys=self.plan.keys, now=self.now)

    def _lay_traffic(self, course: Course) -> tuple[Ends, Expected]:
        began = time.monotonic()
        traffic = self._traffic()
        ends = asyncio.run(produce(course.kafka, course.topics, course.partitions, traffic))
        print(f"{sum(ends.values()):,} events are in the log after {time.monotonic() - began:.1f} s", flush=True)
        return ends, traffic.expected()

    def _measure(self, kafka: str, contestant: Contestant, ends: Ends) -> None:
        result = asyncio.run(measure(kafka, contestant, ends))
        self.results[contestant.name] = result
        print(
            f"{result.label}: {result.events:,} events in {result.wall_seconds:.1f} s, "
            f"{result.cpu_seconds:.1f} CPU seconds",
            flush=True,
        )

    def _check_rows(self, contestant: Contestant, wanted: Expected) -> None:
        url = contestant.env["TOUCHSTREAM_DATABASE_URL"]
        wrong = wrong_counts(url, wanted)
        if not wrong and self.plan.only_checks:
            events: list[Event] = list(self._traffic())
            wrong = wrong_rows(url, events, self.now)
        if wrong:
            raise DidNotRun(f"{contestant.label} left wrong rows: {wrong}")
        print(f"{contestant.label}: {wanted.touchpoints:,} touchpoints, as expected", flush=True)


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(1000))
@click.option("--keys", default=60_000, show_default=True, type=click.IntRange(1), help="Pairs of user and campaign.")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1))
@click.option("--peers", default="", help="Comma list of peers beside ours; default all, - for none.")
@click.option("--hot-hour", default=100_000, show_default=True, type=click.IntRange(0), help="Conversions; 0: none.")
@click.option("--check", "only_checks", is_flag=True, help="Small: does everyone run, are our rows right?")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Figures for machines.")
@click.option("--kafka", default="", help="A broker that runs already, as host:port.")
@click.option(
    "--database",
    "database_url",
    default="",
    help="URL of a database of a running MariaDB server; others are made beside it and dropped.",
)
def main(*, json_file: Path | None, peers: str, **options: Any) -> None:  # noqa: ANN401 - click's, as they are in Plan
    """Measure our worker and its peers on one backlog; the last line is the verdict."""
    try:
        names = [] if peers == "-" else chosen(peers)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--peers") from error
    plan = Plan(peers=names, **options)
    if plan.only_checks:
        events = min(plan.events, CHECK_EVENTS)
        plan = replace(
            plan,
            events=events,
            keys=min(plan.keys, events // EVENTS_A_KEY),
            hot_hour=min(plan.hot_hour, CHECK_HOT_HOUR),
        )
    bench = Bench(plan)
    try:
        bench.run()
    except DidNotRun as error:
        click.echo(f"error: {error}", err=True)
        print("bench: failed, the reason is above on STDERR")
        sys.exit(1)
    found = report.ratios(bench.results, bench.recovery)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(bench, found), indent=1) + "\n", encoding="utf-8")
    if plan.only_checks:
        print(f"bench-check: {len(bench.results)} contestants ran, the rows of ours are right")
        return
    report.show(bench.results, bench.hot_hour, found)
    print(report.verdict(bench.results, found))


def _figures(bench: Bench, found: Sequence[report.Ratio]) -> dict[str, object]:
    return {
        "plan": {name: value for name, value in asdict(bench.plan).items() if name not in {"kafka", "database_url"}},
        "results": [
            asdict(one) | {"events_per_s": one.events_a_second, "events_per_cpu_s": one.events_a_cpu_second}
            for one in bench.results.values()
        ],
        "hours": report.hours_lines(bench.results, bench.hot_hour),
        "hot_hour": asdict(bench.hot_hour) if bench.hot_hour else None,
        "recovery": asdict(bench.recovery) if bench.recovery else None,
        "ratios": [one._asdict() | {"met": one.is_met} for one in found],
    }


if __name__ == "__main__":
    main()
