"""Kafka as one KRaft node: its jars come from Maven by dev/pom.xml, its main classes are run with Java."""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.server import CannotRun, Instance

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
JARS = HERE / "jars"
JAVA_AT_LEAST = 17
MEBI = 1024 * 1024

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # Topics are made by `topics apply`; one made by accident has one partition and the wrong retention, for ever.
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "0",
    # How long a killed broker's registration stands in the way of its successor; 9 s is meant for networks.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    "log.retention.check.interval.ms": "10000",
    # The cleaner's buffer lies on the heap: the default of 128 MiB is a quarter of ours.
    "log.cleaner.dedupe.buffer.size": str(16 * MEBI),
    "message.max.bytes": str(8 * MEBI),
    "replica.fetch.max.bytes": str(8 * MEBI),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
}


def java() -> str:
    home = os.environ.get("JAVA_HOME", "")
    program = shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")
    remedy = "install it with: apt-get install -y default-jre-headless"
    if program is None:
        raise CannotRun(f"Java {JAVA_AT_LEAST} or later is missing; {remedy}")
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < JAVA_AT_LEAST:
        raise CannotRun(f"{program} is not Java {JAVA_AT_LEAST} or later; {remedy}")
    return program


def resolve_jars() -> None:
    """Let Maven lay the broker's jars into dev/jars, unless those of this pom.xml are there."""
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()
    stamp = JARS / ".resolved"
    with (HERE / ".jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
            return
        maven = shutil.which("mvn")
        if maven is None:
            raise CannotRun("Maven is missing, it fetches the broker; install it with: apt-get install -y maven")
        shutil.rmtree(JARS, ignore_errors=True)
        command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
        # Maven reports on STDOUT, which belongs to whoever reads our answer.
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode != 0:
            raise CannotRun(
                f"Maven could not fetch the broker's jars; its words are above, its command: {' '.join(command)}"
            )
        stamp.write_text(wanted, encoding="ascii")


def fetch() -> int:
    try:
        java()
        resolve_jars()
    except CannotRun as error:
        print(f"dev/kafka: {error}", file=sys.stderr)
        return 1
    print(f"the broker's jars are in {JARS}")
    return 0


class Broker:
    name = "kafka"
    default_port = 9092
    other_ports: Sequence[str] = ("controller",)

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        resolve_jars()
        client, controller = instance.ports["client"], instance.ports["controller"]
        properties = PROPERTIES | {
            "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{client}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(data / "log"),
        }
        lines = [f"{name}={value}" for name, value in properties.items()]
        (data / "server.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if not (data / "log" / "meta.properties").exists():
            self._format(data)
        return {}

    def _format(self, data: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        # Kafka's option parser takes an id that begins with a dash for an option.
        cluster = "T" + cluster[1:]
        command = [*self._java(data), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties"]
        command += self.format_options()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=data, check=False)
        if done.returncode != 0:
            raise CannotRun(f"Kafka could not format {data}:\n{done.stdout}{done.stderr}")

    def format_options(self) -> Sequence[str]:
        """For a broker with accounts, which its first start needs already."""
        return ()

    def _java(self, data: Path) -> list[str]:
        return [
            java(),
            "-Xmx512m",
            "-XX:+UseSerialGC",  # the smallest one; the tests share two cores with it
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile=file://{HERE / 'log4j2.xml'}",
            f"-Djava.io.tmpdir={data}",
            "-cp",
            f"{JARS}/*",
        ]

    def command(self, instance: Instance, data: Path) -> Sequence[str]:
        return [*self._java(data), "kafka.Kafka", "server.properties"]

    def accepts(self, instance: Instance, data: Path) -> bool:
        """A Metadata request (version 1, no topics) is answered with at least one broker."""
        body = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
        try:
            with socket.create_connection(("127.0.0.1", instance.ports["client"]), timeout=2) as connection:
                connection.sendall(struct.pack(">i", len(body)) + body)
                answer = connection.recv(12, socket.MSG_WAITALL)
        except OSError:
            return False
        if len(answer) < 12:
            return False
        _, _, brokers = struct.unpack(">iii", answer)
        return bool(brokers > 0)

    def setting(self, instance: Instance) -> str:
        return f"TOUCHSTREAM_KAFKA={instance.address}"
