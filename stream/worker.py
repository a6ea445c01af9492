"""The stream processor: where settings, Faust, SQL and the agent meet."""

import asyncio
import fcntl
import gc
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from faust.auth import SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT
from faust.worker import Worker as FaustWorker

from stream.agents.caching import journey_cache
from stream.agents.hour_outputs import ResultTopics
from stream.agents.hour_ports import HourStore
from stream.agents.hour_reading import JourneyMarkReader
from stream.agents.hours import HoursHandler, HoursSettings
from stream.agents.journeys import JourneysHandler, JourneysSettings
from stream.agents.outputs import TopicNames
from stream.agents.ports import FactStore
from stream.agents.reading import EventReader
from stream.agents.retention import ClickRetention, RetentionSettings
from stream.agents.topic_names import planned_counts, topic_names
from stream.clock import unix_now
from stream.config import ALL_SCOPES, Settings
from stream.core.errors import Misconfigured, StartRefused
from stream.engine.app import EngineSettings
from stream.engine.barrier import ChunkHandler, Observer, Step, exit_now, patiently
from stream.engine.broker import check_topics
from stream.engine.chunk import Chunk
from stream.engine.consumer import Intake
from stream.engine.hosting import Beside, Engine
from stream.engine.start import LogPlace
from stream.health import HealthServer
from stream.metrics import Metrics
from stream.topics import (
    CLICKS,
    CONVERSIONS,
    CREDITS,
    JOURNEYS,
    JOURNEYS_STATE,
    SNAPSHOTS,
    changelog_name,
    hours_group_id,
)
from tables.sql.database import Database, open_database
from tables.sql.facts import HOURS_GROUP, SqlFactStore, Writing
from tables.sql.hour_store import SqlHourStore
from tables.sql.retention import SqlRetentionStore

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400
_DRAINED_EVERY_SECONDS = 20.0  # an idle partition of the sources says so in SQL; hours that end wait for it
_DUE_EVERY_SECONDS = 2.0  # an idle partition of the hours looks for hours whose models or settings changed
_SILENT_SECONDS = 5.0
_REPEATED_LOG_SECONDS = 10.0
_SLOTS = 1000


