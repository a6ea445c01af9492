"""Several reports of one id."""

from stream.core.settle import counting, settle_clicks, settle_conversions
from tests.support.builders import click, conversion


def test_new_clicks_stand_as_they_came() -> None:
    settled = settle_clicks([click(1), click(2)], {})
    assert settled.winners == {1: click(1), 2: click(2)}
    assert settled.counts == {"clicks.new": 2}


def test_the_later_revision_wins_whatever_comes_first() -> None:
    early, late = click(1, click_time=5), click(1, click_time=9, revised_at=7)
    assert settle_clicks([early, late], {}).winners == settle_clicks([late, early], {}).winners == {1: late}
    assert settle_clicks([late, early], {}).counts == {"clicks.new": 1, "clicks.superseded": 1}


def test_a_campaign_beats_campaign_0_before_any_revision() -> None:
    unplaced, placed = click(1, campaign_id=0, revised_at=99), click(1, campaign_id=11)
    assert settle_clicks([placed, unplaced], {}).winners == {1: placed}
    assert settle_clicks([unplaced, placed], {}).winners == {1: placed}


def test_a_stored_click_that_changes_is_named_with_both_contents() -> None:
    stored, report = click(1), click(1, click_bot=1, revised_at=1)
    settled = settle_clicks([report], {1: stored})
    assert settled.changed == [(stored, report)]
    assert settled.counts == {"clicks.revised": 1}


def test_the_same_again_is_a_duplicate_and_still_accepted() -> None:
    settled = settle_clicks([click(1), click(1)], {1: click(1)})
    assert (settled.winners, settled.changed, settled.counts) == ({1: click(1)}, [], {"clicks.duplicate": 2})


def test_other_content_at_one_revision_is_a_conflict_with_one_winner_in_any_order() -> None:
    one, other = click(1, text_ad_id=1), click(1, text_ad_id=2)
    settled = settle_clicks([one, other], {})
    assert settled.counts["clicks.conflict"] == 1
    assert settled.winners == settle_clicks([other, one], {}).winners


def test_the_first_user_and_campaign_of_a_click_stand() -> None:
    settled = settle_clicks([click(1), click(1, user_id=2), click(1, campaign_id=12)], {})
    assert (settled.winners, settled.rekeyed) == ({1: click(1)}, [1, 2])
    assert settle_clicks([click(1)], {1: click(1, user_id=2)}).rekeyed == [0]


def test_conversions_settle_by_revision_and_deletion() -> None:
    sold, taken_back = conversion(1), conversion(1, deleted=1)
    assert settle_conversions([taken_back, sold], {}).winners == {1: taken_back}
    restored = conversion(1, revised_at=5)
    assert settle_conversions([restored], {1: taken_back}).winners == {1: restored}
    assert settle_conversions([sold], {1: restored}).counts == {"conversions.superseded": 1}
    assert settle_conversions([sold, sold], {}).counts == {"conversions.new": 1, "conversions.duplicate": 1}


def test_a_conversion_never_changes_its_user_campaign_or_click() -> None:
    moved = [conversion(1, click_id=2), conversion(1, campaign_id=12), conversion(1, user_id=2)]
    assert settle_conversions([conversion(1), *moved], {}).rekeyed == [1, 2, 3]


def test_of_a_group_the_earliest_that_is_not_deleted_counts() -> None:
    first, second = conversion(2, conv_time=10), conversion(1, conv_time=20)
    assert counting([second, first]) == first
    assert counting([second, first._replace(deleted=1)]) == second
    assert counting([first._replace(conv_id=3), first]) == first
    assert counting([first._replace(deleted=1)]) is None
