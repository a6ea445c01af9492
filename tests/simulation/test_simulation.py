"""Seeded runs of the whole system: whatever happens on the way, the rows are those of the set of events."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import __main__ as command
from tests.simulation.case import SQL_EVERY, Case, events_of, faults_of, numbers_of, ranges, shape_of
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.running import Result, run_case
from tests.simulation.shrink import shrunk

SEEDS = 42
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_rows_are_those_of_the_set_of_events(seed: int) -> None:
    result = run_case(Case(seed))
    if result.error is not None:
        result.error.add_note(f"again: {result.case.command()}")
        raise result.error
    assert result.events


@pytest.mark.parametrize("why", REGRESSIONS)
def test_what_was_mended_stays_mended(why: str) -> None:
    result = run_case(REGRESSIONS[why])
    if result.error is not None:
        raise result.error


@pytest.mark.parametrize("seed", [2, SQL_EVERY - 1])
def test_a_seed_decides_everything(seed: int) -> None:
    digests = {run_case(Case(seed)).digest for _ in range(2)}
    statement = f"from tests.simulation.running import *; print(run_case(Case({seed})).digest)"
    for hashes in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hashes}
        found = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, env=env, capture_output=True, check=True)
        digests.add(found.stdout.decode().strip())
    assert len(digests) == 1


def test_another_seed_is_another_history() -> None:
    assert len({run_case(Case(seed)).digest for seed in (0, 1, 3)}) == 3


# Small cases


def test_a_failing_case_is_shrunk_to_what_it_needs() -> None:
    seed = next(seed for seed in range(50) if len(faults_of(seed)) > 10 and len(events_of(seed)) > 80)
    tried = []

    def fails(case: Case) -> bool:
        tried.append(case)
        faults = case.faults if case.faults is not None else range(len(faults_of(seed)))
        events = case.events if case.events is not None else range(len(events_of(seed)))
        return {2, 7} <= set(faults) and {11, 60} <= set(events)

    small = shrunk(Case(seed), fails)
    assert (small.faults, small.events) == ((2, 7), (11, 60))
    assert small.command() == f"python -m tests.simulation --seeds 1 --from {seed} --events 11,60 --faults 2,7"
    assert len(tried) < 200


def test_a_case_that_needs_no_faults_loses_them_all() -> None:
    seed = next(seed for seed in range(50) if faults_of(seed))
    assert shrunk(Case(seed), lambda case: case.events != ()).faults == ()


@pytest.mark.parametrize("numbers", [(), (4,), (0, 1, 2, 3), (0, 2, 3, 9)])
def test_numbers_are_written_as_ranges(numbers: tuple[int, ...]) -> None:
    assert numbers_of(ranges(numbers)) == numbers


def test_leaving_out_events_and_faults_leaves_the_others_as_they_are() -> None:
    result = run_case(Case(0, events=(0, 5, 7), faults=()))
    assert (result.error, result.events, sum(result.struck.values())) == (None, 3, 0)


# The command


def test_the_command_names_the_failing_seed_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(case: Case) -> Result:
        is_wrong = case.seed == 3 and case.events != ()
        return Result(case, AssertionError("a row is lost") if is_wrong else None, events=1)

    monkeypatch.setattr(command, "run_case", broken)
    monkeypatch.setattr(sys, "argv", ["simulate", "--seeds", "5"])
    assert command.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "simulate: seed 3 failed: AssertionError: a row is lost"
    assert said[-2] == "again: python -m tests.simulation --seeds 1 --from 3"
    assert any(line.startswith("shrunk to: ") for line in said)


def test_the_command_says_that_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "run_case", lambda case: Result(case, events=1))
    monkeypatch.setattr(sys, "argv", ["simulate", "--seeds", "5", "--from", "7"])
    assert command.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "simulate: 5 seeds, all well"


def test_a_kind_of_fault_that_never_strikes_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_case", lambda case: Result(case, events=1))
    monkeypatch.setattr(sys, "argv", ["simulate", "--seeds", "200"])
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "never struck: crash, " in said
    assert "fenced, refused, deadlock" in said


def test_shapes_differ() -> None:
    shapes = [shape_of(seed) for seed in range(100)]
    for name in ("partitions", "workers", "is_sql", "is_crowded", "is_rekeyed", "is_aligned", "state_bound"):
        assert len({getattr(shape, name) for shape in shapes}) > 1, name
