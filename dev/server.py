"""Start, stop, status and wipe of one server in a folder of its own; what the three parts share.

A server is known by its data folder alone. The folder's `server.json` says on which ports it listens and which process
it is; that counts as running only if its id and its start time are those of the file.
"""

import argparse
import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
STATE_FILE = "server.json"

# Below the range that Linux gives to outgoing connections, so that no client takes a port between the look and the use.
FREE_PORTS = range(20_000, 32_000)
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.05


class CannotRun(Exception):
    """Something is missing or does not come up; the message says what a person has to do."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What `server.json` holds."""

    kind: str
    ports: Mapping[str, int]  # "client", and what else the server listens on
    pid: int = 0  # 0: stopped
    started: str = ""  # start time of the process as the system counts it: a reused id has another
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['client']}"


class Part(Protocol):
    """One kind of server."""

    name: str
    default_port: int
    other_ports: Sequence[str]  # listeners beside the client's

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        """Make what the server needs before its start, once; raises CannotRun. Returns what to remember."""

    def command(self, instance: Instance, data: Path) -> Sequence[str]: ...

    def accepts(self, instance: Instance, data: Path) -> bool:
        """True once a client is really served."""

    def setting(self, instance: Instance) -> str:
        """The line of an environment that points Touchstream to it."""


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(taken: Sequence[int] = ()) -> int:
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        if port not in taken and port_is_free(port):
            return port
    raise CannotRun(f"no free port between {FREE_PORTS.start} and {FREE_PORTS.stop}")


