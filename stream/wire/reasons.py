"""Why can a record not become an event? One closed set, for headers, counters and summaries."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Reason(StrEnum):
    """The value is what stands in the header of a dead letter and in the label of the counter."""

    UNREADABLE_JSON = "unreadable_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    TOO_MANY_DECIMALS = "too_many_decimals"
    BAD_TEXT = "bad_text"
    TOO_LARGE = "too_large"
    NO_VALUE = "no_value"
    EVENT_TIME_AHEAD = "event_time_ahead"
    REKEYED = "rekeyed"
    REFUSED_BY_DATABASE = "refused_by_database"


MEANINGS: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.UNREADABLE_JSON: "the bytes are not JSON in UTF-8, or are nested too deeply",
        Reason.NOT_AN_OBJECT: "the JSON is not an object",
        Reason.MISSING_FIELD: "a field that must be there is absent or null",
        Reason.WRONG_TYPE: "a field holds another kind of value, such as a number given as text",
        Reason.OUT_OF_RANGE: "a number or text is beyond the range of its SQL column",
        Reason.TOO_MANY_DECIMALS: "an amount has more decimals than its SQL column; nothing is rounded",
        Reason.BAD_TEXT: "a text holds a NUL character or half of a surrogate pair",
        Reason.TOO_LARGE: "the event is larger than 65,536 bytes",
        Reason.NO_VALUE: "the record has no value",
        Reason.EVENT_TIME_AHEAD: "the event says it happened more than 31 days after it was appended",
        Reason.REKEYED: "a known id came again with another user, campaign or click",
        Reason.REFUSED_BY_DATABASE: "the database took everything around this event, but not the event itself",
    }
)
