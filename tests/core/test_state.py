"""What a key remembers, and when it says that only SQL can tell."""

from hypothesis import given
from hypothesis import strategies as st

from stream.core.facts import Moment, Touch, touch_of
from stream.core.state import (
    KEPT_CLICKS,
    NO_FLOOR,
    KeyState,
    newest_click_time,
    newest_clicks,
    pack_click,
    pack_moment,
    time_of_click_after,
    unknown_state,
    with_click,
    with_conversion,
    with_history,
    without_click,
)
from tests.support.builders import click

EVER = Moment(2**32 - 1, 2**63 - 1)
EMPTY = KeyState(b"", NO_FLOOR, 0)

moments = st.tuples(st.integers(0, 200), st.integers(1, 5)).map(lambda pair: Moment(*pair))


def remembered(state: KeyState) -> list[Touch]:
    return newest_clicks(state._replace(floor=NO_FLOOR), 0, EVER, 1000) or []


def state_of(*times: int) -> KeyState:
    state = EMPTY
    for number, time in enumerate(times, start=1):
        state = with_click(state, pack_click(click(number, click_time=time)))
    return state


@given(st.lists(moments, max_size=120))
def test_the_newest_clicks_are_kept_in_order_and_the_floor_is_the_newest_not_kept(added: list[Moment]) -> None:
    state = EMPTY
    for moment in added:
        state = with_click(state, pack_click(click(moment.click_id, click_time=moment.click_time)))
    wanted = sorted(set(added))
    assert [touch.moment for touch in remembered(state)] == wanted[-KEPT_CLICKS:]
    dropped = wanted[:-KEPT_CLICKS]
    assert state.floor == (pack_moment(dropped[-1]) if dropped else NO_FLOOR)


@given(st.lists(moments, max_size=60), moments, st.integers(0, 200), st.integers(1, 30))
def test_an_answer_is_what_a_search_through_all_clicks_gives(
    added: list[Moment], until: Moment, since: int, wanted: int
) -> None:
    state = EMPTY
    for moment in added:
        state = with_click(state, pack_click(click(moment.click_id, click_time=moment.click_time)))
    truth = [moment for moment in sorted(set(added)) if moment.click_time >= since and moment <= until][-wanted:]
    answer = newest_clicks(state, since, until, wanted)
    if answer is None:
        assert len(set(added)) > KEPT_CLICKS
    else:
        assert [touch.moment for touch in answer] == truth


def test_a_state_that_was_never_told_its_floor_answers_nothing() -> None:
    state = with_click(unknown_state(7), pack_click(click(1)))
    assert newest_clicks(state, 0, EVER, 25) is None
    assert state.newest_conversion == 7


def test_an_unknown_floor_stays_unknown_when_clicks_are_dropped() -> None:
    state = unknown_state(0)
    for number in range(KEPT_CLICKS + 1):
        state = with_click(state, pack_click(click(number + 1, click_time=number)))
    assert state.floor is None
    assert len(remembered(state)) == KEPT_CLICKS


def test_a_floor_below_the_window_or_enough_clicks_above_it_is_an_answer() -> None:
    state = state_of(*range(100, 100 + KEPT_CLICKS + 5))
    assert newest_clicks(state, 105, EVER, 100) is not None
    assert newest_clicks(state, 104, EVER, 100) is None  # the floor lies at 104: in the window, and not kept
    assert newest_clicks(state, 0, EVER, 25) is not None


def test_a_click_below_the_floor_is_not_kept_when_it_is_newer_than_nothing_either() -> None:
    state = KeyState(b"", pack_moment(Moment(500, 9)), 0)
    assert with_click(state, pack_click(click(1, click_time=400))) == state
    assert with_click(state_of(600)._replace(floor=state.floor), pack_click(click(2, click_time=400))).clicks == (
        state_of(600).clicks
    )


def test_a_click_that_comes_again_with_other_scopes_replaces_itself() -> None:
    again = with_click(state_of(10, 20), pack_click(click(1, click_time=10, ppc_account_id=4)))
    assert [touch.ppc_account_id for touch in remembered(again)] == [4, 0]


def test_a_removed_click_is_gone_and_an_unknown_one_is_no_matter() -> None:
    state = state_of(10, 20, 30)
    assert [touch.click_time for touch in remembered(without_click(state, Moment(20, 2)))] == [10, 30]
    assert without_click(state, Moment(20, 99)) == state


def test_the_time_of_the_nth_click_after_a_moment() -> None:
    state = state_of(10, 20, 30)
    assert time_of_click_after(state, Moment(10, 1), 1) == 20
    assert time_of_click_after(state, Moment(10, 1), 2) == 30
    assert time_of_click_after(state, Moment(10, 1), 3) is None
    assert time_of_click_after(state, Moment(5, 1), 1) == 10


def test_the_newest_conversion_only_rises() -> None:
    assert with_conversion(EMPTY, 5).newest_conversion == 5
    assert with_conversion(with_conversion(EMPTY, 5), 3).newest_conversion == 5


def test_newest_click_time_of_a_key() -> None:
    assert newest_click_time(EMPTY) == 0
    assert newest_click_time(state_of(10, 30)) == 30


def test_history_from_sql_makes_the_floor_known() -> None:
    touches = [touch_of(click(number, click_time=number)) for number in range(KEPT_CLICKS + 1, 0, -1)]
    whole = with_history(unknown_state(3), touches[:2])
    assert (whole.floor, whole.newest_conversion, len(remembered(whole))) == (NO_FLOOR, 3, 2)
    cut = with_history(unknown_state(3), touches)
    assert cut.floor == pack_moment(touches[-1].moment)
    assert len(remembered(cut)) == KEPT_CLICKS
