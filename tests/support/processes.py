"""The commands as a user runs them: as processes of their own, with nothing but the environment between us."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient

from tests.support.forking import run_to_end

ROOT = Path(__file__).resolve().parent.parent.parent
Environment = dict[str, str]

PRODUCT = "stream"
WITH_FAULTS = "tests.support.worker_with_faults"

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")


def environment(
    kafka: str, database_url: str, tmp_path: Path, *, partitions: int, **settings: str | int
) -> Environment:
    """A clean environment for one installation: own app id, topics, folder and port; `settings` are TOUCHSTREAM_ names
    in lower case without that prefix, or TESTFAULT_ names as they are (see `worker_with_faults`)."""
    name = f"t{uuid.uuid4().hex[:10]}"
    env = {name_: os.environ[name_] for name_ in _PASSED_ON if name_ in os.environ}
    env |= {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TOUCHSTREAM_KAFKA": kafka,
        "TOUCHSTREAM_DATABASE_URL": database_url,
        "TOUCHSTREAM_DATA_DIR": str(tmp_path / "data"),
        "TOUCHSTREAM_APP_ID": f"{name}-app",
        "TOUCHSTREAM_TOPIC_PREFIX": f"{name}-",
        "TOUCHSTREAM_PARTITIONS": str(partitions),
        "TOUCHSTREAM_HEALTH": f"127.0.0.1:{free_port()}",
    }
    for setting, value in settings.items():
        env[setting if setting.startswith("TESTFAULT_") else f"TOUCHSTREAM_{setting.upper()}"] = str(value)
    return env


def with_own_port(env: Mapping[str, str]) -> Environment:
    """The same environment for one more worker: only the health port differs."""
    return dict(env) | {"TOUCHSTREAM_HEALTH": f"127.0.0.1:{free_port()}"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def cli(
    *arguments: str | Path, env: Mapping[str, str], stdin: bytes | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python -m stream ...` to its end, in the folder of the installation (where no .env file lies)."""
    done = run_to_end(
        PRODUCT, [*map(str, arguments)], env=env, cwd=_working_folder(env), given=stdin or b"", timeout=timeout
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def succeed(*arguments: str | Path, env: Mapping[str, str], timeout: float = 120) -> str:
    """Run a command that must exit 0; returns its STDOUT."""
    done = cli(*arguments, env=env, timeout=timeout)
    assert done.returncode == 0, f"{arguments} exited {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Return once the condition holds; fail after the given time, and say what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class Worker:
    """One worker process; its output goes to `log`. Use as a context manager: whatever happens, it is gone at the end.

    `module` is the product itself, or the same worker with faults built in (`WITH_FAULTS`).
    """

    def __init__(self, env: Mapping[str, str], *, module: str = PRODUCT, name: str = "worker") -> None:
        self.env = dict(env)
        self.module = module
        self.log = _working_folder(env) / f"{name}-{uuid.uuid4().hex[:6]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- last lines of {self.log}\n{self.log_tail()}")  # noqa: T201 - pytest shows it with the failure
        self.kill()

    def start(self) -> Self:
        """Start it, or start it again after it ended; the log goes on."""
        assert not self.is_running(), "the worker runs already"
        arguments = ["worker"] if self.module == PRODUCT else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                env=self.env,
                cwd=_working_folder(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the worker was never started"
        return self._process

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def health(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the worker's own health server; status 0: nobody answers."""
        url = f"http://{self.env['TOUCHSTREAM_HEALTH']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self, *, seconds: float = 60) -> Self:
        """Return once /readyz says yes; fail at once if the process ends before."""

        def is_ready() -> bool:
            assert self.is_running(), f"worker exited {self.process.returncode}:\n{self.log_tail()}"
            return self.health("/readyz")[0] == 200

        wait_for(is_ready, f"/readyz of {self.module}, see {self.log}", seconds=seconds)
        return self

    def wait_exit(self, *, seconds: float = 60) -> int:
        """Exit code; negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"worker runs on after {seconds} s:\n{self.log_tail()}") from None

    def stop(self, *, seconds: float = 15) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait_exit(seconds=seconds)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, if it still runs. Also ends a process that SIGSTOP holds."""
        if self.is_running():
            self.process.kill()
            self.process.wait()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


async def remove_topics(env: Mapping[str, str]) -> None:
    """Delete the topics of one installation, so that a broker shared by many tests keeps its pace."""
    admin = AIOKafkaAdminClient(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    await admin.start()
    try:
        ours = (env["TOUCHSTREAM_TOPIC_PREFIX"], env["TOUCHSTREAM_APP_ID"])
        names = [name for name in await admin.list_topics() if name.startswith(ours)]
        if names:
            await admin.delete_topics(names)
    finally:
        await admin.close()


def _working_folder(env: Mapping[str, str]) -> Path:
    folder = Path(env["HOME"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder
