"""Which event does a row of an existing installation report? What no event can hold is refused as the decoder does.

Amounts come as text, so that nothing is rounded whatever the column's type; NULL is an absent field.
"""

from collections.abc import Sequence

from msgspec.json import Encoder

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.wire.decoding import decode_click, decode_conversion
from stream.wire.reasons import Reason

_encode = Encoder().encode

_CLICK_FIELDS = (
    "click_id",
    "user_id",
    "campaign_id",
    "click_time",
    "click_cpc",
    "ppc_account_id",
    "ppc_network_id",
    "landing_page_id",
    "text_ad_id",
    "aff_network_id",
    "click_bot",
    "click_filtered",
)
_CONVERSION_FIELDS = (
    "conv_id",
    "click_id",
    "user_id",
    "campaign_id",
    "click_time",
    "conv_time",
    "click_payout",
    "transaction_id",
    "aff_network_id",
    "deleted",
)


def click_of_row(row: Sequence[object]) -> Click:
    """Values in the order of the fields above. Raises InvalidEvent."""
    return decode_click(_encode(dict(zip(_CLICK_FIELDS, row, strict=True))))


def conversion_of_row(row: Sequence[object]) -> Conversion:
    """Values in the order of the fields above. Raises InvalidEvent."""
    values = dict(zip(_CONVERSION_FIELDS, row, strict=True))
    if isinstance(values["transaction_id"], bytes):  # of a binary column; the encoder would write it as base64
        values["transaction_id"] = _text_of(values["transaction_id"])
    return decode_conversion(_encode(values))


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(Reason.BAD_TEXT, 'field "transaction_id" is not UTF-8') from error
