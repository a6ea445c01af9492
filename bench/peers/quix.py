# mypy: disable-error-code="import-not-found, no-any-return, no-untyped-call"
"""Quix Streams: its own alignment of two topics, RocksDB, a changelog. Runs in an environment of its own.

The job is that of the sketch, with the same logic and state.
"""

from quixstreams import Application, State

from bench.peers.job import FirstRecord, Job, read_job
from bench.sketch.sketch_logic import apply_events, new_state


def application(job: Job) -> Application:
    return Application(
        broker_address=job.kafka,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=job.folder,
        producer_extra_config={"compression.type": "lz4"},
        loglevel="WARNING",
    )


def run(job: Job) -> None:
    app = application(job)
    first = FirstRecord()

    def fold(value: tuple[int, bytes], state: State) -> None:
        if not first.is_told:
            first.tell()
        kind, raw = value
        known = state.get("state") or new_state()
        apply_events(known, kind, [(0, raw)], dedupe=False)
        state.set("state", known)

    as_bytes = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    clicks = app.dataframe(app.topic(job.clicks, **as_bytes)).apply(lambda raw: (0, raw))
    conversions = app.dataframe(app.topic(job.conversions, **as_bytes)).apply(lambda raw: (1, raw))
    clicks.concat(conversions).update(fold, stateful=True)
    app.run()


if __name__ == "__main__":
    run(read_job())
