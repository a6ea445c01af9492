"""Is what a worker remembers true? It may know nothing of a key, but what it claims to know must be what SQL has."""

import json
from collections.abc import Iterable, Mapping, Sequence

from stream.core.events import Click
from stream.core.keys import JourneyKey
from stream.core.state import KEPT_CLICKS, MOMENT_BYTES, NO_FLOOR, TOUCH_BYTES, UNKNOWN_FLOOR, pack_click
from stream.engine.chunk import SourceRecord
from tables.state.journeys import decode_state, encode_key


def pending_ids(records: Iterable[SourceRecord]) -> set[int]:
    """Clicks of which a report is still to be processed."""
    found = set()
    for record in records:
        try:
            fields = json.loads(record.value or b"")
        except ValueError:
            continue
        if isinstance(fields, dict) and isinstance(fields.get("click_id"), int):
            found.add(fields["click_id"])
    return found


def wrong_state(states: Mapping[bytes, bytes], clicks: Sequence[Click], pending: set[int]) -> str:
    """'' where each state with a floor has every stored click above it, as it is stored; `pending` ones may differ."""
    by_key: dict[bytes, list[bytes]] = {}
    for click in clicks:
        if not (click.visitor_id and click.click_bot) and click.click_id not in pending:
            key = encode_key(JourneyKey(click.user_id, click.campaign_id, click.visitor_id))
            by_key.setdefault(key, []).append(pack_click(click))
    for key, value in states.items():
        state = decode_state(value)
        if state is None or state.floor is UNKNOWN_FLOOR:
            continue
        floor = state.floor if state.floor != NO_FLOOR else bytes(MOMENT_BYTES)
        wanted = {packed for packed in by_key.get(key, ()) if packed[:MOMENT_BYTES] > floor}
        places = range(0, len(state.clicks), TOUCH_BYTES)
        held = [state.clicks[place : place + TOUCH_BYTES] for place in places]
        if len(held) > KEPT_CLICKS or held != sorted(held):
            return f"the state of {key!r} has {len(held)} clicks, or in no order"
        surplus = {each for each in held if int.from_bytes(each[4:MOMENT_BYTES], "big") not in pending} - wanted
        if wanted - set(held) or surplus:
            return f"the state of {key!r} lacks {wanted - set(held)} and has {surplus} too many"
    return ""
