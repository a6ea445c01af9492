"""Does a row of the source differ from what was last reported of it, and may that be sent yet, or again?"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stream.commands.import_source import Entry, Event
from stream.commands.standing import Standing
from stream.core.events import (
    Click,
    Conversion,
    click_rank,
    conversion_rank,
    is_rekeyed_click,
    is_rekeyed_conversion,
)

MOST_UNSETTLED = 200_000
MOST_MARKS = 50  # each row that is compared is looked for in all of them
MOST_TRIED = 200_000

Identity = tuple[int, int]  # kind and id
_Ends = Mapping[tuple[str, int], int]


def restated_click(row: Click, stored: Click | None, now: int) -> Click | None:
    """What to send so that this row stands; None: it stands already. Keeps what only other senders know."""
    if stored is None:
        return row
    event = row._replace(visitor_id=stored.visitor_id, revised_at=stored.revised_at)
    return None if event == stored else event._replace(revised_at=max(now, stored.revised_at + 1))


def restated_conversion(row: Conversion, stored: Conversion | None, now: int) -> Conversion | None:
    """As for clicks."""
    if stored is None:
        return row
    event = row._replace(visitor_id=stored.visitor_id, click_cpc=stored.click_cpc, revised_at=stored.revised_at)
    return None if event == stored else event._replace(revised_at=max(now, stored.revised_at + 1))


def can_replace(event: Event, stored: Event | None) -> bool:
    """False: a worker would refuse it, or let the stored one stand."""
    match event, stored:
        case Click(), Click():
            return not is_rekeyed_click(stored, event) and click_rank(event) > click_rank(stored)
        case Conversion(), Conversion():
            return not is_rekeyed_conversion(stored, event) and conversion_rank(event) > conversion_rank(stored)
    return True


class _Mark(NamedTuple):
    """What was sent before the topics had these ends; None: anything."""

    ends: _Ends
    identities: frozenset[Identity] | None


def _merged(newest: _Mark, before: _Mark) -> _Mark:
    if newest.identities is None or before.identities is None:
        return _Mark(newest.ends, None)
    return _Mark(newest.ends, newest.identities | before.identities)


class Unsettled:
    """What may be on its way through the log: SQL says nothing of it before the workers have passed it."""

    def __init__(self) -> None:
        self._open: set[Identity] = set()
        self._is_all_open = True  # who begins does not know what was sent before
        self._marks: deque[_Mark] = deque()

    def add(self, entries: Iterable[Entry]) -> None:
        """Sent just now."""
        self._open.update((entry.kind, entry.event_id) for entry in entries)
        self._is_all_open |= len(self._open) > MOST_UNSETTLED

    @property
    def is_pending(self) -> bool:
        """A look is needed."""
        return self._is_all_open or bool(self._open) or bool(self._marks)

    def look(self, standing: Standing) -> None:
        """`standing` was read after everything that was added had been stored by the broker."""
        places = {(name, each.partition): place for each in standing.partitions for name, place in each.places.items()}
        ends = {key: place.end for key, place in places.items()}
        if self._is_all_open:
            self._marks.clear()  # whatever they say, this one says more
            self._marks.append(_Mark(ends, None))
        elif self._open:
            self._marks.append(_Mark(ends, frozenset(self._open)))
        self._open, self._is_all_open = set(), False
        # A topic that was empty at the mark has nothing to wait for, though nobody has committed there.
        passed = {key: max(place.begin, place.committed or 0) for key, place in places.items()}
        while self._marks and all(passed.get(key, 0) >= end for key, end in self._marks[0].ends.items()):
            self._marks.popleft()
        if len(self._marks) > MOST_MARKS:
            self._marks.append(_merged(self._marks.pop(), self._marks.pop()))
        if sum(len(mark.identities or ()) for mark in self._marks) > MOST_UNSETTLED:
            self._marks = deque([_Mark(self._marks[-1].ends, None)])

    @property
    def holds_everything(self) -> bool:
        return self._is_all_open or any(mark.identities is None for mark in self._marks)

    def holds(self, identity: Identity) -> bool:
        return (
            self.holds_everything
            or identity in self._open
            or any(identity in (mark.identities or ()) for mark in self._marks)
        )


class Tried:
    """What was sent as a change, or refused as one, so that it is not done for ever; the oldest are forgotten."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[Identity, tuple[Event, int]] = OrderedDict()

    def attempts(self, entry: Entry) -> int:
        """How often this content of the row was counted."""
        known, attempts = self._attempts.get((entry.kind, entry.event_id), (None, 0))
        return attempts if known == entry.event._replace(revised_at=0) else 0

    def count(self, entry: Entry) -> None:
        attempts = self.attempts(entry) + 1
        self.forget(entry)
        self._attempts[entry.kind, entry.event_id] = entry.event._replace(revised_at=0), attempts
        if len(self._attempts) > MOST_TRIED:
            self._attempts.popitem(last=False)

    def forget(self, entry: Entry) -> None:
        self._attempts.pop((entry.kind, entry.event_id), None)
