"""Is multi-touch on? The conversion's time decides, and the narrower scope has the last word."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.configuration import configuration_of
from stream.core.toggles import Toggle, ToggleScope, is_multi_touch_on
from tests.core.test_calculation_vectors import VECTORS
from tests.support.hour_examples import as_switch
from tests.support.hour_oracle import Earning, is_multi_touch

ON, OFF = True, False
GLOBAL, ADVERTISER, CAMPAIGN = ToggleScope


def is_on(toggles: list[Toggle], conv_time: int = 10, advertiser: int = 7, campaign: int = 99) -> bool:
    return is_multi_touch_on(toggles, advertiser=advertiser, campaign=campaign, conv_time=conv_time)


def toggles_of(settings: list[dict[str, Any]]) -> list[Toggle]:
    return [Toggle(ToggleScope(each["scope"]), each.get("id", 0), 0, each["enabled"]) for each in settings]


def test_se_1_campaign_overrides_advertiser_overrides_global() -> None:
    (vector,) = (each for each in VECTORS["settings_vectors"] if each["id"] == "SE-1")
    for query in vector["queries"]:
        assert is_on(
            toggles_of(vector["settings"]), advertiser=query["advertiser_id"], campaign=query.get("campaign_id", 0)
        ) is bool(query["enabled"])


def test_se_2_to_se_4_a_later_word_of_a_scope_replaces_its_earlier_one() -> None:
    assert is_on([Toggle(GLOBAL, 0, 0, OFF), Toggle(GLOBAL, 0, 5, ON)])
    assert not is_on([Toggle(CAMPAIGN, 99, 0, ON), Toggle(CAMPAIGN, 99, 5, OFF)])
    assert not is_on([Toggle(ADVERTISER, 7, 0, ON), Toggle(ADVERTISER, 7, 5, OFF)], campaign=700)


def test_se_5_on_where_nothing_is_said() -> None:
    assert is_on([])


@pytest.mark.parametrize(("conv_time", "expected"), [(4, ON), (5, OFF), (8, OFF), (9, ON), (10, ON)])
def test_the_conversion_s_time_decides_its_first_second_included(conv_time: int, *, expected: bool) -> None:
    assert is_on([Toggle(CAMPAIGN, 99, 9, ON), Toggle(CAMPAIGN, 99, 5, OFF)], conv_time) is expected


def test_before_a_narrower_scope_says_anything_the_wider_one_counts() -> None:
    found = [Toggle(GLOBAL, 0, 0, OFF), Toggle(CAMPAIGN, 99, 9, ON)]
    assert [is_on(found, conv_time) for conv_time in (8, 9)] == [False, True]


def test_other_ids_say_nothing() -> None:
    assert is_on([Toggle(CAMPAIGN, 98, 0, OFF), Toggle(ADVERTISER, 99, 0, OFF)])


def test_a_conversion_without_advertiser_has_no_advertiser_settings() -> None:
    assert is_on([Toggle(ADVERTISER, 7, 0, OFF)], advertiser=0)


class CountingId(int):
    """Counts how often one of them is compared."""

    comparisons = 0
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        CountingId.comparisons += 1
        return int.__eq__(self, other)


def test_a_conversion_looks_at_the_settings_of_its_own_campaign_alone() -> None:
    toggles = [Toggle(CAMPAIGN, CountingId(number), 5, OFF) for number in range(1, 2001)]
    configuration = configuration_of([], toggles, scopes="all")
    CountingId.comparisons = 0
    for campaign, expected in ((99, OFF), (5000, ON)):
        assert configuration.toggles.is_multi_touch_on(advertiser=1, campaign=campaign, conv_time=9) is expected
    assert CountingId.comparisons < 20


entries = st.builds(
    Toggle, st.sampled_from(ToggleScope), st.sampled_from([0, 1, 2]), st.integers(0, 4), st.booleans()
).map(lambda each: each._replace(scope_id=0) if each.scope is GLOBAL else each)


@given(st.lists(entries, max_size=8), st.integers(0, 5), st.integers(0, 2), st.integers(0, 2))
def test_product_and_oracle_agree(found: list[Toggle], conv_time: int, advertiser: int, campaign: int) -> None:
    earning = Earning(1, 1, campaign, conv_time, 1, None, None, 0, advertiser, ())  # type: ignore[arg-type]
    switches = [as_switch(1, each) for each in found]
    assert is_on(found, conv_time, advertiser, campaign) is is_multi_touch(switches, earning)
