"""Makes a failing case small: without faults, and without events, as long as it still fails."""

from collections.abc import Callable, Sequence

from tests.simulation.case import Case, events_of, faults_of

MOST_RUNS = 200


def shrunk(case: Case, fails: Callable[[Case], bool], *, runs: int = MOST_RUNS) -> Case:
    """The smallest case found in so many runs. It need not fail in the same way."""
    left = [runs]

    def still(smaller: Case) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        return fails(smaller)

    faults = list(case.faults if case.faults is not None else range(len(faults_of(case.seed))))
    case = case.keeping(faults=_fewer(faults, lambda kept: still(case.keeping(faults=kept))))
    events = list(case.events if case.events is not None else range(len(events_of(case.seed))))
    case = case.keeping(events=_fewer(events, lambda kept: still(case.keeping(events=kept))))
    kept_faults = list(case.faults or ())
    return case.keeping(faults=_fewer(kept_faults, lambda kept: still(case.keeping(faults=kept))))


def _fewer(numbers: Sequence[int], still: Callable[[Sequence[int]], bool]) -> list[int]:
    """Delta debugging: ever smaller pieces are left out."""
    kept = list(numbers)
    if kept and still([]):
        return []
    size = max(1, len(kept) // 2)
    while size and kept:
        place = 0
        while place < len(kept):
            smaller = kept[:place] + kept[place + size :]
            if smaller and still(smaller):
                kept = smaller
            else:
                place += size
        size //= 2
    return kept
