"""A command of ours from its start to its end: what it said, how long it took, and what it and its children used."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.measuring import DidNotRun, peak_mb, python_module
from bench.surroundings import FOLDER

_POLL_SECONDS = 0.05


class Watched(NamedTuple):
    said: dict[str, Any]  # its one object of JSON
    seconds: float
    cpu_seconds: float  # of all its processes, user and system time
    peak_mb: float  # of the largest of its processes


def watched(env: dict[str, str], *arguments: str) -> Watched:
    """Raises DidNotRun. The peak is read on the way: what wait4 tells of it may be that of who started the command."""
    out, log = FOLDER / "command.out", FOLDER / "command.log"
    command = python_module("stream", *arguments)
    peak, began = 0.0, time.monotonic()
    with out.open("wb") as told, log.open("wb") as errors:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=told, stderr=errors)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            for pid in (process.pid, *_children(process.pid)):
                with suppress(OSError, StopIteration):
                    peak = max(peak, peak_mb(pid))
            time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - began
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise DidNotRun(f"{' '.join(arguments)}:\n{out.read_text()}{log.read_text()}")
    return Watched(json.loads(out.read_text(encoding="utf-8")), seconds, usage.ru_utime + usage.ru_stime, peak)


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from map(int, file.read_text(encoding="ascii").split())
