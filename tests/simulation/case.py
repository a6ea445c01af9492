"""A case: what a seed comes to before anything runs. A smaller case keeps some of its events and faults, and no more.

Each fault has a seed of its own, so that leaving one out changes nothing about the others but what follows from it.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.simulation.hostile import Setting, hostile
from tests.support.strategies import BASE
from tests.support.traffic import DAY, Rates, Sent, as_bytes, record_key, traffic

NOW = BASE + 50 * DAY
LOOKBACK = 30 * DAY
SQL_EVERY = 4  # each so-manieth seed has the shipped SQL below it


class Fault(NamedTuple):
    """`at`: seconds after the beginning."""

    at: float
    kind: str
    seed: int


# Blows strike a process at one of its next steps.
BLOWS = (
    "crash",
    "crash",
    "sleep",
    "sleep",
    "short sleep",
    "stop",
    "reply lost",
    "conflict",
    "answer lost",
    "state lost",
    "stuck",
    "stuck",
)
WEATHER = (
    "database away", "broker away", "database slow", "cache away", "rebalance", "rebalance", "compaction", "markers",
)  # fmt: skip
HANDS = (
    "replay", "replay", "killed replay", "rebuild", "killed rebuild", "models", "models", "another worker", "reader",
)  # fmt: skip
RARE = ("restore",)
AIMED = ("zombie", "zombie", "late state", "late state")  # sleep that begins where waking up does the most harm
FAULTS = tuple(dict.fromkeys((*BLOWS, *WEATHER, *HANDS, *RARE, *AIMED, "purge", "settings", "contention")))
# What comes of faults and of contention. In 200 seeds each of them has to come, and each kind of fault to strike.
CONSEQUENCES = ("fenced", "refused", "deadlock")


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of system a seed has."""

    partitions: int
    journeys_partitions: int
    workers: int
    is_sql: bool
    is_crowded: bool  # few keys and many revisions: what a revision leaves behind is met again soon
    is_rekeyed: bool  # arrival decides: one partition, and nobody beside its owner
    users: int
    span: float  # seconds in which the events come
    state_bound: int
    chunk_records: int
    is_aligned: bool
    fire_interval: float


@dataclass(frozen=True, slots=True)
class Case:
    """`events` and `faults` by their numbers; None: all."""

    seed: int
    events: tuple[int, ...] | None = None
    faults: tuple[int, ...] | None = None

    def command(self) -> str:
        given = f"python -m tests.simulation --seeds 1 --from {self.seed}"
        for name, kept in (("events", self.events), ("faults", self.faults)):
            if kept is not None:
                given += f" --{name} {ranges(kept)}"
        return given

    def keeping(self, **kept: Sequence[int]) -> "Case":
        chosen = {name: tuple(numbers) for name, numbers in kept.items()}
        return Case(self.seed, chosen.get("events", self.events), chosen.get("faults", self.faults))


def chance_of(seed: int, what: str) -> random.Random:
    """A stream of draws for one purpose."""
    return random.Random(f"{seed} {what}")


def shape_of(seed: int) -> Shape:
    chance = chance_of(seed, "shape")
    partitions = chance.choice((1, 2, 3))
    is_sql = seed % SQL_EVERY == SQL_EVERY - 1
    is_crowded = chance.random() < 0.5
    return Shape(
        partitions=partitions,
        journeys_partitions=chance.choice((1, 2)),
        workers=chance.choice((1, 2, 2, 3, 3)),
        is_sql=is_sql,
        is_crowded=is_crowded,
        is_rekeyed=partitions == 1 and chance.random() < 0.3,
        users=1 if is_crowded else chance.choice((2, 3)),
        span=chance.choice((10.0, 25.0, 60.0)),
        state_bound=chance.choice((2, 10, 1000)),
        chunk_records=chance.choice((2, 10, 40)),
        is_aligned=chance.random() < 0.7,
        fire_interval=chance.choice((0.5, 2.0, 5.0)),
    )


