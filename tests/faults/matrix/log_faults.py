"""A log that was cut before it was read, a changelog that is gone, a cache that is gone."""

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from tests.faults.installation import SOURCES, metric
from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.database_faults import reset
from tests.faults.matrix.servers import own
from tests.support.processes import succeed, wait_for
from tests.support.traffic import Sent

CACHE_SECONDS = 10


def lose_changelog(run: Run) -> None:
    """Deleted under a worker at work; `topics apply` makes it anew, and who recovers from what is left asks SQL."""
    run.wait_progress(0.3)
    run.struck()
    asyncio.run(_delete_topic(run, f"{run.installation.env['TOUCHSTREAM_APP_ID']}-journeys-state-changelog"))
    time.sleep(5)
    succeed("topics", "apply", env=run.installation.env)
    run.healed()
    run.wait_caught_up()
    run.struck()
    run.workforce.workers[0].kill()


async def _delete_topic(run: Run, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=run.installation.kafka)
    await admin.start()
    try:
        await admin.delete_topics([name])
    finally:
        await admin.close()


def cut_log(run: Run) -> None:
    """Records go that nobody had read: refused by name. After the reset what was cut is sent once more."""
    installation = run.installation
    run.wait_progress(0.3)
    assert run.workforce.dismiss_all() == [0]
    read = installation.committed()
    run.struck()
    wait_for(lambda: sum(installation.lag().values()) > 300, "records that nobody has read")
    ends = installation.ends()
    unread = [
        Sent(topic, record.value, record.key, "cut")
        for topic in SOURCES
        for record in installation.read(topic)
        if read[topic, record.partition] <= record.offset < ends[topic, record.partition]
    ]
    asyncio.run(_delete_records(run, ends))
    run.workforce.hire()
    run.wait_logged("were removed before they were processed")
    wait_for(lambda: 1 in run.workforce.exits, "the worker to exit 1")
    reset(run)
    asyncio.run(installation._send(unread))
    run.healed()
    run.note(
        f"refused by name, exit 1; after `progress reset --to-log-start` the {len(unread)} lost records came again"
    )


async def _delete_records(run: Run, before: dict[tuple[str, int], int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=run.installation.kafka)
    await admin.start()
    try:
        places = {
            TopicPartition(run.installation.topic(topic), partition): RecordsToDelete(before_offset=offset)
            for (topic, partition), offset in before.items()
            if offset
        }
        await admin.delete_records(places, timeout_ms=10_000)
    finally:
        await admin.close()


def lose_cache(run: Run) -> None:
    cache = run.servers.parts["memcached"]
    run.wait_progress(0.3)
    before = _failed_deletions(run)
    run.struck()
    cache.stop()
    time.sleep(CACHE_SECONDS)
    # Asked before it is back: what failed is to be counted while it is away.
    failed = _failed_deletions(run) - before
    assert failed > 0, "no deletion was counted as failed while memcached was away"
    cache.start()
    run.healed()
    run.note(f"{failed:,.0f} failed deletions were counted meanwhile")


def _failed_deletions(run: Run) -> float:
    return sum(metric(worker, "cache_failures_total") for worker in run.workforce.workers)


FAULTS = [
    Fault(
        "changelog-deleted",
        "the changelog topic is deleted under a worker at work and made anew; the worker is killed after that",
        lose_changelog,
        rate=120,
    ),
    Fault("log-cut", "records are removed from the log before anybody has read them", cut_log, rate=120),
    Fault("cache-gone", f"memcached is away for {CACHE_SECONDS} s", lose_cache, servers=own("memcached")),
]
