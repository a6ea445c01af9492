"""How does an event or a journey of ours look on the wire?"""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw
from msgspec.json import Encoder

from stream.core.events import Click, Conversion
from stream.core.facts import Journey, Touch
from stream.core.money import Units, amount_text

_encode = Encoder().encode

# What a field holds where the event says nothing; such fields are left out.
_ABSENT = (0, "", None)

_REQUIRED_OF_CLICK = frozenset({"click_id", "user_id", "campaign_id", "click_time"})
_REQUIRED_OF_CONVERSION = frozenset(
    {"conv_id", "click_id", "user_id", "campaign_id", "click_time", "conv_time", "click_payout"}
)


def encode_click(click: Click) -> bytes:
    """An event of click.v1 that decodes to the same click."""
    fields = _present(click._asdict(), _REQUIRED_OF_CLICK)
    if click.click_cpc:
        fields["click_cpc"] = _number(click.click_cpc)
    return _encode(fields)


def encode_conversion(conversion: Conversion) -> bytes:
    """An event of conversion.v1 that decodes to the same conversion."""
    return _encode(_conversion_fields(conversion))


def encode_journey(journey: Journey, previous_hour: int | None) -> bytes:
    """A record of journey.v1; `previous_hour` is the hour the conversion counted in before, if it has moved."""
    conversion = journey.conversion
    record = {
        "conv_id": conversion.conv_id,
        "user_id": conversion.user_id,
        "campaign_id": conversion.campaign_id,
        "visitor_id": journey.visitor_id,
        "conv_time": conversion.conv_time,
        "date_hour": journey.date_hour,
        "previous_hour": previous_hour,
        "version": journey.version,
        "outcome": journey.outcome.value,
        "click_unknown": journey.click_unknown,
        "incomplete": journey.incomplete,
        "purged": journey.purged,
        "click_payout": amount_text(conversion.click_payout),
        "click_cpc": amount_text(journey.click_cpc),
        "ppc_account_id": journey.ppc_account_id,
        "aff_network_id": journey.aff_network_id,
        "conversion": _conversion_fields(conversion),
        "touches": [_touch_fields(position, touch) for position, touch in enumerate(journey.touches)],
    }
    return _encode(record)


def journey_record_key(journey: Journey) -> bytes:
    """Records of the journeys topic are keyed by account, for the hours are."""
    return b"%d" % journey.conversion.user_id


def _conversion_fields(conversion: Conversion) -> dict[str, Any]:
    fields = _present(conversion._asdict(), _REQUIRED_OF_CONVERSION)
    fields["click_payout"] = _number(conversion.click_payout)
    if conversion.click_cpc is not None:
        fields["click_cpc"] = _number(conversion.click_cpc)  # 0 is a cost of its own, unlike none
    return fields


def _present(fields: Mapping[str, Any], required: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in required or value not in _ABSENT}


def _number(units: Units) -> Raw:
    """A JSON number with five decimals: exact, where a float would not be."""
    return Raw(amount_text(units).encode())


def _touch_fields(position: int, touch: Touch) -> dict[str, int]:
    return {"position": position, **touch._asdict()}
