"""The golden sets: the old system's own input and output, shifted in time and put in the order a test wants."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from tests.support.oracle import Touchpoint
from tests.support.oracle_events import Record

SetName = Literal["dense", "sparse"]
Order = Literal["clicks_first", "conversions_first", "merged", "shuffled"]
SET_NAMES: tuple[SetName, ...] = get_args(SetName)
ORDERS: tuple[Order, ...] = get_args(Order)

VECTORS = Path(__file__).parent.parent / "golden" / "vectors"
HOUR = 3600

_TIME_FIELD = re.compile(rb'("(?:click_time|conv_time)": ?)(\d+)')


class Line(NamedTuple):
    """One line of an input file, byte for byte (but for a shift of its times), without the line end."""

    topic: str
    event_time: int
    value: bytes


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Clicks and conversions in the order of their files, and the touchpoints that must come out of them."""

    clicks: Sequence[Line]
    conversions: Sequence[Line]
    touchpoints: Sequence[Touchpoint]  # by conv_id and position

    @property
    def newest_time(self) -> int:
        return max(line.event_time for line in (*self.clicks, *self.conversions))


def load(name: SetName, *, shift_hours: int = 0) -> GoldenSet:
    """A golden set with all its times moved by whole hours, so that hour boundaries stay where they were."""
    folder, seconds = VECTORS / name, shift_hours * HOUR
    touchpoints = [
        Touchpoint(row["conv_id"], row["position"], row["click_id"], row["click_time"] + seconds)
        for row in map(json.loads, (folder / "expected_touchpoints.jsonl").read_bytes().splitlines())
    ]
    return GoldenSet(
        clicks=_lines(folder / "clicks.jsonl", "clicks", seconds),
        conversions=_lines(folder / "conversions.jsonl", "conversions", seconds),
        touchpoints=touchpoints,
    )


def load_before(name: SetName, now: int) -> GoldenSet:
    """A golden set shifted just far enough that its newest event is not after `now`."""
    newest_time = load(name).newest_time
    return load(name, shift_hours=(now - newest_time) // HOUR)


def in_order(golden: GoldenSet, order: Order, *, seed: int = 0) -> list[Line]:
    """All lines as they would arrive. Merged: by event time, of equal times the clicks first."""
    match order:
        case "clicks_first":
            return [*golden.clicks, *golden.conversions]
        case "conversions_first":
            return [*golden.conversions, *golden.clicks]
        case "merged":
            return sorted([*golden.clicks, *golden.conversions], key=lambda line: line.event_time)
        case "shuffled":
            return shuffled([*golden.clicks, *golden.conversions], seed)


def shuffled(lines: Sequence[Line], seed: int) -> list[Line]:
    """The same lines in an order that only the seed decides."""
    return random.Random(seed).sample(lines, len(lines))


def records(lines: Sequence[Line], *, append_time: int | None = None) -> list[Record]:
    """The lines as records of the log; appended at their event time unless told otherwise."""
    return [Record(line.topic, line.value, line.event_time if append_time is None else append_time) for line in lines]


def write_lines(path: Path, lines: Sequence[Line]) -> Path:
    """A file that `ingest` can read."""
    path.write_bytes(b"".join(line.value + b"\n" for line in lines))
    return path


def _lines(path: Path, topic: str, seconds: int) -> list[Line]:
    event_time_name = "click_time" if topic == "clicks" else "conv_time"
    found = []
    for raw in path.read_bytes().splitlines():
        value = _TIME_FIELD.sub(lambda match: match[1] + b"%d" % (int(match[2]) + seconds), raw) if seconds else raw
        found.append(Line(topic, json.loads(value)[event_time_name], value))
    return found
