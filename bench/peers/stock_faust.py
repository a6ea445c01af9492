# mypy: disable-error-code="no-any-return, no-untyped-call, untyped-decorator, arg-type, type-var"
"""Stock Faust as its manual shows it: one agent a topic, one table, one changelog write an event.

The job is that of the sketch, with the same logic and state.
"""

import sys
from typing import Any

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402
import orjson  # noqa: E402

from bench.peers.job import FirstRecord, read_job  # noqa: E402
from bench.sketch.sketch_logic import apply_events, new_state  # noqa: E402

job = read_job()
first = FirstRecord()

app = faust.App(
    id=job.group,
    broker="kafka://" + job.kafka,
    web_enabled=False,
    topic_disable_leader=True,
    datadir=job.folder,
    topic_partitions=job.partitions,
    topic_replication_factor=1,
    table_standby_replicas=0,
    processing_guarantee="at_least_once",
    store="memory://",
)
states: Any = app.Table("states", partitions=job.partitions, key_type=bytes, value_type=bytes)


def register(topic: str, kind: int) -> None:
    async def fold(events: faust.StreamT[bytes]) -> None:
        async for event in events.events():
            if not first.is_told:
                first.tell()
            message = event.message
            raw = states.get(message.key)
            state = orjson.loads(raw) if raw else new_state()
            apply_events(state, kind, [(message.offset, message.value)], dedupe=False)
            states[message.key] = orjson.dumps(state)

    app.agent(app.topic(topic, key_type=bytes, value_type=bytes, value_serializer="raw"), name=topic)(fold)


register(job.clicks, 0)
register(job.conversions, 1)

if __name__ == "__main__":
    sys.argv[1:] = []
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False, daemon=True, quiet=True).execute_from_commandline()
