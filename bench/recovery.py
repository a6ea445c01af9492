"""How fast does a new worker read its state back? Asked of its own metrics."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import aiohttp

from bench.measuring import START_LIMIT_SECONDS, Contestant, DidNotRun, Runner
from bench.report import Recovery


async def measure_recovery(contestant: Contestant) -> Recovery:
    """Start a worker of ours again, after its run: nothing is left to do but to recover."""
    again = replace(contestant, folder=contestant.folder.with_name(f"{contestant.name}-again"))
    deadline = time.monotonic() + START_LIMIT_SECONDS
    async with Runner(again) as running, aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            running.check_runs()
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://{again.health}/readyz") as answer:
                    is_ready = answer.status == 200
                if is_ready:
                    async with session.get(f"http://{again.health}/metrics") as answer:
                        recovery = _read(await answer.text())
                    await running.stop()
                    return recovery
            await asyncio.sleep(0.05)
        raise DidNotRun(f"{again.label} did not recover:\n{running.log_tail()}")


def _read(metrics: str) -> Recovery:
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    return Recovery(int(float(values["touchstream_recovered_records"])), float(values["touchstream_recovery_seconds"]))
