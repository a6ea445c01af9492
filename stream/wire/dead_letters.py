"""How is a record kept that can never be read, with all that it was and why?"""

from collections.abc import Sequence
from typing import NamedTuple

from stream.core.errors import InvalidEvent
from stream.topics import DEAD_LETTERS_SUFFIX
from stream.wire.outgoing import Header, Headers, OutgoingRecord

MAX_ERROR_BYTES = 500

REASON_HEADER = "touchstream-reason"
ERROR_HEADER = "touchstream-error"
TOPIC_HEADER = "touchstream-topic"
PARTITION_HEADER = "touchstream-partition"
OFFSET_HEADER = "touchstream-offset"
APPEND_TIME_HEADER = "touchstream-append-time"
REDRIVEN_HEADER = "touchstream-redriven"

# Dead letters are few and their topics have one partition. It is named, for clients assert on a record that has
# neither partition, key nor value, and such records do come in.
_PARTITION = 0

# Always all of them, in this order, at the end: so no header from outside can pass for one of ours.
_OURS = (REASON_HEADER, ERROR_HEADER, TOPIC_HEADER, PARTITION_HEADER, OFFSET_HEADER, APPEND_TIME_HEADER)


class Origin(NamedTuple):
    """Where a refused record stood. Offset and append time (unix milliseconds) None: it never reached the log."""

    topic: str
    partition: int | None
    offset: int | None
    append_time_ms: int | None


class DeadLetter(NamedTuple):
    """A dead letter read again: the record as it was, and what our headers say about it."""

    key: bytes | None
    value: bytes | None
    headers: Headers  # the original ones
    origin: Origin
    reason: str
    error: str

    @property
    def redriven_count(self) -> int:
        """How often it was sent to its topic again before it came here."""
        return redriven_count(self.headers)


def dead_letter_topic(topic: str) -> str:
    """Where the refused records of a source topic go."""
    return topic + DEAD_LETTERS_SUFFIX


def dead_letter(
    origin: Origin, error: InvalidEvent, *, key: bytes | None, value: bytes | None, headers: Headers = ()
) -> OutgoingRecord:
    """The record for the dead letters of `origin.topic`: key, value and headers as they were, ours behind them."""
    numbers = (origin.partition, origin.offset, origin.append_time_ms)
    ours = (
        error.reason.encode(),
        _cut(str(error)),
        origin.topic.encode(),
        *(b"" if number is None else b"%d" % number for number in numbers),
    )
    all_headers = (*headers, *zip(_OURS, ours, strict=True))
    return OutgoingRecord(dead_letter_topic(origin.topic), _PARTITION, key, value, all_headers)


def read_dead_letter(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> DeadLetter | None:
    """None if the record does not end with our headers: then somebody else wrote it."""
    ours = headers[-len(_OURS) :]
    if tuple(name for name, _ in ours) != _OURS:
        return None
    texts = [(content or b"").decode("utf-8", "replace") for _, content in ours]
    reason, error, topic, *numbers = texts
    try:
        partition, offset, append_time_ms = (int(number) if number else None for number in numbers)
    except ValueError:
        return None
    original = tuple(headers[: -len(_OURS)])
    return DeadLetter(key, value, original, Origin(topic, partition, offset, append_time_ms), reason, error)


def redriven_count(headers: Sequence[Header]) -> int:
    """What the last header of that name says; 0 where there is none or it is no number."""
    for name, content in reversed(headers):
        if name == REDRIVEN_HEADER:
            digits = (content or b"").decode("ascii", "replace")
            return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
    return 0


def redriven(letter: DeadLetter) -> OutgoingRecord:
    """The original record for its source topic again, with the count of how often that was done."""
    kept = tuple(header for header in letter.headers if header[0] != REDRIVEN_HEADER)
    count = (REDRIVEN_HEADER, b"%d" % (letter.redriven_count + 1))
    return OutgoingRecord(letter.origin.topic, None, letter.key, letter.value, (*kept, count))


def _cut(message: str) -> bytes:
    """UTF-8 of at most MAX_ERROR_BYTES, without half a character at its end."""
    encoded = message.encode("utf-8", "backslashreplace")[:MAX_ERROR_BYTES]
    return encoded.decode("utf-8", "ignore").encode()