class Worker:
    """Everything of one worker process: the journeys engine, the hours engine, and what they share.

    Tests that break it on purpose override `_store`, `_handler` and `_observer`, of the journeys, or `_hours_observer`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._slot, data_dir = _take_slot(settings.data_dir)
        self.database: Database = open_database(settings.database_url)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._counts = planned_counts(settings)
        self._names = names = topic_names(settings)
        self.reader = EventReader(clicks=names.clicks, conversions=names.conversions, partitions=names.partitions)
        self.mark_reader = JourneyMarkReader()
        self._waiting_for: dict[str, str] = {}  # by engine; empty: for nothing
        self._topics_are_checked = asyncio.Event()
        self.journeys = Engine(
            "journeys",
            self._journeys_settings(data_dir),
            self._handler(names, self._store()),
            observer=self._observer(),
            fail=exit_now,
            before_start=self._wait_for_broker,
        )
        self.hours = Engine(
            "hours",
            self._hours_settings(data_dir),
            self._hours_handler(),
            observer=self._hours_observer(),
            fail=exit_now,
            before_start=self._wait_for_checked_topics,
        )
        self.retention = self._retention()
        self.health = HealthServer(
            settings.health.host,
            settings.health.port,
            readiness=self.readiness,
            registry=self.metrics.registry,
            refresh=self.refresh_metrics,
        )

    def _retention(self) -> ClickRetention:
        return ClickRetention(
            SqlRetentionStore(self.database, clock=lambda: int(unix_now())),
            RetentionSettings(self.owner, self._names.partitions, self.settings.click_retention_days),
            opened=self.journeys.opened,
            metrics=self.metrics,
            fail=exit_now,
        )

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self.journeys, self.hours

    # The journeys engine

    def _journeys_settings(self, data_dir: Path) -> EngineSettings:
        settings, names = self.settings, self._names
        return EngineSettings(
            app_id=settings.app_id,
            brokers=tuple(settings.kafka.split(",")),
            credentials=_credentials(settings),
            data_dir=data_dir,
            partitions=names.partitions,
            state_keys=settings.state_keys,
            state_name=JOURNEYS_STATE,
            intake=Intake(
                (names.clicks, names.conversions),
                self.reader,
                settings.chunk_records,
                settings.align,
                tick_seconds=_DRAINED_EVERY_SECONDS,
            ),
        )

    def _store(self) -> FactStore:
        writing = Writing(
            owner=self.owner,
            writes_conversion_logs=self.settings.conversion_logs == "own",
            clock=lambda: int(unix_now()),
        )
        return SqlFactStore(self.database, writing)

    def _handler(self, names: TopicNames, store: FactStore) -> ChunkHandler:
        return JourneysHandler(
            names,
            store,
            JourneysSettings(owner=self.owner, lookback=self.settings.lookback_days * _DAY_SECONDS),
            states=lambda: self.journeys.app.state_table.kept,
            cache=journey_cache(self.settings),
            metrics=self.metrics,
            log_place=lambda partition, committed: _log_place(self.journeys, partition, committed),
            clock=lambda: int(unix_now()),
        )

    def _observer(self) -> Observer:
        return WorkerObserver(self, "journeys")

    # The hours engine

    def _hours_observer(self) -> Observer:
        return WorkerObserver(self, "hours")

    def _hours_settings(self, data_dir: Path) -> EngineSettings:
        settings = self.settings
        return EngineSettings(
            app_id=hours_group_id(settings.app_id),
            brokers=tuple(settings.kafka.split(",")),
            credentials=_credentials(settings),
            data_dir=data_dir / "hours",
            partitions=self._names.journeys_partitions,
            state_keys=0,
            state_name="",
            intake=Intake(
                (self._names.journeys,),
                self.mark_reader,
                settings.chunk_records,
                is_aligned=False,
                gather_seconds=settings.fire_interval_seconds,
                tick_seconds=min(settings.fire_interval_seconds, _DUE_EVERY_SECONDS),
            ),
            fenced=settings.kafka_options(),
        )

    def _hours_store(self) -> HourStore:
        writing = Writing(
            owner=self.owner, writes_conversion_logs=False, clock=lambda: int(unix_now()), topic_group=HOURS_GROUP
        )
        return SqlHourStore(self.database, writing, scopes=self.settings.scopes)

    def _hours_handler(self) -> ChunkHandler:
        settings, prefix = self.settings, self.settings.topic_prefix
        return HoursHandler(
            HoursSettings(
                owner=self.owner,
                topics=ResultTopics(
                    snapshots=prefix + SNAPSHOTS,
                    credits=prefix + CREDITS,
                    snapshots_partitions=self._counts[prefix + SNAPSHOTS],
                    credits_partitions=self._counts[prefix + CREDITS],
                ),
                source_partitions=self._names.partitions,
                partitions=self._names.journeys_partitions,
                allowed_lateness=settings.allowed_lateness_seconds,
                with_extra_scopes=settings.scopes == ALL_SCOPES,
            ),
            self._hours_store(),
            metrics=self.metrics,
            log_place=lambda partition, committed: _log_place(self.hours, partition, committed),
            clock=lambda: int(unix_now()),
        )

    # Start and stop

    async def _wait_for_broker(self) -> None:
        """Health answers from the first second on, and says what is waited for."""
        await self.health.start()
        try:
            await patiently(
                lambda _: check_topics(self.settings.kafka_options(), self._needed_topics()),
                self._await_unless_stopped,
            )
        except StartRefused as refusal:
            exit_now(refusal)
        self._topics_are_checked.set()
        self.retention.start()

    async def _wait_for_checked_topics(self) -> None:
        await self._topics_are_checked.wait()

    def _needed_topics(self) -> dict[str, int]:
        settings = self.settings
        needed = [settings.topic_prefix + name for name in (CLICKS, CONVERSIONS, JOURNEYS, SNAPSHOTS, CREDITS)]
        needed.append(changelog_name(settings.app_id, JOURNEYS_STATE))
        return {topic: self._counts[topic] for topic in needed}

    def _await_unless_stopped(self, reason: str) -> None:
        if self.journeys.app.should_stop:
            raise asyncio.CancelledError
        self.note_waiting("journeys", reason)

    def note_waiting(self, engine: str, reason: str) -> None:
        self._waiting_for[engine] = reason
        self.metrics.waiting.set(1 if self.waiting_for else 0)

    @property
    def waiting_for(self) -> str:
        return next(filter(None, self._waiting_for.values()), "")

    # Health and metrics

    def readiness(self) -> dict[str, object]:
        """What /readyz says; the partitions that are not below `hours` are those of the journeys."""
        is_positioned = all(engine.is_positioned for engine in self.engines)
        is_open = all(engine.assigned() == engine.opened() for engine in self.engines)
        waiting_for = self.waiting_for
        if not waiting_for and any(engine.silent_seconds() > _SILENT_SECONDS for engine in self.engines):
            waiting_for = "an answer of the broker to a fetch"
        return {
            "ready": is_positioned and is_open and not waiting_for,
            "assigned": self.journeys.assigned(),
            "open": self.journeys.opened(),
            "recovering": self.journeys.app.in_recovery,
            "waiting_for": waiting_for or ("" if is_positioned else "partitions of the group"),
            "hours": {"assigned": self.hours.assigned(), "open": self.hours.opened()},
        }

    def refresh_metrics(self) -> None:
        """Numbers that are read when somebody asks."""
        kept = self.journeys.app.state_table.kept
        self.metrics.state_keys.set(len(kept))
        self.metrics.evictions.set(kept.evicted)
        self.metrics.stale_dropped.set(kept.stale_dropped)
        self.metrics.recovered.set(kept.recovered)
        recovery: Any = self.journeys.app.tables.recovery  # type: ignore[attr-defined]
        if recovery._recovery_started_at and recovery._recovery_ended_at:
            self.metrics.recovery_seconds.set(max(0.0, recovery._recovery_ended_at - recovery._recovery_started_at))
        self.metrics.unknown_fields.set(self.reader.decoder.unknown_fields)
        self.metrics.unreadable_journeys.set(self.mark_reader.unreadable)
        for engine in self.engines:
            for (topic, partition), lag in engine.lags().items():
                self.metrics.lag.labels(topic, str(partition)).set(lag)
        if self.journeys.app.started:
            oldest = self.journeys.app.chunk_consumer.oldest_waiting()
            self.metrics.oldest_unprocessed.set(max(0.0, unix_now() - oldest) if oldest is not None else 0)

    def run(self) -> None:
        """Until SIGTERM or SIGINT: drains, commits, returns. Exits the process for what it does not understand."""
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka")]:
            logging.getLogger(name).addFilter(_SeldomRepeated())
        gc.set_threshold(50_000, 20, 100)  # states are bytes; the collector would look through millions in vain
        _Process(self).execute_from_commandline()


class _SeldomRepeated(logging.Filter):
    """While a broker is away, aiokafka says so dozens of times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        last = self._said_at.get(record.msg, float("-inf"))
        if record.created - last < _REPEATED_LOG_SECONDS:
            return False
        self._said_at[record.msg] = record.created
        return True


