"""What is to be sent, and how does a record say that it was sent on?"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

# Kafka knows headers without a value.
Header = tuple[str, bytes | None]
Headers = tuple[Header, ...]

# Others may send such a name, too: among equal names the last one is ours.
SENT_ON_HEADER = "touchstream-sent-on"


class OutgoingRecord(NamedTuple):
    """One record for the log. Partition None: the broker's default partitioner chooses by the key."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


class SentOn(StrEnum):
    """Why a record was sent on to another partition."""

    PARTITION = "partition"  # it came in on the wrong one
    CLICK = "click"  # a stored conversion, to be computed again since its click came
    TRANSACTION = "transaction"  # a stored conversion, to be computed again since another of its transaction changed


def sent_on(record: OutgoingRecord, reason: SentOn) -> OutgoingRecord:
    """The same record with a header that says why it was sent on; one header, however often it is sent on."""
    kept = tuple(header for header in record.headers if header[0] != SENT_ON_HEADER)
    return record._replace(headers=(*kept, (SENT_ON_HEADER, reason.encode())))


def sent_on_reason(headers: Sequence[Header]) -> SentOn | None:
    """Why a record came from another partition; None: it came from outside.

    Anyone can write this header, so it is for counters only and must decide nothing about the event.
    """
    for name, value in reversed(headers):
        if name == SENT_ON_HEADER:
            return next((reason for reason in SentOn if reason.encode() == value), None)
    return None
