"""Who runs, with which command."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.backlog import Topics
from bench.measuring import Contestant, python_module
from bench.peers.job import Job
from bench.surroundings import clean_environment, kafka_streams_command, quix_python, run
from dev.server import free_port
from stream.topics import JOURNEYS, hours_group_id

BARE, SKETCH, KAFKA_STREAMS, QUIX, FAUST = "bare", "sketch", "kafka-streams", "quix", "faust"
WITHOUT_SQL, SQLITE, MARIADB = "ours-without-sql", "ours-sqlite", "ours-mariadb"
SQLITE_HOURS, MARIADB_HOURS, HOT_HOUR = "hours-in-sqlite", "hours-in-mariadb", "hot-hour"
PEERS = (BARE, SKETCH, KAFKA_STREAMS, QUIX, FAUST)
OURS = (WITHOUT_SQL, SQLITE, MARIADB)  # these compute no hours, as peers do not
WITH_HOURS = (SQLITE_HOURS, MARIADB_HOURS)

LABELS = {
    BARE: "bare aiokafka loop",
    SKETCH: "the sketch",
    KAFKA_STREAMS: "Kafka Streams, Java",
    QUIX: "Quix Streams",
    FAUST: "stock Faust",
    WITHOUT_SQL: "ours, without SQL",
    SQLITE: "ours, SQLite",
    MARIADB: "ours, MariaDB",
    SQLITE_HOURS: "ours, SQLite, with hours",
    MARIADB_HOURS: "ours, MariaDB, with hours",
    HOT_HOUR: "hot hour",
}

# Stock Faust is an order of magnitude slower than the others, and as slow at any length: a tenth of the events will do.
FAUST_SHARE = 10


@dataclass(frozen=True, slots=True)
class Course:
    """What all contestants share."""

    kafka: str
    prefix: str  # of topics and groups
    events: int
    partitions: int
    folder: Path

    @property
    def topics(self) -> Topics:
        return f"{self.prefix}clicks", f"{self.prefix}conversions"

    def peer(self, name: str) -> Contestant:
        clicks, conversions = self.topics
        folder = self.folder / name
        group = f"{self.prefix}{name}"
        job = Job(self.kafka, clicks, conversions, self.partitions, group, str(folder))
        return Contestant(
            name=name,
            label=LABELS[name],
            command=[*_program(name), *job.arguments()],
            group=group,
            folder=folder,
            env=clean_environment(),
            most_events=self.events // FAUST_SHARE if name == FAUST else 0,
        )

    def settings(self, name: str, database_url: str, *, prefix: str) -> dict[str, str]:
        """The environment of one installation of ours; all with one prefix share its topics."""
        settings = {
            "KAFKA": self.kafka,
            "DATABASE_URL": database_url,
            "DATA_DIR": str(self.folder / f"{name}-data"),
            "APP_ID": f"{self.prefix}{name}",
            "TOPIC_PREFIX": prefix,
            "PARTITIONS": str(self.partitions),
            "HEALTH": f"127.0.0.1:{free_port()}",
        }
        return clean_environment() | {f"TOUCHSTREAM_{setting}": value for setting, value in settings.items()}

    def ours(self, name: str, database_url: str) -> Contestant:
        """Without hours, that is with what peers do."""
        module = "bench.ours_without_sql" if name == WITHOUT_SQL else "bench.ours_without_hours"
        return self._installed(name, self.settings(name, database_url, prefix=self.prefix), python_module(module))

    def with_hours(self, name: str, database_url: str, *, prefix: str = "") -> Contestant:
        """The product as it is; with a prefix, on topics of its own."""
        prefix = prefix or self.prefix
        env = self.settings(name, database_url, prefix=prefix)
        contestant = self._installed(name, env, python_module("stream", "worker"))
        return replace(contestant, hours_group=hours_group_id(contestant.group), journeys=f"{prefix}{JOURNEYS}")

    def _installed(self, name: str, env: dict[str, str], command: Sequence[str]) -> Contestant:
        """Its topics and tables are made by the commands that a user has."""
        stream_command("topics", "apply", env=env)
        stream_command("db", "upgrade", env=env)
        return Contestant(
            name=name,
            label=LABELS[name],
            command=command,
            group=env["TOUCHSTREAM_APP_ID"],
            folder=self.folder / name,
            env=env,
            health=env["TOUCHSTREAM_HEALTH"],
        )

    def sqlite_url(self, name: str) -> str:
        return f"sqlite+aiosqlite:///{self.folder / name}.db"


def _program(name: str) -> Sequence[str]:
    """Its command without the job; built or installed where that is missing."""
    if name == KAFKA_STREAMS:
        return kafka_streams_command()
    if name == QUIX:
        return python_module("bench.peers.quix", python=quix_python())
    modules = {BARE: "bench.peers.bare", SKETCH: "bench.sketch.sketch_app", FAUST: "bench.peers.stock_faust"}
    return python_module(modules[name])


def stream_command(*arguments: str, env: dict[str, str]) -> str:
    return run(sys.executable, "-m", "stream", *arguments, env=env)


def chosen(names: str) -> Sequence[str]:
    """Of a comma list; all of them for an empty one. Raises ValueError for a name that is none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(PEERS)
    for name in wanted:
        if name not in PEERS:
            raise ValueError(f'no peer is called "{name}"; there are {", ".join(PEERS)}')
    return wanted
