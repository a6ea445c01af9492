"""Seeded runs with replays beside the workers: the rows are those of the set of events, whoever stored them first."""

import json
import os
from collections.abc import Sequence

import pytest

from tests.simulation.replay_world import ReplayWorld
from tests.simulation.test_simulation import NOW, check_outputs, check_rows, check_states
from tests.support.oracle_events import Record
from tests.support.traffic import Rates, Sent, traffic

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "150"))
EVENTS = 200

Keyed = tuple[Record, bytes | None]


def made(seed: int) -> tuple[ReplayWorld, list[Sent], list[Keyed]]:
    """Every other seed has few keys and many revisions: what a revision leaves behind is met again soon."""
    is_crowded = seed % 2 == 1
    rates = Rates(late=0.4, revised_clicks=0.6 if is_crowded else 0.2, same_transaction=0.3, visitors=0.9)
    size = 1 if is_crowded else 3
    sent = traffic(seed, EVENTS, now=NOW, rates=rates, users=size, campaigns=size)
    records = [(Record(each.topic, each.value, NOW), each.key) for each in sent]
    return ReplayWorld(seed, partitions=(1, 2, 3)[seed % 3]), sent, records


def events_of(records: Sequence[Keyed]) -> list[Record]:
    return [record for record, _ in records]


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_replays_beside_workers_leave_the_rows_of_the_set_of_events(seed: int) -> None:
    world, _, records = made(seed)
    await world.run(records, fault_rate=0.3)
    await world.finish_replays()
    await world.drain()  # what the last replay sent on
    check_rows(world, events_of(records))
    check_states(world)
    check_outputs(world)
    assert world.replayed


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_was_deleted_by_hand_comes_back_and_workers_remember_it_right(seed: int) -> None:
    """Workers go on between the deletion and the replay, and may ask SQL while it lacks what they have passed."""
    world, sent, records = made(seed)
    world.replay_rate = 0.0
    half = len(records) // 2
    await world.run(records[:half], fault_rate=0.0)
    clicks, conversions = world.delete_by_hand(0.3)
    # What is deleted is reported again only after the replay: a revision in between would be its first report.
    touching = [_is_about(each, clicks, conversions) for each in sent[half:]]
    await world.run([each for each, later in zip(records[half:], touching, strict=True) if not later], fault_rate=0.3)
    await world.replay_all()
    await world.drain()
    await world.run([each for each, later in zip(records[half:], touching, strict=True) if later], fault_rate=0.3)
    await world.drain()
    check_rows(world, events_of(records))
    check_states(world)


def _is_about(sent: Sent, clicks: set[int], conversions: set[int]) -> bool:
    try:
        fields = json.loads(sent.value or b"")
    except ValueError:
        return False
    if not isinstance(fields, dict):
        return False
    if sent.topic == "clicks":
        return fields.get("click_id") in sorted(clicks)  # it may be anything
    return fields.get("conv_id") in sorted(conversions)


@pytest.mark.parametrize("seed", range(0, SEEDS, 10))
async def test_a_replay_without_any_worker_and_then_workers(seed: int) -> None:
    world, _, records = made(seed)
    world.replay_rate = 0.0
    for record, key in records:
        world.produce(record.topic, key, record.value, record.append_time)
    world.now_ms = NOW * 1000
    await world.replay_all()
    await world.drain()
    check_rows(world, events_of(records))
    check_states(world)
