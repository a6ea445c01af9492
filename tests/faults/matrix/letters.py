"""The dead letters of a run against what was sent broken: each of it is there, as it was, and nothing else is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

from stream.wire.dead_letters import OFFSET_HEADER, PARTITION_HEADER, REASON_HEADER, TOPIC_HEADER
from tests.faults.installation import SOURCES, Installation
from tests.support.traffic import BROKEN, Sent

# By what `tests.support.traffic` calls it. From docs and schemas, not from the product's code.
REASONS: Mapping[str, str] = {
    "bad JSON": "unreadable_json",
    "not UTF-8": "unreadable_json",
    "not an object": "not_an_object",
    "empty value": "unreadable_json",
    "null value": "no_value",
    "not a number": "unreadable_json",
    "wrong type of id": "wrong_type",
    "wrong type of time": "wrong_type",
    "wrong type of money": "wrong_type",
    "wrong type of flag": "out_of_range",
    "wrong type of visitor": "wrong_type",
    "half an id": "wrong_type",
    "missing user": "missing_field",
    "missing time": "missing_field",
    "negative id": "out_of_range",
    "user 0": "out_of_range",
    "user too large": "out_of_range",
    "click id too large": "out_of_range",
    "money too large": "out_of_range",
    "time too large": "out_of_range",
    "negative time": "out_of_range",
    "six decimals": "too_many_decimals",
    "far future": "event_time_ahead",
}


class Place(NamedTuple):
    """Of a record in the log; topics without prefix."""

    topic: str
    partition: int
    offset: int


class Letter(NamedTuple):
    """A broken record as it must stand in the dead letters, or a dead letter as it stands."""

    place: Place
    reason: str
    key: bytes | None
    value: bytes | None


class Letters(NamedTuple):
    wanted: Sequence[Letter]
    found: Sequence[Letter]  # each once
    repeats: int  # which docs/faults.md allows
    unheard: Sequence[str]  # kinds of broken records that were sent and are neither in the log nor among the letters


def read_letters(installation: Installation) -> Letters:
    """What the log has lost meanwhile is wanted no more by its place, but its bytes must be among the letters."""
    reasons = {(sent.topic, sent.key, sent.value): REASONS[sent.kind] for sent in installation.sent if is_broken(sent)}
    wanted: list[Letter] = []
    begins: dict[tuple[str, int], int] = {}
    for topic in SOURCES:
        for record in installation.read(topic):
            begins.setdefault((topic, record.partition), record.offset)
            if (reason := reasons.get((topic, record.key, record.value))) is not None:
                place = Place(topic, record.partition, record.offset)
                wanted.append(Letter(place, reason, record.key, record.value))
    prefix = installation.topic("")
    counts = Counter(
        _read(record, prefix) for topic in SOURCES for record in installation.read(f"{topic}-dead-letters")
    )
    heard = {(letter.place.topic, letter.key, letter.value) for letter in counts}
    return Letters(
        wanted,
        [letter for letter in counts if not _is_gone(letter, begins, reasons)],
        counts.total() - len(counts),
        [
            sent.kind
            for sent in installation.sent
            if is_broken(sent) and (sent.topic, sent.key, sent.value) not in heard
        ],
    )


def is_broken(sent: Sent) -> bool:
    return sent.kind in BROKEN


def _is_gone(
    letter: Letter,
    begins: Mapping[tuple[str, int], int],
    reasons: Mapping[tuple[str, bytes | None, bytes | None], str],
) -> bool:
    """Of a record that the log has no more, and that was sent broken: its letter is right, though nothing wants it."""
    place = letter.place
    is_before = place.offset < begins.get((place.topic, place.partition), 0)
    return is_before and reasons.get((place.topic, letter.key, letter.value)) == letter.reason


def _read(record: ConsumerRecord, prefix: str) -> Letter:
    ours = dict(record.headers)  # the last of each name
    texts = [ours.get(name, b"").decode() for name in (TOPIC_HEADER, PARTITION_HEADER, OFFSET_HEADER, REASON_HEADER)]
    topic, partition, offset, reason = texts
    place = Place(topic.removeprefix(prefix), int(partition or -1), int(offset or -1))
    return Letter(place, reason, record.key, record.value)
