"""Settings: what they accept, and how they refuse."""

import subprocess
from pathlib import Path

import pytest

from stream.config import SETTING_NAMES, HostPort, Settings, masked, read_settings, tls_context
from stream.core.errors import Misconfigured


def refusal(**environment: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({f"TOUCHSTREAM_{name}": value for name, value in environment.items()})
    return f"{caught.value} | {caught.value.hint}"


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    settings = Settings.from_env({"PATH": "/bin", "TOUCHSTREAM_MEMCACHED": ""})
    assert settings == Settings()
    assert settings.kafka == "127.0.0.1:9092"
    assert settings.database_url == "sqlite+aiosqlite:///var/touchstream.db"
    assert (settings.app_id, settings.topic_prefix, settings.partitions) == ("touchstream", "", 0)
    assert (settings.clicks, settings.conversion_logs) == ("own", "own")
    assert (settings.lookback_days, settings.allowed_lateness_seconds, settings.fire_interval_seconds) == (30, 3600, 5)
    assert settings.health == HostPort("127.0.0.1", 6066)
    assert (settings.state_keys, settings.align, settings.click_retention_days) == (1_000_000, True, 0)
    assert (settings.data_dir, settings.chunk_records) == (Path("var"), 2000)


def test_each_setting_is_read_and_typed() -> None:
    settings = Settings.from_env(
        {
            "TOUCHSTREAM_KAFKA": "one:9092, two:9093",
            "TOUCHSTREAM_DATABASE_URL": "mysql+asyncmy://a:b@127.0.0.1:3306/t?charset=utf8mb4",
            "TOUCHSTREAM_MEMCACHED": "127.0.0.1:11211",
            "TOUCHSTREAM_MEMCACHED_SITES": "0" * 40 + "," + "A" * 40,
            "TOUCHSTREAM_DATA_DIR": "/tmp/data",
            "TOUCHSTREAM_PARTITIONS": "3",
            "TOUCHSTREAM_CLICKS": "installed",
            "TOUCHSTREAM_CONVERSION_LOGS": "installed",
            "TOUCHSTREAM_CLICK_RETENTION_DAYS": "31",
            "TOUCHSTREAM_HEALTH": "[::1]:7000",
            "TOUCHSTREAM_ALIGN": "0",
            "TOUCHSTREAM_FIRE_INTERVAL_SECONDS": "0.5",
        }
    )
    assert settings == Settings(
        kafka="one:9092,two:9093",
        database_url="mysql+asyncmy://a:b@127.0.0.1:3306/t?charset=utf8mb4",
        memcached="127.0.0.1:11211",
        memcached_sites=("0" * 40, "a" * 40),
        data_dir=Path("/tmp/data"),
        partitions=3,
        clicks="installed",
        conversion_logs="installed",
        click_retention_days=31,
        health=HostPort("::1", 7000),
        align=False,
        fire_interval_seconds=0.5,
    )


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert (
        refusal(LOOKBAK_DAYS="3")
        == 'setting "TOUCHSTREAM_LOOKBAK_DAYS" is not known | did you mean TOUCHSTREAM_LOOKBACK_DAYS?'
    )
    assert "README.md" in refusal(XYZZY="1")


@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST",
        "API_SERVICE_HOST",
        "SERVICE_PORT",
        "API_SERVICE_PORT_HTTP",
        "PORT",
        "API_PORT",
        "PORT_80_TCP_ADDR",
    ],
)
def test_names_that_kubernetes_injects_are_let_pass(name: str) -> None:
    assert Settings.from_env({f"TOUCHSTREAM_{name}": "tcp://10.0.0.1:80"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("KAFKA", "localhost", "host:port"),
        ("KAFKA", "localhost:99999", "host:port"),
        ("PARTITIONS", "0", "a whole number from 1 to 10000"),
        ("PARTITIONS", "three", "a whole number"),
        ("LOOKBACK_DAYS", "-1", "a whole number"),
        ("FIRE_INTERVAL_SECONDS", "0", "a number of seconds above 0"),
        ("ALIGN", "yes", "0 or 1"),
        ("HEALTH", ":80", "host:port"),
        ("APP_ID", "two words", "letters, digits"),
        ("APP_ID", "touchstream-hours", "the second consumer group of an installation"),
        ("MEMCACHED_SITES", "abc", "40 hexadecimal digits"),
        ("CLICKS", "theirs", "one of own, installed"),
        ("CLICK_RETENTION_DAYS", "-1", "a whole number"),
        ("CONVERSION_LOGS", "theirs", "one of own, installed"),
        ("KAFKA_SSL_CAFILE", "/does/not/exist", "the path of a file that exists"),
    ],
)
def test_a_wrong_value_is_refused_with_name_value_and_what_is_expected(name: str, value: str, expected: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f'setting TOUCHSTREAM_{name} is "{value}"; expected ')
    assert expected in message


def test_clicks_are_kept_for_longer_than_the_lookback() -> None:
    with pytest.raises(Misconfigured, match="at least 31") as caught:
        Settings.from_env({"TOUCHSTREAM_CLICK_RETENTION_DAYS": "30"})
    assert "31 or more, or to 0" in caught.value.hint
    longer = {"TOUCHSTREAM_LOOKBACK_DAYS": "60", "TOUCHSTREAM_CLICK_RETENTION_DAYS": "60"}
    with pytest.raises(Misconfigured, match="at least 61"):
        Settings.from_env(longer)
    assert Settings.from_env(longer | {"TOUCHSTREAM_CLICK_RETENTION_DAYS": "61"}).click_retention_days == 61


