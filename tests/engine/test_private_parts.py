"""Each private part of Faust, mode and aiokafka that the engine touches. What fails here names what an upgrade moved.

Signatures are of what we call or override; behaviours, which no signature shows, are lines of the source.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka
import faust
import mode
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import Fetcher, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState, TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, RecordMetadata, TopicPartition
from faust.serializers.schemas import Schema
from faust.stores.base import Store
from faust.streams import Stream
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage
from mode.services import Service, ServiceTask

ENGINE = Path(__file__).resolve().parents[2] / "stream" / "engine"
Thread = driver.AIOKafkaConsumerThread

# Owner, name, and the parameters by which we call or override it.
METHODS: list[tuple[Any, str, tuple[str, ...]]] = [
    (faust.App, "_new_transport", ()),
    (faust.App, "_new_producer_transport", ()),
    (faust.App, "_new_consumer", ()),
    (faust.App, "on_first_start", ()),
    (faust.App, "stop", ()),
    (faust.App, "create_event", ("key", "value", "headers", "message")),
    (driver.Consumer, "_new_consumer_thread", ()),
    (driver.Consumer, "getmany", ("timeout",)),
    (driver.Consumer, "perform_seek", ()),
    (driver.Consumer, "seek_wait", ("partitions",)),
    (driver.Consumer, "on_partitions_revoked", ("revoked",)),
    (driver.Consumer, "commit", ("topics", "start_new_transaction")),
    (driver.Consumer, "wait_empty", ()),
    (driver.Consumer, "_add_gap", ("tp", "offset_from", "offset_to")),
    (driver.Consumer, "on_buffer_full", ("tp",)),
    (driver.Consumer, "on_buffer_drop", ("tp",)),
    (driver.Consumer, "verify_all_partitions_active", ()),
    (driver.Consumer, "earliest_offsets", ("partitions",)),
    (driver.Consumer, "highwater", ("tp",)),
    (driver.Consumer, "_get_active_partitions", ()),
    (driver.Consumer, "stop_flow", ()),
    (driver.Consumer, "assignment", ()),
    (Thread, "_create_worker_consumer", ("transport",)),
    (Thread, "_fetch_records", ("consumer", "active_partitions", "timeout", "max_records")),
    (Thread, "getmany", ("active_partitions", "timeout")),
    (Thread, "seek_wait", ("partitions",)),
    (Thread, "call_thread", ("fun", "args", "kwargs")),
    (Thread, "_ensure_consumer", ()),
    (Thread, "on_thread_stop", ()),
    (driver.Producer, "_ensure_producer", ()),
    (Schema, "compile", ("app", "on_key_decode_error", "on_value_decode_error", "default_propagate")),
    (faust.Table, "_new_store", ()),
    (faust.Table, "_new_changelog_topic", ("retention", "compacting", "deleting")),
    (faust.Table, "apply_changelog_batch", ("batch",)),
    (Store, "apply_changelog_batch", ("batch", "to_key", "to_value")),
    (Store, "on_rebalance", ("assigned", "revoked", "newly_assigned", "generation_id")),
    (Store, "persisted_offset", ("tp",)),
    (Store, "reset_state", ()),
    (Stream, "noack", ()),
    (Stream, "events", ()),
    (Fetcher, "fetched_records", ("partitions", "timeout", "max_records")),
    (SubscriptionState, "fetch_context", ()),
    (Recovery, "_wait", ("coro", "timeout")),
    (MemoryRecords, "has_next", ()),
    (MemoryRecords, "next_batch", ()),
    (MemoryRecords, "size_in_bytes", ()),
    (_DefaultRecordBatchPy, "_maybe_uncompress", ()),
    (Assignment, "state_value", ("tp",)),
    (aiokafka.AIOKafkaConsumer, "commit", ("offsets",)),
    (aiokafka.AIOKafkaConsumer, "beginning_offsets", ("partitions",)),
    (aiokafka.AIOKafkaConsumer, "end_offsets", ("partitions",)),
    (aiokafka.AIOKafkaConsumer, "partitions_for_topic", ("topic",)),
    (aiokafka.AIOKafkaConsumer, "offsets_for_times", ("timestamps",)),
    (aiokafka.AIOKafkaProducer, "create_batch", ()),
    (aiokafka.AIOKafkaProducer, "send_batch", ("batch", "topic", "partition")),
    (aiokafka.AIOKafkaProducer, "send", ("topic", "value", "key", "partition", "timestamp_ms", "headers")),
    (BatchBuilder, "append", ("timestamp", "key", "value", "headers")),
    (BatchBuilder, "record_count", ()),
    (BatchBuilder, "close", ()),
    (AIOKafkaClient, "send", ("node_id", "request", "group")),
    (AIOKafkaClient, "get_random_node", ()),
    (Request, "build", ("request_struct_class",)),
    (GroupCoordinator, "_do_heartbeat", ()),
]

# Owner whose constructor gives the attribute, and the attribute.
ATTRIBUTES: list[tuple[type, tuple[str, ...]]] = [
    (
        faust_consumer.Consumer,
        ("_committed_offset", "_read_offset", "_unacked_messages", "can_resume_flow", "flow_active"),
    ),
    (faust_consumer.ThreadDelegateConsumer, ("_thread",)),
    (
        aiokafka.AIOKafkaConsumer,
        ("_isolation_level", "_fetch_max_wait_ms", "_closed", "_client", "_fetcher", "_coordinator"),
    ),
    (Fetcher, ("_closed", "_subscriptions")),
    (GroupCoordinator, ("generation", "_coordination_task")),
    (TopicPartitionState, ("_position", "lso", "timestamp")),
    (Recovery, ("active_offsets", "active_tps", "_recovery_started_at", "_recovery_ended_at")),
]

# Where, what must stand there, and what rests on it.
BEHAVIOURS: list[tuple[Any, str, str]] = [
    (faust_consumer.Consumer._drain_messages, "getmany = self.getmany", "the drain loop asks our getmany for chunks"),
    (faust_consumer.Consumer._drain_messages, "callback(message)", "a message goes to the conductor as it is"),
    (
        faust_consumer.Consumer._drain_messages,
        "offset >= r_offset",
        "a chunk that moves no offset of its topic is not dropped",
    ),
    (faust_consumer.Consumer._drain_messages, "commit_every is not None", "no commit by Faust's count of acks"),
    (
        faust_consumer.Consumer.perform_seek,
        "self._committed_offset.update(",
        "committed offsets, as the group knows them",
    ),
    (
        faust_consumer.Consumer.on_partitions_revoked,
        "self._committed_offset.pop(tp, None)",
        "no committed offset of an older assignment",
    ),
    (vars(TableManager)["recovery"].fget, "self._recovery = Recovery(", "our recovery in its place"),
    (Recovery.on_recovery_completed, "await self._wait(", "what recovery waits for passes through our _wait"),
    (
        aiokafka_fetcher.Fetcher._proc_fetch_request,
        "records = MemoryRecords(part_data[-1])",
        "fetched bytes pass through our LenientRecords",
    ),
    (PartitionRecords._unpack_records, "for record in next_batch:", "a batch is decoded by its iterator"),
    (
        _DefaultRecordBatchPy._read_msg,
        'buffer[pos : pos + h_key_len].decode("utf-8")',
        "header names are decoded by the buffer",
    ),
    (GroupCoordinator, "self._subscription.fetcher_idle_time", "who rests within fetch_context stays in the group"),
    (Thread._create_consumer, "self._create_worker_consumer(transport)", "our isolation level and waiting time"),
    (
        aiokafka.AIOKafkaConsumer.start,
        "isolation_level=self._isolation_level",
        "read_committed, set after the constructor",
    ),
    (
        aiokafka.AIOKafkaConsumer.start,
        "fetch_max_wait_ms=self._fetch_max_wait_ms",
        "the waiting time, set after the constructor",
    ),
    (Thread.getmany, "self._fetch_records,", "fetches in the consumer thread are ours"),
    (Thread.getmany, "max_records=_consumer._max_poll_records", "a fetch brings several chunks at most"),
    (
        GroupCoordinator,
        "self.generation = OffsetCommitRequest.DEFAULT_GENERATION_ID",
        "an expelled member has generation -1",
    ),
    (
        faust.Table.apply_changelog_batch,
        "self.data.apply_changelog_batch(",
        "recovery hands whole batches to our store",
    ),
    (Recovery._slurp_changelogs, "table.recovery_buffer_size", "recovery buffers fetches"),
    (Recovery._slurp_changelogs, "table.apply_changelog_batch(", "recovery applies what it has buffered"),
    (
        Recovery._restart_recovery,
        "recovery_buffer_size == 1",
        "changelogs stay paused once recovered, for our buffer is larger",
    ),
    (Recovery.on_recovery_completed, "consumer.perform_seek()", "partitions are positioned after recovery"),
    (Recovery._restart_recovery, "if not self.tables or", "an app without tables recovers nothing"),
    (Recovery._resume_streams, "consumer.perform_seek()", "partitions are positioned without recovery"),
    (
        aiokafka_fetcher.Fetcher._proc_fetch_request,
        "tp_state.timestamp = ",
        "each answer of a broker says when it came",
    ),
    (GroupCoordinator.close, "if not self._coordination_task.done()", "a rebalance given up is not waited for"),
    (Service.stop, "await self.on_stop()", "a worker stops its engines by itself, before its children"),
    (Service.crash, "for node in self.beacon.walk():", "a crash is told upwards, to the process"),
    (Recovery._seek_offsets, "consumer.seek_wait(", "changelog positions pass through our seek_wait"),
    (faust.Table.on_rebalance, "self.data.on_rebalance(", "revoked partitions leave our store"),
    (faust.Table._new_changelog_topic, "schema=self.schema", "the changelog topic has a schema to replace"),
]


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    names = tuple(inspect.signature(function).parameters)
    return names[1:] if names[:1] == ("self",) else names


@pytest.mark.parametrize(("owner", "name", "expected"), METHODS, ids=lambda value: getattr(value, "__name__", None))
def test_methods_that_we_call_or_replace_are_what_they_were(owner: type, name: str, expected: tuple[str, ...]) -> None:
    assert hasattr(owner, name), f"{owner.__module__}.{owner.__name__}.{name} is gone"
    found = parameters(getattr(owner, name))
    assert found == expected, f"{owner.__module__}.{owner.__name__}.{name} now takes {found}"


@pytest.mark.parametrize(("owner", "names"), ATTRIBUTES, ids=lambda value: getattr(value, "__name__", None))
def test_attributes_that_we_read_or_set_are_still_there(owner: type, names: tuple[str, ...]) -> None:
    assigned = _assigned_to_self(owner) | set(getattr(owner, "__annotations__", {}))
    missing = [name for name in names if name not in assigned and not hasattr(owner, name)]
    assert missing == [], f"{owner.__module__}.{owner.__name__} no longer has {missing}"


@pytest.mark.parametrize(
    ("where", "line", "rests_on_it"), BEHAVIOURS, ids=lambda value: getattr(value, "__qualname__", None)
)
def test_behaviours_that_we_rest_on_still_stand_in_the_source(where: object, line: str, rests_on_it: str) -> None:
    function: Any = where.fun if isinstance(where, ServiceTask) else where
    assert line in inspect.getsource(function), f"{function.__module__}.{function.__qualname__} moved: {rests_on_it}"


def test_the_driver_makes_its_consumer_from_the_transport() -> None:
    assert driver.Transport.Consumer is driver.Consumer, "Transport.Consumer no longer decides which consumer is made"
    assert issubclass(driver.Consumer, faust_consumer.ThreadDelegateConsumer)
    assert issubclass(driver.ConsumerStoppedError, Exception)  # type: ignore[attr-defined]
    assert "unacked" in dir(driver.Consumer), "unacked is gone: chunks would never leave Faust's set of messages"


def test_a_message_can_carry_a_chunk() -> None:
    names = parameters(ConsumerMessage.__init__)
    assert names[:12] == (
        "topic",
        "partition",
        "offset",
        "timestamp",
        "timestamp_type",
        "headers",
        "key",
        "value",
        "checksum",
        "serialized_key_size",
        "serialized_value_size",
        "tp",
    ), f"faust.types.Message now takes {names}"
    assert "generation_id" in names, "messages no longer carry the generation they were fetched in"


def test_a_store_takes_what_our_table_gives_it() -> None:
    names = parameters(Store.__init__)
    assert names[:4] == ("url", "app", "table", "table_name"), f"faust's Store now takes {names}"


def test_records_of_aiokafka_have_the_fields_that_we_read() -> None:
    names = parameters(ConsumerRecord.__init__)
    for name in ("topic", "partition", "offset", "timestamp", "key", "value", "headers"):
        assert name in names, f"ConsumerRecord.{name} is gone"
    assert "offset" in RecordMetadata._fields, "RecordMetadata.offset is gone: what was written is not known"
    assert OffsetAndMetadata._fields == ("offset", "metadata"), "OffsetAndMetadata has other fields"
    assert TopicPartition._fields == ("topic", "partition"), "TopicPartition has other fields"


def test_a_batch_is_sent_with_the_offset_of_its_first_record() -> None:
    # StateTable counts on from it. `done` of a batch resolves the future that send_batch returned.
    from aiokafka.producer.message_accumulator import MessageBatch  # noqa: PLC0415

    source = inspect.getsource(MessageBatch.done)
    assert "self.future.set_result(" in source, "MessageBatch.done moved"
    assert "base_offset" in source, "the metadata of a batch no longer has its base offset"


def test_protocol_classes_carry_requests_of_newer_versions() -> None:
    for owner, names in ((RequestStruct, ("FLEXIBLE_VERSION", "RESPONSE_TYPE")), (Response, ("API_KEY", "SCHEMA"))):
        declared = set(dir(owner)) | set(owner.__annotations__)
        missing = [name for name in names if name not in declared]
        assert missing == [], f"aiokafka.protocol.api.{owner.__name__} no longer has {missing}"


def test_an_app_has_what_ours_reads() -> None:
    app = faust.App("private-parts", store="memory://", web_enabled=False)
    for name in ("_consumer", "started", "should_stop", "consumer_generation_id", "in_recovery", "tables", "monitor"):
        assert hasattr(app, name), f"faust.App.{name} is gone"
    assert isinstance(app.tables.recovery, Recovery)  # type: ignore[attr-defined]
    assert mode.Service in faust.App.__mro__


def test_every_private_part_that_the_engine_names_is_pinned_here() -> None:
    pinned = {name for _, name, _ in METHODS} | {name for _, names in ATTRIBUTES for name in names}
    pinned |= {name for _, line, _ in BEHAVIOURS for name in line.replace("(", ".").replace(",", ".").split(".")}
    pinned |= {"_consumer"}  # test_an_app_has_what_ours_reads
    found: dict[str, str] = {}
    for path in sorted(ENGINE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        ours |= {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in _assigned(node)}
        known = ours | pinned | NAMED_TUPLE_METHODS
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in known:
                found[node.attr] = path.name
    assert found == {}, f"private parts without a pin: {found}"


NAMED_TUPLE_METHODS = {"_replace", "_asdict", "_make", "_exit"}


def _assigned_to_self(owner: type) -> set[str]:
    return _assigned(ast.parse(textwrap.dedent(inspect.getsource(owner))))


def _assigned(tree: ast.AST) -> set[str]:
    """Names of attributes set on `self`, and of fields declared in a class body."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