def start_time(pid: int) -> str:
    """When the process began, or '' if there is none (a zombie is none)."""
    try:
        # The second field is the name in brackets and may hold anything; the state is the first one after it.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() else _start_time_by_ps(pid)
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _start_time_by_ps(pid: int) -> str:
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def read_instance(data: Path) -> Instance | None:
    try:
        return Instance(**json.loads((data / STATE_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_instance(data: Path, instance: Instance) -> None:
    draft = data / (STATE_FILE + ".new")
    draft.write_text(json.dumps(asdict(instance), indent=1) + "\n", encoding="utf-8")
    draft.replace(data / STATE_FILE)


def is_running(instance: Instance | None) -> bool:
    return instance is not None and instance.pid > 0 and start_time(instance.pid) == instance.started != ""


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Two commands on one folder follow one another."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def log_file(part: Part, data: Path) -> Path:
    return data / f"{part.name}.log"


def choose_ports(part: Part, wanted: int | None, last: Instance | None) -> dict[str, int]:
    """The port asked for, else the last one of this folder, else the default, else any free one."""
    if wanted is not None and not port_is_free(wanted):
        raise CannotRun(f"port {wanted} is taken; give another --port, or none for a free one")
    last_ports = dict(last.ports) if last else {}
    candidates = [wanted] if wanted is not None else [last_ports.get("client", 0), part.default_port]
    client = next((port for port in candidates if port and port_is_free(port)), 0) or free_port()
    ports = {"client": client}
    for name in part.other_ports:
        before = last_ports.get(name, 0)
        keeps = before and before not in ports.values() and port_is_free(before)
        ports[name] = before if keeps else free_port(tuple(ports.values()))
    return ports


def start(part: Part, data: Path, port: int | None) -> tuple[Instance, bool]:
    """The running instance, and whether it was this call that started it."""
    last = read_instance(data)
    if last is not None and last.kind != part.name:
        raise CannotRun(f"{data} holds {last.kind}, not {part.name}; give another --data")
    if last is not None and is_running(last):
        if port not in {None, last.ports["client"]}:
            raise CannotRun(f"{part.name} of {data} is already running on port {last.ports['client']}; stop it first")
        return last, False
    if last is None and any(path.name != ".lock" for path in data.iterdir()):
        raise CannotRun(f"{data} is not empty and no data folder of {part.name}; give another --data")
    for attempt in range(3):
        try:
            return _start_once(part, data, choose_ports(part, port, last)), True
        except CannotRun:
            # Somebody may have taken a port that was free a moment ago; then, and only then, others are worth a try.
            found = read_instance(data)
            if attempt == 2 or found is None or all(map(port_is_free, found.ports.values())) or port is not None:
                raise
            last = None
    raise AssertionError("the last attempt returns or raises")


def _start_once(part: Part, data: Path, ports: Mapping[str, int]) -> Instance:
    instance = Instance(part.name, ports)
    write_instance(data, instance)
    instance = Instance(part.name, ports, extra=part.prepare(instance, data))
    write_instance(data, instance)
    with log_file(part, data).open("ab") as log:
        process = subprocess.Popen(
            part.command(instance, data),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=data,
            start_new_session=True,
            close_fds=True,
        )
    instance = Instance(part.name, ports, process.pid, start_time(process.pid), instance.extra)
    write_instance(data, instance)
    deadline = time.monotonic() + START_LIMIT_S
    while not part.accepts(instance, data):
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            stop(data)
            what = f"ended with {code}" if code is not None else f"took no connection within {START_LIMIT_S:.0f} s"
            raise CannotRun(f"{part.name} {what}; the end of {log_file(part, data)}:\n{_tail(log_file(part, data))}")
        time.sleep(POLL_S)
    return instance


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(data: Path) -> bool:
    """True if there was something to stop. Asks first, and kills what does not go."""
    instance = read_instance(data)
    if instance is None or not is_running(instance):
        return False
    _signal(instance, signal.SIGTERM)
    _signal(instance, signal.SIGCONT)  # one that a test has frozen could not hear the first signal
    if not _ends_within(instance, STOP_LIMIT_S):
        _signal(instance, signal.SIGKILL)
        if not _ends_within(instance, STOP_LIMIT_S):
            raise CannotRun(f"process {instance.pid} does not end")
    write_instance(data, Instance(instance.kind, instance.ports, extra=instance.extra))
    return True


def _signal(instance: Instance, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(instance.pid, number)


def _ends_within(instance: Instance, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(instance):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def wipe(part: Part, data: Path) -> None:
    instance = read_instance(data)
    if instance is None and any(path.name != ".lock" for path in data.iterdir()):
        raise CannotRun(f"{data} is not a data folder of {part.name}: nothing removed")
    if instance is not None and instance.kind != part.name:
        raise CannotRun(f"{data} holds {instance.kind}, not {part.name}: nothing removed")
    stop(data)
    for path in (instance.extra.get("remove", "") if instance else "").split():
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(data)


def describe(part: Part, instance: Instance | None, data: Path, note: str) -> str:
    if instance is None or not is_running(instance):
        return f"{part.name} is not running ({data})"
    where = f"{part.name} {note} {instance.address} (process {instance.pid}, data {data}, log {log_file(part, data)})"
    return f"{where}\n{part.setting(instance)}"


def as_json(part: Part, instance: Instance | None, data: Path) -> str:
    facts: dict[str, object] = {
        "name": part.name,
        "running": False,
        "data": str(data),
        "log": str(log_file(part, data)),
    }
    if instance is not None:
        name, _, value = part.setting(instance).partition("=")
        facts |= {"address": instance.address, "port": instance.ports["client"], "setting": name, "value": value}
        if is_running(instance):
            facts |= {"running": True, "pid": instance.pid}
    return json.dumps(facts)


def run(part: Part, arguments: Sequence[str] | None = None) -> int:
    """The command line of a part; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"dev/{part.name}", description=f"{part.name} on this machine")
    parser.add_argument("action", choices=["start", "stop", "status", "wipe"])
    parser.add_argument("--port", type=int, help=f"for clients; default {part.default_port}, or a free one if taken")
    parser.add_argument("--data", type=Path, help=f"folder for all it keeps; default var/{part.name}")
    parser.add_argument("--json", action="store_true", help="one line for machines")
    options = parser.parse_args(arguments)
    data = (options.data or ROOT / "var" / part.name).absolute()
    try:
        return _act(part, options.action, data, port=options.port, for_machines=options.json)
    except (CannotRun, OSError) as error:
        print(f"dev/{part.name}: {error}", file=sys.stderr)
        return 1


def _act(part: Part, action: str, data: Path, *, port: int | None, for_machines: bool) -> int:
    note = "is running at"
    code = 0
    if action == "status":
        instance = read_instance(data)
        code = 0 if is_running(instance) else 1
    elif action == "start":
        with locked(data):
            instance, is_new = start(part, data, port)
        note = "started at" if is_new else "was already running at"
    elif not data.exists():
        instance = None
    else:
        with locked(data):
            (stop(data) if action == "stop" else wipe(part, data))
        instance = read_instance(data)
    print(as_json(part, instance, data) if for_machines else describe(part, instance, data, note))
    return code
