"""Seeded runs of the hours' workers: whatever happens, rows and topics are what journeys and models come to."""

import os

import pytest

from stream.engine import barrier as barrier_module
from tests.simulation.hours_world import USERS, HoursWorld
from tests.support.hour_books import disagreement, stored
from tests.support.hour_examples import as_earnings, as_model, as_switch
from tests.support.hour_oracle import ExpectedHours, expected_hours

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "100"))


def wanted(world: HoursWorld) -> ExpectedHours:
    database = world.database
    computed = {user_id: {model.model_id for model in database.configuration(user_id).models} for user_id in USERS}
    models = [
        as_model(user_id, row)
        for user_id in USERS
        for row in database.models[user_id]
        if row.model_id in computed[user_id]
    ]
    switches = [as_switch(user_id, toggle) for user_id in USERS for toggle in database.toggles[user_id]]
    return expected_hours(as_earnings(world.journeys.values()), models, switches)


def of_current_hours(world: HoursWorld, rows: ExpectedHours) -> ExpectedHours:
    """Final hours keep the models of their time, until a rebuild or a change of theirs."""
    current = {
        key
        for key, hour in world.database.hours.items()
        if hour.row.configuration == world.database.configuration(key.user_id).revision
    }
    return ExpectedHours(
        [row for row in rows.snapshots if (row.user_id, row.date_hour) in current],
        [row for row in rows.credits if (row.user_id, row.date_hour) in current],
    )


async def simulate(seed: int) -> None:
    world = HoursWorld(seed, partitions=(1, 2, 3)[seed % 3])
    await world.run(steps=40, fault_rate=0.35)
    found = stored(world.database)
    assert disagreement(of_current_hours(world, wanted(world)), of_current_hours(world, found)) == ""
    assert disagreement(found, world.books.read(), what="topics") == ""
    await world.rebuild()
    await world.drain()
    found = stored(world.database)
    assert disagreement(wanted(world), found) == ""
    assert disagreement(found, world.books.read(), what="topics") == ""
    assert world.faults


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_hours_are_those_of_journeys_and_models(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier_module, "_FIRST_WAIT_SECONDS", 0.0)
    try:
        await simulate(seed)
    except BaseException as error:
        error.add_note(
            f"again: SIMULATED_SEEDS={seed + 1} .venv/bin/python -m pytest"
            f" '{__file__}::{test_hours_are_those_of_journeys_and_models.__name__}[{seed}]'"
        )
        raise
