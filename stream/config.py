"""The settings: read once from the environment and a `.env` file, typed, and refused by name where they are wrong."""

import difflib
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dotenv import dotenv_values

from stream.core.errors import Misconfigured
from stream.core.retention import least_keep_days

PREFIX = "TOUCHSTREAM_"
ALL_SCOPES = "all"
Value = TypeVar("Value")

# Kubernetes gives every container such names for each service; one called "touchstream" must not stop the worker.
_INJECTED = re.compile(rf"{PREFIX}(.+_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?)")


class HostPort(NamedTuple):
    """Where something listens."""

    host: str
    port: int


def host_port(text: str) -> HostPort:
    """Raises ValueError, with what was expected, for anything but host:port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("host:port")
    return HostPort(host.strip("[]"), int(port))


def _address(text: str) -> str:
    host_port(text)
    return text


def _addresses(text: str) -> str:
    parts = [part.strip() for part in text.split(",")]
    try:
        return ",".join(_address(part) for part in parts)
    except ValueError as error:
        raise ValueError("host:port, or several of them with commas between") from error


def _pattern(pattern: str, expected: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(expected)
        return text

    return parse


def _choice(*allowed: str) -> Callable[[str], str]:
    return _pattern("|".join(map(re.escape, allowed)), "one of " + ", ".join(allowed))


def _hashes(text: str) -> Sequence[str]:
    parts = tuple(part.strip().lower() for part in text.split(","))
    if not all(re.fullmatch("[0-9a-f]{40}", part) for part in parts):
        raise ValueError("system hashes of 40 hexadecimal digits, with commas between")
    return parts


def _app_id(text: str) -> str:
    if text.endswith("-hours"):
        raise ValueError('another ending than "-hours", which the second consumer group of an installation ends in')
    return _pattern("[A-Za-z0-9_-]{1,100}", "letters, digits, - and _")(text)


def _whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or float(text) <= 0:
        raise ValueError("a number of seconds above 0")
    return float(text)


def _switch(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError("0 or 1")
    return text == "1"


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("the path of a file that exists")
    return text


def _database_url(text: str) -> str:
    if not re.match(r"(sqlite\+aiosqlite:///.|(mysql|mariadb)\+asyncmy://[^/]+/.)", text):
        raise ValueError("sqlite+aiosqlite:///PATH or mysql+asyncmy://USER:PASSWORD@HOST:PORT/DATABASE?charset=utf8mb4")
    return text


def masked(url: str) -> str:
    """The URL with a password replaced by asterisks, for people and logs; also where it stands in a wrong place."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    url = re.sub(r"(://[^:/@\[]*):(?!\d{1,5}(?:/|$)|\*\*\*@)[^/]*", r"\1:***", url)
    return re.sub(r"([?&]pass\w*=)[^&]*", r"\1***", url)


def tls_context(setting: str, *, cafile: str, certfile: str = "", keyfile: str = "") -> ssl.SSLContext:
    """Trusts `cafile` (empty: what the system trusts) and always looks at certificate and name of the other side.

    Raises Misconfigured, which names `setting`, for files that cannot be used.
    """

    def refuse_to_ask() -> str:
        raise Misconfigured(f"the key in {keyfile or certfile} is encrypted", hint="give a key without a pass phrase")

    try:
        context = ssl.create_default_context(cafile=cafile or None)
        if certfile:
            # Without an answer of ours OpenSSL would ask the terminal for a pass phrase, and wait.
            context.load_cert_chain(certfile, keyfile or None, password=refuse_to_ask)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; a name with a NUL byte is a ValueError
        raise Misconfigured(f"the files of {setting} cannot be used: {error}") from error
    return context


def _secret_in(file: str) -> str:
    """Raises Misconfigured; a line feed at the end belongs to the file, not to the secret."""
    try:
        secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        # A UnicodeDecodeError holds the bytes.
        raise Misconfigured(f"{file} cannot be read as a password: {type(error).__name__}") from None
    if not secret or "\n" in secret:
        raise Misconfigured(f"{file} does not hold a password in one line")
    return secret


def _setting(name: str, default: Value, parse: Callable[[str], Value], about: str) -> Value:
    specification: Value = field(default=default, metadata={"name": PREFIX + name, "parse": parse, "about": about})
    return specification


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All of them, with their defaults. `Settings()` is what an empty environment gives."""

    kafka: str = _setting("KAFKA", "127.0.0.1:9092", _addresses, "addresses of brokers")
    kafka_security_protocol: str = _setting(
        "KAFKA_SECURITY_PROTOCOL",
        "PLAINTEXT",
        _choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "how brokers are spoken to",
    )
    kafka_sasl_mechanism: str = _setting(
        "KAFKA_SASL_MECHANISM", "", _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"), "with a SASL protocol"
    )
    kafka_sasl_username: str = _setting("KAFKA_SASL_USERNAME", "", str, "with a SASL protocol")
    kafka_sasl_password: str = _setting("KAFKA_SASL_PASSWORD", "", str, "with a SASL protocol; never shown")
    kafka_sasl_password_file: str = _setting("KAFKA_SASL_PASSWORD_FILE", "", _file, "holds it instead")
    kafka_ssl_cafile: str = _setting("KAFKA_SSL_CAFILE", "", _file, "authorities to trust instead of the system's")
    kafka_ssl_certfile: str = _setting("KAFKA_SSL_CERTFILE", "", _file, "our own certificate")
    kafka_ssl_keyfile: str = _setting("KAFKA_SSL_KEYFILE", "", _file, "the key of our own certificate")
    database_url: str = _setting(
        "DATABASE_URL", "sqlite+aiosqlite:///var/touchstream.db", _database_url, "facts and results"
    )
    import_from: str = _setting("IMPORT_FROM", "", str, "what import reads, where --from is not given; never shown")
    memcached: str = _setting("MEMCACHED", "", _address, "cache of Prosper202 to delete journeys from; empty: none")
    memcached_sites: Sequence[str] = _setting("MEMCACHED_SITES", (), _hashes, "system hashes in its hashed keys")
    data_dir: Path = _setting("DATA_DIR", Path("var"), Path, "folder for what a process keeps on disk")
    app_id: str = _setting("APP_ID", "touchstream", _app_id, "consumer group; that of the hours ends in -hours")
    topic_prefix: str = _setting(
        "TOPIC_PREFIX", "", _pattern("[A-Za-z0-9._-]{1,100}", "letters, digits, . - and _"), "before each topic's name"
    )
    partitions: int = _setting("PARTITIONS", 0, _whole(1, 10_000), "instead of the counts of topics.yaml")
    clicks: str = _setting(
        "CLICKS", "own", _choice("own", "installed"), "who writes 202_clicks: nobody, or tracking servers; we never do"
    )
    conversion_logs: str = _setting(
        "CONVERSION_LOGS", "own", _choice("own", "installed"), "who writes 202_conversion_logs: we, or tracking servers"
    )
    lookback_days: int = _setting("LOOKBACK_DAYS", 30, _whole(1, 3650), "how far before a conversion its clicks lie")
    allowed_lateness_seconds: int = _setting("ALLOWED_LATENESS_SECONDS", 3600, _whole(0), "until an hour is final")
    fire_interval_seconds: float = _setting("FIRE_INTERVAL_SECONDS", 5.0, _seconds, "between two writes of an hour")
    scopes: str = _setting("SCOPES", ALL_SCOPES, _choice(ALL_SCOPES, "global"), "which scopes of an hour get totals")
    health: HostPort = _setting("HEALTH", HostPort("127.0.0.1", 6066), host_port, "where a worker tells how it is")
    state_keys: int = _setting("STATE_KEYS", 1_000_000, _whole(1), "most journey keys that a worker holds in memory")
    align: bool = _setting("ALIGN", True, _switch, "merge clicks and conversions by time; off only to test")
    click_retention_days: int = _setting(
        "CLICK_RETENTION_DAYS", 0, _whole(0, 36_500), "stored clicks older than this are removed; 0: none ever"
    )
    chunk_records: int = _setting("CHUNK_RECORDS", 2000, _whole(1, 100_000), "most records of one chunk")

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises Misconfigured for a name that is unknown or a value that is wrong. An empty value is the default."""
        given = {name: text for name, text in environment.items() if name.startswith(PREFIX) and text != ""}
        by_name = {specification.metadata["name"]: specification for specification in fields(cls)}
        for name in given:
            if name not in by_name and not _INJECTED.fullmatch(name):
                raise _unknown(name, list(by_name))
        values: dict[str, Any] = {
            by_name[name].name: _parsed(by_name[name], given[name]) for name in given if name in by_name
        }
        settings = cls(**values)
        settings._check_sasl()
        settings._check_tls()
        settings._check_retention()
        return settings

    def _check_retention(self) -> None:
        """A conversion that comes in time must find every click of its lookback."""
        least = least_keep_days(self.lookback_days)
        if 0 < self.click_retention_days < least:
            raise Misconfigured(
                f'setting {PREFIX}CLICK_RETENTION_DAYS is "{self.click_retention_days}"; with'
                f" {PREFIX}LOOKBACK_DAYS {self.lookback_days} it must be at least {least}",
                hint=f"set it to {least} or more, or to 0 to keep all clicks",
            )

    def _check_sasl(self) -> None:
        is_sasl = self.kafka_security_protocol.startswith("SASL_")
        if self.kafka_sasl_password and self.kafka_sasl_password_file:
            raise Misconfigured(f"{PREFIX}KAFKA_SASL_PASSWORD and {PREFIX}KAFKA_SASL_PASSWORD_FILE are both given")
        given = {
            "MECHANISM": self.kafka_sasl_mechanism,
            "USERNAME": self.kafka_sasl_username,
            "PASSWORD": self.kafka_sasl_password or self.kafka_sasl_password_file,
        }
        for name, value in given.items():
            if bool(value) != is_sasl:
                raise self._does_not_fit(f"KAFKA_SASL_{name}", is_needed=is_sasl)

    def _check_tls(self) -> None:
        """Files for TLS beside a protocol without it are a mistake that would send everything in the clear."""
        for name in ("cafile", "certfile", "keyfile"):
            if getattr(self, f"kafka_ssl_{name}") and not self.kafka_security_protocol.endswith("SSL"):
                raise self._does_not_fit(f"KAFKA_SSL_{name.upper()}", is_needed=False)
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            raise Misconfigured(f"{PREFIX}KAFKA_SSL_KEYFILE needs {PREFIX}KAFKA_SSL_CERTFILE")

    def _does_not_fit(self, name: str, *, is_needed: bool) -> Misconfigured:
        verb = "needs" if is_needed else "does not go with"
        protocol = f'{PREFIX}KAFKA_SECURITY_PROTOCOL "{self.kafka_security_protocol}"'
        hint = "it is one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
        return Misconfigured(f"{protocol} {verb} {PREFIX}{name}", hint=hint)

    def kafka_options(self) -> dict[str, object]:
        """What every client of aiokafka is made with: addresses and security. Raises Misconfigured."""
        options: dict[str, object] = {
            "bootstrap_servers": self.kafka,
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.startswith("SASL_"):
            options |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": self.kafka_sasl_password or _secret_in(self.kafka_sasl_password_file),
            }
        if self.kafka_security_protocol.endswith("SSL"):
            options["ssl_context"] = tls_context(
                f"{PREFIX}KAFKA_SSL_*",
                cafile=self.kafka_ssl_cafile,
                certfile=self.kafka_ssl_certfile,
                keyfile=self.kafka_ssl_keyfile,
            )
        return options

    def __repr__(self) -> str:
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        shown["database_url"] = masked(self.database_url)
        for name in ("kafka_sasl_password", "import_from"):
            shown[name] = "***" if shown[name] else ""
        return "Settings(" + ", ".join(f"{name}={value!r}" for name, value in shown.items()) + ")"


_SECRET = ("PASSWORD", "DATABASE_URL", "IMPORT_FROM")
SETTING_NAMES = tuple(specification.metadata["name"] for specification in fields(Settings))


def _unknown(name: str, known: list[str]) -> Misconfigured:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    hint = f"did you mean {near[0]}?" if near else "README.md lists the settings"
    return Misconfigured(f'setting "{name}" is not known', hint=hint)


def _parsed(specification: "Field[object]", text: str) -> object:
    name = specification.metadata["name"]
    try:
        return specification.metadata["parse"](text.strip())
    except ValueError as error:
        # An address that cannot be read may hold its password anywhere.
        shown = "***" if name.endswith(_SECRET) else text
        raise Misconfigured(f'setting {name} is "{shown}"; expected {error}') from error


def read_settings(folder: Path = Path()) -> Settings:
    """The settings of this process: its environment, and below it the file `.env` of the folder, if there is one."""
    try:
        from_file = {name: text or "" for name, text in dotenv_values(folder / ".env", interpolate=False).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{folder / '.env'} cannot be read: {error}") from error
    return Settings.from_env({**from_file, **os.environ})
