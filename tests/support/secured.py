"""Servers that want TLS and passwords, with certificates made for the test: a broker and a database."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.broker import Broker
from dev.database import Database
from dev.server import ROOT, STATE_FILE, Instance, Part, free_port, run

USER, PASSWORD = "tracker", "c0rrect=horse@battery"  # must be escaped in a URL
KAFKA_LISTENERS = ("tls", "scram", "plain")

_DAYS = "2"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, with a certificate of 127.0.0.1 that it signed; `pair` is key and certificate."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, name: str = "IP:127.0.0.1") -> "Authority":
        folder.mkdir(parents=True)
        new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")
        _run(folder, *new, "-x509", "-days", _DAYS, "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.pem")
        _run(
            folder, *new, "-subj", "/CN=server", "-addext", f"subjectAltName={name}", "-keyout", "key.pem", "-out", "r"
        )
        sign = ("openssl", "x509", "-req", "-in", "r", "-days", _DAYS, "-copy_extensions", "copy", "-CAcreateserial")
        _run(folder, *sign, "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "cert.pem")
        authority = cls(folder)
        pair = authority.key.read_text(encoding="ascii") + authority.certificate.read_text(encoding="ascii")
        (folder / "pair.pem").write_text(pair, encoding="ascii")
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)  # MariaDB's own account reads them
        return authority

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"


class SecuredBroker(Broker):
    """Beside its plain listener, for itself and for the look whether it runs: TLS, and passwords over TLS."""

    other_ports: Sequence[str] = ("controller", *KAFKA_LISTENERS)

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        extra = super().prepare(instance, data)
        lines = (data / "server.properties").read_text(encoding="utf-8").splitlines()
        found = dict(line.split("=", 1) for line in lines)
        for name in KAFKA_LISTENERS:
            address = f",{name.upper()}://127.0.0.1:{instance.ports[name]}"
            found["listeners"] += address
            found["advertised.listeners"] += address
            found["listener.security.protocol.map"] += f",{name.upper()}:{'SSL' if name == 'tls' else 'SASL_SSL'}"
        found |= self._secrets()
        text = "".join(f"{name}={value}\n" for name, value in found.items())
        (data / "server.properties").write_text(text, encoding="utf-8")
        return extra

    def _secrets(self) -> dict[str, str]:
        module = "org.apache.kafka.common.security"
        plain = f'{module}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._authority.folder / "pair.pem"),
            "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plain.plain.sasl.jaas.config": plain,
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.scram.scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        }

    def format_options(self) -> Sequence[str]:
        options = []
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            options += ["--add-scram", f'{mechanism}=[name="{USER}",password="{PASSWORD}"]']
        return options


class SecuredDatabase(Database):
    """Takes the account USER over TLS alone."""

    other_ports: Sequence[str] = ()

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def prepare(self, instance: Instance, data: Path) -> Mapping[str, str]:
        extra = super().prepare(instance, data)
        with (data / "init.sql").open("a", encoding="utf-8") as script:
            script.write(f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;\n")
            script.write(f"GRANT ALL ON `touchstream%`.* TO '{USER}'@'%';\n")
        return extra

    def command(self, instance: Instance, data: Path) -> Sequence[str]:
        return [
            *super().command(instance, data),
            f"--ssl-ca={self._authority.file}",
            f"--ssl-cert={self._authority.certificate}",
            f"--ssl-key={self._authority.key}",
        ]


PARTS: Mapping[str, Callable[[Authority], Part]] = {"kafka": SecuredBroker, "mariadb": SecuredDatabase}


@contextlib.contextmanager
def running_secured(part: str, authority: Authority) -> Iterator[Mapping[str, int]]:
    """Ports of a new server of its own folder, by listener; wiped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="touchstream-"))
    folder.chmod(0o755)
    try:
        _act(part, authority, "start", "--port", str(free_port()), "--data", str(folder / part))
        yield json.loads((folder / part / STATE_FILE).read_text(encoding="utf-8"))["ports"]
    finally:
        _act(part, authority, "wipe", "--data", str(folder / part))
        shutil.rmtree(folder, ignore_errors=True)


def _act(part: str, authority: Authority, *arguments: str) -> None:
    """In a process of its own, as `dev/PART` does it: the server must not be a child of the tests."""
    _run(ROOT, sys.executable, "-m", "tests.support.secured", part, str(authority.folder), *arguments)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


if __name__ == "__main__":
    sys.exit(run(PARTS[sys.argv[1]](Authority(Path(sys.argv[2]))), sys.argv[3:]))
