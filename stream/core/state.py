"""What is remembered of one journey key, so that the normal case needs no SQL.

Remembered clicks are packed, sixteen hundred bytes at most, because nearly every event adds one click to one key:
adding the newest is an append to bytes, and the bytes go to the changelog as they are. Time and id lead the record in
big-endian order, so the order of the bytes is the order of the clicks.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from stream.core.events import Click
from stream.core.facts import Moment, Touch

KEPT_CLICKS = 50

_TOUCH = struct.Struct(">IQIIII")  # the fields of Touch, in their order
_MOMENT = struct.Struct(">IQ")
TOUCH_BYTES = _TOUCH.size
MOMENT_BYTES = _MOMENT.size

UNKNOWN_FLOOR: None = None
NO_FLOOR = b""


class KeyState(NamedTuple):
    """Every stored click of the key above the floor is kept; about those at or below it, only SQL knows."""

    clicks: bytes  # packed touches in ascending order
    floor: bytes | None  # packed moment of the newest click not kept; NO_FLOOR: there is none; None: not known
    newest_conversion: int  # no stored conversion of the key is newer, unix seconds


def unknown_state(newest_conversion: int) -> KeyState:
    """Of a key never seen, evicted, dropped or lost; `newest_conversion` is then that of the whole partition."""
    return KeyState(b"", UNKNOWN_FLOOR, newest_conversion)


def forgetful_state(newest_conversion: int) -> KeyState:
    """Keeps no click and knows that: SQL is asked for the clicks of each window."""
    return KeyState(b"", _MOMENT.pack(_LAST_TIME, _LAST_ID), newest_conversion)


def pack_click(click: Click) -> bytes:
    return _TOUCH.pack(
        click.click_time,
        click.click_id,
        click.ppc_account_id,
        click.ppc_network_id,
        click.landing_page_id,
        click.text_ad_id,
    )


def pack_moment(moment: Moment) -> bytes:
    return _MOMENT.pack(*moment)


def with_click(state: KeyState, packed: bytes) -> KeyState:
    """Adding a click twice, or again with other scopes, leaves one."""
    clicks, floor, newest_conversion = state
    if not clicks or packed[:MOMENT_BYTES] > clicks[-TOUCH_BYTES : MOMENT_BYTES - TOUCH_BYTES]:
        if floor and packed[:MOMENT_BYTES] <= floor:
            return state
        clicks += packed
    else:
        if floor and packed[:MOMENT_BYTES] <= floor:
            return state
        place = _place(clicks, packed[:MOMENT_BYTES])
        end = place + TOUCH_BYTES if clicks.startswith(packed[:MOMENT_BYTES], place) else place
        clicks = clicks[:place] + packed + clicks[end:]
    if len(clicks) > KEPT_CLICKS * TOUCH_BYTES:
        if floor is not UNKNOWN_FLOOR:
            floor = clicks[:MOMENT_BYTES]
        clicks = clicks[TOUCH_BYTES:]
    return KeyState(clicks, floor, newest_conversion)


def without_click(state: KeyState, moment: Moment) -> KeyState:
    packed = pack_moment(moment)
    place = _place(state.clicks, packed)
    if not state.clicks.startswith(packed, place):
        return state
    return state._replace(clicks=state.clicks[:place] + state.clicks[place + TOUCH_BYTES :])


def with_conversion(state: KeyState, conv_time: int) -> KeyState:
    return state if conv_time <= state.newest_conversion else state._replace(newest_conversion=conv_time)


def with_history(state: KeyState, newest_first: Sequence[Touch]) -> KeyState:
    """The state of a key once SQL has given its newest KEPT_CLICKS + 1 clicks, or all there are."""
    kept = newest_first[:KEPT_CLICKS]
    clicks = b"".join(_TOUCH.pack(*touch) for touch in reversed(kept))
    dropped = newest_first[KEPT_CLICKS:]
    return KeyState(clicks, pack_moment(dropped[0].moment) if dropped else NO_FLOOR, state.newest_conversion)


def newest_clicks(state: KeyState, since: int, until: Moment, wanted: int) -> list[Touch] | None:
    """The newest `wanted` clicks in [since, until] in ascending order, or None where only SQL can tell."""
    if state.floor is UNKNOWN_FLOOR:
        return None
    end = _place(state.clicks, _MOMENT.pack(until.click_time, min(until.click_id + 1, _LAST_ID)))
    first = max(_place(state.clicks, _MOMENT.pack(since, 0)), end - wanted * TOUCH_BYTES)
    found = list(map(Touch._make, _TOUCH.iter_unpack(state.clicks[first:end]))) if first < end else []
    if len(found) < wanted and state.floor and _MOMENT.unpack(state.floor)[0] >= since:
        return None
    return found


def time_of_click_after(state: KeyState, moment: Moment, count: int) -> int | None:
    """Time of the count-th kept click after `moment`; None where fewer are kept."""
    after = _place(state.clicks, _MOMENT.pack(moment.click_time, min(moment.click_id + 1, _LAST_ID)))
    place = after + (count - 1) * TOUCH_BYTES
    if place >= len(state.clicks):
        return None
    time: int = _MOMENT.unpack_from(state.clicks, place)[0]
    return time


def newest_click_time(state: KeyState) -> int:
    """0 where no click is kept."""
    if not state.clicks:
        return 0
    time: int = _MOMENT.unpack_from(state.clicks, len(state.clicks) - TOUCH_BYTES)[0]
    return time


_LAST_TIME = 2**32 - 1
_LAST_ID = 2**64 - 1


def _place(clicks: bytes, packed_moment: bytes) -> int:
    """Byte position of the first kept click at or after the moment."""
    count = len(clicks) // TOUCH_BYTES
    return TOUCH_BYTES * bisect_left(
        range(count), packed_moment, key=lambda index: clicks[index * TOUCH_BYTES : index * TOUCH_BYTES + MOMENT_BYTES]
    )
