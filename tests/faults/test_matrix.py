"""The harness of `make faults` sees what it is there to see: rows that are gone, and rows that stand twice."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.results import SHIPPED, Result, digest_of_code, line, page, read, write, write_page
from tests.faults.matrix.runner import run_fault
from tests.faults.matrix.servers import Servers, Shared
from tests.support.processes import ROOT
from tests.support.rebuilds import execute

DOUBLED = 3
RECOSTED = 1
WRONG_LETTERS = 2
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
    # What an audit of ids alone would not see.
    clicks = "`202_stream_clicks`"
    execute(url, f"UPDATE {clicks} SET landing_page_id = 99 WHERE click_id = (SELECT MIN(click_id) FROM {clicks})")
    # A dead letter that nothing was sent for, and one that says another reason.
    letter = run.installation.read("clicks-dead-letters")[0]
    asyncio.run(_send(run, letter, {"touchstream-offset": b"0"}))
    asyncio.run(_send(run, letter, {"touchstream-reason": b"too_large"}))
    asyncio.run(_send(run, letter, {}))  # a repeat, which is none


async def _send(run: Run, letter: ConsumerRecord, changed: dict[str, bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=run.installation.kafka)
    await producer.start()
    try:
        headers = [(name, changed.get(name, content)) for name, content in letter.headers]
        await producer.send_and_wait(letter.topic, letter.value, letter.key, 0, headers=headers)
    finally:
        await producer.stop()


def test_a_run_counts_what_was_lost_and_doubled_on_purpose(kafka: str, memcached: str, tmp_path: Path) -> None:
    @contextmanager
    def provide(_: Shared) -> Iterator[Servers]:
        yield Servers(kafka, "", memcached)

    fault = Fault("tampered", "rows are changed by hand", tamper, "sqlite", servers=provide, events=900, rate=300)
    with ExitStack() as stack:
        result = run_fault(fault, Shared(stack), folder=tmp_path)
    assert (result.struck, result.lost, result.doubled, result.wrong) == (
        1,
        LOST + RECOSTED,
        DOUBLED,
        RECOSTED + WRONG_LETTERS,
    ), result.problem
    assert result.found == result.expected - LOST + DOUBLED + WRONG_LETTERS
    assert not result.is_right
    assert "conversion logs: 2 missing" in result.problem
    assert "clicks: 1 missing, 1 too many" in result.problem
    assert "dead letters: 0 missing, 2 too many" in result.problem
    assert "1 dead letters stand there once more, as they may" in result.notes
    write(result, tmp_path)
    assert read("tampered", tmp_path) == result
    assert line(result).startswith("FAILED")
    assert "**tampered: FAILED**" in page([fault], [result])
    assert f"`{result.code[:12]}`, the same in each run" in page([fault], [result])


def made_up(name: str, *, code: str = "c" * 64) -> tuple[Fault, Result]:
    result = Result(name, 1, (0.3,), 10, 10, 10, 0, 0, 0, 1.0, 1.0, 1.0, "2026-11-30", code)
    return Fault(name, f"what {name} does", tamper), result


def test_the_page_is_left_alone_until_each_fault_has_a_result(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("of all faults")
    (one, of_one), (other, of_other) = made_up("one"), made_up("other")
    said = write_page([one, other], [of_one], path)
    assert said.endswith("is left as it is: no result yet of 1 of 2 faults: other")
    assert path.read_text() == "of all faults"
    assert write_page([one, other], [of_one, of_other], path).endswith("tells of all 2 faults")
    assert "All 2 faults came out right" in path.read_text()


def test_the_page_names_faults_that_ran_with_other_code() -> None:
    (one, of_one), (other, of_other) = made_up("one"), made_up("other", code="d" * 64)
    text = page([one, other], [of_one, of_other])
    assert "**Not all faults ran with the same**" in text
    assert f"- `{'d' * 12}`: other" in text


def test_another_byte_of_what_is_shipped_is_other_code(tmp_path: Path) -> None:
    for part in SHIPPED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        copy(ROOT / part, tmp_path / part)
    assert digest_of_code(tmp_path) == digest_of_code()
    with (tmp_path / "tables" / "sql" / "deep.py").open("a") as file:
        file.write("\n")
    assert digest_of_code(tmp_path) != digest_of_code()
