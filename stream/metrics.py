"""What a worker counts and measures, under stable names for Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_CHUNK_SIZES = (0, 1, 10, 50, 100, 250, 500, 1000, 2000, 5000)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One registry a worker, so that two in one process (tests) do not share numbers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"touchstream_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"touchstream_{name}", meaning, labels, registry=registry)

        self.lag = gauge("lag_records", "records in the log that are not yet committed", "topic", "partition")
        self.watermark = gauge("watermark_seconds", "greatest event or append time processed", "partition")
        self.oldest_unprocessed = gauge("oldest_unprocessed_age_seconds", "age of the oldest record that waits")
        self.chunk_records = Histogram(
            "touchstream_chunk_records", "records of a chunk", buckets=_CHUNK_SIZES, registry=registry
        )
        self.step_seconds = Histogram(
            "touchstream_step_seconds", "time of a chunk by step", ["step"], buckets=_SECONDS, registry=registry
        )
        self.events = counter("events", "events by what became of them", "kind", "outcome")
        self.journeys_written = counter("journeys_written", "journeys written to SQL")
        self.journeys_corrected = counter("journeys_corrected", "journeys that were stored before and changed")
        self.lookups = counter("sql_lookups", "questions to SQL that state could not answer", "reason")
        self.dead_letters = counter("dead_letters", "records that cannot become or stay events", "topic", "reason")
        self.misrouted = counter("misrouted", "records sent on from the wrong partition", "topic")
        self.sent_on = counter("sent_on", "stored conversions sent to their own partition", "cause")
        self.unknown_fields = gauge("unknown_fields", "fields of events that nobody here knows")
        self.cache_failures = counter("cache_failures", "cache deletions that failed or came too late")
        self.evictions = gauge("state_evictions", "keys that left memory for the bound on keys")
        self.state_keys = gauge("state_keys", "keys in memory")
        self.stale_dropped = gauge("state_stale_dropped", "changelog values of an older epoch dropped by recovery")
        self.recovered = gauge("recovered_records", "changelog records read by the last recoveries")
        self.recovery_seconds = gauge("recovery_seconds", "time that the last recovery took")
        self.clicks_removed = counter("clicks_removed", "clicks older than the retention, removed from SQL")
        self.hours_fired = counter("hours_fired", "hours written to SQL")
        self.credits_written = counter("credits_written", "credits written to SQL")
        self.hours_in_memory = gauge("hours_conversions", "conversions of hours in memory")
        self.unreadable_journeys = gauge("unreadable_journeys", "records of the journeys topic that are no journeys")
        self.waiting = gauge("waiting", "1 while broker or database do not answer")

    def add_fold_counts(self, counts: Mapping[str, int]) -> None:
        """Counts of `stream.core.folding`: `clicks.new`, `lookups.entered`, `journeys.written` and so on."""
        for name, count in counts.items():
            group, _, what = name.partition(".")
            if group == "lookups":
                self.lookups.labels(what).inc(count)
            elif name == "journeys.written":
                self.journeys_written.inc(count)
            elif name == "journeys.corrected":
                self.journeys_corrected.inc(count)
            else:
                self.events.labels(group, what).inc(count)
