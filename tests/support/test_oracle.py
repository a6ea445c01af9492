"""The oracle's own rules, each in a case small enough to be worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import oracle_events
from tests.support.oracle import ExpectedRows, expected
from tests.support.oracle_events import Record

DAY = 86400
NOW = 1_700_000_000  # all conversions, unless said otherwise
EXAMPLES = Path(__file__).parent.parent / "examples"


def click(click_id: int, *, age: int = 100, visitor: str = "", **changes: object) -> Record:
    fields = {"click_id": click_id, "user_id": 1, "campaign_id": 11, "click_time": NOW - age, "visitor_id": visitor}
    return Record("clicks", json.dumps(fields | changes).encode(), NOW)


def conversion(click_id: int, *, conv_id: int = 1, visitor: str = "", **changes: object) -> Record:
    fields = {
        "conv_id": conv_id, "click_id": click_id, "user_id": 1, "campaign_id": 11, "click_time": NOW - 77,
        "conv_time": NOW, "click_payout": 10, "visitor_id": visitor,
    }  # fmt: skip
    return Record("conversions", json.dumps(fields | changes).encode(), NOW)


def path_of(*records: Record) -> list[int]:
    """Click ids of the one journey that has touchpoints; positions are checked on the way."""
    touchpoints = expected(records).touchpoints
    assert len({touchpoint.conv_id for touchpoint in touchpoints}) <= 1
    assert [touchpoint.position for touchpoint in touchpoints] == list(range(len(touchpoints)))
    return [touchpoint.click_id for touchpoint in touchpoints]


def outcomes(rows: ExpectedRows) -> dict[int, str]:
    return {row.conv_id: row.outcome for row in rows.journeys}


def test_both_ends_of_the_lookback_are_inside() -> None:
    ages = {1: 30 * DAY + 1, 2: 30 * DAY, 3: 0, 4: -1, 5: 50}
    assert path_of(*[click(click_id, age=age) for click_id, age in ages.items()], conversion(5)) == [2, 5, 3]


def test_equal_times_are_ordered_by_id() -> None:
    assert path_of(click(9), click(7), click(8), conversion(8)) == [7, 8, 9]


def test_campaign_journey_has_26_touches_where_its_click_is_not_among_the_newest_25() -> None:
    crowd = [click(click_id, age=1000 - click_id) for click_id in range(1, 31)]
    assert path_of(*crowd, conversion(30)) == list(range(6, 31))
    assert path_of(*crowd, conversion(2)) == [2, *range(6, 31)]


def test_campaign_journey_holds_bots_and_later_clicks_but_no_clicks_of_visitors() -> None:
    records = [click(1), click(2, click_bot=1), click(3, age=10), click(4, visitor="v")]
    assert path_of(*records, conversion(1)) == [1, 2, 3]


def test_converting_click_is_a_touch_wherever_and_whenever_it_was() -> None:
    assert path_of(click(1), click(2, age=-500, campaign_id=99), conversion(2)) == [1, 2]
    assert path_of(click(1), click(2, age=90 * DAY, user_id=7), conversion(2)) == [2, 1]


def test_known_converting_click_stands_at_its_own_time() -> None:
    rows = expected([click(1, age=50), conversion(1, click_time=NOW - 9)])
    assert [touchpoint.click_time for touchpoint in rows.touchpoints] == [NOW - 50]
    assert [row.click_unknown for row in rows.journeys] == [False]


def test_unknown_converting_click_stands_where_the_conversion_says() -> None:
    rows = expected([click(1, age=50), conversion(2, click_time=NOW - 60)])
    assert [(row.click_id, row.click_time) for row in rows.touchpoints] == [(2, NOW - 60), (1, NOW - 50)]
    assert [row.click_unknown for row in rows.journeys] == [True]


def test_postback_finds_the_visitor_by_its_click() -> None:
    records = [click(1, age=300, visitor="v"), click(2, age=200), click(3, visitor="v"), click(4, visitor="w")]
    assert path_of(*records, conversion(3)) == [1, 3]
    assert path_of(*records, conversion(3, visitor="w")) == [1, 3]


def test_visitor_of_the_conversion_counts_where_its_click_has_none() -> None:
    records = [click(1, age=300, visitor="v"), click(2, age=200), click(3, age=100)]
    assert path_of(*records, conversion(3, visitor="v")) == [1, 3]


def test_visitor_journey_has_no_bots_and_nothing_after_its_click() -> None:
    records = [
        click(1, age=300, visitor="v"), click(2, age=200, visitor="v", click_bot=1), click(5, visitor="v"),
        click(4, visitor="v"), click(6, visitor="v"), click(7, age=50, visitor="v"),
    ]  # fmt: skip
    assert path_of(*records, conversion(5)) == [1, 4, 5]
    assert path_of(*records, conversion(2)) == [1, 2]


def test_visitor_journey_has_25_touches_at_most_and_its_click_is_one() -> None:
    crowd = [click(click_id, age=1000 - click_id, visitor="v") for click_id in range(1, 31)]
    assert path_of(*crowd, conversion(30)) == list(range(6, 31))
    assert path_of(*crowd, click(99, age=5), conversion(99, visitor="v")) == [*range(7, 31), 99]
    assert path_of(*crowd, conversion(2)) == [1, 2]


def test_unknown_click_ends_a_visitor_journey_at_the_time_that_the_conversion_says() -> None:
    records = [click(1, age=78, visitor="v"), click(5, age=77, visitor="v"), click(3, age=77, visitor="v")]
    assert path_of(*records, conversion(4, visitor="v")) == [1, 3, 4]


def test_later_revision_wins_in_any_order() -> None:
    reports = [click(1, age=10, revised_at=5), click(1, age=20, revised_at=6), click(1, age=30)]
    for order in (reports, reports[::-1]):
        rows = expected([*order, conversion(1)])
        assert [row.click_time for row in rows.touchpoints] == [NOW - 20]
        assert rows.conflicts == frozenset()


def test_campaign_beats_campaign_0_before_any_other_comparison() -> None:
    reports = [click(1, age=10), click(1, age=20, campaign_id=0, revised_at=6)]
    for order in (reports, reports[::-1]):
        rows = expected(order)
        assert rows.clicks[1].campaign_id == 11
        assert rows.dead_letters == []


def test_deletion_beats_an_equal_revision_and_a_later_one_brings_the_conversion_back() -> None:
    deleted = [click(1), conversion(1, deleted=True), conversion(1)]
    assert outcomes(expected(deleted)) == {1: "deleted"}
    assert expected(deleted).conversion_logs == []
    assert outcomes(expected([*deleted, conversion(1, revised_at=1)])) == {1: "counted"}


def test_equal_ranks_with_different_content_are_a_conflict() -> None:
    assert expected([click(1, click_cpc=1), click(1, click_cpc=2)]).conflicts == {("click", 1)}
    assert expected([click(1, click_cpc=1), click(1, click_cpc="1.00")]).conflicts == frozenset()
    superseded = [click(1, click_cpc=1), click(1, click_cpc=2), click(1, revised_at=1)]
    assert expected(superseded).conflicts == frozenset()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (click(1), click(1, user_id=2)),
        (click(1), click(1, campaign_id=12, revised_at=9)),
        (conversion(1), conversion(2, revised_at=9)),
        (conversion(1), conversion(1, campaign_id=12)),
        (conversion(1), conversion(1, user_id=2)),
    ],
)
def test_rekeyed_record_is_refused_and_the_first_one_stands(first: Record, second: Record) -> None:
    rows = expected([first, second])
    assert [(letter.at, letter.why) for letter in rows.dead_letters] == [(1, "rekeyed")]
    alone = expected([first])
    assert (rows.clicks, rows.conversions) == (alone.clicks, alone.conversions)


def test_first_conversion_of_a_transaction_counts_across_campaigns() -> None:
    records = [
        conversion(1, conv_id=5, transaction_id="t", conv_time=NOW - 1),
        conversion(1, conv_id=4, transaction_id=" t "),
        conversion(1, conv_id=3, transaction_id="t", campaign_id=12, conv_time=NOW - 1),
        conversion(1, conv_id=2, transaction_id="T"),
        conversion(2, conv_id=1, transaction_id="t"),
    ]
    wanted = {1: "counted", 2: "counted", 3: "counted", 4: "duplicate", 5: "duplicate"}
    assert outcomes(expected(records)) == wanted
    first_deleted = conversion(1, conv_id=3, transaction_id="t", campaign_id=12, conv_time=NOW - 1, deleted=1)
    rows = expected([*records, first_deleted])
    assert outcomes(rows) == wanted | {3: "deleted", 5: "counted"}
    assert [log.conv_id for log in rows.conversion_logs] == [1, 2, 5]
    assert {row.conv_id for row in rows.touchpoints} == {1, 2, 5}


def test_conversions_without_a_transaction_are_never_duplicates() -> None:
    records = [conversion(1, conv_id=1), conversion(1, conv_id=2, transaction_id="  ")]
    assert outcomes(expected(records)) == {1: "counted", 2: "counted"}
    assert {log.transaction_id for log in expected(records).conversion_logs} == {None}


def test_event_may_lie_31_days_ahead_of_its_append_time_and_no_more() -> None:
    ahead = click(1, age=-31 * DAY)
    assert expected([ahead]).dead_letters == []
    assert expected([ahead._replace(append_time=NOW - 1)]).dead_letters == [(0, "event time is too far ahead")]


def _examples(kind: str, verdict: str) -> Sequence[Path]:
    found = sorted((EXAMPLES / kind / verdict).iterdir())
    assert found
    return found


@pytest.mark.parametrize("kind", ["click", "conversion"])
def test_oracle_agrees_with_every_example_of_the_schemas(kind: str) -> None:
    read = {"click": oracle_events.read_click, "conversion": oracle_events.read_conversion}[kind]
    for path in _examples(f"{kind}.v1", "good"):
        read(path.read_bytes(), 1 << 40)
    for path in _examples(f"{kind}.v1", "bad"):
        with pytest.raises(oracle_events.Unusable):
            assert read(path.read_bytes(), 1 << 40) is None, path
