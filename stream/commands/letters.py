"""Which dead letters are there? Reads their topics; shows and sends nothing."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from aiokafka.structs import ConsumerRecord

from stream.commands.log_access import read_record, read_records
from stream.config import Settings
from stream.topics import DEAD_LETTERS_SUFFIX
from stream.wire.dead_letters import DeadLetter, dead_letter_topic, read_dead_letter
from stream.wire.outgoing import Headers


class Place(NamedTuple):
    """Where a dead letter stands; as text, its id."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class StoredLetter(NamedTuple):
    """A record of a topic of dead letters. `letter` None: it does not carry our headers."""

    place: Place
    source: str  # the topic that this topic of dead letters belongs to
    stored_ms: int
    letter: DeadLetter | None
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def reason(self) -> str:
        return self.letter.reason if self.letter else "unknown"


class Wanted(NamedTuple):
    """Which dead letters: of these source topics with prefix, for this reason ('': any)."""

    sources: Sequence[str]
    reason: str


async def stored_letters(settings: Settings, wanted: Wanted) -> AsyncIterator[StoredLetter]:
    """All that were there when it began, oldest first within a partition."""
    for source in wanted.sources:
        async for record in read_records(settings, dead_letter_topic(source)):
            stored = _stored(record, source)
            if wanted.reason in ("", stored.reason):
                yield stored


async def one_letter(settings: Settings, place: Place) -> StoredLetter:
    """Raises StreamError if there is none at that place."""
    record = await read_record(settings, place.topic, partition=place.partition, offset=place.offset)
    return _stored(record, place.topic.removesuffix(DEAD_LETTERS_SUFFIX))


def _stored(record: ConsumerRecord, source: str) -> StoredLetter:
    headers = tuple(record.headers)
    letter = read_dead_letter(record.key, record.value, headers)
    place = Place(record.topic, record.partition, record.offset)
    return StoredLetter(place, source, record.timestamp, letter, record.key, record.value, headers)


async def newest_letters(settings: Settings, wanted: Wanted, limit: int) -> tuple[list[StoredLetter], int]:
    """The newest `limit` of each of the topics, and how many there are in all."""
    kept: list[StoredLetter] = []
    total = 0
    for source in wanted.sources:
        newest: deque[StoredLetter] = deque(maxlen=limit)
        async for stored in stored_letters(settings, wanted._replace(sources=(source,))):
            newest.append(stored)
            total += 1
        kept += newest
    return kept, total
