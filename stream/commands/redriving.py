"""How do dead letters get into their topics again?"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

from stream.commands.letters import Place, StoredLetter, Wanted, one_letter, stored_letters
from stream.commands.log_access import LogWriter, writing
from stream.config import Settings
from stream.core.errors import InvalidEvent
from stream.core.keys import partition_of, record_key
from stream.topics import CLICKS
from stream.wire.dead_letters import redriven
from stream.wire.decoding import decode_click, decode_conversion
from stream.wire.limits import MAX_EVENT_BYTES
from stream.wire.outgoing import OutgoingRecord

ROUND_RECORDS = 1000
ROUND_BYTES = 16 * 1024 * 1024


class Redrive:
    """Sends dead letters to their source topics again, each distinct record once.

    A record that is refused once more becomes a new dead letter beside the old one. So that repeated redrives do not
    send it twice, four times, eight times, only the newest letter of equal key and value counts.
    """

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        self._settings = settings
        self._wanted = wanted
        self.counts: Counter[str] = Counter()

    async def run(self, *, one: Place | None, is_dry: bool) -> None:
        chosen = self._single(one) if one else self._all()
        if is_dry:
            async for stored in chosen:
                self._note(stored)
            return
        async with writing(self._settings, self._wanted.sources) as writer:
            await self._send(chosen, writer)

    async def _all(self) -> AsyncIterator[StoredLetter]:
        newest: dict[bytes, Place] = {}
        async for stored in stored_letters(self._settings, self._wanted._replace(reason="")):
            newest[_digest(stored)] = stored.place
        places = frozenset(newest.values())
        async for stored in stored_letters(self._settings, self._wanted):
            # What a live worker refuses meanwhile is later than all that was seen, and waits for the next redrive.
            if stored.place not in places:
                self.counts["superseded"] += stored.place < newest.get(_digest(stored), stored.place)
            elif self._can_be_sent(stored):
                yield stored

    async def _single(self, place: Place) -> AsyncIterator[StoredLetter]:
        stored = await one_letter(self._settings, place)
        if self._can_be_sent(stored):
            yield stored

    def _can_be_sent(self, stored: StoredLetter) -> bool:
        """Not somebody else's record, which could name any topic, nor one that no later version will read either."""
        if stored.letter is None or stored.letter.origin.topic != stored.source:
            self.counts["foreign"] += 1
            return False
        if len(stored.value or b"") > MAX_EVENT_BYTES:
            self.counts["too_large"] += 1
            return False
        return True

    def _note(self, stored: StoredLetter) -> None:
        self.counts[stored.source] += 1

    async def _send(self, chosen: AsyncIterator[StoredLetter], writer: LogWriter) -> None:
        waiting: list[StoredLetter] = []
        size = 0
        async for stored in chosen:
            waiting.append(stored)
            size += len(stored.value or b"")
            if len(waiting) >= ROUND_RECORDS or size >= ROUND_BYTES:
                await self._send_round(waiting, writer)
                waiting, size = [], 0
        await self._send_round(waiting, writer)

    async def _send_round(self, waiting: Sequence[StoredLetter], writer: LogWriter) -> None:
        await writer.send([self._record(stored, writer) for stored in waiting])
        for stored in waiting:
            self._note(stored)

    def _record(self, stored: StoredLetter, writer: LogWriter) -> OutgoingRecord:
        """With the right key and partition where the event can be read by now; else as it came."""
        assert stored.letter is not None, "foreign records are left out before"
        record = redriven(stored.letter)
        decode: Callable[[bytes | None], tuple[int, int]] = (
            _owner_of_click if stored.source.endswith(CLICKS) else _owner_of_conversion
        )
        try:
            user_id, campaign_id = decode(record.value)
        except InvalidEvent:
            return record
        partition = partition_of(user_id, campaign_id, writer.partitions(record.topic))
        return record._replace(key=record_key(user_id, campaign_id), partition=partition)


def _owner_of_click(value: bytes | None) -> tuple[int, int]:
    event = decode_click(value)
    return event.user_id, event.campaign_id


def _owner_of_conversion(value: bytes | None) -> tuple[int, int]:
    event = decode_conversion(value)
    return event.user_id, event.campaign_id


def _digest(stored: StoredLetter) -> bytes:
    value = b"none" if stored.value is None else b"=" + stored.value
    return hashlib.sha256(stored.source.encode() + b"\0" + value).digest()
