"""Tables and ratios for people, and the one line that says how it went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as Grid

from bench.contestants import (
    FAUST,
    KAFKA_STREAMS,
    LABELS,
    MARIADB,
    MARIADB_HOURS,
    QUIX,
    SKETCH,
    SQLITE,
    WITH_HOURS,
    WITHOUT_SQL,
)
from bench.hot_hour import HotHour
from bench.measuring import Measurement

RECOVERY_REACH = 300_000  # records a second

Results = Mapping[str, Measurement]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a new worker read back from the changelog before it went on."""

    records: int
    seconds: float

    @property
    def records_a_second(self) -> float:
        return self.records / max(self.seconds, 0.001)


class Ratio(NamedTuple):
    """A reach of the design, and what was got."""

    work: str
    measure: str
    reach: float
    got: float

    @property
    def is_met(self) -> bool:
        return self.got >= self.reach


class _Measure(StrEnum):
    WALL = "wall"
    CPU = "per CPU second"


class _Comparison(NamedTuple):
    work: str
    ours: str
    other: str
    measure: _Measure
    reach: float


_COMPARISONS = (
    _Comparison(
        "journeys and all facts in SQLite, beside a sketch that writes no facts", SQLITE, SKETCH, _Measure.CPU, 1.0
    ),
    _Comparison(
        "journeys and all facts in MariaDB, beside a sketch that writes no facts", MARIADB, SKETCH, _Measure.CPU, 1.0
    ),
    _Comparison("journeys without SQL", WITHOUT_SQL, KAFKA_STREAMS, _Measure.CPU, 1.0),
    _Comparison("journeys without SQL", WITHOUT_SQL, QUIX, _Measure.CPU, 1.5),
    _Comparison(
        "journeys and all facts in MariaDB, beside Quix Streams without SQL", MARIADB, QUIX, _Measure.WALL, 1.2
    ),
    _Comparison(
        "journeys, all facts and the hours of four models in MariaDB, beside Quix Streams without SQL",
        MARIADB_HOURS,
        QUIX,
        _Measure.WALL,
        1.0,
    ),
    _Comparison(
        "journeys and all facts in MariaDB, beside stock Faust without SQL", MARIADB, FAUST, _Measure.WALL, 12.0
    ),
)


def ratios(results: Results, recovery: Recovery | None) -> list[Ratio]:
    """Of what was run."""
    found = []
    for work, ours, other, by, reach in _COMPARISONS:
        if ours in results and other in results:
            got = _speed(results[ours], by) / _speed(results[other], by)
            measure = f"{LABELS[ours]} : {LABELS[other]}, {by}"
            found.append(Ratio(work, measure, reach, got))
    if recovery is not None and recovery.records:
        found.append(Ratio("recovery of state", "records a second", RECOVERY_REACH, round(recovery.records_a_second)))
    return found


def _speed(result: Measurement, by: _Measure) -> float:
    return result.events_a_second if by is _Measure.WALL else result.events_a_cpu_second


def hours_lines(results: Results, hot_hour: HotHour | None) -> list[str]:
    """What the hours came to, in sentences."""
    lines = [
        f"{one.label}: {one.credits:,} credits, {one.credits_a_second:,.0f} a second of the whole run."
        for name, one in results.items()
        if name in WITH_HOURS
    ]
    if hot_hour is not None:
        hot = hot_hour
        lines.append(
            f"Hot hour, MariaDB: {hot.conversions:,} conversions of one account in one hour, {hot.credits:,} credits"
            f" and {hot.snapshots:,} totals, all written and published after {hot.seconds:.1f} s."
            f" Then {hot.more:,} more: fires {hot.fires:,}, which wrote {hot.fire_credits:,} credits and"
            f" {hot.fire_snapshots:,} totals in {hot.fire_seconds:.2f} s; peak of the worker {hot.peak_mb:,.0f} MB."
        )
    return lines


def show(results: Results, hot_hour: HotHour | None, found: Sequence[Ratio]) -> None:
    console = Console(width=120, highlight=False)
    speeds = Grid(title="Speed")
    for heading in ("contestant", "events", "seconds", "events/s", "CPU seconds", "events per CPU s", "peak MB"):
        speeds.add_column(heading, justify="left" if heading == "contestant" else "right")
    for one in results.values():
        speeds.add_row(
            one.label,
            f"{one.events:,}",
            f"{one.wall_seconds:.1f}",
            f"{one.events_a_second:,.0f}",
            f"{one.cpu_seconds:.1f}",
            f"{one.events_a_cpu_second:,.0f}",
            f"{one.peak_mb:,.0f}",
        )
    console.print(speeds)
    for line in hours_lines(results, hot_hour):
        console.print(line, soft_wrap=True)
    if found:
        reaches = Grid(title="Reach", show_lines=True)
        for heading in ("work", "measured as", "reach", "got", ""):
            reaches.add_column(heading, justify="right" if heading in {"reach", "got"} else "left")
        for ratio in found:
            outcome = "reached" if ratio.is_met else "missed"
            reaches.add_row(ratio.work, ratio.measure, _number(ratio.reach), _number(ratio.got), outcome)
        console.print(reaches)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def verdict(results: Results, found: Sequence[Ratio]) -> str:
    speeds = [
        f"{one.events_a_cpu_second:,.0f} events per CPU second with {one.label.removeprefix('ours, ')}"
        for name, one in results.items()
        if name in {SQLITE, MARIADB}
    ]
    met = sum(one.is_met for one in found)
    return f"bench: {', '.join(speeds)}; {met} of {len(found)} reaches met"
