"""The oracle of hours gives what the old system gave, so it may judge the product."""

import pytest

from tests.support import golden
from tests.support.golden import SET_NAMES, SetName
from tests.support.golden_hours import credits_differ, expected_credits, expected_snapshots, models_of, snapshots_differ
from tests.support.hour_oracle import earnings_of, expected_hours
from tests.support.oracle import expected


@pytest.mark.parametrize("name", SET_NAMES)
def test_oracle_of_hours_gives_the_golden_snapshots_and_credits(name: SetName) -> None:
    vectors = golden.load(name)
    rows = expected(golden.records(golden.in_order(vectors, "merged")))
    found = expected_hours(earnings_of(rows), models_of(name), with_extra_scopes=False)
    assert snapshots_differ(expected_snapshots(name), found.snapshots) == ""
    assert credits_differ(expected_credits(name), found.credits) == ""
