"""`python -m bench.importing`: the tables of an existing installation into the topics, and what becomes of them.

A script fills Prosper202's tables; `import` is timed with its peak of memory; then a worker drains the log, and the
journeys of every tenth campaign are compared with the golden rules, computed from the source's own rows.
"""

import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from bench.contestants import Course, stream_command
from bench.measuring import DidNotRun, python_module
from bench.surroundings import FOLDER, fresh_name, server
from bench.watching import watched
from tests.support.oracle import expected
from tests.support.prosper202 import Prosper202, installed
from tests.support.rows import difference, query, read_touchpoints

PARTITIONS = 4
DAYS = 90
CLICKS_A_CAMPAIGN = 1000
CAMPAIGNS_A_USER = 20
ROWS_A_STATEMENT = 5000
COMPARED = 10  # every tenth campaign
DOUBLED = 100  # every hundredth click has a second row, which does not count
_DRAIN_SECONDS = 3600

_CLICKS = (
    "SELECT click_id, user_id, aff_campaign_id, click_time, CAST(click_cpc AS CHAR) FROM `202_clicks`"
    f" WHERE aff_campaign_id % {COMPARED} = 0"
)
_CONVERSIONS = (
    "SELECT conv_id, click_id, user_id, campaign_id, click_time, conv_time, CAST(click_payout AS CHAR), transaction_id,"
    f" deleted FROM `202_conversion_logs` WHERE campaign_id % {COMPARED} = 0"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one import, and of the worker behind it."""

    clicks: int
    conversions: int
    seconds: float
    peak_mb: float
    drain_seconds: float
    compared_touchpoints: int

    def line(self) -> str:
        rows = self.clicks + self.conversions
        return (
            f"import of {self.clicks:,} clicks and {self.conversions:,} conversions: {self.seconds:.1f} s,"
            f" {rows / self.seconds:,.0f} rows/s, peak {self.peak_mb:,.0f} MB; drained by one worker in"
            f" {self.drain_seconds:.1f} s; {self.compared_touchpoints:,} touchpoints compared: equal"
        )


def rows_of(clicks: int, now: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """By rising id and time, with the relation; each twentieth click is paid for, up to ten days later."""
    chance = random.Random(202)
    campaigns = max(COMPARED, clicks // CLICKS_A_CAMPAIGN)
    begin, span = now - DAYS * 86400, (DAYS - 11) * 86400
    for number in range(1, clicks + 1):
        campaign = chance.randrange(1, campaigns + 1)
        user = 1 + campaign // CAMPAIGNS_A_USER
        at = begin + span * number // clicks
        yield "202_clicks", (number, user, campaign, chance.randrange(50), f"0.{chance.randrange(10**5):05d}", at)
        if number % DOUBLED == 0:
            yield "202_clicks", (number, user, 0, 0, "0", at)
        if number % 20 == 0:
            paid_at = at + chance.randrange(1, 10 * 86400)
            own = (f"t{number}" if chance.random() < 0.5 else None, campaign, f"{chance.randrange(9999) / 100:.2f}")
            yield "202_conversion_logs", (number // 20, number, *own, user, at, paid_at, int(chance.random() < 0.03))


_COLUMNS = {
    "202_clicks": "click_id, user_id, aff_campaign_id, ppc_account_id, click_cpc, click_time",
    "202_conversion_logs": "conv_id, click_id, transaction_id, campaign_id, click_payout, user_id, click_time,"
    " conv_time, deleted, time_difference, pixel_type, user_agent",
}


def fill(source: Prosper202, clicks: int, now: int) -> None:
    waiting: dict[str, list[str]] = {name: [] for name in _COLUMNS}

    def write(name: str) -> None:
        if waiting[name]:
            source.execute(f"INSERT INTO `{name}` ({_COLUMNS[name]}) VALUES {','.join(waiting[name])}")
            waiting[name].clear()

    for name, row in rows_of(clicks, now):
        values = ", ".join("NULL" if value is None else repr(value) for value in row)
        more = ", '', 0, ''" if name == "202_conversion_logs" else ""
        waiting[name].append(f"({values}{more})")
        if len(waiting[name]) == ROWS_A_STATEMENT:
            write(name)
    for name in _COLUMNS:
        write(name)


def drain(env: dict[str, str]) -> float:
    """Seconds from the start of a worker until all is in SQL."""
    began = time.monotonic()
    with (FOLDER / "worker.log").open("wb") as log:
        worker = subprocess.Popen(python_module("stream", "worker"), env=env, stdout=log, stderr=log)
    try:
        stream_command("status", "--wait-drained", str(_DRAIN_SECONDS), env=env)
        return time.monotonic() - began
    finally:
        worker.terminate()
        worker.wait()


def _event(row: Sequence[Any], names: Sequence[str]) -> bytes:
    return json.dumps(dict(zip(names, row, strict=True))).encode()


def compare(source: Prosper202, database_url: str, now: int) -> int:
    """How many touchpoints are those of the golden rules. Raises DidNotRun with the first that are not."""
    click_names = ("click_id", "user_id", "campaign_id", "click_time", "click_cpc")
    names = ("conv_id", "click_id", "user_id", "campaign_id", "click_time", "conv_time", "click_payout")
    records = [("clicks", _event(row, click_names), now) for row in source.rows(_CLICKS)]
    records += [
        ("conversions", _event(row, (*names, "transaction_id", "deleted")), now) for row in source.rows(_CONVERSIONS)
    ]
    wanted = expected(records).touchpoints
    chosen = query(database_url, f"SELECT conv_id FROM `202_stream_journeys` WHERE campaign_id % {COMPARED} = 0")
    ids = {row[0] for row in chosen}
    found = [each for each in read_touchpoints(database_url) if each.conv_id in ids]
    if wrong := difference(wanted, found, what="touchpoints"):
        raise DidNotRun(wrong)
    return len(wanted)


def run(clicks: int) -> Figures:
    """Raises DidNotRun, also for wrong rows."""
    name, now = fresh_name(), int(time.time())
    with ExitStack() as around:
        kafka = around.enter_context(server("kafka", ""))
        mariadb = around.enter_context(server("mariadb", ""))
        folder = FOLDER / name
        folder.mkdir(parents=True)
        env = Course(kafka, f"{name}-", clicks, PARTITIONS, folder).settings("import", mariadb, prefix=f"{name}-")
        stream_command("topics", "apply", env=env)
        stream_command("db", "upgrade", env=env)
        source = around.enter_context(installed(mariadb))
        fill(source, clicks, now)
        click.echo(f"{clicks:,} clicks are in the source")
        done = watched(env, "import", "--from", source.url, "--json")
        said = done.said
        if said["clicks"] != clicks or said["conversions"] != clicks // 20:
            raise DidNotRun(f"import sent {said}")
        drain_seconds = drain(env)
        same = compare(source, mariadb, now)
    return Figures(said["clicks"], said["conversions"], done.seconds, done.peak_mb, drain_seconds, same)


@click.command()
@click.option("--clicks", default=1_000_000, show_default=True, help="Each twentieth is paid for.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures there, too.")
def main(clicks: int, file: Path | None) -> None:
    """How fast is an import, how much memory does it take, and are the journeys right?"""
    try:
        figures = run(clicks)
    except DidNotRun as error:
        raise click.ClickException(str(error)) from error
    click.echo(figures.line())
    if file is not None:
        file.write_text(json.dumps(asdict(figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
