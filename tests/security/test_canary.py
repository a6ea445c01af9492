"""Passwords are looked for in all that is said, logged and stored, where all is well and where nobody answers."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import pymysql
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from click.testing import CliRunner

from stream.__main__ import COMMANDS, quiet_libraries
from stream.__main__ import cli as root
from stream.config import Settings
from tests.security.conftest import EnvironmentOf, Ports
from tests.support.processes import Environment, Worker, cli, free_port, remove_topics, succeed, wait_for
from tests.support.secured import PASSWORD, Authority

CANARY = "c4nary-t0ken"
CLICK = {"click_id": 1, "user_id": 1, "campaign_id": 10, "click_time": 1_790_000_000}
CONVERSION = CLICK | {"conv_id": 1, "conv_time": 1_790_000_100, "click_payout": 5}
RANGE = ("--start", "1790000000", "--end", "1790003600")

# A call of each command that makes it reach out; {file} is an event.
CALLS: Mapping[str, tuple[str, ...]] = {
    "topics": ("check",),
    "db": ("check",),
    "ingest": ("--clicks", "{file}"),
    "import": (),
    "status": ("--json",),
    "explain": ("1",),
    "models": ("list", "--user", "1"),
    "settings": ("list", "--user", "1"),
    "rebuild": RANGE,
    "replay": RANGE,
    "backfill": ("--verify", *RANGE),
    "purge": ("--conversion", "1"),
    "dead-letters": ("list",),
    "progress": ("show",),
    "doctor": ("--json",),
    "demo": ("--kafka", "127.0.0.1:1"),
}


def all_secret(at: str, authority: Authority) -> Environment:
    """Settings with the canary wherever a secret may stand, for servers at an address where nobody answers."""
    settings = {
        "KAFKA": at,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "me",
        "KAFKA_SASL_PASSWORD": CANARY,
        "KAFKA_SSL_CAFILE": str(authority.file),
        "DATABASE_URL": f"mysql+asyncmy://me:{CANARY}@{at}/touchstream?charset=utf8mb4",
        "IMPORT_FROM": f"mysql://me:{CANARY}@{at}/prosper202",
    }
    return {f"TOUCHSTREAM_{name}": value for name, value in settings.items()}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Said":
    monkeypatch.chdir(tmp_path)
    for module in ("rebuild", "purge", "replay"):
        monkeypatch.setattr(f"stream.commands.{module}._PATIENCE_S", 0.0)
    caplog.set_level(logging.DEBUG)
    quiet_libraries()
    return Said(caplog)


class Said:
    """Runs commands in this process, with all that is logged at any level."""

    def __init__(self, logged: pytest.LogCaptureFixture) -> None:
        self._logged = logged

    def all_of(self, arguments: list[str], env: Environment) -> str:
        """STDOUT, STDERR, the log, and what a traceback of its error would hold."""
        done = CliRunner().invoke(root, arguments, env=env)
        assert done.exit_code != 0, "somebody answered"
        trace = "".join(traceback.format_exception(done.exception)) if done.exception else ""
        return f"{done.output}{done.stderr}{self._logged.text}{trace}"


def test_each_command_is_looked_at() -> None:
    assert set(CALLS) == set(COMMANDS) - {"worker"}, "workers are looked at below"


@pytest.mark.parametrize("command", sorted(CALLS))
def test_a_command_to_which_nobody_answers_tells_no_secret(
    command: str, said: Said, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "event"
    file.write_text(json.dumps(CLICK), encoding="utf-8")
    arguments = [command, *(part.replace("{file}", str(file)) for part in CALLS[command])]
    told = said.all_of(arguments, all_secret("127.0.0.1:1", authority))
    assert CANARY not in told
    assert told.strip()


@pytest.mark.parametrize("command", ["db", "import", "doctor"])
def test_nor_does_one_whose_servers_have_no_address(command: str, said: Said, authority: Authority) -> None:
    told = said.all_of([command, *CALLS[command]], all_secret("no-such-host.invalid:1", authority))
    assert CANARY not in told
    assert "no-such-host" in told


def test_nor_does_a_source_given_as_an_option(said: Said, authority: Authority) -> None:
    for url in (f"mysql://me:{CANARY}@127.0.0.1:1/p", f"mysql:/me:{CANARY}@h/p", f"mysql://me:{CANARY}@h/p?x={CANARY}"):
        assert CANARY not in said.all_of(["import", "--from", url], all_secret("127.0.0.1:1", authority))


def test_a_library_at_debug_level_does_not_log_what_it_logs_in_with(
    said: Said, authority: Authority, secured_kafka: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    env = all_secret(f"127.0.0.1:{secured_kafka['plain']}", authority)
    assert "refuses the user" in said.all_of(["topics", "check"], env)
    assert CANARY not in caplog.text


def test_settings_show_no_secret(authority: Authority) -> None:
    assert CANARY not in repr(Settings.from_env(all_secret("h:1", authority)))


def test_a_worker_that_waits_tells_no_secret(authority: Authority, tmp_path: Path) -> None:
    health = f"127.0.0.1:{free_port()}"
    own = {"TOUCHSTREAM_HEALTH": health, "TOUCHSTREAM_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path)}
    with Worker(runnable(all_secret("127.0.0.1:1", authority) | own)) as worker:
        wait_for(lambda: "no broker answers" in worker.health("/readyz")[1], "the reason in /readyz")
        pages = [worker.health(page)[1] for page in ("/readyz", "/healthz", "/metrics", "/")]
        assert worker.stop() == 0
        assert CANARY not in "".join([*pages, worker.log_text()])


def runnable(env: Environment) -> Environment:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **env}


def test_all_goes_over_tls_and_passwords_and_nothing_tells_or_stores_them(
    secured: EnvironmentOf, secured_kafka: Ports, database_url: str, tmp_path: Path
) -> None:
    """Broker, database and source have one password here."""
    env = secured("scram", database_url)
    (tmp_path / "clicks").write_text(json.dumps(CLICK) + "\nno event\n", encoding="utf-8")
    (tmp_path / "conversions").write_text(json.dumps(CONVERSION), encoding="utf-8")
    with command_lines() as lines, contextlib.ExitStack() as stack:
        stack.callback(lambda: remove(env, secured_kafka))
        told = [succeed("db", "upgrade", env=env), succeed("topics", "apply", env=env)]
        worker = stack.enter_context(Worker(env)).wait_ready()
        files = ("--clicks", tmp_path / "clicks", "--conversions", tmp_path / "conversions")
        told.append(succeed("ingest", *files, env=env))
        told.append(succeed("status", "--wait-drained", "60", "--json", env=env))
        explained = succeed("explain", "1", env=env)
        assert "outcome:        counted" in explained
        told += [explained, succeed("rebuild", "--user", "1", "--force", *RANGE, env=env)]
        told.append(succeed("replay", "--user", "1", "--workers", "2", *RANGE, env=env))
        told.append(succeed("dead-letters", "list", "--json", env=env))
        told.append(cli("doctor", "--json", env=env).stdout)
        done = cli("import", env=env | from_itself(database_url))
        told += [done.stdout, done.stderr, worker.health("/readyz")[1], worker.health("/metrics")[1]]
        assert done.returncode == 0, done
        assert worker.stop() == 0
        told.append(worker.log_text())
        records = asyncio.run(all_records(env, f"127.0.0.1:{secured_kafka['client']}"))
    assert any("stream worker" in line for line in lines)
    assert b"no event" in records["clicks-dead-letters"], "the dead letter of what was no event"
    assert records["journeys-state-changelog"]
    assert records["journeys"]
    for content in records.values():
        assert PASSWORD.encode() not in content
        assert quote(PASSWORD, safe="").encode() not in content
    stored = all_rows(database_url)
    assert "prosper" not in stored
    assert "127.0.0.1" in stored, "the address of the source"
    for text in (*told, *lines, stored):
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text


def remove(env: Environment, kafka: Ports) -> None:
    asyncio.run(remove_topics(env | {"TOUCHSTREAM_KAFKA": f"127.0.0.1:{kafka['client']}"}))


def from_itself(database_url: str) -> Environment:
    """As if our database were an installation's."""
    return {
        "TOUCHSTREAM_IMPORT_FROM": database_url.replace("mysql+asyncmy", "mysql"),
        "TOUCHSTREAM_CONVERSION_LOGS": "installed",
    }


