"""SQL put into every text that comes from outside is stored as the text it is, or refused; nothing else changes."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stream.__main__ import cli as root
from stream.config import Settings
from stream.core.errors import Misconfigured, StreamError
from stream.wire.installed_rows import conversion_of_row
from tables.sql.inserts import whole_list
from tables.sql.installed import InstalledTables
from tables.sql.installed_address import source_address
from tables.sql.upgrade import schema_differences, upgrade_schema
from tests.faults.installation import Installation
from tests.security.hostile import TEXTS
from tests.support.processes import Environment, environment, succeed
from tests.support.prosper202 import Prosper202, installed
from tests.support.rows import query

NOW = 1_790_000_000
# Tables that none of these tests writes, and tables that each of them may add to.
UNTOUCHED = ("202_users", "202_clicks", "202_aff_campaigns")
STORED = ("202_stream_clicks", "202_stream_journeys", "202_conversion_logs", "202_attribution_models")


def counts(url: str, relations: tuple[str, ...]) -> list[int]:
    return [int(query(url, f"SELECT COUNT(*) FROM `{relation}`")[0][0]) for relation in relations]


@pytest.mark.parametrize("database", ["mariadb", pytest.param("sqlite", marks=pytest.mark.full)])
async def test_texts_of_events_are_stored_as_they_are(
    database: str, kafka: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fresh_database = str(request.getfixturevalue(f"fresh_{database}"))
    installation = Installation(kafka, fresh_database, tmp_path, partitions=1)
    clicks, conversions = tmp_path / "clicks", tmp_path / "conversions"
    told = [
        {"click_id": number, "user_id": 1, "campaign_id": number, "click_time": NOW, "visitor_id": text}
        for number, text in enumerate(TEXTS, 1)
    ]
    clicks.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    made = [
        click | {"conv_id": click["click_id"], "conv_time": NOW + 60, "click_payout": 1, "transaction_id": text}
        for click, text in zip(told, TEXTS, strict=True)
    ]
    conversions.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    await asyncio.to_thread(_through_a_worker, installation, clicks, conversions)
    assert await schema_differences(fresh_database) == []
    wanted = [(number, text.strip()) for number, text in enumerate(TEXTS, 1)]
    for column, identity, relation in (
        ("visitor_id", "click_id", "202_stream_clicks"),
        ("transaction_id", "conv_id", "202_conversion_logs"),
    ):
        assert query(fresh_database, f"SELECT {identity}, {column} FROM `{relation}` ORDER BY 1") == wanted, relation
    assert query(fresh_database, "SELECT COUNT(*) FROM `202_conversion_touchpoints`") == [(len(TEXTS),)]
    await asyncio.to_thread(_explain, Told(installation.env))
    assert counts(fresh_database, UNTOUCHED) == [0] * len(UNTOUCHED)


def _explain(told: "Told") -> None:
    """A model that is there is found by its slug, and by no other text."""
    for text in TEXTS:
        done, said = told.run("explain", "1", "--model", text)
        assert not done
        assert 'user 1 has no model "' in said, said
    create = ("models", "create", "--user", "1", "--type", "linear", "--name", "any", "--slug")
    for text in (each for each in TEXTS if not any(letter.isspace() for letter in each)):
        assert told.run(*create, text)[0], text
        done, said = told.run("explain", "1", "--model", text, "--json")
        assert done, said
        assert [model["slug"] for model in json.loads(said.split("\n")[0])["credits"]["models"]] == [text]


def _through_a_worker(installation: Installation, clicks: Path, conversions: Path) -> None:
    try:
        installation.prepare()
        with installation.worker() as worker:
            worker.wait_ready()
            succeed("ingest", "--clicks", clicks, "--conversions", conversions, env=installation.env)
            succeed("status", "--wait-drained", "60", env=installation.env)
            assert worker.stop() == 0
    finally:
        installation.remove()


class Told:
    """Commands in this process: a hundred processes would take a minute."""

    def __init__(self, env: Environment) -> None:
        self._env = {name: value for name, value in env.items() if name.startswith("TOUCHSTREAM_")}

    def run(self, *arguments: str) -> tuple[bool, str]:
        done = CliRunner().invoke(root, list(arguments), env=self._env)
        assert done.exception is None or isinstance(done.exception, SystemExit | StreamError), done.exc_info
        if isinstance(done.exception, SystemExit):
            assert done.exit_code in {1, 2}, done.output
        return done.exception is None, done.output


async def told_at(url: str, folder: Path) -> Told:
    await upgrade_schema(url)
    return Told(environment("127.0.0.1:1", url, folder, partitions=1))


async def test_texts_of_models_are_stored_as_they_are(fresh_database: str, tmp_path: Path) -> None:
    told = await told_at(fresh_database, tmp_path)
    await asyncio.to_thread(_try_models, told, fresh_database)
    assert await schema_differences(fresh_database) == []
    assert counts(fresh_database, UNTOUCHED) == [0] * len(UNTOUCHED)


def _try_models(told: Told, fresh_database: str) -> None:
    for number, text in enumerate(TEXTS, 1):
        is_name = text.isprintable() or "\u2028" in text
        is_slug = not any(letter.isspace() for letter in text)
        create = ("models", "create", "--user", str(number), "--type", "linear", "--name", text)
        assert told.run(*create)[0] == is_name, text
        create = ("models", "create", "--user", str(1000 + number), "--type", "linear", "--name", text)
        slugged, _ = told.run(*create, "--slug", text)
        assert slugged == (is_slug and is_name), text
        if slugged:
            of_slug = ("--user", str(1000 + number), "--slug", text)
            assert told.run("models", "update", *of_slug, "--name", f"n{text}")[0]
            for refused in (("--type", text), ("--type", "time_decay", "--config", text)):
                assert not told.run("models", "update", *of_slug, *refused)[0], refused
            assert told.run("models", "update", *of_slug, "--new-slug", "plain")[0]
            of_plain = ("--user", str(1000 + number), "--slug", "plain")
            assert told.run("models", "update", *of_plain, "--new-slug", text)[0]
            slugs = f"SELECT model_slug, model_type FROM `202_attribution_models` WHERE user_id = {1000 + number}"
            assert query(fresh_database, slugs) == [(text, "linear")]
            assert told.run("models", "delete", *of_slug, "--actor", text)[0]
        of_settings = ("--user", str(number), "--scope", "global", "--multi-touch", "off", "--actor", text)
        assert told.run("settings", "set", *of_settings)[0], text
        stored = query(fresh_database, f"SELECT model_name FROM `202_attribution_models` WHERE user_id = {number}")
        assert stored == ([(text.strip(),)] if is_name else []), text
    audited = "SELECT metadata FROM `202_attribution_audit` WHERE action {} 'settings_update' ORDER BY audit_id"
    actors = {json.loads(metadata)["actor"] for (metadata,) in query(fresh_database, audited.format("<>"))}
    assert actors >= {text for text in TEXTS if not any(letter.isspace() for letter in text)}
    actors_of_settings = [json.loads(metadata)["actor"] for (metadata,) in query(fresh_database, audited.format("="))]
    assert actors_of_settings == [text.strip() for text in TEXTS]


async def test_options_that_are_no_text_refuse_it(fresh_sqlite: str, tmp_path: Path) -> None:
    told = await told_at(fresh_sqlite, tmp_path)
    await asyncio.to_thread(_try_options, told)
    assert await schema_differences(fresh_sqlite) == []
    assert counts(fresh_sqlite, UNTOUCHED + STORED) == [0] * len(UNTOUCHED + STORED)


def _try_options(told: Told) -> None:
    for text in TEXTS:
        for arguments in (
            ("rebuild", "--user", text),
            ("rebuild", "--start", text),
            ("replay", "--user", text),
            ("replay", "--end", text),
            ("purge", "--conversion", text),
            ("purge", "--user", text, "--start", "1", "--end", "2"),
            ("explain", text),
            ("settings", "set", "--user", "1", "--scope", text, "--multi-touch", "off"),
            ("settings", "set", "--user", text, "--scope", "global", "--multi-touch", "off"),
            ("models", "create", "--user", text, "--name", "a", "--type", "linear"),
            ("models", "create", "--user", "1", "--name", "a", "--type", text),
            ("models", "create", "--user", "1", "--name", "a", "--type", "time_decay", "--config", text),
            ("dead-letters", "show", text),
            ("import", "--from", text),
        ):
            assert not told.run(*arguments)[0], arguments


@pytest.mark.parametrize("name", ["APP_ID", "TOPIC_PREFIX"])
def test_names_of_topics_and_groups_are_of_few_letters(name: str) -> None:
    accepted = []
    for text in TEXTS:
        try:
            Settings.from_env({f"TOUCHSTREAM_{name}": text})
        except Misconfigured:
            continue
        accepted.append(text)
    assert accepted == ["0x27", "NULL"]


@pytest.fixture
def source(mariadb_url: str) -> Iterator[Prosper202]:
    with installed(mariadb_url) as made:
        yield made


def test_a_list_of_ids_takes_nothing_but_whole_numbers() -> None:
    assert whole_list([1, 2]) == "1,2"
    with pytest.raises(ValueError, match="format"):
        whole_list(["1) OR (1=1"])  # type: ignore[list-item]


async def test_texts_and_names_of_a_source_are_no_sql(source: Prosper202) -> None:
    source.execute(
        "ALTER TABLE `202_clicks` ADD KEY `a``) UNION SELECT 1 -- ? %s {0}` (user_id, click_time)",
        *(f"DROP INDEX `{name}` ON `202_clicks`" for (name,) in source.rows(_OTHER_KEYS)),
    )
    source.add_clicks({"click_id": 1})
    texts = dict(enumerate(TEXTS, 1))
    source.add_conversions(*({"conv_id": number, "transaction_id": text} for number, text in texts.items()))
    relations = InstalledTables(source_address(source.url))
    try:
        await relations.check()
        assert len(await relations.clicks_of_user(1, since=0, until=NOW, limit=9)) == 1
        rows: Any = await relations.conversions_after(0, limit=len(TEXTS))
    finally:
        await relations.close()
    found = {event.conv_id: event.transaction_id for event in map(conversion_of_row, rows)}
    assert found == {number: text.strip() for number, text in texts.items()}
    assert source.rows("SELECT COUNT(*) FROM `202_conversion_logs`") == [(len(TEXTS),)]


_OTHER_KEYS = (
    "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    " AND table_name = '202_clicks' AND index_name <> 'PRIMARY' AND index_name IN (SELECT index_name FROM"
    " information_schema.statistics WHERE table_schema = DATABASE() AND table_name = '202_clicks'"
    " AND column_name = 'user_id' AND seq_in_index = 1) AND index_name NOT LIKE 'a`%'"
)
