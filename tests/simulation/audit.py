"""Looks on while the system works, and compares at the end. What must hold comes from the design alone."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Set

from stream.engine.chunk import SourceRecord
from tests.simulation.case import LOOKBACK
from tests.simulation.log import Broker, Partition
from tests.simulation.remembering import ChangelogWatch
from tests.simulation.storage import HOURS, JOURNEYS, Commit, Rows, ShownJourney, Storage
from tests.support.hour_books import CREDITS, SNAPSHOTS, Books, disagreement
from tests.support.hour_oracle import ExpectedHours, alone, earnings_of, expected_hours, is_multi_touch
from tests.support.oracle import ExpectedRows, expected
from tests.support.oracle_events import Record, Unusable, read_click
from tests.support.rows import difference

CLICKS, CONVERSIONS = "clicks", "conversions"
DEAD_LETTERS = (f"{CLICKS}-dead-letters", f"{CONVERSIONS}-dead-letters")


class Wrong(AssertionError):
    """An invariant does not hold. The message names it."""


class Audit:
    """`storage` and `broker` call `committed`, `fired`, `appended` and `offsets_committed`."""

    def __init__(self, storage: Storage, broker: Broker, *, watches_states: bool) -> None:
        self._storage = storage
        self._broker = broker
        self.wrong: Wrong | None = None  # the first thing that was
        self.records: list[Record] = []  # what came from outside
        self.places: list[tuple[str, int, int]] = []  # topic, partition and offset of each of them
        self._outside = False
        self._clicks: dict[int, set[tuple[int, int, str, int]]] = defaultdict(set)
        # Journeys that chunks committed, and the journeys topic lacks: their version, and where that chunk ended.
        self._unsent: dict[int, tuple[int, int, Mapping[str, int]]] = {}
        self._ends: dict[tuple[str, int], tuple[int, Mapping[str, int]]] = {}  # of the last chunk, behind its epoch
        self._changelog: ChangelogWatch | None = ChangelogWatch(storage, broker) if watches_states else None
        self._digest = hashlib.blake2b(digest_size=16)
        self.looks = 0

    @property
    def digest(self) -> str:
        """Of all that happened, in its order."""
        return self._digest.hexdigest()

    def _note(self, *what: object) -> None:
        self._digest.update(repr(what).encode())

    def say(self, text: str) -> None:
        """The product must not be able to catch it."""
        if self.wrong is None:
            self.wrong = Wrong(text)

    # On the way

    def produced(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """A record from outside."""
        self._outside = True
        offset = self._broker.append(topic, partition, (key, value, ()))
        self._outside = False
        self.places.append((topic, partition, offset))
        record = Record(topic, value, self._broker.now_ms() // 1000)
        self.records.append(record)
        if topic == CLICKS:
            try:
                click = read_click(record.value, record.append_time)
            except Unusable:
                return
            self._clicks[click.click_id].add((click.user_id, click.campaign_id, click.visitor_id, click.click_time))

    def appended(self, partition: Partition, record: SourceRecord) -> None:
        self._note("append", partition.topic, partition.number, record.offset, record.key, record.value)
        if partition.topic == "states" and self._changelog is not None:
            self._changelog.written(partition.number, record.key)
        if partition.topic == JOURNEYS:
            told = json.loads(record.value or b"")
            unsent = self._unsent.get(told["conv_id"])
            if unsent is not None and told["version"] >= unsent[0]:
                del self._unsent[told["conv_id"]]
        elif partition.topic == CONVERSIONS and not self._outside:
            self._unsent.pop(json.loads(record.value or b"{}").get("conv_id", 0), None)  # sent on, to be computed again

    def committed(self, commit: Commit) -> None:
        self._note("sql", commit)
        if commit.owner.startswith("worker"):
            self._check_order(commit)
        if self._changelog is not None and commit.partition is not None and commit.group == JOURNEYS:
            done = self._broker.groups[JOURNEYS].committed.get((CLICKS, commit.partition), 0)
            self._changelog.committed(commit, done)
        for journey in self._storage.journeys(commit.conv_ids) if commit.conv_ids else ():
            self._check_touches(journey)
            if commit.partition is not None and commit.group == JOURNEYS:
                self._unsent[journey.conv_id] = journey.version, commit.partition, commit.next_offsets

    def _check_order(self, commit: Commit) -> None:
        """Only the owner writes, and chunk follows chunk."""
        row = self._storage.progress(commit.group).get(commit.partition) if commit.partition is not None else None
        if row is None or row.owner != commit.owner:
            if commit.is_writing or row is not None:  # who moves a row that is not its own does harm without writing
                self.say(f"fence: {commit.owner} writes, and the owner is {row and row.owner}: {commit}")
            return
        group, place = self._broker.groups[commit.group], (commit.group, row.partition)
        epoch, ends = self._ends.get(place, (0, {}))
        before = ends if epoch == row.epoch else {}
        for topic in group.topics:
            done, at = group.committed.get((topic, row.partition), 0), commit.next_offsets.get(topic, 0)
            if at < max(done, before.get(topic, 0)):
                self.say(f"I5: {commit} goes back: the group is at {done}, the chunk before it at {before}")
        self._ends[place] = row.epoch, commit.next_offsets

    def forget_unsent(self) -> None:
        """The database was put back."""
        self._unsent.clear()
        self._ends.clear()
        if self._changelog is not None:
            self._changelog.forget()

    def fired(self) -> None:
        self.looks += 1
        if torn := self._storage.torn():
            self.say(f"I2, I4: {torn}")

    def check_state(self, text: str) -> None:
        if text:
            self.say(f"state: {text}")

    def offsets_committed(self, group: str, partition: int, offsets: Mapping[str, int]) -> None:
        self._note("offsets", group, partition, sorted(offsets.items()))
        row = self._storage.progress(group).get(partition)
        for topic, offset in offsets.items():
            before = self._broker.groups[group].committed.get((topic, partition), 0)
            if row is None or offset > row.next_offsets.get(topic, 0):
                self.say(f"I5: offsets of {topic} {partition} at {offset}, SQL at {row and row.next_offsets}")
            if offset < before:
                self.say(f"I5: offsets of {topic} {partition} go back from {before} to {offset}")
        if group == JOURNEYS:
            self._check_sent(partition, offsets)
            if self._changelog is not None and (late := self._changelog.ahead(partition, offsets)):
                self.say(f"I5: {late}")

    def _check_sent(self, partition: int, offsets: Mapping[str, int]) -> None:
        for conv_id, (version, number, ends) in self._unsent.items():
            if number == partition and all(offsets.get(topic, 0) >= end for topic, end in ends.items()):
                self.say(f"I5: offsets are ahead of the journeys topic: conversion {conv_id}, version {version}")

    def _check_touches(self, journey: ShownJourney) -> None:
        """I3, and that nothing is guessed: each touch but the converting one is a click that was reported so."""
        if journey.outcome != "counted" and journey.touches:
            self.say(f"I3: {journey} counts for nothing and has touches")
        for click_id, click_time in journey.touches:
            if click_id == journey.click_id:
                continue
            if not journey.conv_time - LOOKBACK <= click_time <= journey.conv_time:
                self.say(f"I3: conversion {journey.conv_id} has a touch out of its window: {click_id} at {click_time}")
            if (journey.user_id, journey.campaign_id, journey.visitor_id, click_time) not in self._clicks[click_id]:
                self.say(f"I3: conversion {journey.conv_id} has a touch of another key: {click_id} at {click_time}")

    # At the end

    def compare(self, *, with_topics: bool, what: str) -> Rows:
        """Everything with what the oracle expects. Raises Wrong."""
        wanted, found = self._compare_facts(what=what)
        self._compare_hours(wanted, found, what)
        if with_topics:
            self._raise(what, disagreement(found.hours, self._books().read(), what="topics"))
            self._check_journeys_topic(wanted)
        return found

    def _compare_facts(self, *, what: str) -> tuple[ExpectedRows, Rows]:
        """Clicks and conversions, and what became of each record."""
        wanted, found = expected(self.records), self._storage.rows()
        hidden = self._hidden(wanted)
        if wanted.conflicts:
            raise AssertionError(f"the traffic has conflicts: {sorted(wanted.conflicts)}")
        shown = [row for row in wanted.touchpoints if row.conv_id not in hidden]
        self._raise(what, difference(shown, found.touchpoints, what="touchpoints"))
        self._raise(what, difference(wanted.journeys, found.journeys, what="journeys"))
        logs = [(row.conv_id,) for row in wanted.conversion_logs]
        self._raise(what, difference(logs, [(conv_id,) for conv_id in found.logs], what="conversion logs"))
        self._check_letters(wanted)
        return wanted, found

    def _hidden(self, wanted: ExpectedRows) -> Set[int]:
        """Conversions without touchpoint rows: purged, or at a time when multi-touch was off."""
        off = self._off(wanted) if self._storage.hides_touches else frozenset()
        return off | self._storage.purged()

    def _off(self, wanted: ExpectedRows) -> Set[int]:
        _, switches = self._storage.configuration()
        return {each.conv_id for each in earnings_of(wanted) if not is_multi_touch(switches, each)}

    @staticmethod
    def _raise(what: str, text: str) -> None:
        if text:
            raise Wrong(f"{what}: {text}")

    def _compare_hours(self, wanted: ExpectedRows, found: Rows, what: str) -> None:
        """Final hours keep the models of their time, until a rebuild or a change of theirs."""
        purged = self._storage.purged()
        earnings = [alone(each) if each.conv_id in purged else each for each in earnings_of(wanted)]
        hours = expected_hours(earnings, *self._storage.configuration())
        stale = {key for key, row in self._storage.hour_rows().items() if not row.is_current}
        text = disagreement(_without(hours, stale), _without(found.hours, stale), what="hours")
        self._raise(what, text)

    def _books(self) -> Books:
        books = Books()
        for topic in (SNAPSHOTS, CREDITS):
            for record in self._broker.topics[topic][0].records:
                books.take(topic, record.key, record.value)
        return books

    def _check_letters(self, wanted: ExpectedRows) -> None:
        """I1: just those records are dead letters that can be no facts."""
        bad = {self.places[letter.at] for letter in wanted.dead_letters}
        found = set()
        for topic in DEAD_LETTERS:
            for record in self._broker.topics[topic][0].records:
                headers = {name: (value or b"").decode() for name, value in record.headers}
                found.add(
                    (
                        headers["touchstream-topic"],
                        int(headers["touchstream-partition"]),
                        int(headers["touchstream-offset"]),
                    )
                )
        outside = set(self.places)
        if (lost := bad - found) or (surplus := (found & outside) - bad):
            surplus = (found & outside) - bad
            raise Wrong(f"I1: dead letters missing: {sorted(lost)}, too many: {sorted(surplus)}")

    def _check_journeys_topic(self, wanted: ExpectedRows) -> None:
        """Who keeps the greatest version of each record has what SQL has: nothing changed without being told.

        Where multi-touch is off SQL shows no touches, and the record has them all; of what is purged it has one.
        """
        told: dict[int, tuple[int, str, tuple[tuple[int, int], ...]]] = {}
        for partition in self._broker.topics[JOURNEYS]:
            for record in partition.records:
                fields = json.loads(record.value or b"")
                touches = tuple((touch["click_id"], touch["click_time"]) for touch in fields["touches"])
                known = told.get(fields["conv_id"])
                if known is None or known[0] <= fields["version"]:
                    told[fields["conv_id"]] = fields["version"], fields["outcome"], touches
        hidden, purged = self._hidden(wanted), self._storage.purged()
        whole: dict[int, list[tuple[int, int]]] = {}
        for row in wanted.touchpoints:
            whole.setdefault(row.conv_id, []).append((row.click_id, row.click_time))
        stored = {}
        for each in self._storage.journeys():
            touches = tuple(whole.get(each.conv_id, ())) if each.conv_id in hidden else each.touches
            if each.conv_id in purged:
                touches = tuple(touch for touch in touches if touch[0] == each.click_id)
            stored[each.conv_id] = each.version, each.outcome, touches
        if told != stored:
            differing = {
                conv_id: (stored.get(conv_id), told.get(conv_id))
                for conv_id in sorted(told.keys() | stored.keys())
                if told.get(conv_id) != stored.get(conv_id)
            }
            raise Wrong(f"I1: SQL and the journeys topic differ: {differing}")


def _without(hours: ExpectedHours, keys: Set[tuple[int, int]]) -> ExpectedHours:
    return ExpectedHours(
        [row for row in hours.snapshots if (row.user_id, row.date_hour) not in keys],
        [row for row in hours.credits if (row.user_id, row.date_hour) not in keys],
    )


GROUPS = (JOURNEYS, HOURS)
