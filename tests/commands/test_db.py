"""`db upgrade` and `db check`, as a person runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rows import query

ROOT = Path(__file__).resolve().parents[2]


def run(url: str, action: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTREAM_")}
    environment |= {"TOUCHSTREAM_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stream", "db", action]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_database_is_made_and_checked(fresh_database: str, tmp_path: Path) -> None:
    before = run(fresh_database, "check", tmp_path)
    assert before.returncode == 1
    assert "table 202_stream_journeys is missing" in before.stderr
    assert "db upgrade" in before.stderr
    for _ in range(2):
        upgraded = run(fresh_database, "upgrade", tmp_path)
        assert (upgraded.returncode, upgraded.stderr) == (0, "")
    assert "touchstream:touchstream" not in upgraded.stdout
    after = run(fresh_database, "check", tmp_path)
    assert (after.returncode, after.stderr) == (0, "")
    assert query(fresh_database, "SELECT COUNT(*) FROM `202_conversion_touchpoints`") == [(0,)]


@pytest.mark.parametrize("action", ["upgrade", "check"])
def test_a_server_that_is_away_is_said_in_one_line(action: str, tmp_path: Path) -> None:
    done = run("mysql+asyncmy://u:geheim@127.0.0.1:1/d", action, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: database")
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr
