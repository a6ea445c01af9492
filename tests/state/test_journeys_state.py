"""States survive their bytes, those of today's release and of every release before it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Click
from stream.core.facts import Moment
from stream.core.keys import JourneyKey, record_key
from stream.core.money import Units
from stream.core.state import (
    KEPT_CLICKS,
    NO_FLOOR,
    TOUCH_BYTES,
    UNKNOWN_FLOOR,
    KeyState,
    pack_click,
    pack_moment,
    unknown_state,
    with_click,
)
from tables.state.journeys import decode_state, encode_key, encode_state

GOLDEN = Path(__file__).parent / "golden" / "journeys-state.v1.hex"

# What the golden file holds, in its order. Never change either: running installations have such bytes in their logs.
GOLDEN_STATES = (
    KeyState(b"", NO_FLOOR, 0),
    KeyState(b"", NO_FLOOR, 2_147_483_647),
    KeyState(bytes.fromhex("6553f1000000000000000005" + "0000000100000002000000030000ffff"), NO_FLOOR, 1_700_000_500),
    KeyState(
        bytes.fromhex("6553f1000000000000000005" + "00000000" * 4 + "6553f1017fffffffffffffff" + "00ffffff" * 4),
        UNKNOWN_FLOOR,
        1_700_000_501,
    ),
    KeyState(
        bytes.fromhex("6553f1000000000000000005" + "00000000" * 4),
        bytes.fromhex("6553f0ff0000000000000004"),
        4_294_967_295,
    ),
    KeyState(b"", bytes.fromhex("ffffffff7fffffffffffffff"), 7),
)

seconds = st.integers(0, 2**32 - 1)
ids = st.integers(1, 2**63 - 1)
medium = st.integers(0, 16_777_215)
moments = st.builds(Moment, seconds, ids)


@st.composite
def states(draw: st.DrawFn) -> KeyState:
    floor = draw(st.sampled_from([UNKNOWN_FLOOR, NO_FLOOR]) | moments.map(pack_moment))
    state = KeyState(b"", floor, draw(seconds))
    for _ in range(draw(st.integers(0, 6))):
        scopes = draw(st.tuples(medium, medium, medium, medium))
        state = with_click(state, pack_click(Click(draw(ids), 1, 1, draw(seconds), Units(0), "", *scopes, 0, 0, 0, 0)))
    return state


@given(states())
def test_a_state_is_the_same_after_its_bytes(state: KeyState) -> None:
    value = encode_state(state)
    if value is None:
        assert (state.clicks, state.floor) == (b"", UNKNOWN_FLOOR)
    else:
        assert decode_state(value) == state


def test_a_full_state_is_the_same_after_its_bytes_and_small() -> None:
    state = KeyState(b"", NO_FLOOR, 0)
    for number in range(1, KEPT_CLICKS + 10):
        state = with_click(state, pack_click(Click(number, 1, 1, number, Units(0), "", 1, 2, 3, 4, 0, 0, 0, 0)))
    value = encode_state(state)
    assert value is not None
    assert decode_state(value) == state
    assert len(value) == 6 + 12 + KEPT_CLICKS * TOUCH_BYTES


def test_a_key_of_which_nothing_is_known_needs_no_value() -> None:
    assert encode_state(unknown_state(1_700_000_000)) is None


def test_the_golden_file_of_format_1_decodes_for_ever() -> None:
    values = [bytes.fromhex(line) for line in GOLDEN.read_text().split()]
    assert tuple(decode_state(value) for value in values) == GOLDEN_STATES


def test_format_1_is_still_what_is_written() -> None:
    # A new format gets a file of its own, and this test moves to it.
    assert [encode_state(state) for state in GOLDEN_STATES] == [
        bytes.fromhex(line) for line in GOLDEN.read_text().split()
    ]


@pytest.mark.parametrize("version", [0, 2, 3, 255])
@given(rest=st.binary(max_size=60))
def test_another_format_is_an_unknown_key(version: int, rest: bytes) -> None:
    assert decode_state(bytes([version]) + rest) is None


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_key_without_visitor_is_the_key_of_its_records(user_id: int, campaign_id: int) -> None:
    assert encode_key(JourneyKey(user_id, campaign_id, "")) == record_key(user_id, campaign_id)


keys = st.builds(
    JourneyKey,
    st.integers(1, 30),
    st.integers(1, 30),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20) | st.text(":0123456789", max_size=4),
)


@given(keys, keys)
def test_different_keys_have_different_bytes_and_none_looks_like_a_mark_of_an_epoch(
    key: JourneyKey, other: JourneyKey
) -> None:
    assert (encode_key(key) == encode_key(other)) == (key == other)
    assert not encode_key(key).startswith(b"\0")
