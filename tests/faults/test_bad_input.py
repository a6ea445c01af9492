"""What cannot be an event ends in the dead letters, byte for byte and with its reason; all around it is stored."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiokafka.structs import ConsumerRecord

from tests.faults.conftest import Install
from tests.faults.events import CAMPAIGN, OTHER_CAMPAIGN, USER, click, conversion
from tests.faults.installation import SOURCES, Installation, metric
from tests.support.processes import cli
from tests.support.servers import run_sql
from tests.support.traffic import BROKEN, DAY, Fields, Rates, Sent, as_bytes, record_key, traffic

REFUSED_CLICK = 7_000_007


def whole_click(number: int, at: int) -> Fields:
    return {"click_id": number, "user_id": USER, "campaign_id": CAMPAIGN, "click_time": at, "click_cpc": 0.5}


def whole_conversion(number: int, at: int) -> Fields:
    fields = {"conv_id": number, "click_id": number, "user_id": USER, "campaign_id": CAMPAIGN}
    return fields | {"click_time": at, "conv_time": at, "click_payout": 10}


def all_that_is_broken(now: int) -> list[Sent]:
    """Each kind once on each topic, between good ones."""
    found = []
    for number, (kind, broken) in enumerate(BROKEN.items(), start=1000):
        at = now - DAY + number
        for topic, fields in (("clicks", whole_click(number, at)), ("conversions", whole_conversion(number, at))):
            if kind == "wrong type of flag" and topic == "clicks":
                fields["click_bot"] = 0
            found.append(Sent(topic, broken(fields, now), record_key(fields), kind))
            found.append(Sent(topic, as_bytes(fields | {"click_id": number + 5000}), record_key(fields), "good"))
    two_megabytes = whole_click(3000, now) | {"note": "x" * 2 * 1024 * 1024}
    return [
        *found,
        Sent("clicks", as_bytes(two_megabytes), record_key(two_megabytes), "2 MB"),
        Sent("clicks", b"\x00\x01\x02", None, "null key"),
        Sent("clicks", None, None, "null key and value"),
        Sent("conversions", None, b"7:8", "null value"),
    ]


def letters(installation: Installation) -> list[ConsumerRecord]:
    return [letter for topic in SOURCES for letter in installation.read(f"{topic}-dead-letters")]


def header(letter: ConsumerRecord, name: str) -> str:
    """The last of this name: those in front of it may come from outside."""
    contents: list[bytes] = [content for found, content in letter.headers if found == f"touchstream-{name}"]
    return contents[-1].decode()


def origin(letter: ConsumerRecord) -> tuple[str, int, int]:
    return header(letter, "topic"), int(header(letter, "partition")), int(header(letter, "offset"))


def assert_dead_lettered(installation: Installation, reasons: Counter[str] | None = None) -> None:
    """Just those records that the oracle cannot take, with key and bytes as they stand in the log."""
    wanted = installation.expected().dead_letters
    refused = Counter(
        (record.topic, record.key, record.value) for record in (installation.sent[at] for at, _ in wanted)
    )
    found = letters(installation)
    topics = {installation.topic(f"{topic}-dead-letters"): topic for topic in SOURCES}
    assert Counter((topics[letter.topic], letter.key, letter.value) for letter in found) == refused
    log = {
        (record.topic, record.partition, record.offset): (record.key, record.value)
        for topic in SOURCES
        for record in installation.read(topic)
    }
    for letter in found:
        assert log[origin(letter)] == (letter.key, letter.value)
        assert header(letter, "error")
    if reasons is not None:
        assert Counter(header(letter, "reason") for letter in found) == reasons


def test_each_kind_of_bad_record_is_dead_lettered_with_its_bytes(install: Install, fresh_database: str) -> None:
    installation = install(fresh_database, partitions=3)
    installation.send(traffic(21, 600, now=installation.now, rates=Rates(broken=0.1)))
    installation.send(all_that_is_broken(installation.now))
    with installation.worker() as worker:
        installation.wait_drained()
        assert metric(worker, "dead_letters_total") == len(installation.expected().dead_letters)
        assert worker.stop() == 0
    assert_dead_lettered(installation)
    found = {header(letter, "reason") for letter in letters(installation)}
    assert found >= {
        "unreadable_json", "not_an_object", "missing_field", "wrong_type", "out_of_range", "too_many_decimals",
        "too_large", "no_value", "event_time_ahead",
    }  # fmt: skip
    installation.assert_right()


def test_records_on_the_wrong_partition_are_sent_on(install: Install, fresh_sqlite: str) -> None:
    installation = install(fresh_sqlite, partitions=3)
    sent = traffic(22, 300, now=installation.now, rates=Rates(wrong_key=0))
    misplaced = [record._replace(key=b"%d:%d" % (number, number)) for number, record in enumerate(sent)]
    misplaced[::10] = [record._replace(key=None) for record in misplaced[::10]]
    installation.send(misplaced)
    with installation.worker() as worker:
        installation.wait_drained()
        misrouted = metric(worker, "misrouted_total")
        assert worker.stop() == 0
    assert misrouted > len(sent) / 3
    assert sum(installation.ends().values()) >= len(sent) + misrouted
    assert_dead_lettered(installation)
    installation.assert_right()


def test_a_known_id_with_another_campaign_or_click_is_refused(install: Install, fresh_sqlite: str) -> None:
    installation = install(fresh_sqlite, partitions=3)
    at = installation.now - DAY
    first = [click(1, at), click(2, at + 1), conversion(1, 1, at + 5)]
    moved = [
        click(1, at, campaign_id=OTHER_CAMPAIGN, revised_at=at + 9),
        click(2, at, user_id=USER + 1, revised_at=at + 9),
        conversion(1, 2, at + 5, revised_at=at + 9),
        conversion(1, 1, at + 5, campaign_id=OTHER_CAMPAIGN, revised_at=at + 9),
    ]
    with installation.worker() as worker:
        installation.send(first)
        installation.wait_drained()
        installation.send(moved)
        installation.wait_drained()
        assert metric(worker, "dead_letters_total", reason="rekeyed") == len(moved)
        assert worker.stop() == 0
    assert_dead_lettered(installation, Counter(rekeyed=len(moved)))
    installation.assert_right()


def refuse_one_click(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(urlsplit(database_url).path[1:])) as connection:
            connection.execute(
                "CREATE TRIGGER refuse_one BEFORE INSERT ON `202_stream_clicks`"
                f" WHEN NEW.click_id = {REFUSED_CLICK} BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        return
    database = urlsplit(database_url).path[1:]
    constraint = f"ADD CONSTRAINT refuse_one CHECK (click_id <> {REFUSED_CLICK})"
    run_sql(database_url, f"ALTER TABLE {database}.`202_stream_clicks` {constraint}")


def test_the_one_event_that_the_database_refuses_is_dead_lettered_alone(install: Install, fresh_database: str) -> None:
    installation = install(fresh_database, partitions=1)
    refuse_one_click(fresh_database)
    sent = traffic(23, 300, now=installation.now, rates=Rates(broken=0))
    refused = click(REFUSED_CLICK, installation.now - DAY)
    installation.send([*sent[:150], refused, *sent[150:]])
    with installation.worker() as worker:
        installation.wait_drained()
        assert metric(worker, "dead_letters_total", reason="refused_by_database") == 1
        assert worker.stop() == 0
    letter = next(letter for letter in letters(installation) if header(letter, "reason") == "refused_by_database")
    assert (letter.key, letter.value) == (refused.key, refused.value)
    installation.sent.remove(refused)
    installation.assert_right()


def test_a_bound_on_keys_in_memory_changes_no_row(install: Install, fresh_sqlite: str) -> None:
    installation = install(fresh_sqlite, partitions=3, state_keys=100)
    installation.send(traffic(24, 4000, now=installation.now, rates=Rates(hot_key=0.05), users=40, campaigns=20))
    with installation.worker() as worker:
        installation.wait_drained()
        assert metric(worker, "state_evictions") > 1000
        assert metric(worker, "state_keys") <= 100
        assert worker.stop() == 0
    installation.assert_right()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("CHUNK_RECORD", "10"), ("CHUNK_RECORDS", "many"), ("PARTITIONS", "-1"), ("KAFKA", "nowhere")],
)
def test_a_wrong_or_unknown_setting_is_refused_by_name(
    tmp_path: Path, fresh_sqlite: str, setting: str, value: str
) -> None:
    env = Installation("127.0.0.1:1", fresh_sqlite, tmp_path).env | {f"TOUCHSTREAM_{setting}": value}
    refused = cli("worker", env=env, timeout=30)
    assert refused.returncode == 2
    assert f"TOUCHSTREAM_{setting}" in refused.stderr
