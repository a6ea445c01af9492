"""dev/kafka, dev/mariadb and dev/memcached, as a person and a script use them."""

import json
import signal
import socket
from pathlib import Path

import pytest

from dev.server import free_port
from tests.support.servers import RunningServer, dev, run_sql, running

PARTS = ["kafka", "mariadb", "memcached"]


@pytest.fixture(params=PARTS)
def server(request: pytest.FixtureRequest) -> RunningServer:
    """One running server of each part in turn, started by a captured command, which must not hang."""
    started = request.getfixturevalue(f"own_{request.param}")
    assert isinstance(started, RunningServer)
    return started


def accepts(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_part_lives_through_start_status_stop_and_wipe(server: RunningServer) -> None:
    data = ("--data", str(server.data))

    again = dev(server.part, "start", *data)
    assert (again.returncode, "already running" in again.stdout) == (0, True)
    assert again.stdout.splitlines()[-1].startswith("TOUCHSTREAM_")
    assert str(server.port) in again.stdout.splitlines()[-1]

    status = dev(server.part, "status", *data)
    assert status.returncode == 0
    assert accepts(server.port)

    other_port = dev(server.part, "start", *data, "--port", str(free_port()))
    assert (other_port.returncode, "already running" in other_port.stderr) == (1, True)

    assert dev(server.part, "stop", *data).returncode == 0
    assert dev(server.part, "status", *data).returncode == 1
    assert not accepts(server.port)
    assert dev(server.part, "stop", *data).returncode == 0, "stopping what is stopped is no error"

    restarted = json.loads(dev(server.part, "start", *data, "--json").stdout)
    assert restarted["port"] == server.port, "a folder keeps its port"

    assert dev(server.part, "wipe", *data).returncode == 0
    assert not server.data.exists()
    assert not accepts(server.port)
    assert dev(server.part, "wipe", *data).returncode == 0


def test_a_part_that_was_killed_or_frozen_can_be_started_and_stopped_again(server: RunningServer) -> None:
    server.signal(signal.SIGKILL)
    server.start()
    assert accepts(server.port)
    server.signal(signal.SIGSTOP)
    server.stop()
    assert not accepts(server.port)


@pytest.mark.parametrize("part", PARTS)
def test_two_servers_of_a_part_run_side_by_side_on_ports_of_their_own(part: str, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    try:
        found = [json.loads(dev(part, "start", "--data", str(folder), "--json").stdout) for folder in folders]
        assert found[0]["port"] != found[1]["port"]
        assert all(accepts(each["port"]) for each in found)
    finally:
        ends = [dev(part, "wipe", "--data", str(folder)).returncode for folder in folders]
    assert ends == [0, 0]


def test_a_port_that_is_taken_is_refused_by_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = dev("memcached", "start", "--data", str(tmp_path / "cache"), "--port", str(port))
    assert (done.returncode, f"port {port} is taken" in done.stderr) == (1, True)


def test_a_folder_of_something_else_is_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    for action in ("start", "wipe"):
        assert dev("memcached", action, "--data", str(tmp_path)).returncode == 1
    assert (tmp_path / "letter.txt").exists()


def test_the_database_allows_its_user_any_database_of_its_prefix() -> None:
    with running("mariadb") as server:
        assert run_sql(server.value, "CREATE DATABASE touchstream_own; SHOW DATABASES LIKE 'touchstream%'").split() == [
            "touchstream",
            "touchstream_own",
        ]
        assert run_sql(server.value, "SELECT @@innodb_flush_log_at_trx_commit").strip() == "1"


def test_a_missing_program_is_named_with_the_way_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    missing = {part: dev(part, "start", "--data", str(tmp_path / part)) for part in ("kafka", "memcached")}
    assert {part: done.returncode for part, done in missing.items()} == {"kafka": 1, "memcached": 1}
    assert "apt-get install -y default-jre-headless" in missing["kafka"].stderr
    assert "apt-get install -y memcached" in missing["memcached"].stderr
    assert list(empty.iterdir()) == []
