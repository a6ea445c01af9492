"""`import` as a person runs it: a database like Prosper202's, a real broker, and what comes into the topics."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.commands.import_place import Range, place_name
from stream.core.keys import partition_of, record_key
from tests.faults.installation import Installation
from tests.support import golden
from tests.support.golden import SET_NAMES, SetName
from tests.support.oracle import expected
from tests.support.processes import cli, free_port, succeed
from tests.support.prosper202 import Prosper202, installed, reader
from tests.support.rows import difference, differences, query, read_touchpoints

BASE = 1_790_000_000
PLACES = "SELECT source, place FROM `202_stream_imports`"
PASSWORD = "p%40ss%3Aw0rd-7"  # as it stands in a URL


@pytest.fixture
def source(mariadb_url: str) -> Iterator[Prosper202]:
    with installed(mariadb_url) as made:
        yield made


@pytest.fixture
def target(kafka: str, fresh_sqlite: str, tmp_path: Path) -> Iterator[Installation]:
    made = Installation(kafka, fresh_sqlite, tmp_path, partitions=3)
    made.prepare()
    yield made
    made.remove()


def values(target: Installation, topic: str) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in target.read(topic)]


def sent(target: Installation) -> tuple[list[int], list[int]]:
    """Ids of clicks and conversions, as often as they are in the topics."""
    return (
        sorted(each["click_id"] for each in values(target, "clicks")),
        sorted(each["conv_id"] for each in values(target, "conversions")),
    )


# What comes in


@pytest.mark.parametrize("name", SET_NAMES)
def test_the_journeys_of_a_golden_installation_come_out_row_for_row(
    *, name: SetName, source: Prosper202, kafka: str, fresh_database: str, tmp_path: Path
) -> None:
    now = int(time.time())
    vectors = golden.load_before(name, now)
    source.load(vectors)
    # Further rows of clicks that are there: without campaign, or with less cost, they do not count.
    source.execute(
        "INSERT INTO `202_clicks` SELECT click_id, user_id, 0, landing_page_id, ppc_account_id, click_cpc, 0, 0, 0, 0,"
        " 0, click_time - 100 * (click_id % 5), 0, 0 FROM `202_clicks` WHERE click_id % 7 = 0",
        "INSERT INTO `202_clicks` SELECT click_id, user_id, aff_campaign_id, landing_page_id, ppc_account_id,"
        " click_cpc - 0.00001, 0, 0, 0, 0, 0, click_time, 0, 0 FROM `202_clicks`"
        " WHERE click_id % 5 = 0 AND click_cpc > 0 AND aff_campaign_id > 0",
    )
    target = Installation(kafka, fresh_database, tmp_path, partitions=3)
    target.prepare()
    try:
        said = succeed("import", "--from", source.url, "--batch-size", "100", env=target.env)
        assert f"1,500 clicks and {len(vectors.conversions)} conversions sent" in said
        with target.worker() as worker:
            worker.wait_ready()
            succeed("status", "--wait-drained", "60", env=target.env)
        assert difference(vectors.touchpoints, read_touchpoints(fresh_database), what="touchpoints") == ""
        records = golden.records(golden.in_order(vectors, "merged"), append_time=now)
        assert differences(expected(records), fresh_database) == ""
    finally:
        target.remove()


def test_rows_become_the_events_that_they_report(source: Prosper202, target: Installation) -> None:
    source.add("202_ppc_accounts", [{"ppc_account_id": 7, "user_id": 1, "ppc_network_id": 70, "ppc_account_name": ""}])
    source.add("202_aff_campaigns", [{"aff_campaign_id": 10, "user_id": 1, "aff_network_id": 30}])
    source.add("202_clicks_advance", [{"click_id": 2, "text_ad_id": 5, "ip_id": 1, "country_id": 1}])
    source.add_clicks(
        {"click_id": 1, "aff_campaign_id": 0, "click_time": BASE + 5},
        {"click_id": 2, "ppc_account_id": 7, "landing_page_id": 4, "click_cpc": "12.34567", "click_time": BASE},
        {"click_id": 3, "click_bot": 1, "click_filtered": 1, "click_time": BASE + 5},
        {"click_id": 2**63 - 1, "user_id": 16_777_215, "click_cpc": "-99.99999", "click_time": BASE + 9},
    )
    source.add_conversions(
        {"conv_id": 5, "click_id": 2, "click_payout": "123456.78901", "transaction_id": " t-1 "},
        {"conv_id": 6, "click_id": 3, "click_payout": "-0.00001", "deleted": 1, "campaign_id": 11},
    )
    succeed("import", "--from", source.url, env=target.env)
    base = {"user_id": 1, "campaign_id": 10}
    assert {each.pop("click_id"): each for each in values(target, "clicks")} == {
        1: base | {"campaign_id": 0, "click_time": BASE + 5},
        2: base
        | {"click_time": BASE, "click_cpc": 12.34567, "ppc_account_id": 7, "ppc_network_id": 70, "landing_page_id": 4}
        | {"text_ad_id": 5, "aff_network_id": 30},
        3: base | {"click_time": BASE + 5, "aff_network_id": 30, "click_bot": 1, "click_filtered": 1},
        2**63 - 1: base | {"user_id": 16_777_215, "click_time": BASE + 9, "click_cpc": -99.99999, "aff_network_id": 30},
    }
    base |= {"click_time": BASE, "conv_time": BASE + 3600}
    assert {each.pop("conv_id"): each for each in values(target, "conversions")} == {
        5: base | {"click_id": 2, "click_payout": 123456.78901, "transaction_id": "t-1", "aff_network_id": 30},
        6: base | {"click_id": 3, "campaign_id": 11, "click_payout": -0.00001, "deleted": 1},
    }
    for topic in ("clicks", "conversions"):
        for record in target.read(topic):
            event = json.loads(record.value)
            assert record.key == record_key(event["user_id"], event["campaign_id"])
            assert record.partition == partition_of(event["user_id"], event["campaign_id"], 3)


def test_rows_that_no_event_can_hold_are_counted_and_named_and_are_no_failure(
    source: Prosper202, target: Installation
) -> None:
    source.execute("ALTER TABLE `202_clicks` MODIFY click_cpc decimal(12,7) NOT NULL")
    source.add_clicks(
        {"click_id": 0},
        {"click_id": 1, "user_id": 0},
        {"click_id": 2, "click_cpc": "0.1234567"},
        {"click_id": 3, "click_cpc": "100"},
        *({"click_id": 2**63 + number} for number in range(7)),
        {"click_id": 9, "click_cpc": "0.1234500"},
    )
    source.add_conversions(
        {"conv_id": 0},
        {"conv_id": 1, "campaign_id": 0},
        {"conv_id": 2, "click_id": 0},
        {"conv_id": 3, "conv_time": -1},
        {"conv_id": 4, "transaction_id": "a\0b"},
        {"conv_id": 9},
    )
    done = cli("import", "--from", source.url, env=target.env)
    assert done.returncode == 0
    assert sent(target) == ([9], [9])
    lines = done.stderr.splitlines()
    assert 'refused: row of 202_clicks with click_id 2: too_many_decimals: field "click_cpc"' in done.stderr
    assert "refused: row of 202_conversion_logs with conv_id 4: bad_text" in done.stderr
    assert sum("out_of_range" in line for line in lines) == 5, "the first few of each reason"
    assert done.stdout.splitlines()[0].startswith(f"{source.address}: 1 clicks and 1 conversions sent")
    assert "16 rows refused, by reason:" in done.stdout
    assert "beyond the range of its SQL column): 14" in done.stdout


def test_both_ends_of_the_range_count_and_each_range_has_a_place_of_its_own(
    source: Prosper202, target: Installation
) -> None:
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 10)))
    source.add_conversions(*({"conv_id": number, "conv_time": BASE + number} for number in range(1, 10)))
    within = ("--since", str(BASE + 3), "--until", "2026-09-21T14:13:25Z")
    succeed("import", "--from", source.url, *within, env=target.env)
    assert sent(target) == ([3, 4, 5], [3, 4, 5])
    succeed("import", "--from", source.url, "--since", str(BASE + 8), env=target.env)
    assert sent(target) == ([3, 4, 5, 8, 9], [3, 4, 5, 8, 9])
    names = [name for name, _ in query(target.database_url, PLACES)]
    assert sorted(names) == [f"{source.address} {BASE + 3}..{BASE + 5}", f"{source.address} {BASE + 8}..4294967295"]


def test_a_dry_run_tells_counts_and_times_and_sends_and_notes_nothing(source: Prosper202, target: Installation) -> None:
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 10)), {"click_id": 4})
    source.add_conversions({"conv_id": 1, "conv_time": BASE + 20}, {"conv_id": 0})
    env = {**target.env, "TOUCHSTREAM_KAFKA": f"127.0.0.1:{free_port()}"}  # needs no broker
    done = cli("import", "--from", source.url, "--dry-run", env=env)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{source.address}: 9 clicks and 1 conversions would be sent, 2026-09-21T14:13:21Z to 2026-09-21T14:13:40Z",
        "1 rows refused, by reason:",
        "  out_of_range (a number or text is beyond the range of its SQL column): 1",
        "1 further rows of clicks that have several were left out",
    ]
    told = json.loads(succeed("import", "--from", source.url, "--dry-run", "--json", env=env))
    assert (told["ok"], told["dry_run"], told["clicks"], told["conversions"]) == (True, True, 9, 1)
    assert (told["refused"], told["doubles"], told["last"]) == ({"out_of_range": 1}, 1, BASE + 20)
    assert sent(target) == ([], [])
    assert query(target.database_url, PLACES) == []


def test_repeated_after_its_end_it_sends_what_is_new_and_what_was_committed_late(
    source: Prosper202, target: Installation
) -> None:
    source.add_clicks(*({"click_id": number} for number in (1, 2, 4)))
    source.add_conversions({"conv_id": 1}, {"conv_id": 3})
    succeed("import", "--from", source.url, env=target.env)
    with target.worker() as worker:
        worker.wait_ready()
        succeed("status", "--wait-drained", "60", env=target.env)
    said = succeed("import", "--from", source.url, env=target.env)
    assert f"{source.address}: 0 clicks and 0 conversions sent\n" == said
    source.add_clicks({"click_id": 3}, {"click_id": 5})
    source.add_conversions({"conv_id": 2}, {"conv_id": 4})
    succeed("import", "--from", source.url, env=target.env)
    assert sent(target) == ([1, 2, 3, 4, 5], [1, 2, 3, 4])
    succeed("import", "--from", source.url, "--again", env=target.env)
    assert sent(target)[0] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_another_installation_behind_the_same_address_is_not_taken_for_the_first(
    source: Prosper202, target: Installation
) -> None:
    source.add_clicks(*({"click_id": number} for number in range(1, 1501)))
    source.add_conversions({"conv_id": 1})
    succeed("import", "--from", source.url, env=target.env)
    source.execute("DELETE FROM `202_clicks` WHERE click_id > 1200")
    refused = cli("import", "--from", source.url, env=target.env)
    assert refused.returncode == 1
    assert "clicks were read up to id 1500, and the greatest is 1200 now" in refused.stderr
    assert "--again" in refused.stderr
    assert len(sent(target)[0]) == 1500
    succeed("import", "--from", source.url, "--again", env=target.env)
    assert len(sent(target)[0]) == 1500 + 1200
    succeed("import", "--from", source.url, env=target.env)


# What goes wrong


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--from", f"postgresql://u:{PASSWORD}@127.0.0.1/x"), "not the URL of a MySQL or MariaDB database"),
        (("--from", f"nothing {PASSWORD}"), "not the URL of a database"),
        (("--from", f"mysql://u:{PASSWORD}@127.0.0.1:x/y"), "not the URL of a database"),
        (("--from", f"mysql://u:{PASSWORD}@127.0.0.1"), "names no database"),
        (("--from", "mysql+pymysql://127.0.0.1/x"), "not the URL of a MySQL"),
        (("--from", "mysql://127.0.0.1/x", "--since", "5", "--until", "4"), "is after --until"),
        (("--from", "mysql://127.0.0.1/x", "--batch-size", "0"), "--batch-size"),
        (("--from", "mysql://127.0.0.1/x", "--since", "soon"), "ISO 8601"),
        (("--from", "mysql://127.0.0.1/x", "--follow", "--dry-run"), "give one of them"),
        ((), "--from"),
    ],
)
def test_wrong_usage_is_refused_with_the_reason(
    options: tuple[str, ...], reason: str, sqlite_env: dict[str, str]
) -> None:
    done = cli("import", *options, env=sqlite_env)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize(
    ("change", "grants", "reason", "remedy"),
    [
        ("", [], "Access denied for user", "check user, password and database of --from"),
        ("", ["SELECT ON {}.`202_clicks`"], "table 202_conversion_logs", "GRANT SELECT"),
        (
            "",
            ["SELECT ON {}.`202_clicks`", "SELECT ON {}.`202_conversion_logs`"],
            "table 202_clicks_advance",
            "GRANT SELECT",
        ),
        (
            "DROP TABLE `202_conversion_logs`",
            ["SELECT ON {}.*"],
            "has no table 202_conversion_logs",
            "does --from name",
        ),
        (
            "ALTER TABLE `202_conversion_logs` DROP COLUMN deleted",
            ["SELECT ON {}.*"],
            "table 202_conversion_logs of {} has no column deleted",
            "upgrade",
        ),
        (
            "ALTER TABLE `202_clicks` DROP COLUMN click_bot, DROP COLUMN click_filtered",
            ["SELECT ON {}.*"],
            "table 202_clicks of {} has no column click_filtered, click_bot",
            "upgrade",
        ),
        (
            "ALTER TABLE `202_clicks` DROP KEY user_click_time",
            ["SELECT ON {}.*"],
            "no key on (user_id, click_time)",
            "ALTER TABLE `202_clicks` ADD KEY",
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_the_remedy(
    *, change: str, grants: list[str], reason: str, remedy: str, source: Prosper202, sqlite_env: dict[str, str]
) -> None:
    if change:
        source.execute(change)
    with reader(source, grants) as url:
        done = cli("import", "--from", url, env=sqlite_env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert reason.replace("{}", source.address) in done.stderr
    assert remedy in done.stderr.partition("hint: ")[2]


def test_a_source_that_is_away_or_knows_no_such_user_is_named_without_its_password(
    source: Prosper202, sqlite_env: dict[str, str]
) -> None:
    port = free_port()
    done = cli("import", "--from", f"mysql://touchstream:{PASSWORD}@127.0.0.1:{port}/x", env=sqlite_env)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: source 127.0.0.1:{port}/x did not answer" in done.stderr
    assert "hint: is the server of --from running" in done.stderr
    wrong = cli("import", "--from", source.url_for("touchstream", PASSWORD), env=sqlite_env)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Access denied for user 'touchstream'" in wrong.stderr
    assert "hint: check user, password and database of --from" in wrong.stderr
    for text in (done.stderr, wrong.stderr):
        assert PASSWORD not in text
        assert "p@ss:w0rd-7" not in text


def test_tables_without_which_a_click_is_still_a_click_may_be_absent(source: Prosper202, target: Installation) -> None:
    source.execute("DROP TABLE `202_clicks_advance`, `202_ppc_accounts`, `202_aff_campaigns`")
    source.add_clicks({"click_id": 1})
    with reader(source, ["SELECT ON {}.*"], password="p@ss:w0rd-7") as url:
        said = succeed("import", "--from", url.replace("p@ss:w0rd-7", PASSWORD), env=target.env)
    assert sent(target) == ([1], [])
    stored = str(query(target.database_url, PLACES))
    assert source.address in stored
    for text in (said, stored):
        assert "w0rd" not in text
        assert "reader_" not in text


def test_our_own_database_is_no_source_while_we_write_its_conversion_logs(
    mariadb_url: str, sqlite_env: dict[str, str]
) -> None:
    own = mariadb_url.replace("mysql+asyncmy", "mysql").partition("?")[0]
    done = cli("import", "--from", own, env={**sqlite_env, "TOUCHSTREAM_DATABASE_URL": mariadb_url})
    assert done.returncode == 2
    assert "TOUCHSTREAM_CONVERSION_LOGS=installed" in done.stderr


def test_our_own_database_is_known_by_another_address_too(source: Prosper202, target: Installation) -> None:
    own = source.url.replace("mysql:", "mysql+asyncmy:") + "?charset=utf8mb4"
    env = {**target.env, "TOUCHSTREAM_DATABASE_URL": own}
    done = cli("import", "--from", source.url.replace("127.0.0.1", "localhost"), env=env)
    assert done.returncode == 2
    assert "TOUCHSTREAM_CONVERSION_LOGS=installed" in done.stderr


def test_a_broker_or_a_topic_that_is_missing_is_named(
    source: Prosper202, kafka: str, sqlite_env: dict[str, str]
) -> None:
    source.add_clicks({"click_id": 1})
    away = cli("import", "--from", source.url, env=sqlite_env)
    assert away.returncode == 1
    assert "Kafka at 127.0.0.1:1 did not answer" in away.stderr
    without = cli("import", "--from", source.url, env={**sqlite_env, "TOUCHSTREAM_KAFKA": kafka})
    assert without.returncode == 1
    assert "topics apply" in without.stderr


def test_names_of_places_tell_ranges_apart_and_fit_their_column() -> None:
    assert place_name("host:3306/db", Range()) == "host:3306/db"
    long = "h" * 180 + ":3306/db"
    names = {place_name(long, Range(since=since)) for since in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 190 for name in names)
