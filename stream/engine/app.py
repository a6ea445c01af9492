"""The Faust app of one engine: one agent, at most one state table, no web server, no clock of its own.

Several live in one process; what Faust lets an app set for all of them is not set here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from faust.types.auth import CredentialsT

from stream.core.errors import StartRefused
from stream.engine.changelog import StateTable
from stream.engine.consumer import ChunkConsumer, ChunkTransport, Intake
from stream.engine.outbox import Outbox
from stream.engine.recovering import PatientTables
from stream.engine.schema import WholeChunkSchema
from stream.engine.sending import FencedSending, OpenSending, Sending

_DRAIN_SECONDS = 6.0
_COMPRESSION = "zstd"  # a tenth of what lz4 costs here: aiokafka compresses at a high level
_PRODUCER_BATCH_BYTES = 900_000
_PRODUCER_REQUEST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one engine is built with."""

    app_id: str
    brokers: tuple[str, ...]  # host:port
    credentials: CredentialsT | None
    data_dir: Path
    partitions: int
    state_keys: int
    state_name: str  # the changelog is `{app_id}-{state_name}-changelog`; "": no state, and no changelog
    intake: Intake
    fenced: Mapping[str, object] | None = None  # options of aiokafka clients, where outputs are for owners alone


class ChunkApp(faust.App):
    """Faust with chunks in place of messages. `use` before it starts."""

    engine: EngineSettings
    sending: Sending
    on_positioned: Callable[[Mapping[int, Mapping[str, int | None]], int], None]
    settle_takings: Callable[[float], Awaitable[None]]
    fail: Callable[[BaseException], None]
    before_start: Callable[[], Awaitable[None]]
    before_stop: Callable[[], None]

    async def on_first_start(self) -> None:
        await self.before_start()
        if not self.should_stop:
            await super().on_first_start()

    def _new_transport(self) -> Any:
        return ChunkTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return ChunkTransport(self.conf.broker_producer, self)

    def _new_consumer(self) -> Any:
        consumer = super()._new_consumer()
        assert isinstance(consumer, ChunkConsumer)
        consumer.intake = self.engine.intake
        consumer.on_positioned = self.on_positioned
        consumer.settle_takings = self.settle_takings
        consumer.on_unclean_revoke = self.state_table.forget_all if self.engine.state_name else _keep_nothing
        consumer.on_lost_records = self._on_lost_records
        return consumer

    def _on_lost_records(self, refusal: StartRefused) -> None:
        self.fail(refusal)

    @property
    def chunk_consumer(self) -> ChunkConsumer:
        consumer: Any = self.consumer
        assert isinstance(consumer, ChunkConsumer)
        return consumer

    @property
    def state_table(self) -> StateTable:
        """Of an engine that has one."""
        found: Any = self.tables[self.engine.state_name]
        assert isinstance(found, StateTable)
        return found

    @property
    def outbox(self) -> Outbox:
        producer: Any = self.producer
        return Outbox(producer._ensure_producer())

    def chunks(self) -> Any:
        """The channel of chunks, for an agent: `app.agent(app.chunks())`."""
        return self.topic(*self.engine.intake.topics, schema=WholeChunkSchema())

    async def stop(self) -> None:
        """Let the chunks in flight finish, offsets included, then let Faust stop."""
        if self.started and not self.should_stop:
            self.before_stop()
            if self._consumer is not None:
                await self.chunk_consumer.drain(_DRAIN_SECONDS)
            await self.sending.close()
        await super().stop()


def build_app(engine: EngineSettings) -> ChunkApp:
    """Nothing is connected yet. The caller sets what `ChunkApp` declares without a value, and registers the agent."""
    app = ChunkApp(
        id=engine.app_id,
        broker=[f"kafka://{broker}" for broker in engine.brokers],
        broker_credentials=engine.credentials,
        datadir=str(engine.data_dir),
        store="memory://",
        TableManager=PatientTables,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=engine.partitions,
        table_standby_replicas=0,
        processing_guarantee="at_least_once",
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_request_timeout=30.0,
        broker_rebalance_timeout=20.0,
        broker_max_poll_records=4 * engine.intake.chunk_records,
        broker_commit_every=None,
        broker_commit_interval=3600.0,  # Faust's commit timer: `ChunkConsumer.commit` does nothing
        consumer_max_fetch_size=1 << 20,
        producer_linger=0.0,
        producer_compression_type=_COMPRESSION,
        producer_max_batch_size=_PRODUCER_BATCH_BYTES,
        producer_max_request_size=_PRODUCER_REQUEST_BYTES,
        producer_request_timeout=30.0,
        stream_buffer_maxsize=16,  # counts chunks
        stream_wait_empty=False,
    )
    app.engine = engine
    app.sending = OpenSending(lambda: app.outbox) if engine.fenced is None else _fenced_sending(engine, engine.fenced)
    if engine.state_name:
        _add_state_table(app, engine)
    return app


def _keep_nothing() -> None:
    """Without state there is nothing to forget."""


def _fenced_sending(engine: EngineSettings, client_options: Mapping[str, object]) -> FencedSending:
    return FencedSending(
        engine.app_id,
        {
            **client_options,
            "compression_type": _COMPRESSION,
            "max_batch_size": _PRODUCER_BATCH_BYTES,
            "max_request_size": _PRODUCER_REQUEST_BYTES,
        },
    )


def _add_state_table(app: ChunkApp, engine: EngineSettings) -> None:
    app.conf.Table = StateTable  # type: ignore[assignment]
    made = app.Table(
        engine.state_name,
        partitions=engine.partitions,
        key_type=bytes,
        value_type=bytes,
        recovery_buffer_size=4,  # counts fetches
    )
    assert isinstance(made, StateTable)
    made.bound = engine.state_keys
    made.outbox = lambda: app.outbox
