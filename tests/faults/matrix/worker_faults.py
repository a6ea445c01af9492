"""Workers that are killed, stopped, frozen, and that come and go."""

import random
import signal
import time

from tests.faults.matrix.contract import Fault, Run
from tests.support.processes import wait_for

BURSTS, KILLS = 6, 5
FROZEN_SECONDS = 60


def kill_once(run: Run) -> None:
    run.wait_progress(0.3)
    run.struck()
    run.workforce.workers[0].kill()


def kill_in_bursts(run: Run) -> None:
    """Each burst finds workers that have just gone on, and goes on into their starts."""
    chance = random.Random(run.fault.name)
    for number in range(BURSTS):
        # The records go on coming in while nobody works, so the next burst must not wait for a share of its own.
        run.wait_progress(max(0.21, run.progress() + 0.01) if number else 0.21)
        for _ in range(KILLS):
            wait_for(lambda: any(worker.is_running() for worker in run.workforce.workers), "a worker to kill")
            run.struck()
            chance.choice([worker for worker in run.workforce.workers if worker.is_running()]).kill()
            time.sleep(chance.uniform(0.1, 1))


def terminate(run: Run) -> None:
    for number in range(3):
        run.wait_progress(0.25 + 0.15 * number)
        worker = run.workforce.workers[0]
        run.struck()
        assert run.workforce.dismiss(worker) == 0, worker.log_tail()
        run.workforce.hire()
        run.wait_caught_up()
    run.note("Each worker ended with exit code 0")


def freeze(run: Run) -> None:
    run.wait_progress(0.3)
    worker = run.workforce.workers[0]
    run.struck()
    worker.signal(signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    worker.signal(signal.SIGCONT)
    run.healed()
    # A sleeper that wakes among others may first have to end, being fenced: nobody asks it to stop before that.
    wait_owners(run, len(run.workforce.workers))


def come_and_go(run: Run) -> None:
    """1, 3, 2, 1 workers, twice: the first time the oldest leaves first, the second time the newest."""
    staff = run.workforce
    for leaving in ((0, -1), (-1, 0)):
        _step(run)
        staff.hire(2)
        wait_owners(run, 3)
        for place in leaving:
            _step(run)
            assert staff.dismiss(staff.workers[place]) == 0
            wait_owners(run, len(staff.workers))


def _step(run: Run) -> None:
    run.wait_progress(max(0.22, run.progress() + 0.01))
    run.struck()


def wait_owners(run: Run, count: int) -> None:
    def owners() -> set[str]:
        return {owner for _, owner, _, _ in run.installation.progress()}

    wait_for(lambda: len(owners()) == count, f"{count} workers to own partitions", seconds=90)


FAULTS = [
    Fault("worker-killed", "kill -9 of the only worker", kill_once),
    Fault("worker-killed-on-sqlite", "the same, on SQLite", kill_once, database="sqlite"),
    Fault(
        "worker-killed-30-times",
        f"{BURSTS} bursts of {KILLS} kill -9, 0.1 s to 1 s apart, of two workers, into their starts too",
        kill_in_bursts,
        workers=2,
        events=9000,
        rate=45,
    ),
    Fault("worker-terminated", "SIGTERM, three times, another worker follows", terminate, events=5000, rate=80),
    Fault(
        "worker-frozen",
        f"SIGSTOP of one of two workers for {FROZEN_SECONDS} s, SIGCONT: the other has taken its partitions over",
        freeze,
        workers=2,
    ),
    Fault(
        "worker-frozen-alone",
        f"SIGSTOP of the only worker for {FROZEN_SECONDS} s, SIGCONT: its group has forgotten it",
        freeze,
        database="sqlite",
    ),
    Fault(
        "workers-come-and-go",
        "1, 3, 2, 1 workers under load, twice, the oldest leaving first and then the newest",
        come_and_go,
        partitions=6,
        events=6000,
        rate=50,
    ),
]
