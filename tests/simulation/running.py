"""Runs a case, and tells what came of it."""

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import sql_storage
from tests.simulation.case import NOW, Case, shape_of
from tests.simulation.clients import SimulatedProducer, replaced_names
from tests.simulation.faults import strike
from tests.simulation.loop import run
from tests.simulation.world import World


@dataclass(slots=True)
class Result:
    """`error` is None where all is well."""

    case: Case
    error: BaseException | None = None
    digest: str = ""
    events: int = 0
    steps: int = 0
    struck: Counter[str] = field(default_factory=Counter)


def run_case(case: Case) -> Result:
    """Nothing of this machine takes part: no clock, no file but the database's, no order of hashes."""
    result = Result(case)
    random.seed(case.seed)  # the product's own jitter
    logging.disable(logging.CRITICAL)
    if shape_of(case.seed).is_sql:
        sql_storage.template()  # has a loop of its own
    try:
        run(_run(case, result))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the case has failed
        result.error = error
    finally:
        logging.disable(logging.NOTSET)
    return result


async def _run(case: Case, result: Result) -> None:
    world = World(case, strike)

    def producer(*, transactional_id: str, **_options: object) -> SimulatedProducer:
        return SimulatedProducer(world.system.broker, world.step, transactional_id)

    def clock() -> float:
        return NOW + world.loop_time()

    with _replaced(replaced_names(producer, clock)):
        try:
            await world.run()
        finally:
            result.digest = world.audit.digest
            result.events = world.events
            result.steps = sum(world.step.counts.values())
            result.struck = world.struck
            result.struck["deadlock"] += world.storage.deadlocks()
            world.storage.close()


@contextlib.contextmanager
def _replaced(names: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in names]
    for module, name, value in names:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
