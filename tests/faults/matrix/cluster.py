"""Three brokers that are controllers, too, each topic on all of them: `python -m ... NODE PORT,PORT,PORT start`."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dev.broker import Broker
from dev.server import ROOT, CannotRun, Instance, free_port, read_instance, run

NODES = (1, 2, 3)
CLUSTER = "TouchstreamFaultsMatrix0"  # 16 bytes in Base64
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}


class Node(Broker):
    """One of the three; `controllers` are their ports, in order."""

    other_ports: Sequence[str] = ()

    def __init__(self, number: int, controllers: Sequence[int]) -> None:
        self._number = number
        self._controllers = controllers

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        own = self._controllers[self._number - 1]
        extra = super().prepare(Instance(instance.kind, {**instance.ports, "controller": own}), data)
        self._make_one_of_three(data)
        return extra

    def _make_one_of_three(self, data: Path) -> None:
        path = data / "server.properties"
        found = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in zip(NODES, self._controllers, strict=True))
        found |= REPLICATED | {"node.id": str(self._number), "controller.quorum.voters": voters}
        path.write_text("".join(f"{name}={value}\n" for name, value in found.items()), encoding="utf-8")

    def _format(self, data: Path) -> None:
        """All three with one id."""
        self._make_one_of_three(data)
        command = [*self._java(data), "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", "server.properties"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=data, check=False)
        if done.returncode != 0:
            raise CannotRun(f"Kafka could not format {data}:\n{done.stdout}{done.stderr}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Node by node, from 1 on."""

    folder: Path
    controllers: Sequence[int]
    clients: Sequence[int]

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.clients)

    def start(self, number: int) -> None:
        self._act(number, "start", "--port", str(self.clients[number - 1]))

    def start_all(self) -> None:
        """At once: one alone is no quorum."""
        with ThreadPoolExecutor(len(NODES)) as threads:
            list(threads.map(self.start, NODES))

    def kill(self, number: int) -> None:
        instance = read_instance(self._data(number))
        assert instance is not None
        os.kill(instance.pid, signal.SIGKILL)

    def wipe(self) -> None:
        for number in NODES:
            self._act(number, "wipe")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _data(self, number: int) -> Path:
        return self.folder / f"kafka-{number}"

    def _act(self, number: int, *arguments: str) -> None:
        """In a process of its own, as `dev/kafka` does it: the server must not be a child of the run."""
        ports = ",".join(map(str, self.controllers))
        module = (sys.executable, "-m", "tests.faults.matrix.cluster", str(number), ports)
        command = [*module, *arguments, "--data", str(self._data(number))]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    ports: list[int] = []
    while len(ports) < 2 * len(NODES):
        ports.append(free_port(tuple(ports)))
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="touchstream-")), ports[: len(NODES)], ports[len(NODES) :])
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.wipe()


if __name__ == "__main__":
    sys.exit(run(Node(int(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]), sys.argv[3:]))
