"""A round of a replay in several processes: each gets its job as a line of JSON and answers in lines of JSON.

A process ends when its STDIN does, so none outlives the one that started it. This module, run with -m, is such a
process.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from stream.commands.replay_refused import Failure, Teller
from stream.commands.replay_work import Job, work
from stream.config import Settings, read_settings
from stream.core.errors import StreamError

_LINE_LIMIT = 16 * 1024 * 1024


async def work_in_processes(jobs: Sequence[Job], teller: Teller) -> None:
    """Raises StreamError with what the first of them that failed said, after all of them have ended."""
    tasks = [asyncio.create_task(_in_process(job, teller)) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _in_process(job: Job, teller: Teller) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stream.commands.replay_processes",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    failure: StreamError | None = StreamError("a process of the replay ended without a word; the same command goes on")
    try:
        process.stdin.write(json.dumps(job._asdict()).encode() + b"\n")
        await process.stdin.drain()
        async for line in process.stdout:
            said = json.loads(line)
            if said["kind"] == "counts":
                teller.counted(said["counts"])
            elif said["kind"] == "error":
                teller.failed(Failure(**said["failure"]))
            else:
                failure = StreamError(said["error"], hint=said["hint"]) if said["kind"] == "failed" else None
    finally:
        process.stdin.close()
        await process.wait()
    if failure is not None:
        raise failure


class _Lines(Teller):
    """Says everything on STDOUT, as lines."""

    def counted(self, counts: Mapping[str, int]) -> None:
        self.say(kind="counts", counts=dict(counts))

    def failed(self, failure: Failure) -> None:
        self.say(kind="error", failure=failure._asdict())

    @staticmethod
    def say(**said: object) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


async def _serve(settings: Settings) -> None:
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = Job(**json.loads(await reader.readline()))
    lines = _Lines()
    leaving = asyncio.create_task(_leave_with(reader))
    try:
        await work(settings, job, lines)
    except StreamError as error:
        lines.say(kind="failed", error=str(error), hint=error.hint)
    else:
        lines.say(kind="done")
    finally:
        leaving.cancel()


async def _leave_with(reader: asyncio.StreamReader) -> None:
    """Whoever started us is gone: what was not finished is taken up by the next run."""
    await reader.read()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the one that started us decides
    asyncio.run(_serve(read_settings()))
