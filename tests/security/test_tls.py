"""TLS and passwords of broker and database: what goes through, and every way in which they refuse."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest

from stream.core.errors import Misconfigured
from tables.sql.database import open_database
from tests.security.conftest import EnvironmentOf, Ports
from tests.support.processes import Environment, Worker, cli, environment, remove_topics, succeed, wait_for
from tests.support.secured import PASSWORD, USER, Authority


def remove(env: Environment, kafka: Ports) -> None:
    asyncio.run(remove_topics(env | {"TOUCHSTREAM_KAFKA": f"127.0.0.1:{kafka['client']}"}))


def changed(env: Environment, **settings: str | int) -> Environment:
    return env | {f"TOUCHSTREAM_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.mark.parametrize("listener", ["tls", "plain"])
def test_commands_pass_each_listener(
    listener: str, secured: EnvironmentOf, secured_kafka: Ports, fresh_sqlite: str
) -> None:
    env = secured(listener, fresh_sqlite)
    assert "created topic" in succeed("topics", "apply", env=env)
    remove(env, secured_kafka)


def test_a_broker_and_settings_that_do_not_trust_one_another_are_a_wrong_setting(
    secured: EnvironmentOf, secured_kafka: Ports, stranger: Authority, tmp_path: Path
) -> None:
    right = secured("scram", f"sqlite+aiosqlite:///{tmp_path}/none.db")
    guess = tmp_path / "guess"
    guess.write_text("w1ld-guess", encoding="utf-8")
    cases = [
        ("is not trusted: ", changed(right, kafka_ssl_cafile=str(stranger.file))),
        ("is not trusted: Hostname mismatch", changed(right, kafka=f"localhost:{secured_kafka['scram']}")),
        (f'refuses the user "{USER}"', changed(right, kafka_sasl_password_file=str(guess))),
        ('refuses the user "nobody"', changed(right, kafka_sasl_username="nobody")),
        ("UnsupportedSaslMechanism", changed(right, kafka_sasl_mechanism="PLAIN")),
    ]
    for expected, env in cases:
        done = cli("topics", "check", env=env)
        assert done.returncode == 2, (expected, done)
        assert expected in done.stderr
        assert "hint: " in done.stderr
        assert PASSWORD not in done.stderr
        assert "w1ld" not in done.stderr


def test_tls_is_never_given_up(secured: EnvironmentOf, secured_kafka: Ports, fresh_sqlite: str) -> None:
    env = secured("tls", fresh_sqlite)
    to_plain_port = cli("topics", "apply", env=changed(env, kafka=f"127.0.0.1:{secured_kafka['client']}"))
    assert to_plain_port.returncode in {1, 2}
    assert "error: Kafka at" in to_plain_port.stderr
    del env["TOUCHSTREAM_KAFKA_SECURITY_PROTOCOL"]
    forgotten = cli("topics", "apply", env=env)
    assert forgotten.returncode == 2
    assert "does not go with TOUCHSTREAM_KAFKA_SSL_CAFILE" in forgotten.stderr


def test_a_worker_says_why_it_is_not_ready(secured: EnvironmentOf, stranger: Authority, fresh_sqlite: str) -> None:
    env = secured("tls", fresh_sqlite)
    succeed("db", "upgrade", env=env)
    with Worker(changed(env, kafka_ssl_cafile=str(stranger.file))) as worker:
        wait_for(lambda: "is not trusted" in worker.health("/readyz")[1], "the reason in /readyz")
        assert worker.health("/readyz")[0] == 503
        assert worker.stop() == 0


@pytest.mark.full
def test_a_worker_that_the_database_refuses_ends_with_the_reason(
    secured: EnvironmentOf, secured_kafka: Ports, database_url: str, stranger: Authority
) -> None:
    env = secured("tls", database_url)
    succeed("db", "upgrade", env=env)
    succeed("topics", "apply", env=env)
    plain = _without_tls(database_url)
    for expected, url in (
        ("Access denied", database_url.replace(USER, "nobody")),
        ("is not trusted", f"{plain}&ssl_ca={stranger.file}"),
    ):
        with Worker(changed(env, database_url=url)) as worker:
            assert worker.wait_exit() == 1
            assert expected in worker.log_text()
            assert "(hint: " in worker.log_text()
            assert quote(PASSWORD, safe="") not in worker.log_text()
    remove(env, secured_kafka)


async def test_the_account_that_must_use_tls_uses_it(database_url: str) -> None:
    database = open_database(database_url)
    try:
        async with database.reading() as connection:
            [[_, cipher]] = await connection.fetch("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            assert cipher
    finally:
        await database.close()


def _without_tls(url: str) -> str:
    return url.partition("&ssl_ca")[0]


def test_a_database_that_is_not_trusted_or_does_not_trust_us_is_a_wrong_setting(
    database_url: str, stranger: Authority, tmp_path: Path
) -> None:
    plain = _without_tls(database_url)
    cases = [
        ("Access denied", plain),
        ("is not trusted: self-signed certificate", f"{plain}&ssl_ca={stranger.file}"),
        ("is not trusted: self-signed certificate", f"{plain}&ssl=true"),  # the system knows no such authority
        ("is not trusted: Hostname mismatch", database_url.replace("127.0.0.1", "localhost")),
        ("Access denied for", database_url.replace(USER, "nobody")),
    ]
    for expected, url in cases:
        done = cli("db", "check", env=environment("127.0.0.1:1", url, tmp_path, partitions=1))
        assert done.returncode == 2, (expected, done)
        assert expected in done.stderr, (expected, done.stderr)
        assert "hint: " in done.stderr
        assert "c0rrect" not in done.stderr
    unchecked = database_url.replace("127.0.0.1", "localhost") + "&ssl_check_hostname=false"
    done = cli("db", "check", env=environment("127.0.0.1:1", unchecked, tmp_path, partitions=1))
    assert "trusted" not in done.stderr, "the name alone is not looked at"


def test_tls_is_never_given_up_before_a_database_without(
    mariadb_url: str, authority: Authority, tmp_path: Path
) -> None:
    done = cli(
        "db", "check", env=environment("127.0.0.1:1", f"{mariadb_url}&ssl_ca={authority.file}", tmp_path, partitions=1)
    )
    assert done.returncode in {1, 2}
    assert "TLS" in done.stderr or "SSL" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("ssl_ca=/does/not/exist", "cannot be used"),
        ("ssl_key=/k", "without ssl_cert"),
        ("ssl=false", "leave out"),
        ("ssl=perhaps", "neither true nor false"),
        ("ssl_ca=", "option without a value"),
        ("ssl_ca=/a&ssl_ca=/b", "twice"),
        ("ssl_cafile=/x", "unknown option"),
        ("local_infile=1", "unknown option"),
    ],
)
def test_wrong_options_of_the_database_url_are_refused(options: str, expected: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        open_database(f"mysql+asyncmy://me:secret@h/t?charset=utf8mb4&{options}")
    assert expected in f"{caught.value} {caught.value.hint}"
    assert "secret" not in f"{caught.value} {caught.value.hint}"
