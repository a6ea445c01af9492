"""`demo`: the whole way on sample traffic, and whether all came out right. Stops everything that it starts."""

import asyncio
import contextlib
import fcntl
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import click
from aiokafka.errors import KafkaError

from stream.agents.topic_names import planned_topics
from stream.commands.demo_checks import Check, checks_of
from stream.commands.demo_expected import LOOKBACK_DAYS
from stream.commands.demo_parts import DemoFailed, Say, broker, signals_raised, undisturbed
from stream.commands.demo_report import Report
from stream.commands.demo_run import Demo, Found
from stream.commands.demo_traffic import PARTITIONS
from stream.commands.topics import connected_admin
from stream.config import HostPort, Settings, host_port, read_settings
from stream.core.errors import Unavailable

_HEALTH = HostPort("127.0.0.1", 6066)
_FIRE_INTERVAL_S = 1.0  # nobody wants to wait in a demo


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """The demo's folder without what the last demo left; raises DemoFailed if one is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DemoFailed(f"another demo is at work in {folder}") from error
        for name in ("touchstream.db", "touchstream.db-wal", "touchstream.db-shm", "worker.log", "settings.sh"):
            (folder / name).unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def topics_removed(settings: Settings, say: Say) -> Iterator[None]:
    """Take the demo's topics from a broker that is not its own; without them its group expires by itself."""
    asyncio.run(_remove_topics(settings))  # there are none; but an address that is wrong is known before all else
    say(f"using the broker at {settings.kafka}")
    try:
        yield
    finally:
        with undisturbed():
            try:
                asyncio.run(_remove_topics(settings))
            except (Unavailable, KafkaError) as error:
                say(f"the topics {settings.topic_prefix}* could not be removed: {error}")
            else:
                say(f"removed the topics {settings.topic_prefix}* from {settings.kafka}")


async def _remove_topics(settings: Settings) -> None:
    async with connected_admin(settings) as admin:
        there = set(await admin.list_topics())
        ours = [topic.name for topic in planned_topics(settings) if topic.name in there]
        if ours:
            await admin.delete_topics(ours)


def demo_settings(kafka: str, folder: Path, name: str) -> Settings:
    """Of the settings of this process what a demo has no word on, as security."""
    return replace(
        read_settings(),
        kafka=kafka,
        database_url=f"sqlite+aiosqlite:///{folder / 'touchstream.db'}",
        data_dir=folder,
        app_id=name,
        topic_prefix=f"{name}-",
        partitions=PARTITIONS,
        lookback_days=LOOKBACK_DAYS,
        fire_interval_seconds=_FIRE_INTERVAL_S,
        health=_HEALTH,
    )


def write_settings_file(settings: Settings, folder: Path) -> None:
    """For a shell: the demo's installation, to look further."""
    names = {
        "KAFKA": settings.kafka,
        "DATABASE_URL": settings.database_url,
        "DATA_DIR": str(settings.data_dir),
        "APP_ID": settings.app_id,
        "TOPIC_PREFIX": settings.topic_prefix,
        "PARTITIONS": str(settings.partitions),
        "FIRE_INTERVAL_SECONDS": str(settings.fire_interval_seconds),
    }
    lines = [f"export TOUCHSTREAM_{name}={shlex.quote(text)}" for name, text in names.items()]
    (folder / "settings.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_demo(kafka: str, folder: Path, say: Say) -> tuple[Found, Settings]:
    """On a broker of its own, or on that of an address. All is stopped when it returns or raises."""
    with own_folder(folder), contextlib.ExitStack() as stack:
        if kafka:
            settings = demo_settings(kafka, folder, f"demo-{uuid4().hex[:8]}")
            stack.enter_context(topics_removed(settings, say))
        else:
            settings = demo_settings(stack.enter_context(broker(folder / "kafka", say)), folder, "demo")
        write_settings_file(settings, folder)
        return Demo(settings, folder, say).run(), settings


def further(settings: Settings, folder: Path, *, has_own_broker: bool) -> list[tuple[str, str]]:
    """Commands that go on from where the demo ends."""
    shown, python = _from_here(folder), _from_here(Path(sys.executable))
    commands = [
        (f". {shown}/settings.sh", "the demo's settings, in this shell"),
        (f"{python} -m stream explain 3", "a journey, its clicks, and its credits by model"),
        (f"sqlite3 {shown}/touchstream.db", "its tables; 202_conversion_touchpoints, say"),
    ]
    if not has_own_broker:
        return commands
    return [
        *commands,
        (f"dev/kafka start --data {shown}/kafka --port {host_port(settings.kafka).port}", "its broker again"),
        (f"{python} -m stream dead-letters list", "the broken records, one by one"),
        (f"{python} -m stream status", "where each partition stands"),
        (f"dev/kafka stop --data {shown}/kafka", "and the broker away again"),
    ]


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def verdict(found: Found, checks: list[Check], seconds: float) -> str:
    wrong = [check for check in checks if not check.is_well]
    if wrong:
        names = "; ".join(f"{check.what}: {check.found:,} instead of {check.expected:,}" for check in wrong)
        return f"demo: {len(wrong)} of {len(checks)} checks failed in {seconds:.0f} s: {names}"
    counted = sum(journey.outcome == "counted" for journey in found.journeys.values())
    return (
        f"demo: {len(found.traffic.samples()):,} events, {counted:,} journeys, {len(found.letters):,} dead letters,"
        f" all as expected in {seconds:.0f} s"
    )


@click.command(name="demo")
@click.option(
    "--kafka",
    metavar="ADDRESS",
    help="Use this broker instead of one of its own; the demo's topics are removed from it at the end.",
)
def command(kafka: str | None) -> None:
    """Show the whole way on sample traffic, in a minute: broker, topics, worker, SQL.

    All that it keeps lies in the folder `demo` of TOUCHSTREAM_DATA_DIR, made anew each time. What it starts, it stops,
    whatever happens. The last line on STDOUT is the verdict; exit 1 if anything is not as expected.
    """
    if kafka:
        Settings.from_env({"TOUCHSTREAM_KAFKA": kafka})  # raises Misconfigured for what is no address
    report = Report()
    folder = (read_settings().data_dir / "demo").absolute()
    try:
        with signals_raised():
            found, settings = run_demo(kafka or "", folder, report.line)
    except BaseException as error:
        how = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        click.echo(f"demo: {how} after {report.seconds:.0f} s; what it had started is stopped")
        raise
    seconds = report.seconds
    checks = list(checks_of(found))
    report.show_all(found, checks)
    report.commands(further(settings, folder, has_own_broker=not kafka))
    click.echo(f"\n{verdict(found, checks, seconds)}")
    if not all(check.is_well for check in checks):
        sys.exit(1)
