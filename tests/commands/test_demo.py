"""`demo` for real: its verdict, and that nothing it started is left, however it ends."""

import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stream.commands import demo_expected_hours
from stream.commands.demo import verdict
from stream.commands.demo_checks import Check, checks_of_revisions
from stream.commands.demo_expected import expected_rows
from stream.commands.demo_models import MODELS
from stream.commands.demo_parts import Numbers
from stream.commands.demo_rows import ShownHour, StoredRows
from stream.commands.demo_run import Found, FoundHours
from stream.commands.demo_traffic import USERS, Sample, make_traffic
from stream.config import SETTING_NAMES
from tests.support.commands import ROOT, environment, run_stream
from tests.support.hour_oracle import Model, earnings_of, expected_hours
from tests.support.oracle import expected
from tests.support.processes import wait_for

LIMIT_S = 300  # the first broker of a machine fetches its jars
NOW = int(time.time())
NO_HOURS = FoundHours({}, {}, {}, {}, {}, {}, {})


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended, or it is not ours
        if str(folder).encode() in seen:
            found.append(words)
    return found


def start_demo(folder: Path) -> "subprocess.Popen[bytes]":
    settings = {"data_dir": str(folder / "data"), "lookback_days": "3", "partitions": "7"}  # not for the demo
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "stream", "demo"],
            cwd=folder,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            preexec_fn=hear_ctrl_c,  # noqa: PLW1509 - there are no threads here
        )


def hear_ctrl_c() -> None:
    """Shells let their background jobs ignore it, and children of the tests would ignore it too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_demo_ends_with_its_verdict_and_leaves_no_process(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    assert demo.wait(LIMIT_S) == 0, (tmp_path / "stdout").read_text() + (tmp_path / "stderr").read_text()
    output = (tmp_path / "stdout").read_text()
    verdict = output.splitlines()[-1]
    sent = len(make_traffic(NOW).samples())
    assert re.fullmatch(rf"demo: {sent:,} events, \d+ journeys, \d+ dead letters, all as expected in \d+ s", verdict)
    assert "stopped the worker" in output
    assert "stopped the broker" in output
    assert "WRONG" not in output
    assert (tmp_path / "stderr").read_text() == ""
    assert left_over(tmp_path) == []
    # What it says about looking further is true.
    exports = (tmp_path / "data" / "demo" / "settings.sh").read_text()
    assert set(re.findall(r"export (\w+)=", exports)) <= set(SETTING_NAMES)
    shell = f". data/demo/settings.sh && {sys.executable} -m stream explain 3"
    explained = subprocess.run(
        ["/bin/sh", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert "conversion 3" in explained.stdout


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "the broker accepts"), (signal.SIGTERM, "a worker is ready")]
)
def test_a_demo_that_is_interrupted_stops_what_it_started(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    demo = start_demo(tmp_path)

    def has_come_so_far() -> bool:
        assert demo.poll() is None, (tmp_path / "stderr").read_text()
        return moment in (tmp_path / "stdout").read_text()

    try:
        wait_for(has_come_so_far, moment, seconds=LIMIT_S)
    finally:
        demo.send_signal(number)
    assert demo.wait(60) == 1
    output = (tmp_path / "stdout").read_text()
    assert re.match(r"demo: interrupted after \d+ s; what it had started is stopped", output.splitlines()[-1])
    assert left_over(tmp_path) == []


def test_an_installation_without_dev_asks_for_the_address_of_a_broker(tmp_path: Path) -> None:
    for package in ("stream", "tables"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "stream", "demo"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "this installation has no dev/kafka" in done.stderr
    assert "--kafka HOST:PORT" in done.stderr


def test_a_broker_that_is_no_address_is_wrong_usage() -> None:
    done = run_stream("demo", "--kafka", "nowhere")
    assert done.returncode == 2
    assert "TOUCHSTREAM_KAFKA" in done.stderr


def test_what_the_demo_expects_is_what_the_oracle_expects() -> None:
    traffic = make_traffic(NOW)
    ours = expected_rows(traffic)
    oracle = expected((sample.topic, sample.value, NOW) for sample in traffic.samples())
    touches: dict[int, tuple[int, ...]] = {}
    for row in sorted(oracle.touchpoints):
        touches[row.conv_id] = (*touches.get(row.conv_id, ()), row.click_id)
    assert dict(ours.touches) == touches
    assert dict(ours.outcomes) == {row.conv_id: row.outcome for row in oracle.journeys}
    assert len(oracle.dead_letters) == traffic.refused.total()
    assert oracle.conflicts == frozenset()


def test_the_demo_knows_by_itself_what_the_hours_come_to() -> None:
    traffic = make_traffic(NOW)
    ids = {(user_id, model.slug): user_id * 10 + number for user_id in USERS for number, model in enumerate(MODELS)}
    models = [
        Model(user_id, ids[user_id, model.slug], model.type_name, model.config) for user_id in USERS for model in MODELS
    ]
    rows = expected((sample.topic, sample.value, NOW) for sample in traffic.samples())
    oracle = expected_hours(earnings_of(rows), models)
    totals, credits = demo_expected_hours.expected_hours(traffic, expected_rows(traffic))
    assert sorted(
        (key.user_id, ids[key[:2]], *key[2:], total.clicks, total.conversions, total.revenue, total.cost)
        for key, total in totals.items()
    ) == [(*each[:7], *(int(amount * 10_000) for amount in each[7:])) for each in oracle.snapshots]
    assert sorted((key.user_id, ids[key[:2]], *key[2:], *credit) for key, credit in credits.items()) == list(
        oracle.credits
    )


def test_the_traffic_holds_every_kind_of_trouble() -> None:
    traffic = make_traffic(NOW)
    kinds = {sample.kind for sample in traffic.samples()}
    troubles = {"late", "the same again", "revised", "deleted", "refund", "paid twice", "broken"}
    assert troubles | {"ahead of its click", "without their click", "on a wrong partition"} <= kinds

    def shape(sample: Sample) -> tuple[str, str]:
        return sample.topic, sample.kind

    assert [shape(each) for each in make_traffic(NOW + 86_400).samples()] == [shape(each) for each in traffic.samples()]


def test_the_verdict_names_what_is_wrong(tmp_path: Path) -> None:
    found = Found(make_traffic(NOW), {}, {}, StoredRows(tmp_path / "none.db"), [], Numbers(""), NO_HOURS)
    well, wrong = Check("dead letters", 11, 11), Check("clicks", 2725, 2724)
    assert verdict(found, [well, wrong], 20.4) == "demo: 1 of 2 checks failed in 20 s: clicks: 2,724 instead of 2,725"
    assert verdict(found, [well], 20.4).endswith("0 journeys, 0 dead letters, all as expected in 20 s")


@pytest.mark.parametrize(
    ("after", "moved"),
    [
        (ShownHour(2, is_final=True), 0),
        (ShownHour(2, is_final=False), 1),
        (ShownHour(3, is_final=True), 1),
    ],
)
def test_a_revision_is_owed_to_becoming_final_or_to_a_correction(tmp_path: Path, after: ShownHour, moved: int) -> None:
    hours = replace(NO_HOURS, before={(9, 0): ShownHour(1, is_final=False)}, hours={(9, 0): after})
    found = Found(make_traffic(NOW), {}, {}, StoredRows(tmp_path / "none.db"), [], Numbers(""), hours)
    assert [check.found for check in checks_of_revisions(found)] == [0, moved]
