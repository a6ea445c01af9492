"""Replay, purge and rebuild while the worker beside them is killed."""

import subprocess
import sys
import time

from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.database_faults import everything

LIMIT_SECONDS = 300
KILLS = 3


def replay(run: Run) -> None:
    _beside_kills(run, "replay", *everything(run), "--batch-size", "20")
    run.note("The replay ended with exit code 0")


def purge(run: Run) -> None:
    """What it took goes once more through a replay behind it; what came later was computed by the worker."""
    _beside_kills(run, "purge", *everything(run))
    run.flow.wait_sent()
    _finish(_start(run, "replay", *everything(run)))
    run.note("Purge and the replay behind it ended with exit code 0")


def rebuild(run: Run) -> None:
    _beside_kills(run, "rebuild", *everything(run), "--force")
    run.note("The rebuild ended with exit code 0")


def _beside_kills(run: Run, *arguments: str) -> None:
    """As often as the command is still at work; it begins as the first worker dies."""
    run.wait_progress(0.35)
    command = _start(run, *arguments)
    time.sleep(1)
    for _ in range(KILLS):
        run.struck()
        run.workforce.workers[0].kill()
        time.sleep(1.5)
        if command.poll() is not None:
            break
    _finish(command)


def _start(run: Run, *arguments: str) -> "subprocess.Popen[bytes]":
    with (run.folder / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stream", *arguments],
            env=run.installation.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _finish(command: "subprocess.Popen[bytes]") -> None:
    code = command.wait(LIMIT_SECONDS)
    assert code == 0, f"{command.args!r} exited {code}; its words are in the run's folder"


FAULTS = [
    Fault("replay-and-kills", "a replay of everything while the worker is killed again and again", replay, rate=120),
    Fault("purge-and-kills", "a purge of everything while the worker is killed, then a replay", purge, rate=120),
    Fault("rebuild-and-kills", "a rebuild of all hours while the worker is killed again and again", rebuild, rate=120),
]
