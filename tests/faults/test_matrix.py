"""The harness of `make faults` sees what it is there to see: rows that are gone, and rows that stand twice."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.results import line, page, read, write
from tests.faults.matrix.runner import run_fault
from tests.faults.matrix.servers import Servers, Shared
from tests.support.rebuilds import execute

DOUBLED = 3
LOST = 2


def tamper(run: Run) -> None:
    """What a product that loses and doubles would leave behind."""
    run.wait_progress(0.3)
    run.struck()
    run.flow.wait_sent()
    run.installation.wait_drained()
    touchpoints, url = "`202_conversion_touchpoints`", run.installation.database_url
    columns = "conv_id, click_id, click_time, position, created_at"
    rows = f"SELECT {columns} FROM {touchpoints} ORDER BY touchpoint_id LIMIT {DOUBLED}"
    execute(url, f"INSERT INTO {touchpoints} ({columns}) {rows}")
    execute(
        url,
        f"DELETE FROM `202_conversion_logs` WHERE conv_id IN (SELECT conv_id FROM `202_conversion_logs` LIMIT {LOST})",
    )


def test_a_run_counts_what_was_lost_and_doubled_on_purpose(kafka: str, memcached: str, tmp_path: Path) -> None:
    @contextmanager
    def provide(_: Shared) -> Iterator[Servers]:
        yield Servers(kafka, "", memcached)

    fault = Fault("tampered", "rows are changed by hand", tamper, "sqlite", servers=provide, events=300, rate=150)
    with ExitStack() as stack:
        result = run_fault(fault, Shared(stack), folder=tmp_path)
    assert (result.struck, result.lost, result.doubled, result.wrong) == (1, LOST, DOUBLED, 0), result.problem
    assert result.found == result.expected - LOST + DOUBLED
    assert not result.is_right
    assert "conversion logs: 2 missing" in result.problem
    write(result, tmp_path)
    assert read("tampered", tmp_path) == result
    assert line(result).startswith("FAILED")
    assert "**tampered: FAILED**" in page([fault], [result])
