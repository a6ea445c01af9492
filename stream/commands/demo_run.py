"""The demo between a broker and its verdict: waves of traffic, a worker, and what was found afterwards."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.clock import unix_now
from stream.commands.demo_models import MODELS, create_models
from stream.commands.demo_parts import DemoFailed, DemoWorker, Numbers, Say, environment_of, run_to_end, worker
from stream.commands.demo_rows import Credits, Hours, ShownJourney, StoredRows, Totals
from stream.commands.demo_topics import published_credits, published_totals
from stream.commands.demo_traffic import PARTITIONS, USERS, Sample, Traffic, make_traffic
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
class FoundHours:
    """The hours before the corrections, and after all of it: in SQL, and as the last records of the topics."""

    before: Hours
    totals_before: Totals
    hours: Hours
    totals: Totals
    credits: Credits
    published_totals: Totals
    published_credits: Credits


@dataclass(frozen=True, slots=True)
class Found:
    """What was sent, and what was there after it."""

    traffic: Traffic
    before: Mapping[int, ShownJourney]  # the corrections
    journeys: Mapping[int, ShownJourney]
    rows: StoredRows
    letters: Sequence[StoredLetter]
    numbers: Numbers
    hours: FoundHours


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
        asyncio.run(create_models(settings, now=int(unix_now())))
        self._say(f"gave each of {len(USERS)} accounts its models: {', '.join(model.name for model in MODELS)}")
        with worker(self._env, self._folder, self._say) as running:
            self._send(traffic.waves[0], "clicks and conversions, as they happened")
            self._drain(running)
            before, hours_before, totals_before = rows.journeys(), rows.hours(), rows.totals()
            self._send(traffic.waves[1], "late clicks, and some records a second time")
            self._send(traffic.waves[2], "revisions, deletions, refunds, wrong partitions, broken records")
            self._drain(running)
            numbers = running.numbers()
        # The worker is gone: nothing moves while SQL and topics are compared.
        letters, _ = asyncio.run(newest_letters(settings, self._wanted(), _MOST_LETTERS))
        totals, credits = asyncio.run(self._published(rows.models()))
        hours = FoundHours(hours_before, totals_before, rows.hours(), rows.totals(), rows.credits(), totals, credits)
        return Found(traffic, before, rows.journeys(), rows, letters, numbers, hours)

    async def _published(self, models: Mapping[int, str]) -> tuple[Totals, Credits]:
        return await published_totals(self._settings, models), await published_credits(self._settings, models)

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
        self._say("drained: every record of the log is in SQL, or among the dead letters, and the hours are out")
