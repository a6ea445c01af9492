"""The command line as a whole: help, exit codes, and whose packages it runs on."""

import os
import subprocess
import sys
from pathlib import Path

from stream.__main__ import COMMANDS
from tests.support.commands import ROOT, environment, run_stream


def test_help_names_every_command_and_loads_none() -> None:
    code = "import sys, stream.__main__ as m; sys.argv = ['x', '--help']\ntry: m.main()\nexcept SystemExit: pass\n"
    code += "print([name for name in sys.modules if name.startswith('stream.commands.')], 'faust' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] False"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_every_command_has_its_module_and_its_own_help() -> None:
    for name in COMMANDS:
        done = run_stream(name, "--help")
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert done.stdout.startswith(f"Usage: touchstream {name}")


def test_wrong_usage_and_wrong_settings_exit_with_2() -> None:
    assert run_stream("nonsense").returncode == 2
    assert run_stream("topics", "check", "--nonsense").returncode == 2
    done = run_stream("topics", "check", settings={"lookbak_days": "3"})
    assert done.returncode == 2
    assert done.stderr == (
        'error: setting "TOUCHSTREAM_LOOKBAK_DAYS" is not known\nhint: did you mean TOUCHSTREAM_LOOKBACK_DAYS?\n'
    )


def test_somebody_elses_tables_package_is_refused_by_its_file(tmp_path: Path) -> None:
    other = tmp_path / "tables"
    other.mkdir()
    (other / "__init__.py").write_text('"""PyTables."""\n')
    code = "import sys; sys.argv = ['x', '--help']; from stream.__main__ import main; main()"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(other / "__init__.py") in done.stderr
    assert "PyTables" in done.stderr