def events_of(seed: int) -> list[tuple[float, Sent]]:
    """When each record is sent: mixed traffic in the order of its times, and behind it the plots."""
    shape, chance = shape_of(seed), chance_of(seed, "events")
    rates = Rates(
        conversions=0.2,
        late=0.4,
        revised_clicks=0.6 if shape.is_crowded else 0.2,
        same_transaction=0.3,
        visitors=0.2 if shape.is_crowded else 0.7,
        hot_key=0.8 if shape.is_crowded else 0.3,
        rekeyed=0.1 if shape.is_rekeyed else 0.0,
    )
    count = chance.choice((20, 30, 45)) if shape.is_sql else chance.choice((40, 100, 160))
    days = chance.choice((1, 5, 40))
    sent = traffic(
        seed, count, now=NOW, rates=rates, days=days, users=shape.users, campaigns=1 if shape.is_crowded else 3
    )
    sent = _with_edges(chance, sent)
    times = sorted(chance.random() * shape.span for _ in sent)
    setting = Setting(shape.partitions, shape.users, NOW, shape.span, shape.is_sql)
    return [*zip(times, sent, strict=True), *hostile(chance_of(seed, "plots"), setting)]


def _with_edges(chance: random.Random, sent: list[Sent]) -> list[Sent]:
    """Clicks on both sides of what a journey takes in, to the second, before and after their conversion came."""
    found = list(sent)
    number = 5_000_000
    for conversion in [each for each in sent if each.topic == "conversions" and each.kind == "conversion"]:
        if chance.random() > 0.25:
            continue
        fields = json.loads(conversion.value or b"")
        age = chance.choice((LOOKBACK, LOOKBACK, LOOKBACK + 1, LOOKBACK - 1, 0, -1))
        number += 1
        click = {
            "click_id": number,
            "user_id": fields["user_id"],
            "campaign_id": fields["campaign_id"],
            "click_time": fields["conv_time"] - age,
            "visitor_id": chance.choice(("", fields.get("visitor_id", ""))),
        }
        found.insert(chance.randrange(len(found) + 1), Sent("clicks", as_bytes(click), record_key(click), "edge"))
    return found


def faults_of(seed: int) -> list[Fault]:
    """Drawn at random in the order of their times, and behind them those that are aimed."""
    shape, chance = shape_of(seed), chance_of(seed, "faults")
    count = chance.choice((0, 6, 12, 24, 40))
    kinds = [chance.choice(chance.choice((BLOWS, BLOWS, BLOWS, WEATHER, HANDS))) for _ in range(count)]
    kinds += RARE * (chance.random() < 0.25)
    if shape.is_sql:
        kinds += ["purge", "models", "sleep", "sleep", "sleep"]
    if shape.is_rekeyed:
        kinds = [kind for kind in kinds if "replay" not in kind and kind not in ("restore", "purge")]
    drawn = sorted(Fault(chance.random() * shape.span * 1.1, kind, chance.randrange(2**32)) for kind in kinds)
    payments = {at for at, sent in events_of(seed) if (sent.topic, sent.kind) == ("conversions", "crossing")}
    contention = [Fault(at - 0.001, "contention", 0) for at in sorted(payments)]
    return drawn + _aimed_faults(chance_of(seed, "aimed faults"), shape) + contention


def _aimed_faults(chance: random.Random, shape: Shape) -> list[Fault]:
    """Sleep while records come in: who has nothing in hand does no harm. Settings on SQL, as the twin has no rows."""
    kinds = [chance.choice(AIMED) for _ in range(chance.choice((1, 1, 2)))]
    aimed = [Fault((0.05 + 0.6 * chance.random()) * shape.span, kind, chance.randrange(2**32)) for kind in kinds]
    if shape.is_sql:  # when there are rows that are to change with them
        kinds = ["settings"] * chance.choice((1, 2, 3))
        aimed += [Fault((0.5 + 0.6 * chance.random()) * shape.span, kind, chance.randrange(2**32)) for kind in kinds]
    return aimed


def ranges(numbers: Sequence[int]) -> str:
    """ "0-4,7"; "none" for an empty one."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts) or "none"


def numbers_of(text: str) -> tuple[int, ...]:
    """What `ranges` wrote."""
    found: list[int] = []
    for part in text.split(",") if text != "none" else ():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
