"""`ingest` on a real broker: what is in the files is in the topics, byte for byte, or in the dead letters."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord

from stream.commands.event_files import LineFile, UnreadableFile, click_input, conversion_input, merged
from stream.commands.ingest import rounds
from stream.commands.log_access import read_records
from stream.commands.topics import apply_topics
from stream.config import Settings
from stream.core.keys import partition_of, record_key
from stream.wire.dead_letters import DeadLetter, read_dead_letter
from stream.wire.decoding import EventDecoder
from tests.support.commands import ROOT, environment, run_stream
from tests.support.golden import VECTORS
from tests.support.servers import RunningServer

SPARSE = VECTORS / "sparse"
IN_FLIGHT_LINES = 10_000  # one round


def click_line(click_id: int, at: int, **fields: object) -> bytes:
    return json.dumps({"click_id": click_id, "user_id": 7, "campaign_id": 3, "click_time": at, **fields}).encode()


def conversion_line(conv_id: int, at: int) -> bytes:
    event = {"conv_id": conv_id, "click_id": 1, "user_id": 7, "campaign_id": 3, "click_time": at, "conv_time": at}
    return json.dumps({**event, "click_payout": 1}).encode()


def lines_file(path: Path, lines: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


class Installation:
    """Topics of its own on a shared broker."""

    def __init__(self, kafka: str) -> None:
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.settings = Settings(kafka=kafka, app_id=name, topic_prefix=f"{name}-", partitions=3)
        self.environment = {"kafka": kafka, "app_id": name, "topic_prefix": f"{name}-", "partitions": "3"}

    def ingest(self, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        return run_stream("ingest", *map(str, arguments), settings=self.environment, given=given)

    async def records(self, topic: str) -> list[ConsumerRecord]:
        return [record async for record in read_records(self.settings, self.settings.topic_prefix + topic)]

    async def values(self, topic: str) -> list[bytes | None]:
        return sorted(record.value for record in await self.records(topic))

    async def dead_letters(self, topic: str) -> list[DeadLetter]:
        letters = [
            read_dead_letter(record.key, record.value, record.headers)
            for record in await self.records(f"{topic}-dead-letters")
        ]
        assert None not in letters
        return [letter for letter in letters if letter]


@pytest.fixture
async def installation(kafka: str) -> AsyncIterator[Installation]:
    made = Installation(kafka)
    await apply_topics(made.settings)
    yield made
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    ours = [name for name in await admin.list_topics() if name.startswith(made.settings.app_id)]
    await admin.delete_topics(ours)
    await admin.close()


async def test_both_golden_files_arrive_byte_for_byte_on_the_partition_of_their_key(installation: Installation) -> None:
    done = installation.ingest("--clicks", SPARSE / "clicks.jsonl", "--conversions", SPARSE / "conversions.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "clicks.jsonl: 1,500 clicks sent, 0 lines refused" in done.stdout
    assert "conversions.jsonl: 300 conversions sent, 0 lines refused" in done.stdout
    for topic in ("clicks", "conversions"):
        expected = (SPARSE / f"{topic}.jsonl").read_bytes().splitlines()
        records = await installation.records(topic)
        assert sorted(record.value for record in records) == sorted(expected)
        for record in records:
            event = json.loads(record.value)
            assert record.key == record_key(event["user_id"], event["campaign_id"])
            assert record.partition == partition_of(event["user_id"], event["campaign_id"], 3)
        in_order = {value: number for number, value in enumerate(expected)}
        for partition in range(3):
            numbers = [in_order[record.value] for record in records if record.partition == partition]
            assert numbers == sorted(numbers), "a file keeps its own order within a partition"
        assert await installation.dead_letters(topic) == []


async def test_either_file_alone_packed_or_from_stdin_or_empty(installation: Installation, tmp_path: Path) -> None:
    conversions = (SPARSE / "conversions.jsonl").read_bytes()
    packed = tmp_path / "conversions.jsonl.GZ"
    packed.write_bytes(gzip.compress(conversions))
    assert installation.ingest("--conversions", packed).returncode == 0
    from_stdin = installation.ingest("--conversions", "-", given=conversions.decode())
    assert from_stdin.stdout == "STDIN: 300 conversions sent, 0 lines refused\n"
    assert await installation.values("conversions") == sorted(conversions.splitlines() * 2)

    for empty in (lines_file(tmp_path / "none.jsonl", []), tmp_path / "none.jsonl.gz"):
        empty.touch()
        done = installation.ingest("--clicks", empty, "--conversions", os.devnull)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{empty}: 0 clicks sent, 0 lines refused" in done.stdout
    assert await installation.values("clicks") == []


async def test_odd_but_good_lines_are_sent_as_they_are(installation: Installation, tmp_path: Path) -> None:
    floats = b'{"click_id": 1.0, "user_id": 7.0, "campaign_id": 3.0, "click_time": 1790000000.0, "click_cpc": "0.5"}'
    spaced, more = b"  " + click_line(2, 5) + b" ", click_line(3, 5, more={"a": 1})
    file = tmp_path / "clicks.jsonl"
    file.write_bytes(b"\r\n" + floats + b"\r\n\n  \t\n" + spaced + b"\n" + more)
    done = installation.ingest("--clicks", file)
    assert done.stdout.splitlines() == [f"{file}: 3 clicks sent, 0 lines refused", "unknown fields, ignored: 1"]
    assert await installation.values("clicks") == sorted([floats, spaced, more])


async def test_refused_lines_are_in_the_dead_letters_with_their_bytes_and_are_summed_up(
    installation: Installation, tmp_path: Path
) -> None:
    bad = [b"no json", b"\xff\x1b[31m", b"[]", b"{}", b'"x"', *[b"no json"] * 5]
    file = lines_file(tmp_path / "clicks.jsonl", [click_line(1, 5), *bad, click_line(2, 6)])
    done = installation.ingest("--clicks", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{file}: 2 clicks sent, 10 lines refused",
        "refused lines are in the dead letters, by reason:",
        "  unreadable_json (the bytes are not JSON in UTF-8, or are nested too deeply): 7; "
        + ", ".join(f"{file} line {number}" for number in (2, 3, 7, 8, 9))
        + ", ...",
        f"  not_an_object (the JSON is not an object): 2; {file} line 4, {file} line 6",
        f"  missing_field (a field that must be there is absent or null): 1; {file} line 5",
    ]
    letters = await installation.dead_letters("clicks")
    assert [letter.value for letter in letters] == bad
    assert letters[1].reason == "unreadable_json"
    assert letters[1].headers == (("touchstream-line", f"{file} line 3".encode()),)
    assert letters[1].origin == (f"{installation.settings.topic_prefix}clicks", None, None, None)
    assert len(await installation.values("clicks")) == 2


@pytest.mark.parametrize("kind", ["missing", "a folder", "no gzip", "damaged gzip", "cut off gzip"])
async def test_a_file_that_cannot_be_read_is_named_and_fails(
    kind: str, installation: Installation, tmp_path: Path
) -> None:
    packed = gzip.compress((SPARSE / "clicks.jsonl").read_bytes())
    file = tmp_path / "clicks.jsonl.gz"
    match kind:
        case "a folder":
            file.mkdir()
        case "no gzip":
            file.write_bytes(click_line(1, 5))
        case "damaged gzip":
            file.write_bytes(packed[:500] + bytes(200) + packed[700:])
        case "cut off gzip":
            file.write_bytes(packed[: len(packed) // 2])
    done = installation.ingest("--clicks", file, "--conversions", SPARSE / "conversions.jsonl")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file} cannot be read")
    sent = len(await installation.values("clicks")) + len(await installation.values("conversions"))
    assert done.stdout == (f"stopped after {sent:,} lines, which are in the log\n" if sent else "")


async def test_a_line_as_large_as_a_dead_letter_may_be_is_kept_whole_and_a_larger_one_fails(
    installation: Installation, tmp_path: Path
) -> None:
    largest = random.Random(1).randbytes(6 * 1024 * 1024 - 64 * 1024).replace(b"\n", b"x").replace(b"\r", b"x")
    file = lines_file(tmp_path / "clicks.jsonl", [click_line(1, 5), largest])
    done = installation.ingest("--clicks", file)
    assert (done.returncode, done.stderr) == (0, "")
    (letter,) = await installation.dead_letters("clicks")
    assert letter.reason == "too_large"
    assert letter.value == largest, "not a byte may be missing"

    lines_file(file, [click_line(1, 5), b"x" + largest, click_line(2, 5)])
    done = installation.ingest("--clicks", file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file} line 2 has more than")
    assert done.stdout == "stopped after 1 lines, which are in the log\n"
    assert len(await installation.dead_letters("clicks")) == 1


async def test_a_broker_that_takes_less_names_the_line(kafka: str, tmp_path: Path) -> None:
    installation = Installation(kafka)
    prefix = installation.settings.topic_prefix
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    small = {"max.message.bytes": "300000"}
    await admin.create_topics(
        [NewTopic(f"{prefix}clicks", 1, 1), NewTopic(f"{prefix}clicks-dead-letters", 1, 1, topic_configs=small)]
    )
    await admin.close()
    noise = random.Random(1).randbytes(400_000).replace(b"\n", b"x")
    file = lines_file(tmp_path / "clicks.jsonl", [click_line(1, 5), noise])
    done = installation.ingest("--clicks", file)
    assert done.returncode == 1
    assert f"{file} line 2 has 400000 bytes" in done.stderr
    assert "max.message.bytes" in done.stderr


def test_missing_topics_and_a_broker_that_is_away_are_errors_with_a_hint(kafka: str, tmp_path: Path) -> None:
    file = lines_file(tmp_path / "clicks.jsonl", [click_line(1, 5)])
    installation = Installation(kafka)
    done = installation.ingest("--clicks", file)
    assert done.returncode == 1
    assert f'has no topic "{installation.settings.topic_prefix}clicks"' in done.stderr
    assert 'hint: "python -m stream topics apply"' in done.stderr

    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in ("127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            done = run_stream("ingest", "--clicks", str(file), settings={"kafka": address})
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"error: Kafka at {address} did not answer")
            assert "dev/kafka start" in done.stderr
    assert time.monotonic() - begun < 25


@pytest.mark.parametrize("arguments", [(), ("--clicks", "-", "--conversions", "-"), ("--clicks",), ("clicks.jsonl",)])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run_stream("ingest", *arguments).returncode == 2


async def ingesting(installation: Installation, lines: Sequence[bytes]) -> "subprocess.Popen[bytes]":
    """A process that has stored one round and waits for more on its STDIN."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts here
        [sys.executable, "-m", "stream", "ingest", "--clicks", "-"],
        cwd=ROOT,
        env=environment(installation.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()
    async with asyncio.timeout(60):
        while len(await installation.values("clicks")) < IN_FLIGHT_LINES:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.1)
    return process


