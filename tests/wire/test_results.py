"""Snapshots and credits on the wire: by their schemas, with every number exactly as SQL has it."""

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from stream.core.credit import WHOLE_CREDIT
from stream.core.hours import CreditRow, HourKey
from stream.core.results import SnapshotRow
from stream.core.totals import Scope, ScopeKey
from stream.wire.results import encode_credit, encode_snapshot, step_text
from tests.wire.schema_checks import check

hours = st.builds(HourKey, st.integers(1, 2**24 - 1), st.integers(0, 2**31 // 3600 - 1).map(lambda n: n * 3600))
ids = st.integers(1, 2**24 - 1)
steps = st.integers(-(10**12) + 1, 10**12 - 1)
revisions = st.integers(1, 2**63 - 1)


snapshots = st.builds(
    SnapshotRow,
    key=st.builds(
        lambda model_id, scope, scope_id: ScopeKey(model_id, scope, 0 if scope is Scope.GLOBAL else scope_id),
        ids,
        st.sampled_from(Scope),
        ids,
    ),
    clicks=ids,
    conversions=ids,
    revenue=steps,
    cost=steps,
)
credits = st.builds(
    CreditRow,
    model_id=ids,
    conv_id=st.integers(1, 2**32 - 1),
    click_id=st.integers(1, 2**63 - 1),
    position=st.integers(0, 25),
    credit=st.integers(0, WHOLE_CREDIT),
)


@given(hour=hours, row=snapshots, revision=revisions, is_final=st.booleans())
def test_a_snapshot_passes_its_schema(*, hour: HourKey, row: SnapshotRow, revision: int, is_final: bool) -> None:
    text = encode_snapshot(hour, row, revision=revision, is_final=is_final).decode()
    check("snapshot.v1", text)
    record = json.loads(text)
    assert Decimal(record["attributed_revenue"]) * 10_000 == row.revenue
    assert Decimal(record["attributed_cost"]) * 10_000 == row.cost
    assert record["scope_id"] == (row.key.scope_id or None)
    assert (record["user_id"], record["date_hour"], record["model_id"]) == (*hour, row.key.model_id)
    assert (record["revision"], record["final"]) == (revision, is_final)


@given(hour=hours, row=credits, revision=revisions, is_final=st.booleans())
def test_a_credit_passes_its_schema(*, hour: HourKey, row: CreditRow, revision: int, is_final: bool) -> None:
    text = encode_credit(hour, row, revision=revision, is_final=is_final).decode()
    check("credit.v1", text)
    record = json.loads(text)
    assert Decimal(record["credit"]) * WHOLE_CREDIT == row.credit
    assert record["weight"] == record["credit"]
    assert (record["conv_id"], record["click_id"], record["position"]) == row[1:4]
    assert (record["revision"], record["final"]) == (revision, is_final)


def test_amounts_of_less_than_one_keep_their_sign() -> None:
    assert [step_text(each) for each in (0, 1, -1, -12_500, 10_000)] == [
        "0.0000",
        "0.0001",
        "-0.0001",
        "-1.2500",
        "1.0000",
    ]
