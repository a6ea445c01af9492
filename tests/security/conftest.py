"""Servers that want TLS and passwords, one of each kind a test process."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.processes import Environment, environment
from tests.support.secured import PASSWORD, USER, Authority, running_secured

Ports = Mapping[str, int]  # of a server, by listener
EnvironmentOf = Callable[[str, str], Environment]


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    """Whom the servers of these tests have their certificates from."""
    with tempfile.TemporaryDirectory(prefix="touchstream-") as folder:
        Path(folder).chmod(0o755)  # MariaDB's own account has to reach it; pytest's folders are for ours alone
        yield Authority.make(Path(folder) / "trusted")


@pytest.fixture(scope="session")
def stranger(authority: Authority) -> Authority:
    """An authority that signed none of them."""
    return Authority.make(authority.folder.parent / "stranger")


@pytest.fixture(scope="session")
def secured_kafka(authority: Authority) -> Iterator[Ports]:
    with running_secured("kafka", authority) as ports:
        yield ports


@pytest.fixture(scope="session")
def secured_mariadb(authority: Authority) -> Iterator[Ports]:
    with running_secured("mariadb", authority) as ports:
        yield ports


@pytest.fixture
def database_url(secured_mariadb: Ports, authority: Authority) -> str:
    """Over TLS, as the account that may not log in without."""
    account = f"{USER}:{quote(PASSWORD, safe='')}"
    address = f"127.0.0.1:{secured_mariadb['client']}"
    return f"mysql+asyncmy://{account}@{address}/touchstream?charset=utf8mb4&ssl_ca={authority.file}"


@pytest.fixture
def secured(secured_kafka: Ports, authority: Authority, tmp_path: Path) -> EnvironmentOf:
    """Right settings for a listener of the broker, and the database of that URL."""

    def make(listener: str, database: str) -> Environment:
        settings = {"kafka_security_protocol": "SSL", "kafka_ssl_cafile": str(authority.file)}
        if listener != "tls":
            secret = tmp_path / "secret"
            secret.write_text(PASSWORD + "\n", encoding="utf-8")
            settings |= {
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_mechanism": "PLAIN" if listener == "plain" else "SCRAM-SHA-512",
                "kafka_sasl_username": USER,
                "kafka_sasl_password_file": str(secret),
            }
        return environment(f"127.0.0.1:{secured_kafka[listener]}", database, tmp_path, partitions=2, **settings)

    return make
