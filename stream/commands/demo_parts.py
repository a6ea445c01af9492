"""What the demo starts, and how all of it ends again: a broker, a worker, other commands."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from stream.config import PREFIX, Settings
from stream.core.errors import StreamError, Unavailable

ROOT = Path(__file__).resolve().parent.parent.parent
DEV_KAFKA = ROOT / "dev" / "kafka"

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0
_PAGE_LIMIT_S = 5.0
_POLL_S = 0.1
_ERROR_LINES = 12

Say = Callable[[str], None]  # tells a person how far it is
Environment = Mapping[str, str]


class DemoFailed(StreamError):
    """Something that the demo started did not do its part."""


def environment_of(settings: Settings) -> dict[str, str]:
    """Ours, with just those settings: the demo's processes take over none of the installation's."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}  # noqa: TID251 - handed on, not read
    names = [each.name for each in fields(settings) if each.name.startswith("kafka")]
    kafka = {PREFIX + name.upper(): str(getattr(settings, name)) for name in names}
    for name in (name for name in kafka if name.endswith("FILE") and kafka[name]):
        kafka[name] = str(Path(kafka[name]).absolute())  # they run in another folder
    ours = {
        "DATABASE_URL": settings.database_url,
        "DATA_DIR": str(settings.data_dir),
        "APP_ID": settings.app_id,
        "TOPIC_PREFIX": settings.topic_prefix,
        "PARTITIONS": str(settings.partitions),
        "LOOKBACK_DAYS": str(settings.lookback_days),
        "FIRE_INTERVAL_SECONDS": str(settings.fire_interval_seconds),
        "HEALTH": f"{settings.health.host}:{settings.health.port}",
    }
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH", "")]))
    return inherited | kafka | {PREFIX + name: text for name, text in ours.items()} | {"PYTHONPATH": path}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def broker(folder: Path, say: Say) -> Iterator[str]:
    """A fresh broker with its data in `folder`; yields its address, and stops it at the end."""
    if not DEV_KAFKA.is_file():
        raise DemoFailed(
            "this installation has no dev/kafka to start a broker with",
            hint="give the address of a broker: touchstream demo --kafka HOST:PORT",
        )
    say("starting a broker of its own; the very first time on a machine, its jars are fetched")
    dev_kafka("wipe", folder)  # of the last demo; its broker may still run if that one was killed
    is_started = False
    try:
        facts = dev_kafka("start", folder, "--port", str(free_port()))
        is_started = True
        say(f"the broker accepts connections at {facts['address']}")
        yield str(facts["address"])
    finally:
        with undisturbed():
            dev_kafka("stop", folder)
            if is_started:
                say("stopped the broker")


def dev_kafka(action: str, folder: Path, *options: str) -> Mapping[str, object]:
    """Run dev/kafka; raises DemoFailed with its own words."""
    arguments = [sys.executable, str(DEV_KAFKA), action, "--data", str(folder), "--json", *options]
    code, output, errors = run_to_end(arguments)
    if code != 0:
        words = errors.strip() or output.strip()
        raise DemoFailed(words, hint="with a broker of your own: python -m stream demo --kafka HOST:PORT")
    facts: dict[str, object] = json.loads(output)
    return facts


def run_to_end(
    arguments: Sequence[str],
    *,
    env: Environment | None = None,
    cwd: Path | None = None,
    tick: Callable[[], None] | None = None,
) -> tuple[int, str, str]:
    """Exit code, STDOUT and STDERR. `tick` is called each second; if it raises, the process and its children go."""
    process = subprocess.Popen(  # noqa: S603 - programs of ours
        arguments, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                output, errors = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                if tick is not None:
                    tick()
            else:
                return process.returncode, output, errors
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


class DemoWorker:
    """A worker process; its log goes to a file, and its numbers are read from its own health server."""

    def __init__(self, env: Environment, folder: Path) -> None:
        self.log = folder / "worker.log"
        # A session of its own: Ctrl-C is for the demo, which then stops the worker in its order.
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream", "worker"],
                env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.address = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_alive(self) -> None:
        """Raises DemoFailed, with the end of its log, if it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise DemoFailed(f"the worker ended with exit code {code}; the end of {self.log}:\n{self._tail()}")

    def wait_ready(self) -> None:
        """Until it has its partitions. Raises DemoFailed if that takes too long."""
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._is_ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"the worker was not ready in {_START_LIMIT_S:.0f} s; the end of its log:\n{self._tail()}"
                )
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        if not self.address:
            found = re.search(r"health at http://(\S+)/readyz", self.log.read_text(errors="replace"))
            if found is None:
                return False
            self.address = found[1]
        try:
            self._page("/readyz")
        except OSError:
            return False
        return True

    def numbers(self) -> "Numbers":
        """Its metrics. Raises Unavailable if it does not answer."""
        try:
            return Numbers(self._page("/metrics"))
        except OSError as error:
            self.check_alive()
            raise Unavailable(f"the worker's metrics at {self.address} did not answer: {error}") from error

    def _page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=_PAGE_LIMIT_S) as answer:
            text: str = answer.read().decode()
        return text

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_ERROR_LINES:])

    def stop(self) -> int:
        """SIGTERM, then patience, then SIGKILL. Returns the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


@contextlib.contextmanager
def worker(env: Environment, folder: Path, say: Say) -> Iterator[DemoWorker]:
    """A worker that has its partitions; stopped at the end."""
    started = DemoWorker(env, folder)
    try:
        started.wait_ready()
        say(f"a worker is ready (process {started.pid}, health at http://{started.address}/readyz)")
        yield started
    finally:
        with undisturbed():
            code = started.stop()
            is_orderly = code in {0, -signal.SIGTERM}  # the latter before it had come up
            say("stopped the worker" if is_orderly else f"the worker ended with {code}, see {started.log}")


class Numbers:
    """A page of metrics."""

    def __init__(self, page: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples that carry these labels."""
        return sum(value for _, value in self._found(name, labels))

    def greatest(self, name: str) -> float:
        return max((value for _, value in self._found(name, {})), default=0)

    def by_label(self, name: str, label: str) -> Mapping[str, float]:
        """Sums by the values of one label."""
        sums: dict[str, float] = {}
        for labels, value in self._found(name, {}):
            sums[labels[label]] = sums.get(labels[label], 0) + value
        return sums

    def _found(self, name: str, wanted: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], float]]:
        for sample in self._samples:
            if sample.name == f"touchstream_{name}" and wanted.items() <= sample.labels.items():
                yield sample.labels, sample.value


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo like Ctrl-C: through every `finally`."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # What nohup or a shell lets us ignore stays ignored.
    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    with _handled(heard, interrupt):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While things are stopped, a second Ctrl-C must not leave some of them running."""
    with _handled([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
