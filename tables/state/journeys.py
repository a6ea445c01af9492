"""The state table `journeys-state`: journey key -> KeyState, as bytes with a format version that is never reused."""

import struct

from stream.core.keys import JourneyKey, record_key
from stream.core.state import MOMENT_BYTES, NO_FLOOR, TOUCH_BYTES, UNKNOWN_FLOOR, KeyState

# Format 1: version, newest conversion, kind of floor, the floor if it is a moment, packed clicks.
_HEADER = struct.Struct(">BIB")
_FORMAT = 1
_FLOOR_UNKNOWN, _FLOOR_NONE, _FLOOR_MOMENT = 0, 1, 2


def encode_key(key: JourneyKey) -> bytes:
    """Without a visitor the same bytes as the key of the source records."""
    user_id, campaign_id, visitor_id = key
    if not visitor_id:
        return record_key(user_id, campaign_id)
    return f"{user_id}:{campaign_id}:{visitor_id}".encode()


def encode_state(state: KeyState) -> bytes | None:
    """None where nothing is known: such a key needs no value."""
    clicks, floor, newest_conversion = state
    if floor is UNKNOWN_FLOOR:
        return _HEADER.pack(_FORMAT, newest_conversion, _FLOOR_UNKNOWN) + clicks if clicks else None
    if floor == NO_FLOOR:
        return _HEADER.pack(_FORMAT, newest_conversion, _FLOOR_NONE) + clicks
    return _HEADER.pack(_FORMAT, newest_conversion, _FLOOR_MOMENT) + floor + clicks


def decode_state(value: bytes) -> KeyState | None:
    """None for a format of a later release, or what no release wrote: the key is unknown then, SQL answers for it."""
    if len(value) < _HEADER.size or value[0] != _FORMAT:
        return None
    _, newest_conversion, kind = _HEADER.unpack_from(value)
    body = _HEADER.size + (MOMENT_BYTES if kind == _FLOOR_MOMENT else 0)
    if kind > _FLOOR_MOMENT or len(value) < body or (len(value) - body) % TOUCH_BYTES:
        return None
    if kind == _FLOOR_MOMENT:
        return KeyState(value[body:], value[_HEADER.size : body], newest_conversion)
    return KeyState(value[body:], NO_FLOOR if kind == _FLOOR_NONE else UNKNOWN_FLOOR, newest_conversion)
