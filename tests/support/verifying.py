"""A verification as a user runs it, and all that it must leave as it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

from tables.sql.schema import schema_for
from tests.support.processes import Environment, cli
from tests.support.rows import query


class Verified(NamedTuple):
    """What it said."""

    exit_code: int
    lines: Sequence[str]  # of STDOUT, without the certificate
    days: Sequence[str]
    certificate: str
    errors: str


def verify(env: Environment, *options: str) -> Verified:
    done = cli("replay", "--verify", *options, env=env)
    lines = done.stdout.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("certificate ")]
    assert len(heads) == 1, f"{done.stdout}\n{done.stderr}"
    rest = [line for line in lines[heads[0] + 1 :] if not line.startswith(("verify: ", "Processed "))]
    return Verified(done.returncode, rest, lines[: heads[0]], lines[heads[0]].split()[1], done.stderr)


def verify_as_json(env: Environment, *options: str) -> dict[str, Any]:
    done = cli("replay", "--verify", "--json", *options, env=env)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def hashes_of_rows(database_url: str) -> Mapping[str, str]:
    """Of every one of our relations."""
    names = sorted(schema_for("sqlite").tables)
    return {
        name: hashlib.sha256("\n".join(sorted(map(repr, query(database_url, f"SELECT * FROM `{name}`")))).encode())
        .hexdigest()
        for name in names
    }  # fmt: skip


async def ends_of_topics(env: Environment) -> Mapping[str, int]:
    """Of all topics of the installation, by name and partition."""
    ours = (env["TOUCHSTREAM_TOPIC_PREFIX"], env["TOUCHSTREAM_APP_ID"])
    admin = AIOKafkaAdminClient(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    consumer = AIOKafkaConsumer(bootstrap_servers=env["TOUCHSTREAM_KAFKA"])
    await admin.start()
    await consumer.start()
    try:
        described = [each for each in await admin.describe_topics() if each["topic"].startswith(ours)]
        places = [TopicPartition(each["topic"], part["partition"]) for each in described for part in each["partitions"]]
        assert places, "an installation has topics"
        return {f"{place.topic}/{place.partition}": end for place, end in (await consumer.end_offsets(places)).items()}
    finally:
        await consumer.stop()
        await admin.close()
