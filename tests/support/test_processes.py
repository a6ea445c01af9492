"""Processes are started in a clean environment and leave nothing behind."""

import contextlib
import signal
from pathlib import Path

import pytest

from tests.support.processes import Worker, cli, environment, wait_for, with_own_port


def test_an_environment_holds_only_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTREAM_ALIGN", "0")
    env = environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=3, state_keys=100, TESTFAULT_TWICE=1)
    assert "TOUCHSTREAM_ALIGN" not in env
    assert env["TOUCHSTREAM_STATE_KEYS"] == "100"
    assert env["TOUCHSTREAM_PARTITIONS"] == "3"
    assert env["TESTFAULT_TWICE"] == "1"


def test_two_installations_share_no_names(tmp_path: Path) -> None:
    one, other = (environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=1) for _ in range(2))
    for name in ("TOUCHSTREAM_APP_ID", "TOUCHSTREAM_TOPIC_PREFIX", "TOUCHSTREAM_HEALTH"):
        assert one[name] != other[name]
    assert with_own_port(one)["TOUCHSTREAM_HEALTH"] != one["TOUCHSTREAM_HEALTH"]


def test_a_worker_that_ends_before_it_is_ready_fails_with_its_log(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=1)
    with pytest.raises(AssertionError, match="No module named"), Worker(env, module="no_such_worker") as worker:
        worker.wait_ready(seconds=30)
    assert not worker.is_running()


def test_a_worker_is_gone_after_the_block_whatever_happens(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=1)
    # Stands in for a worker: a module that runs until it is told to end.
    (tmp_path / "endless.py").write_text("import signal\nprint('runs', flush=True)\nsignal.pause()\n")
    worker = Worker(env, module="endless")
    with contextlib.suppress(RuntimeError), worker:
        wait_for(lambda: "runs" in worker.log_text(), "its first line")
        raise RuntimeError
    assert worker.wait_exit(seconds=0) == -signal.SIGKILL


def test_stopping_a_worker_gives_its_exit_code(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=1)
    (tmp_path / "polite.py").write_text(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nprint('runs', flush=True)\n"
        "while True:\n    signal.pause()\n"
    )
    with Worker(env, module="polite") as worker:
        wait_for(lambda: "runs" in worker.log_text(), "its first line")
        assert worker.stop() == 3
        worker.start()
        wait_for(lambda: worker.log_text().count("runs") == 2, "its first line again")


def test_a_command_is_run_to_its_end(tmp_path: Path) -> None:
    env = environment("127.0.0.1:1", "sqlite+aiosqlite:///x", tmp_path, partitions=1)
    assert cli("no-such-command", env=env).returncode == 2