class WorkerObserver(Observer):
    """Keeps the metrics of the barrier of an engine, and what /readyz says."""

    def __init__(self, worker: Worker, engine: str) -> None:
        self._worker = worker
        self._engine = engine

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        name = step if self._engine == "journeys" else f"{self._engine}_{step}"
        self._worker.metrics.step_seconds.labels(name).observe(seconds)

    def waiting(self, reason: str) -> None:
        self._worker.note_waiting(self._engine, reason)


class _Process(FaustWorker):
    """Faust's worker with both engines and our health server, and without its banner."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(
            worker.journeys.app,
            Beside(worker.hours.app),
            loglevel="INFO",
            redirect_stdouts=False,
            daemon=True,
            quiet=True,
        )
        self._worker = worker

    async def on_stop(self) -> None:
        """Both drain at the same time: Faust would stop one after the other, and a supervisor waits only so long."""
        await self._worker.retention.stop()
        stops = (engine.app.stop() for engine in self._worker.engines)
        for failure in await asyncio.gather(*stops, return_exceptions=True):
            if failure is not None:
                log.error("an engine did not stop as it should", exc_info=failure)
        await super().on_stop()
        await self._worker.health.stop()
        await self._worker.database.close()


async def _log_place(engine: Engine, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
    return await engine.app.chunk_consumer.log_place(partition, committed)


def _credentials(settings: Settings) -> CredentialsT | None:
    """The same security as `Settings.kafka_options`, in Faust's words."""
    options: Any = settings.kafka_options()
    tls = options.get("ssl_context")
    if "sasl_mechanism" in options:
        return SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=tls,
        )
    return SSLCredentials(tls) if tls is not None else None


def _take_slot(data_dir: Path) -> tuple[IO[str], Path]:
    """A folder of this process alone: workers of one machine share the data folder. The lock ends with the process."""
    for number in range(1, _SLOTS):
        folder = data_dir / "workers" / str(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise Misconfigured(f"data folder {data_dir} cannot be used: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return lock, folder
    raise Misconfigured(f"all {_SLOTS} worker folders below {data_dir} are taken")