def test_sasl_needs_all_of_its_three_and_plain_text_none() -> None:
    assert "needs TOUCHSTREAM_KAFKA_SASL_MECHANISM" in refusal(KAFKA_SECURITY_PROTOCOL="SASL_SSL")
    assert "does not go with TOUCHSTREAM_KAFKA_SASL_USERNAME" in refusal(KAFKA_SASL_USERNAME="me")
    settings = Settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="me",
        kafka_sasl_password="secret",
    )
    options = settings.kafka_options()
    assert (options["sasl_plain_username"], options["security_protocol"]) == ("me", "SASL_SSL")
    assert "ssl_context" in options
    assert Settings().kafka_options() == {"bootstrap_servers": "127.0.0.1:9092", "security_protocol": "PLAINTEXT"}


def test_a_key_without_a_certificate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("not a key")
    assert "needs TOUCHSTREAM_KAFKA_SSL_CERTFILE" in refusal(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_KEYFILE=str(file))
    with pytest.raises(Misconfigured, match="cannot be used"):
        Settings(kafka_security_protocol="SSL", kafka_ssl_certfile=str(file)).kafka_options()


def test_secrets_are_masked_wherever_they_could_be_shown() -> None:
    settings = Settings(database_url="mysql+asyncmy://me:s3cr@t@h:1/t", kafka_sasl_password="s3cr@t")
    assert "s3cr" not in repr(settings)
    assert "t@h" not in repr(settings)
    assert "me:***@h:1/t" in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@h/t",
        "mysql+asyncmy:/me:s3cret@h/t",
        "me:s3cret@h/t",
        "mysql+asyncmy://me:s3cret",
        "s3cret",
        "mysql+asyncmy:/s3cret",
    ],
)
def test_an_address_that_cannot_be_read_is_not_shown(url: str) -> None:
    message = refusal(DATABASE_URL=url)
    assert "s3cret" not in message
    assert 'TOUCHSTREAM_DATABASE_URL is "***"; expected sqlite+aiosqlite:///PATH or mysql+asyncmy://' in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql+asyncmy://me:s3cret@h:1/t", "mysql+asyncmy://me:***@h:1/t"),
        ("mysql+asyncmy://me:s3@cr/et@h:1/t", "mysql+asyncmy://me:***@h:1/t"),
        ("mysql+asyncmy://me:s3cret/t", "mysql+asyncmy://me:***/t"),
        ("mysql+asyncmy://h:3306/t?passwd=s3cret&a=1", "mysql+asyncmy://h:3306/t?passwd=***&a=1"),
        ("mysql+asyncmy://[::1]:3306/t", "mysql+asyncmy://[::1]:3306/t"),
        ("sqlite+aiosqlite:///a/b.db", "sqlite+aiosqlite:///a/b.db"),
    ],
)
def test_the_password_in_an_address_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_a_password_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    sasl = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "me"}
    given = {f"TOUCHSTREAM_{name}": value for name, value in sasl.items()}
    settings = Settings.from_env(given | {"TOUCHSTREAM_KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert settings.kafka_options()["sasl_plain_password"] == "s3cret"
    assert "both" in refusal(**sasl, KAFKA_SASL_PASSWORD="a", KAFKA_SASL_PASSWORD_FILE=str(file))
    assert "needs TOUCHSTREAM_KAFKA_SASL_PASSWORD" in refusal(**sasl)
    for wrong in (b"", b"\n", b"s3cret\ntwo\n", b"s3cret\xff"):
        file.write_bytes(wrong)
        with pytest.raises(Misconfigured, match="password") as caught:
            settings.kafka_options()
        assert "s3cret" not in str(caught.value)


def test_files_for_tls_are_not_given_in_vain(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    for protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        message = refusal(
            KAFKA_SECURITY_PROTOCOL=protocol,
            KAFKA_SSL_CAFILE=str(file),
            KAFKA_SASL_MECHANISM="PLAIN" if protocol != "PLAINTEXT" else "",
            KAFKA_SASL_USERNAME="me" if protocol != "PLAINTEXT" else "",
            KAFKA_SASL_PASSWORD="p" if protocol != "PLAINTEXT" else "",
        )
        assert "does not go with TOUCHSTREAM_KAFKA_SSL_CAFILE" in message


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_pass_phrase(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:s3cret", "-subj", "/CN=us"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with pytest.raises(Misconfigured, match="is encrypted"):
        tls_context("x", cafile="", certfile=str(certificate), keyfile=str(key))


def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTING_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOUCHSTREAM_APP_ID", "from-environment")
    file = tmp_path / ".env"
    file.write_text("TOUCHSTREAM_APP_ID=from-file\nexport TOUCHSTREAM_PARTITIONS='3'\nOTHER=1\n")
    assert read_settings(tmp_path) == Settings(app_id="from-environment", partitions=3)
    assert file.read_text().startswith("TOUCHSTREAM_APP_ID=from-file"), "nothing writes .env"
    file.write_text("TOUCHSTREAM_PARTITION=3\n")
    with pytest.raises(Misconfigured, match="TOUCHSTREAM_PARTITION"):
        read_settings(tmp_path)
    file.write_bytes(b"\xff\xfe=1")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_settings(tmp_path)


def test_without_a_file_the_environment_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTING_NAMES:
        monkeypatch.delenv(name, raising=False)
    assert read_settings(tmp_path) == Settings()
