"""What a consumer of the two topics of results keeps, and what it must agree with."""

import json
from collections.abc import Iterable
from decimal import Decimal

from stream.wire.outgoing import OutgoingRecord
from tests.support.hour_examples import as_credit, as_snapshot
from tests.support.hour_oracle import PARTS, Credit, ExpectedHours, Snapshot
from tests.support.memory_hours import MemoryHours
from tests.support.rows import difference

SNAPSHOTS = "attribution-snapshots"
CREDITS = "attribution-credits"


class Books:
    """The last record of each key; a tombstone ends it."""

    def __init__(self) -> None:
        self.records: dict[str, dict[bytes, bytes]] = {SNAPSHOTS: {}, CREDITS: {}}

    def take(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        assert key is not None, "a compacted topic takes no record without a key"
        if value is None:
            self.records[topic].pop(key, None)
        else:
            self.records[topic][key] = value

    def take_all(self, outputs: Iterable[OutgoingRecord]) -> None:
        for output in outputs:
            self.take(output.topic, output.key, output.value)

    def read(self) -> ExpectedHours:
        return ExpectedHours(
            sorted(read_snapshot(key, value) for key, value in self.records[SNAPSHOTS].items()),
            sorted(read_credit(key, value) for key, value in self.records[CREDITS].items()),
        )


def read_snapshot(key: bytes, value: bytes) -> Snapshot:
    fields = json.loads(value)
    found = Snapshot(
        fields["user_id"],
        fields["model_id"],
        fields["date_hour"],
        fields["scope_type"],
        fields["scope_id"] or 0,
        fields["attributed_clicks"],
        fields["attributed_conversions"],
        Decimal(fields["attributed_revenue"]),
        Decimal(fields["attributed_cost"]),
    )
    assert (fields["scope_id"] is None) == (found.scope == "global")
    assert key == ":".join(map(str, found[:5])).encode(), "the key names the row"
    return found


def read_credit(key: bytes, value: bytes) -> Credit:
    fields = json.loads(value)
    assert fields["weight"] == fields["credit"]
    found = Credit(
        fields["user_id"],
        fields["model_id"],
        fields["date_hour"],
        fields["conv_id"],
        fields["position"],
        fields["click_id"],
        int(Decimal(fields["credit"]) * PARTS),
    )
    assert key == ":".join(map(str, found[:5])).encode(), "the key names the row"
    return found


def stored(database: MemoryHours) -> ExpectedHours:
    """All rows of the hours in memory."""
    return ExpectedHours(
        sorted(as_snapshot(key, row) for key, hour in database.hours.items() for row in hour.snapshots.values()),
        sorted(as_credit(key, row) for key, hour in database.hours.items() for row in hour.credits.values()),
    )


def disagreement(wanted: ExpectedHours, found: ExpectedHours, *, what: str = "rows") -> str:
    """'' if both hold the same rows."""
    texts = [
        difference(wanted.snapshots, found.snapshots, what=f"snapshots: {what}"),
        difference(wanted.credits, found.credits, what=f"credits: {what}"),
    ]
    return "\n".join(text for text in texts if text)
