"""The plots are what they are meant to be, in every seed that has them, and they leave the other draws alone."""

import json
from collections import defaultdict
from functools import cache
from typing import Any

from stream.core.keys import partition_of
from tests.simulation import case
from tests.simulation.case import AIMED, NOW, faults_of, shape_of
from tests.simulation.hostile import HOUR
from tests.support.oracle_events import FURTHEST_AHEAD
from tests.support.traffic import Sent

SEEDS = range(80)
KINDS = ("moved: its click", "moved", "refunded: its click", "refunded", "ahead", "crossing", "crowd")


@cache
def events_of(seed: int) -> list[tuple[float, Sent]]:
    return case.events_of(seed)


def plotted(kind: str) -> list[tuple[int, float, dict[str, Any]]]:
    """Seed, moment and content of each record of that kind."""
    return [
        (seed, at, json.loads(sent.value or b"")) for seed in SEEDS for at, sent in events_of(seed) if sent.kind == kind
    ]


def test_plots_and_aimed_faults_stand_behind_what_is_drawn_at_random() -> None:
    for seed in SEEDS:
        events = events_of(seed)
        first = next(number for number, (_, sent) in enumerate(events) if sent.kind in KINDS)
        assert all(sent.kind in KINDS for _, sent in events[first:])
        assert [at for at, _ in events[:first]] == sorted(at for at, _ in events[:first])
        assert all(0 <= at <= shape_of(seed).span for at, _ in events)
        aimed = [fault.kind in (*AIMED, "settings", "contention") for fault in faults_of(seed)]
        assert aimed == sorted(aimed)


def test_every_plot_comes() -> None:
    assert all(plotted(kind) for kind in KINDS)


def test_conversions_move_to_another_hour_and_back() -> None:
    hours: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for seed, _, report in plotted("moved"):
        hours[seed, report["conv_id"]].append((report.get("revised_at", 0), report["conv_time"] // HOUR))
    assert len(hours) > 10
    for reports in hours.values():
        (_, first), (_, second), (_, third), *_ = sorted(reports)
        assert first == third != second


def test_refunds_come_before_and_after_what_they_take_back() -> None:
    moments: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for seed, at, report in plotted("refunded"):
        moments[seed, report["conv_id"]].append((report.get("revised_at", 0), at))
    is_before = {sorted(reports)[1][1] < sorted(reports)[0][1] for reports in moments.values()}
    assert is_before == {True, False}


def test_clocks_run_ahead_by_minutes_to_weeks_and_never_too_far() -> None:
    ahead = [max(report["click_time"], report.get("conv_time", 0)) - NOW - at for _, at, report in plotted("ahead")]
    assert min(ahead) < 10 * 60
    assert 20 * 86_400 < max(ahead) < FURTHEST_AHEAD


def test_two_partitions_come_to_the_same_payments_in_opposite_orders() -> None:
    payments: dict[tuple[int, float], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for seed, at, report in plotted("crossing"):
        if "conv_id" in report:
            number = partition_of(report["user_id"], report["campaign_id"], shape_of(seed).partitions)
            payments[seed, at][number].append(report["transaction_id"])
    assert payments
    for by_partition in payments.values():
        here, there = by_partition.values()
        assert here == there[::-1]
