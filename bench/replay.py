"""`python -m bench.replay`: the log as the backfill, beside raw multi-row inserts of the same rows in the same run.

First into an empty database, facts and journeys. Then three times more behind `purge` of all conversions, as a backfill
usually is: with the log read again and each event held against its row, with `--journeys-only`, and so in larger
batches. Each begins once the database has come to rest.
"""

import asyncio
import json
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from bench.backlog import produce
from bench.contestants import Course, stream_command
from bench.measuring import DidNotRun
from bench.raw_inserts import FACTS, JOURNEYS, insert_seconds
from bench.rows import wrong_counts
from bench.surroundings import FOLDER, fresh_name, server
from bench.traffic import CONVERSIONS, Expected, Traffic
from bench.watching import watched
from dev.server import read_instance
from tests.support.rows import query

KEYS_A_CLICK = 0.06  # as in `python -m bench`: 60,000 of a million
PARTITIONS = 4
_AT_REST = 0.05  # CPU seconds a second
_REST_LIMIT_S = 60.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one replay. CPU seconds are user and system time."""

    work: str
    records: int
    conversions: int
    touchpoints: int
    rows: int  # that raw inserts wrote as well
    seconds: float
    raw_seconds: float  # the same rows, as many processes
    replay_cpu: float  # all its processes
    database_cpu: float
    broker_cpu: float
    peak_mb: float  # of the largest of its processes

    @property
    def share(self) -> float:
        return self.raw_seconds / self.seconds

    def lines(self) -> list[str]:
        of_cpu = sum((self.replay_cpu, self.database_cpu, self.broker_cpu)) / 100
        return [
            f"{self.work}: {self.seconds:.1f} s, {self.conversions / self.seconds:,.0f} conversions/s,"
            f" {self.touchpoints / self.seconds:,.0f} touchpoint rows/s, {self.rows / self.seconds:,.0f} rows/s in all",
            f"  raw inserts of the same {self.rows:,} rows: {self.raw_seconds:.1f} s,"
            f" {self.rows / self.raw_seconds:,.0f} rows/s; share {self.share:.2f}",
            f"  CPU: replay {self.replay_cpu:.1f} s ({self.replay_cpu / of_cpu:.0f} %),"
            f" MariaDB {self.database_cpu:.1f} s ({self.database_cpu / of_cpu:.0f} %),"
            f" Kafka {self.broker_cpu:.1f} s ({self.broker_cpu / of_cpu:.0f} %); peak {self.peak_mb:,.0f} MB a process",
        ]


class ReplayBench:
    """One log, one database, replays by `processes`."""

    def __init__(self, env: dict[str, str], processes: int) -> None:
        self._env = env
        self._url = env["TOUCHSTREAM_DATABASE_URL"]
        self._processes = processes

    def measure(self, work: str, relations: dict[str, str], expected: Expected, *options: str) -> Figures:
        """Raises DidNotRun, also for wrong rows."""
        database, broker = (_Cpu(read_instance(FOLDER / part)) for part in ("mariadb", "kafka"))
        database.wait_for_rest()
        done = watched(self._env, "replay", "--workers", str(self._processes), "--json", *options)
        database_cpu, broker_cpu = database.used(), broker.used()
        wrong = wrong_counts(self._url, expected)
        if wrong:
            raise DidNotRun(f"{work}: {wrong}")
        rows = sum(int(query(self._url, f"SELECT COUNT(*) FROM `{name}`")[0][0]) for name in relations)
        return Figures(
            work=work,
            records=done.said["records"],
            conversions=done.said["conversions"],
            touchpoints=done.said["touchpoints"],
            rows=rows,
            seconds=done.seconds,
            raw_seconds=insert_seconds(self._url, relations, self._processes),
            replay_cpu=done.cpu_seconds,
            database_cpu=database_cpu,
            broker_cpu=broker_cpu,
            peak_mb=done.peak_mb,
        )

    def purge(self) -> None:
        stream_command("purge", "--start", "0", "--end", str(2**31 - 1), env=self._env)


class _Cpu:
    """What a server's process has used since now; nothing is known of one that was given to us."""

    def __init__(self, instance: object) -> None:
        self._stat = Path(f"/proc/{getattr(instance, 'pid', 0)}/stat")
        self._before = self._seconds()

    def used(self) -> float:
        return self._seconds() - self._before

    def wait_for_rest(self) -> None:
        """It clears up behind whatever was removed, and writes out what was changed."""
        deadline = time.monotonic() + _REST_LIMIT_S
        while time.monotonic() < deadline:
            before = self._seconds()
            time.sleep(1.0)
            if self._seconds() - before < _AT_REST:
                break
        self._before = self._seconds()

    def _seconds(self) -> float:
        fields = self._stat.read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _run(clicks: int, processes: int) -> list[Figures]:
    name, events = fresh_name(), round(clicks / (1 - CONVERSIONS))
    with ExitStack() as around:
        kafka = around.enter_context(server("kafka", ""))
        mariadb = around.enter_context(server("mariadb", ""))
        folder = FOLDER / name
        folder.mkdir(parents=True)
        course = Course(kafka, f"{name}-", events, PARTITIONS, folder)
        env = course.settings("replay", mariadb, prefix=course.prefix)
        stream_command("topics", "apply", env=env)
        stream_command("db", "upgrade", env=env)
        traffic = Traffic(events, keys=max(1, round(clicks * KEYS_A_CLICK)), now=int(time.time()))
        asyncio.run(produce(kafka, course.topics, PARTITIONS, traffic))
        click.echo(f"{events:,} events are in the log")
        bench, expected = ReplayBench(env, processes), traffic.expected()
        found = [bench.measure("facts and journeys, into an empty database", FACTS | JOURNEYS, expected)]
        bench.purge()
        found.append(bench.measure("journeys again, after a purge of all", JOURNEYS, expected))
        bench.purge()
        found.append(bench.measure("the same with --journeys-only", JOURNEYS, expected, "--journeys-only"))
        bench.purge()
        options = ("--journeys-only", "--batch-size", "2000")
        found.append(bench.measure(f"the same with {' '.join(options)}", JOURNEYS, expected, *options))
    return found


@click.command()
@click.option(
    "--clicks", default=1_000_000, show_default=True, help="About so many; conversions are 5 % of all events."
)
@click.option("--workers", default=2, show_default=True, help="Processes, of the replay and of the raw inserts.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there, too.")
def main(clicks: int, workers: int, file: Path | None) -> None:
    """How fast is a replay, as a share of raw inserts of the same rows?"""
    try:
        found = _run(clicks, workers)
    except DidNotRun as error:
        raise click.ClickException(str(error)) from error
    for figures in found:
        click.echo("\n".join(figures.lines()))
    if file is not None:
        file.write_text(json.dumps([asdict(each) | {"share": each.share} for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
