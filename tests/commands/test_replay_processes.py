"""The processes of a replay: none outlives the one that forked it, and what one of them says reaches it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream.commands import replay_processes
from stream.commands.replay_processes import Processes
from stream.commands.replay_refused import Teller
from stream.commands.replay_work import Job
from stream.config import Settings
from stream.core.errors import StreamError

FORKING = """
import time
from stream.commands.replay_processes import Processes
from stream.config import Settings
processes = Processes(Settings(), 3)
time.sleep(1)  # by then each has let go of what is not its own
print(*processes._pids, flush=True)
time.sleep(60)
"""
NOBODY = "mysql+asyncmy://nobody:x@127.0.0.1:1/nothing"


def is_at_work(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_none_outlives_the_one_that_forked_them() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True) as forking:
        assert forking.stdout is not None
        pids = [int(pid) for pid in forking.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(is_at_work, pids))
        os.kill(pids[2], signal.SIGSTOP)
        forking.kill()
    wait_for_end(pids[:2])
    os.kill(pids[2], signal.SIGCONT)
    wait_for_end(pids)


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_at_work, pids)):
        assert time.monotonic() < deadline, "they wait for one that is gone, or for one another"
        time.sleep(0.05)


def jobs(count: int) -> list[Job]:
    offsets = [{"clicks": 0, "conversions": 0}]
    return [
        Job(
            1,
            is_facts=False,
            users=(),
            start=0,
            end=1,
            batch_size=500,
            partitions=[number],
            starts=offsets,
            ends=offsets,
        )
        for number in range(count)
    ]


def test_what_goes_wrong_in_one_of_them_is_said_here_and_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.commands.replay_work.PATIENCE_S", 0.0)
    processes = Processes(Settings(database_url=NOBODY, kafka="127.0.0.1:1"), 2)
    pids = list(processes._pids)

    async def work() -> None:
        try:
            await processes.work(jobs(2), Teller())
        finally:
            assert not any(map(is_at_work, pids)), "whoever takes the run over may meet them"
            await processes.end()

    with pytest.raises(StreamError, match=r"Kafka at 127\.0\.0\.1:1 did not answer"):
        asyncio.run(work())


def test_one_that_is_killed_is_missed() -> None:
    processes = Processes(Settings(database_url=NOBODY, kafka="127.0.0.1:1"), 2)
    os.kill(processes._pids[0], signal.SIGKILL)

    async def work() -> None:
        try:
            await processes.work(jobs(2), Teller())
        finally:
            await processes.end()

    with pytest.raises(StreamError, match="without a word"):
        asyncio.run(work())


def test_one_that_does_not_hear_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_processes, "_PATIENCE_S", 0.2)
    processes = Processes(Settings(), 2)
    pids = list(processes._pids)
    os.kill(pids[1], signal.SIGSTOP)
    asyncio.run(processes.end())
    assert not any(map(is_at_work, pids))


def test_an_interrupt_of_the_terminal_is_for_the_one_that_forked_them() -> None:
    before = signal.getsignal(signal.SIGINT)
    processes = Processes(Settings(), 2)
    assert signal.getsignal(signal.SIGINT) is before
    for pid in processes._pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert all(map(is_at_work, processes._pids))
    asyncio.run(processes.end())
