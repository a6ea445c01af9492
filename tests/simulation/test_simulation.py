"""Seeded runs of the simulated cluster: whatever happens on the way, the rows are those of the set of events."""

import json
import os
from typing import Any

import pytest

from stream.core.facts import Outcome
from stream.core.keys import JourneyKey
from stream.core.state import KEPT_CLICKS, MOMENT_BYTES, NO_FLOOR, UNKNOWN_FLOOR, pack_click
from tables.state.journeys import decode_state, encode_key
from tests.simulation.world import World
from tests.support.oracle import expected
from tests.support.oracle_events import Record
from tests.support.strategies import BASE
from tests.support.traffic import Rates, traffic

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "40"))
NOW = BASE + 50 * 86_400


def check_rows(world: World, records: list[Record]) -> None:
    wanted = expected(records)
    assert not wanted.conflicts
    found = world.database
    assert found.facts.touchpoints() == [
        (row.conv_id, row.position, row.click_id, row.click_time) for row in wanted.touchpoints
    ]
    journeys = sorted(found.facts.journeys.items())
    assert [(conv_id, journey.outcome.value, journey.click_unknown) for conv_id, journey in journeys] == [
        tuple(row) for row in wanted.journeys
    ]
    assert sorted(found.logs) == [row.conv_id for row in wanted.conversion_logs]
    assert all(conv_id in found.logs for conv_id, journey in journeys if journey.outcome is Outcome.COUNTED)


def check_states(world: World) -> None:
    """A state that claims to know its floor keeps every stored click above it, as it is stored."""
    by_key: dict[bytes, list[bytes]] = {}
    for click in world.database.facts.clicks.values():
        if not (click.visitor_id and click.click_bot):
            key = encode_key(JourneyKey(click.user_id, click.campaign_id, click.visitor_id))
            by_key.setdefault(key, []).append(pack_click(click))
    for number, member in world.members.items():
        for key, value in member.kept.partitions.get(number, {}).items():
            state = decode_state(value)
            assert state is not None
            if state.floor is not UNKNOWN_FLOOR:
                floor = state.floor if state.floor != NO_FLOOR else bytes(MOMENT_BYTES)
                clicks = sorted(packed for packed in by_key.get(key, []) if packed[:MOMENT_BYTES] > floor)
                assert b"".join(clicks) == state.clicks, key
                assert len(clicks) <= KEPT_CLICKS


def check_outputs(world: World) -> None:
    """Who keeps the greatest version of each journey record has what SQL has: nothing changed without being told."""
    published: dict[int, dict[str, Any]] = {}
    for output in world.outputs:
        if output.topic == "journeys":
            record = json.loads(output.value or b"")
            if record["version"] >= published.get(record["conv_id"], record)["version"]:
                published[record["conv_id"]] = record
    assert {
        conv_id: (record["version"], record["outcome"], [touch["click_id"] for touch in record["touches"]])
        for conv_id, record in published.items()
    } == {
        conv_id: (journey.version, journey.outcome.value, [touch.click_id for touch in journey.touches])
        for conv_id, journey in world.database.facts.journeys.items()
    }


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_rows_are_those_of_the_set_of_events(seed: int) -> None:
    # Every other seed has few keys and many revisions: what a revision leaves behind is met again soon.
    is_crowded = seed % 2 == 1
    rates = Rates(late=0.4, revised_clicks=0.6 if is_crowded else 0.2, same_transaction=0.3, visitors=0.9)
    size = 1 if is_crowded else 3
    sent = traffic(seed, 400, now=NOW, rates=rates, users=size, campaigns=size)
    records = [Record(each.topic, each.value, NOW + seed % 7) for each in sent]
    world = World(seed, partitions=(1, 2, 3)[seed % 3])
    await world.run([(record, each.key) for record, each in zip(records, sent, strict=True)], fault_rate=0.3)
    check_rows(world, records)
    check_states(world)
    check_outputs(world)
    assert world.faults
