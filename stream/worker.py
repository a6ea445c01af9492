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

from stream.agents.journeys import JourneysHandler
from stream.agents.outputs import TopicNames
from stream.agents.ports import FactStore
from stream.agents.reading import EventReader
from stream.clock import unix_now
from stream.config import Settings, host_port
from stream.core.errors import Misconfigured, StartRefused
from stream.engine.app import EngineSettings, build_app
from stream.engine.barrier import Barrier, ChunkHandler, Observer, Step, exit_now, patiently
from stream.engine.broker import check_topics
from stream.engine.chunk import Chunk
from stream.engine.consumer import Intake
from stream.engine.start import LogPlace
from stream.health import HealthServer
from stream.metrics import Metrics
from stream.topics import CLICKS, CONVERSIONS, JOURNEYS, JOURNEYS_STATE, changelog_name, plan_topics, read_topics
from tables.cache import JourneyCache
from tables.sql.database import Database, open_database
from tables.sql.facts import SqlFactStore, Writing

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400
_SILENT_SECONDS = 5.0
_REPEATED_LOG_SECONDS = 10.0
_SLOTS = 1000


class JourneysWorker:
    """Everything of one worker process. Tests that break it on purpose override `_store`, `_handler`, `_observer`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._slot, data_dir = _take_slot(settings.data_dir)
        self.database: Database = open_database(settings.database_url)
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        names = _topic_names(settings)
        self.reader = EventReader(clicks=names.clicks, conversions=names.conversions, partitions=names.partitions)
        self.app = build_app(self._engine_settings(names, data_dir))
        self.waiting_for = ""
        self.barrier = Barrier(
            self._handler(names, self._store()),
            consumer=lambda: self.app.chunk_consumer,
            state=self.app.state_table,
            outbox=lambda: self.app.outbox,
            observer=self._observer(),
            fail=exit_now,
        )
        self.app.on_positioned = self.barrier.take_partitions
        self.app.fail = exit_now
        self.app.before_start = self._wait_for_broker
        self.app.before_stop = self.barrier.stop
        self._names = names
        self.app.agent(self.app.chunks(), name="journeys")(self._journeys)
        self.health = HealthServer(
            settings.health.host,
            settings.health.port,
            readiness=self.readiness,
            registry=self.metrics.registry,
            refresh=self.refresh_metrics,
        )

    def _engine_settings(self, names: TopicNames, data_dir: Path) -> EngineSettings:
        settings = self.settings
        return EngineSettings(
            app_id=settings.app_id,
            brokers=tuple(settings.kafka.split(",")),
            credentials=_credentials(settings),
            data_dir=data_dir,
            partitions=names.partitions,
            state_keys=settings.state_keys,
            state_name=JOURNEYS_STATE,
            intake=Intake((names.clicks, names.conversions), self.reader, settings.chunk_records, settings.align),
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
            owner=self.owner,
            lookback=self.settings.lookback_days * _DAY_SECONDS,
            states=lambda: self.app.state_table.kept,
            cache=_cache(self.settings),
            metrics=self.metrics,
            log_place=self._log_place,
        )

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        return await self.app.chunk_consumer.log_place(partition, committed)

    def _observer(self) -> Observer:
        return WorkerObserver(self)

    async def _wait_for_broker(self) -> None:
        """Health answers from the first second on, and says what is waited for."""
        await self.health.start()
        names = self._names
        counts = {
            names.clicks: names.partitions,
            names.conversions: names.partitions,
            names.journeys: names.journeys_partitions,
            changelog_name(self.settings.app_id, JOURNEYS_STATE): names.partitions,
        }
        try:
            await patiently(lambda _: check_topics(self.settings.kafka_options(), counts), self._await_unless_stopped)
        except StartRefused as refusal:
            exit_now(refusal)

    def _await_unless_stopped(self, reason: str) -> None:
        if self.app.should_stop:
            raise asyncio.CancelledError
        self.note_waiting(reason)

    def note_waiting(self, reason: str) -> None:
        self.waiting_for = reason
        self.metrics.waiting.set(1 if reason else 0)

    async def _journeys(self, chunks: Any) -> None:  # noqa: ANN401 - Faust's type of a stream lacks noack
        """The agent: every chunk goes to the barrier, which works on one of each partition at a time."""
        async for event in chunks.noack().events():
            # Faust waits at a rebalance for messages that are not acknowledged; here the barrier does the waiting.
            self.app.chunk_consumer.unacked.discard(event.message)
            self.barrier.begin(event.value)

    def readiness(self) -> dict[str, object]:
        """What /readyz says."""
        consumer = self.app.chunk_consumer if self.app.started else None
        assigned = sorted(consumer.intakes) if consumer else []
        opened = consumer.opened() if consumer else []
        waiting_for = self.waiting_for
        if consumer is not None and not waiting_for and consumer.silent_seconds() > _SILENT_SECONDS:
            waiting_for = "an answer of the broker to a fetch"
        is_positioned = consumer is not None and consumer.is_positioned
        return {
            "ready": bool(is_positioned and assigned == opened and not waiting_for),
            "assigned": assigned,
            "open": opened,
            "recovering": self.app.in_recovery,
            "waiting_for": waiting_for or ("" if is_positioned else "partitions of the group"),
        }

    def refresh_metrics(self) -> None:
        """Numbers that are read when somebody asks."""
        kept = self.app.state_table.kept
        self.metrics.state_keys.set(len(kept))
        self.metrics.evictions.set(kept.evicted)
        self.metrics.stale_dropped.set(kept.stale_dropped)
        self.metrics.recovered.set(kept.recovered)
        recovery: Any = self.app.tables.recovery  # type: ignore[attr-defined]
        if recovery._recovery_started_at and recovery._recovery_ended_at:
            self.metrics.recovery_seconds.set(max(0.0, recovery._recovery_ended_at - recovery._recovery_started_at))
        self.metrics.unknown_fields.set(self.reader.decoder.unknown_fields)
        if not self.app.started:
            return
        consumer = self.app.chunk_consumer
        for (topic, partition), lag in consumer.lags().items():
            self.metrics.lag.labels(topic, str(partition)).set(lag)
        oldest = consumer.oldest_waiting()
        self.metrics.oldest_unprocessed.set(max(0.0, unix_now() - oldest) if oldest is not None else 0)

    def run(self) -> None:
        """Until SIGTERM or SIGINT: drains, commits, returns. Exits the process for what it does not understand."""
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka")]:
            logging.getLogger(name).addFilter(_SeldomRepeated())
        gc.set_threshold(50_000, 20, 100)  # states are bytes; the collector would look through millions in vain
        worker = _Worker(self)
        worker.execute_from_commandline()


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
    """Keeps the metrics of the barrier, and what /readyz says."""

    def __init__(self, worker: JourneysWorker) -> None:
        self._worker = worker

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        self._worker.metrics.step_seconds.labels(step).observe(seconds)

    def waiting(self, reason: str) -> None:
        self._worker.note_waiting(reason)


class _Worker(FaustWorker):
    """Faust's worker with our health server beside it, and without its banner."""

    def __init__(self, journeys: JourneysWorker) -> None:
        super().__init__(journeys.app, loglevel="INFO", redirect_stdouts=False, daemon=True, quiet=True)
        self._journeys = journeys

    async def on_stop(self) -> None:
        await super().on_stop()
        await self._journeys.health.stop()
        await self._journeys.database.close()


def _topic_names(settings: Settings) -> TopicNames:
    planned = plan_topics(
        read_topics(),
        prefix=settings.topic_prefix,
        app_id=settings.app_id,
        partitions=settings.partitions,
        lookback_days=settings.lookback_days,
    )
    partitions = {topic.name: topic.partitions for topic in planned}
    clicks, conversions, journeys = (settings.topic_prefix + name for name in (CLICKS, CONVERSIONS, JOURNEYS))
    return TopicNames(clicks, conversions, journeys, partitions[clicks], partitions[journeys])


def _cache(settings: Settings) -> JourneyCache:
    host, port = host_port(settings.memcached) if settings.memcached else ("", 0)  # without a host it does nothing
    return JourneyCache(host, port, settings.memcached_sites)


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
