"""Recovery outlasts a broker that is slow to answer, and nothing else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from faust.tables.recovery import RebalanceAgain, ServiceStopped

from stream.engine.app import EngineSettings, build_app
from stream.engine.chunk import Arrival
from stream.engine.consumer import Intake


def recovery(tmp_path: Path) -> Any:  # noqa: ANN401 - a Recovery, whose type hides what is called here
    """Of an app as the worker builds it; connected to nothing."""
    intake = Intake(("clicks", "conversions"), lambda record: Arrival(record, 0, None), 10, is_aligned=True)
    engine = EngineSettings("app", ("127.0.0.1:1",), None, tmp_path, 1, 10, "state", intake)
    manager: Any = build_app(engine).tables
    return manager.recovery


async def test_an_answer_that_takes_longer_than_the_time_for_it_is_waited_for(tmp_path: Path) -> None:
    answered: list[str] = []

    async def answer_late() -> None:
        await asyncio.sleep(0.05)
        answered.append("late")

    await recovery(tmp_path)._wait(answer_late(), timeout=0.001)
    assert answered == ["late"]


async def test_a_rebalance_and_a_stop_end_the_waiting(tmp_path: Path) -> None:
    waiting = recovery(tmp_path)
    waiting.signal_recovery_start.set()
    with pytest.raises(RebalanceAgain):
        await waiting._wait(asyncio.Event().wait(), timeout=30)
    waiting.signal_recovery_start.clear()
    waiting._stopped.set()
    with pytest.raises(ServiceStopped):
        await waiting._wait(asyncio.Event().wait(), timeout=30)


async def test_an_error_is_no_answer(tmp_path: Path) -> None:
    async def fail() -> None:
        raise ConnectionError("no broker")

    with pytest.raises(ConnectionError):
        await recovery(tmp_path)._wait(fail(), timeout=30)