async def test_a_broker_lost_in_flight_is_given_up_with_a_word_on_how_far_it_came(own_kafka: RunningServer) -> None:
    installation = Installation(own_kafka.address)
    await apply_topics(installation.settings)
    lines = [click_line(number, 5) for number in range(1, 2 * IN_FLIGHT_LINES + 1)]
    process = await ingesting(installation, lines[: IN_FLIGHT_LINES + 5])
    own_kafka.signal(signal.SIGSTOP)
    try:
        with contextlib.suppress(BrokenPipeError):
            output, errors = process.communicate(b"".join(line + b"\n" for line in lines[IN_FLIGHT_LINES + 5 :]), 40)
    finally:
        own_kafka.signal(signal.SIGCONT)
    assert process.returncode == 1
    assert output == b"stopped after 10,000 lines, which are in the log\n"
    assert errors.decode().splitlines()[0] == (
        f"error: Kafka at {own_kafka.address} did not answer: nothing within 15 s"
    )
    assert len(errors.decode().splitlines()) == 2, "the error and its hint, and no stack"


async def test_a_broker_that_comes_back_in_time_has_every_line_once(own_kafka: RunningServer) -> None:
    installation = Installation(own_kafka.address)
    await apply_topics(installation.settings)
    lines = [click_line(number, 5) for number in range(1, 2 * IN_FLIGHT_LINES + 1)]
    process = await ingesting(installation, lines[: IN_FLIGHT_LINES + 5])
    own_kafka.stop()
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines[IN_FLIGHT_LINES + 5 :]))
    process.stdin.flush()
    own_kafka.start()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert output == b"STDIN: 20,000 clicks sent, 0 lines refused\n"
    assert await installation.values("clicks") == sorted(lines)


