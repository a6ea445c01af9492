"""Real servers for tests, started by the programs of dev/ in folders of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev.server import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 300  # the first start of a broker on a machine may fetch its jars


def dev(part: str, action: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `dev/PART ACTION`; its output is captured through pipes, so a server that kept one open would hang us."""
    command = [sys.executable, str(ROOT / "dev" / part), action, *options]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that a test may stop, kill and start again; its port stays."""

    part: str
    data: Path
    port: int

    def _act(self, action: str, *options: str) -> dict[str, object]:
        done = dev(self.part, action, "--data", str(self.data), "--json", *options)
        assert done.returncode == 0, f"dev/{self.part} {action} failed:\n{done.stdout}{done.stderr}"
        facts = json.loads(done.stdout)
        assert isinstance(facts, dict)
        return facts

    def start(self) -> None:
        self._act("start", "--port", str(self.port))

    def stop(self) -> None:
        self._act("stop")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def value(self) -> str:
        """What the setting of Touchstream takes: an address, or for the database its URL."""
        return str(self._act("status")["value"])

    def signal(self, number: signal.Signals) -> None:
        os.kill(int(str(self._act("status")["pid"])), number)


@contextlib.contextmanager
def running(part: str) -> Iterator[RunningServer]:
    """A new server of its own folder and port; wiped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="touchstream-"))
    folder.chmod(0o755)  # MariaDB's own account has to reach it
    server = RunningServer(part, folder / part, free_port())
    try:
        server.start()
        yield server
    finally:
        dev(part, "wipe", "--data", str(server.data))
        shutil.rmtree(folder, ignore_errors=True)


def run_sql(url: str, statement: str) -> str:
    """Run SQL with MariaDB's own client, so that a fixture needs neither event loop nor driver; returns its output."""
    port = url.rpartition("/")[0].rpartition(":")[2]
    login = ["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={port}"]
    account = ["--user=touchstream", "--password=touchstream"]
    done = subprocess.run(
        ["mariadb", *login, *account, "--batch", "--skip-column-names", f"--execute={statement}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{statement!r:.200}: {done.stderr}"
    return done.stdout
