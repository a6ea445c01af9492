"""A broker with one more listener, which tells its clients the address of a proxy: `python -m ... PROXY_PORT start`."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dev.broker import Broker
from dev.server import ROOT, STATE_FILE, Instance, free_port, run
from tests.faults.matrix.proxy import Proxy, proxied


class ProxiedBroker(Broker):
    """Clients that come by the listener "proxied" are sent on to 127.0.0.1:PROXY_PORT."""

    other_ports: Sequence[str] = ("controller", "proxied")

    def __init__(self, proxy_port: int) -> None:
        self._proxy_port = proxy_port

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        extra = super().prepare(instance, data)
        path = data / "server.properties"
        found = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
        found["listeners"] += f",PROXIED://127.0.0.1:{instance.ports['proxied']}"
        found["advertised.listeners"] += f",PROXIED://127.0.0.1:{self._proxy_port}"
        found["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
        path.write_text("".join(f"{name}={value}\n" for name, value in found.items()), encoding="utf-8")
        return extra


@contextlib.contextmanager
def running_proxied() -> Iterator[tuple[int, Proxy]]:
    """Port of the plain listener, and the proxy of the other one."""
    folder = Path(tempfile.mkdtemp(prefix="touchstream-"))
    # The proxy has its port before the broker is there to be reached.
    with proxied(0) as proxy:
        data = ("--data", str(folder / "kafka"))
        try:
            _act(proxy, "start", "--port", str(free_port()), *data)
            ports = json.loads((folder / "kafka" / STATE_FILE).read_text(encoding="utf-8"))["ports"]
            proxy.target = ports["proxied"]
            yield ports["client"], proxy
        finally:
            _act(proxy, "wipe", *data)
            shutil.rmtree(folder, ignore_errors=True)


def _act(proxy: Proxy, *arguments: str) -> None:
    """In a process of its own, as `dev/kafka` does it: the server must not be a child of the run."""
    command = [sys.executable, "-m", "tests.faults.matrix.proxied_broker", str(proxy.port), *arguments]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


if __name__ == "__main__":
    sys.exit(run(ProxiedBroker(int(sys.argv[1])), sys.argv[2:]))
