"""The demo between a broker and its verdict: waves of traffic, a worker, and what was found afterwards."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.clock import unix_now
from stream.commands.demo_expected import expected_rows
from stream.commands.demo_parts import DemoFailed, DemoWorker, Numbers, Say, environment_of, run_to_end, worker
from stream.commands.demo_rows import ShownJourney, StoredRows
from stream.commands.demo_traffic import PARTITIONS, Sample, Traffic, make_traffic
from stream.commands.letters import StoredLetter, Wanted, newest_letters
from stream.commands.log_access import writing
from stream.commands.topics import apply_topics
from stream.config import Settings
from stream.core.errors import Unavailable
from stream.topics import CLICKS, CONVERSIONS
from stream.wire.outgoing import OutgoingRecord
from tables.sql.upgrade import upgrade_schema

DRAIN_LIMIT_S = 60
_MOST_LETTERS = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    what: str
    expected: int
    found: int

    @property
    def is_well(self) -> bool:
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class Found:
    """What was sent, and what was there after it."""

    traffic: Traffic
    before: Mapping[int, ShownJourney]  # the corrections
    journeys: Mapping[int, ShownJourney]
    rows: StoredRows
    letters: Sequence[StoredLetter]
    numbers: Numbers


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, settings: Settings, folder: Path, say: Say) -> None:
        self._settings = settings
        self._folder = folder
        self._say = say
        self._env = environment_of(settings)

    def run(self) -> Found:
        """Leaves no process behind. Raises DemoFailed, Unavailable and what else the commands raise."""
        settings, rows = self._settings, StoredRows(self._folder / "touchstream.db")
        traffic = make_traffic(int(unix_now()))
        asyncio.run(apply_topics(settings))
        asyncio.run(upgrade_schema(settings.database_url))
        self._say(f"made the topics, {PARTITIONS} partitions each, and the tables in a new SQLite file")
        with worker(self._env, self._folder, self._say) as running:
            self._send(traffic.waves[0], "clicks and conversions, as they happened")
            self._drain(running)
            before = rows.journeys()
            self._send(traffic.waves[1], "late clicks, and some records a second time")
            self._send(traffic.waves[2], "revisions, deletions, refunds, wrong partitions, broken records")
            self._drain(running)
            letters, _ = asyncio.run(newest_letters(settings, self._wanted(), _MOST_LETTERS))
            return Found(traffic, before, rows.journeys(), rows, letters, running.numbers())

    def _wanted(self) -> Wanted:
        return Wanted([self._settings.topic_prefix + name for name in (CLICKS, CONVERSIONS)], "")

    def _send(self, wave: Sequence[Sample], what: str) -> None:
        asyncio.run(self._send_all(wave))
        self._say(f"sent {len(wave):,} records: {what}")

    async def _send_all(self, wave: Sequence[Sample]) -> None:
        prefix = self._settings.topic_prefix
        async with writing(self._settings, [prefix + CLICKS, prefix + CONVERSIONS]) as writer:
            await writer.send(
                [OutgoingRecord(prefix + each.topic, each.partition, each.key, each.value, ()) for each in wave]
            )

    def _drain(self, running: DemoWorker) -> None:
        """By the command that everybody else uses for it. Raises DemoFailed if it is not drained in time."""
        told = -1

        def tell() -> None:
            nonlocal told
            running.check_alive()
            with contextlib.suppress(Unavailable):
                lag = int(running.numbers().total("lag_records"))
                if lag not in {0, told}:
                    self._say(f"waiting: {lag:,} records to go")
                told = lag

        command = [sys.executable, "-m", "stream", "status", "--wait-drained", str(DRAIN_LIMIT_S)]
        code, output, errors = run_to_end(command, env=self._env, cwd=self._folder, tick=tell)
        if code != 0:
            raise DemoFailed(f"not drained in {DRAIN_LIMIT_S} s:\n{output}{errors}".rstrip())
        self._say("drained: every record of the log is in SQL, or among the dead letters")


def checks_of(found: Found) -> Iterator[Check]:
    """What is there against a plain count over all that was sent."""
    traffic, numbers = found.traffic, found.numbers
    expected = expected_rows(traffic)
    touchpoints = found.rows.touchpoints()
    outcomes = {conv_id: journey.outcome for conv_id, journey in found.journeys.items()}
    yield Check("clicks", len(traffic.clicks), found.rows.count("202_stream_clicks"))
    yield Check("conversions", len(traffic.conversions), len(outcomes))
    same = sum(outcomes.get(conv_id) == outcome for conv_id, outcome in expected.outcomes.items())
    yield Check("conversions that are counted, deleted or duplicate, as they should be", len(expected.outcomes), same)
    same = sum(touchpoints.get(conv_id) == touches for conv_id, touches in expected.touches.items())
    yield Check("journeys with just the right clicks, in the right order", len(expected.touches), same)
    yield Check("touchpoints", sum(map(len, expected.touches.values())), sum(map(len, touchpoints.values())))
    logged = len(found.rows.logged() & expected.touches.keys())
    yield Check("conversions in 202_conversion_logs: all that count", len(expected.touches), logged)
    yield Check("... and no other", len(expected.touches), found.rows.count("202_conversion_logs"))
    reasons = Counter(letter.reason for letter in found.letters)
    yield Check("dead letters", traffic.refused.total(), reasons.total())
    yield Check("... each with the right reason", traffic.refused.total(), (reasons & traffic.refused).total())
    # Should a chunk be delivered again, its events are counted again: at least, not exactly.
    kinds = Counter(sample.kind for sample in traffic.samples())
    for what, kind, counted in [
        ("duplicates recognised", "the same again", numbers.total("events_total", outcome="duplicate")),
        ("records sent on to their partition", "on a wrong partition", numbers.total("misrouted_total")),
    ]:
        yield Check(what, kinds[kind], min(kinds[kind], int(counted)))
    yield Check("records still waiting", 0, int(numbers.total("lag_records")))
