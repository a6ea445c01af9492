"""`dead-letters` on a real broker: shown without harm, and sent again as they were."""

import base64
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from stream.commands.dead_letters import escaped
from stream.commands.log_access import read_records, writing
from stream.commands.topics import apply_topics
from stream.config import Settings
from stream.core.errors import InvalidEvent
from stream.core.keys import partition_of
from stream.wire.dead_letters import Origin, dead_letter
from stream.wire.outgoing import Headers, OutgoingRecord
from stream.wire.reasons import Reason
from tests.support.commands import run_stream

CLICK = json.dumps({"click_id": 1, "user_id": 7, "campaign_id": 3, "click_time": 1_790_000_000}).encode()
HOSTILE = b"\x1b]0;owned\x07\x1b[2J\x9b31m[red]\xe2\x80\xae\x00\r\n\xff"


class Installation:
    """Topics of its own on a shared broker."""

    def __init__(self, kafka: str) -> None:
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.prefix = f"{name}-"
        self.settings = Settings(kafka=kafka, app_id=name, topic_prefix=self.prefix, partitions=3)
        self._environment = {"kafka": kafka, "app_id": name, "topic_prefix": self.prefix, "partitions": "3"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_stream("dead-letters", *arguments, settings=self._environment)

    def letter(
        self,
        value: bytes | None,
        reason: Reason,
        *,
        topic: str = "clicks",
        key: bytes | None = None,
        headers: Headers = (),
    ) -> OutgoingRecord:
        origin = Origin(self.prefix + topic, 1, 42, 1_790_000_000_000)
        return dead_letter(origin, InvalidEvent(reason, f"why: {reason}"), key=key, value=value, headers=headers)

    async def send(self, *records: OutgoingRecord) -> None:
        topics = [self.prefix + name for name in ("clicks-dead-letters", "conversions-dead-letters")]
        async with writing(self.settings, topics) as writer:
            await writer.send(records)

    async def records(self, topic: str) -> Sequence[ConsumerRecord]:
        return [record async for record in read_records(self.settings, self.prefix + topic)]


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


async def test_no_dead_letters_are_said_in_a_word(installation: Installation) -> None:
    for arguments in (("list",), ("list", "--topic", "clicks", "--reason", "rekeyed")):
        done = installation.run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "0 dead letters\n", "")
    assert installation.run("list", "--json").stdout == "[]\n"
    assert installation.run("redrive").returncode == 0


async def test_hostile_bytes_reach_the_terminal_as_escapes_only(installation: Installation) -> None:
    letter = installation.letter(HOSTILE, Reason.UNREADABLE_JSON, key=HOSTILE, headers=(("\x1b[1m", HOSTILE),))
    foreign = OutgoingRecord(letter.topic, 0, b"\x1b", b"\x1b[0m", ())
    await installation.send(letter, foreign)
    ids = [f"{letter.topic}/0/{offset}" for offset in (0, 1)]
    for arguments in (("list",), *(("show", each) for each in ids), ("list", "--json"), ("show", ids[0], "--json")):
        done = installation.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(each.isprintable() or each == "\n" for each in done.stdout)
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m[red]\u202e\x00\r\n\xff" in installation.run("show", ids[0]).stdout
    assert "not written by Touchstream" in installation.run("list").stdout


async def test_json_gives_the_exact_bytes_and_all_that_the_headers_say(installation: Installation) -> None:
    await installation.send(
        installation.letter(HOSTILE, Reason.UNREADABLE_JSON, key=b"7:3", headers=(("trace", b"1"),)),
        installation.letter(None, Reason.NO_VALUE),
    )
    first, second = json.loads(installation.run("list", "--json").stdout)
    assert base64.b64decode(first["value_base64"]) == HOSTILE
    stored_at = first.pop("stored_at")
    assert stored_at.startswith("2")
    assert {name: value for name, value in first.items() if not name.startswith("value")} == {
        "id": f"{installation.prefix}clicks-dead-letters/0/0",
        "reason": "unreadable_json",
        "error": "why: unreadable_json",
        "topic": f"{installation.prefix}clicks",
        "partition": 1,
        "offset": 42,
        "appended_at": "2026-09-21T14:13:20Z",
        "redriven": 0,
        "key": "7:3",
        "headers": [["trace", "1"]],
    }
    assert (second["key"], second["value"], second["value_base64"]) == (None, None, None)


async def test_list_is_narrowed_by_topic_reason_and_limit(installation: Installation) -> None:
    await installation.send(
        *[installation.letter(b"%d" % number, Reason.NOT_AN_OBJECT) for number in range(3)],
        installation.letter(b"{}", Reason.MISSING_FIELD),
        installation.letter(b"[]", Reason.NOT_AN_OBJECT, topic="conversions"),
    )

    def values(*arguments: str) -> list[str]:
        return [each["value"] for each in json.loads(installation.run("list", "--json", *arguments).stdout)]

    assert values() == ["0", "1", "2", "{}", "[]"]
    assert values("--topic", "conversions") == ["[]"]
    assert values("--reason", "not_an_object", "--topic", "clicks", "--limit", "2") == ["1", "2"]
    listed = installation.run("list", "--limit", "1", "--topic", "clicks").stdout
    assert listed.splitlines()[-1] == "4 dead letters, 1 of them shown; --limit shows more"


