"""An event loop whose time is no real time: where nobody can go on before a moment, it is that moment at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class StandsStill(AssertionError):
    """Everybody waits for somebody else, for ever."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Deterministic: callbacks run in the order in which they became due, and there is nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._clock_resolution = 1e-6
        self._selector = self
        self.set_exception_handler(lambda _loop, _context: None)  # tasks of processes that were killed

    def time(self) -> float:
        return self._seconds

    def select(self, timeout: float | None) -> list[object]:
        """In place of the selector's, which would wait."""
        if timeout is None:
            raise StandsStill("the simulation stands still")
        self._seconds += timeout
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps that could be woken."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """To its end; what it left behind is cancelled."""
    loop = SimulatedLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main)
    finally:
        _cancel_all(loop)
        asyncio.set_event_loop(None)
        loop.close()


def _cancel_all(loop: SimulatedLoop) -> None:
    for _ in range(20):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=60))