async def all_records(env: Environment, kafka: str) -> dict[str, bytes]:
    """Keys, values and headers of all topics of the installation, dead letters and changelogs too, by short name."""
    prefixes = (env["TOUCHSTREAM_TOPIC_PREFIX"], f"{env['TOUCHSTREAM_APP_ID']}-")
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        names = {
            name: next(
                name.removeprefix(prefix) for prefix in sorted(prefixes, key=len)[::-1] if name.startswith(prefix)
            )
            for name in await consumer.topics()
            if name.startswith(prefixes)
        }
        await consumer._client.set_topics(names)
        places = [
            TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name) or ()
        ]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        found: dict[str, bytes] = dict.fromkeys(names.values(), b"")
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    headers = b"".join(name.encode() + (content or b"") for name, content in record.headers)
                    found[names[place.topic]] += (record.key or b"") + (record.value or b"") + headers
        return found
    finally:
        await consumer.stop()


@contextlib.contextmanager
def command_lines() -> Iterator[set[str]]:
    """Of the product's processes that run meanwhile and are seen, which all users of a machine may read."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    if "-m stream" in line:
                        seen.add(line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Of a server that takes a connection and hangs up five seconds later, without a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def keep() -> None:
            with server.accept()[0]:
                is_over.wait(5)

        is_over = threading.Event()
        thread = threading.Thread(target=keep)
        thread.start()
        yield int(server.getsockname()[1])
        is_over.set()
        thread.join()


def test_a_database_that_says_nothing_is_given_up(
    silent_port: int, said: Said, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tables.sql.upgrade.CONNECT_TIMEOUT_S", 0.2)
    told = said.all_of(["db", "check"], all_secret(f"127.0.0.1:{silent_port}", authority))
    assert "database did not answer within 0.2 s" in told
    assert CANARY not in told


def all_rows(url: str) -> str:
    """Of every table of the database."""
    with (
        pymysql.connect(
            host="127.0.0.1", port=urlsplit(url).port or 0, user="root", database="touchstream"
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SHOW FULL TABLES WHERE table_type = 'BASE TABLE'")
        found = []
        for name, _ in cursor.fetchall():
            cursor.execute(f"SELECT * FROM `{name}`")
            found.append(f"{name}: {cursor.fetchall()}")
        return "\n".join(found)