# --- files, without a broker --------------------------------------------------------------------------------------


def times(tmp_path: Path, clicks: Sequence[bytes], conversions: Sequence[bytes]) -> list[tuple[str, int]]:
    decoder = EventDecoder()
    click_file = LineFile(str(lines_file(tmp_path / "clicks.jsonl", clicks)))
    conversion_file = LineFile(str(lines_file(tmp_path / "conversions.jsonl", conversions)))
    with contextlib.closing(click_file), contextlib.closing(conversion_file):
        inputs = (
            click_input(click_file, "clicks", decoder),
            conversion_input(conversion_file, "conversions", decoder),
        )
        return [(entry.topic, entry.event_time) for entry in merged(inputs)]


def test_two_sorted_files_are_merged_by_event_time_clicks_first(tmp_path: Path) -> None:
    clicks = [click_line(number, at) for number, at in enumerate((1, 5, 5, 9), 1)]
    conversions = [conversion_line(number, at) for number, at in enumerate((3, 5, 10), 1)]
    assert times(tmp_path, clicks, conversions) == [
        ("clicks", 1),
        ("conversions", 3),
        ("clicks", 5),
        ("clicks", 5),
        ("conversions", 5),
        ("clicks", 9),
        ("conversions", 10),
    ]


def test_an_unsorted_file_keeps_its_own_order_and_a_refused_line_its_place(tmp_path: Path) -> None:
    clicks = [click_line(1, 9), b"bad", click_line(2, 1), click_line(3, 7)]
    conversions = [conversion_line(1, 8), conversion_line(2, 2), conversion_line(3, 9)]
    found = times(tmp_path, clicks, conversions)
    assert [at for topic, at in found if topic == "clicks"] == [9, -1, 1, 7]
    assert [at for topic, at in found if topic == "conversions"] == [8, 2, 9]


def test_lines_read_before_a_file_breaks_off_come_out_before_its_error(tmp_path: Path) -> None:
    file = tmp_path / "clicks.jsonl.gz"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as packed:
        packed.write(click_line(1, 5) + b"\n" + click_line(2, 5) + b"\n")
    file.write_bytes(buffer.getvalue()[:-4])
    with contextlib.closing(LineFile(str(file))) as lines:
        pieces = rounds(merged([click_input(lines, "clicks", EventDecoder())]))
        assert [entry.line.number for entry in next(pieces)] == [1, 2]
        with pytest.raises(UnreadableFile, match="after line 2"):
            next(pieces)