async def test_show_tells_reason_place_and_meaning(installation: Installation) -> None:
    await installation.send(installation.letter(b'{"a":1}', Reason.MISSING_FIELD, key=b"7:3"))
    done = installation.run("show", f"{installation.prefix}clicks-dead-letters/0/0")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["reason"] == "missing_field"
    assert lines["meaning"] == "a field that must be there is absent or null"
    assert lines["came from"] == f"{installation.prefix}clicks"
    assert (lines["partition"], lines["offset"], lines["appended"]) == ("1", "42", "2026-09-21T14:13:20Z")
    assert (lines["key"], lines["value"]) == ("7:3", '{"a":1}')


async def test_an_id_that_is_none_or_names_nothing_is_an_error(installation: Installation) -> None:
    for wrong in ("nonsense", "a/b/c", "clicks/0/-1", "clicks/0/²"):
        assert installation.run("show", "--", wrong).returncode == 2
    letters = f"{installation.prefix}clicks-dead-letters"
    for absent in (f"{letters}/0/0", f"{letters}/5/0", f"{installation.prefix}clicks/0/0"):
        done = installation.run("show", absent)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
    assert installation.run("redrive", f"{letters}/0/0", "--topic", "clicks").returncode == 2


async def test_redrive_sends_the_original_again_with_its_right_key_and_a_count(installation: Installation) -> None:
    await installation.send(
        installation.letter(CLICK, Reason.EVENT_TIME_AHEAD, key=None, headers=(("trace", b"1"),)),
        installation.letter(b"{}", Reason.MISSING_FIELD, key=b"odd"),
        installation.letter(None, Reason.NO_VALUE),
    )
    dry = installation.run("redrive", "--dry-run")
    assert dry.stdout.splitlines()[0] == f"{installation.prefix}clicks: 3 would be sent again"
    assert await installation.records("clicks") == []

    done = installation.run("redrive")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{installation.prefix}clicks: 3 sent again",
        f"{installation.prefix}conversions: 0 sent again",
    ]
    by_value = {record.value: record for record in await installation.records("clicks")}
    assert set(by_value) == {CLICK, b"{}", None}
    good = by_value[CLICK]
    assert (good.key, good.partition) == (b"7:3", partition_of(7, 3, 3))
    assert tuple(good.headers) == (("trace", b"1"), ("touchstream-redriven", b"1"))
    assert (by_value[b"{}"].key, by_value[None].key) == (b"odd", None)


async def test_redrive_takes_one_letter_or_one_reason_or_one_topic(installation: Installation) -> None:
    await installation.send(
        installation.letter(b"1", Reason.NOT_AN_OBJECT),
        installation.letter(b"2", Reason.REKEYED),
        installation.letter(b"3", Reason.REKEYED, topic="conversions"),
    )
    assert installation.run("redrive", f"{installation.prefix}clicks-dead-letters/0/0").returncode == 0
    assert [record.value for record in await installation.records("clicks")] == [b"1"]
    assert installation.run("redrive", "--reason", "rekeyed", "--topic", "clicks").returncode == 0
    assert {record.value for record in await installation.records("clicks")} == {b"1", b"2"}
    assert await installation.records("conversions") == []


async def test_of_equal_records_only_the_newest_letter_is_sent_so_redrives_do_not_double(
    installation: Installation,
) -> None:
    again: Headers = (("touchstream-redriven", b"4"),)
    await installation.send(
        installation.letter(b"1", Reason.NOT_AN_OBJECT), installation.letter(b"1", Reason.NOT_AN_OBJECT, headers=again)
    )
    done = installation.run("redrive")
    assert "left out, for a newer dead letter holds the same: 1" in done.stdout
    (record,) = await installation.records("clicks")
    assert tuple(record.headers) == (("touchstream-redriven", b"5"),)


async def test_redrive_leaves_out_foreign_records_and_what_is_too_large_for_ever(installation: Installation) -> None:
    letters = f"{installation.prefix}clicks-dead-letters"
    elsewhere = installation.letter(CLICK, Reason.REKEYED, topic="conversions")._replace(topic=letters)
    await installation.send(
        OutgoingRecord(letters, 0, None, b"hello", ()),
        elsewhere,
        installation.letter(b"x" * 65_537, Reason.TOO_LARGE),
    )
    done = installation.run("redrive")
    assert done.stdout.splitlines() == [
        f"{installation.prefix}clicks: 0 sent again",
        f"{installation.prefix}conversions: 0 sent again",
        "left out, not written by Touchstream: 2",
        "left out, larger than any event may be: 1",
    ]
    assert await installation.records("clicks") == []
    assert await installation.records("conversions") == []


def test_a_broker_that_is_away_is_named() -> None:
    done = run_stream("dead-letters", "list", settings={"kafka": "127.0.0.1:1"})
    assert done.returncode == 1
    assert done.stderr.startswith("error: Kafka at 127.0.0.1:1 did not answer")


def test_plain_text_is_shown_as_it_is() -> None:
    assert escaped('{"visitor": "Zoë \\u0000"}') == '{"visitor": "Zoë \\u0000"}'
    assert escaped(None) == "none"
