"""The oracle gives what the old system gave, so it may judge the product."""

import pytest

from tests.support import golden
from tests.support.golden import ORDERS, SET_NAMES, Order, SetName
from tests.support.oracle import expected
from tests.support.rows import difference

NOW = 1_795_000_000


@pytest.mark.parametrize("name", SET_NAMES)
@pytest.mark.parametrize("order", ORDERS)
def test_oracle_gives_the_golden_touchpoints_in_any_order(name: SetName, order: Order) -> None:
    vectors = golden.load(name)
    rows = expected(golden.records(golden.in_order(vectors, order, seed=7)))
    assert difference(vectors.touchpoints, rows.touchpoints) == ""
    assert rows.dead_letters == []
    assert rows.conflicts == frozenset()


@pytest.mark.parametrize("name", SET_NAMES)
def test_oracle_gives_the_golden_touchpoints_when_each_line_comes_twice(name: SetName) -> None:
    vectors = golden.load(name)
    lines = golden.in_order(vectors, "merged")
    rows = expected(golden.records([*lines, *golden.shuffled(lines, seed=3)]))
    assert difference(vectors.touchpoints, rows.touchpoints) == ""


@pytest.mark.parametrize("name", SET_NAMES)
def test_shifted_set_ends_within_the_last_hour_before_now(name: SetName) -> None:
    vectors = golden.load_before(name, NOW)
    assert NOW - golden.HOUR < vectors.newest_time <= NOW
    rows = expected(golden.records(golden.in_order(vectors, "merged"), append_time=NOW))
    assert difference(vectors.touchpoints, rows.touchpoints) == ""


def test_lines_that_are_not_shifted_keep_their_bytes() -> None:
    whole = (golden.VECTORS / "dense" / "conversions.jsonl").read_bytes().splitlines()
    assert [line.value for line in golden.load("dense").conversions] == whole


def test_deleted_conversions_of_the_golden_sets_have_no_touchpoints() -> None:
    for name in SET_NAMES:
        vectors = golden.load(name)
        rows = expected(golden.records(golden.in_order(vectors, "merged")))
        deleted = {row.conv_id for row in rows.journeys if row.outcome == "deleted"}
        assert deleted
        assert deleted.isdisjoint(touchpoint.conv_id for touchpoint in vectors.touchpoints)
