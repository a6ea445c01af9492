"""`python -m tests.simulation --seeds N [--from K]`: run so many seeds; exit 1 with the first that fails."""

import argparse
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator

from tests.simulation.case import CONSEQUENCES, FAULTS, Case, events_of, faults_of, numbers_of, shape_of
from tests.simulation.running import Result, run_case
from tests.simulation.shrink import shrunk

_SEEDS_FOR_EVERY_KIND = 200


def main() -> int:
    options = _options()
    started = time.monotonic()
    struck: Counter[str] = Counter()
    events = steps = seeds = 0
    cases = [Case(seed, options.events, options.faults) for seed in range(options.first, options.first + options.seeds)]
    failed: Result | None = None
    for result in _results(cases, options.processes):
        seeds += 1
        events, steps = events + result.events, steps + result.steps
        struck += result.struck
        if result.error is not None:
            failed = result
            break
    _report(struck, seeds=seeds, seconds=time.monotonic() - started, events=events, steps=steps)
    if failed is not None:
        _tell_failure(failed, is_shrinking=not options.no_shrinking)
        return 1
    missing = [kind for kind in (*FAULTS, *CONSEQUENCES) if not struck[kind]]
    if missing and seeds >= _SEEDS_FOR_EVERY_KIND:
        _tell(f"simulate: kinds that never struck: {', '.join(missing)}")
        return 1
    _tell(f"simulate: {seeds} seeds, all well")
    return 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--events", type=numbers_of, help="which events of the seed, such as 0-4,9 or none")
    parser.add_argument("--faults", type=numbers_of, help="which faults of the seed")
    parser.add_argument("--no-shrinking", action="store_true", help="tell of a failure as it is")
    return parser.parse_args()


def _results(cases: list[Case], processes: int) -> Iterator[Result]:
    """In the order of the seeds."""
    if processes < 2:
        yield from map(run_case, cases)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run_case, cases, chunksize=4)


def _report(struck: Counter[str], *, seeds: int, seconds: float, events: int, steps: int) -> None:
    faults = sum(struck.values())
    _tell(
        f"{seeds} seeds in {seconds:.1f} s: {events} events ({events / seconds:.0f}/s), {steps} steps"
        f" ({steps / seconds:.0f}/s), {faults} faults ({faults / seconds:.1f}/s)"
    )
    _tell("struck: " + ", ".join(f"{kind} {count}" for kind, count in sorted(struck.items())))


def _tell_failure(failed: Result, *, is_shrinking: bool) -> None:
    case = failed.case
    assert failed.error is not None
    traceback.print_exception(failed.error, limit=-6)
    if is_shrinking:
        small = shrunk(case, lambda smaller: run_case(smaller).error is not None)
        error = run_case(small).error
        _tell(f"shrunk to: {small.command()}")
        _tell_case(small)
        _tell(f"it fails with: {type(error).__name__}: {error}")
    _tell(f"again: {case.command()}")
    _tell(f"simulate: seed {case.seed} failed: {type(failed.error).__name__}: {str(failed.error).splitlines()[0]}")


def _tell_case(case: Case) -> None:
    _tell(f"  {shape_of(case.seed)}")
    events, faults = events_of(case.seed), faults_of(case.seed)
    for number in case.events or ():
        at, sent = events[number]
        _tell(f"  event {number} at {at:.2f}: {sent.topic} {sent.value!r}")
    for number in case.faults or ():
        _tell(f"  fault {number} at {faults[number].at:.2f}: {faults[number].kind}")


if __name__ == "__main__":
    sys.exit(main())
