"""What a run needs around it: broker, database, the environment of Quix Streams."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.measuring import DidNotRun
from dev.broker import java

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "var" / "bench"
LOCK = ROOT / "requirements-bench.lock"

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "JAVA_HOME")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Its STDOUT. Raises DidNotRun with what it said, if it fails."""
    done = subprocess.run(
        [str(part) for part in command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DidNotRun(f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def server(part: str, given: str) -> Iterator[str]:
    """What a setting takes to reach the part: what was given, or one of its own, wiped at the end."""
    if given:
        yield given
        return
    data = FOLDER / part
    program = (sys.executable, ROOT / "dev" / part)
    run(*program, "wipe", "--data", data)  # what a run left behind that was killed
    try:
        yield str(json.loads(run(*program, "start", "--data", data, "--json"))["value"])
    finally:
        run(*program, "wipe", "--data", data)


def clean_environment() -> dict[str, str]:
    """Without settings of anybody's; modules are found in this checkout."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {"HOME": str(FOLDER), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def quix_python() -> Path:
    """Of an environment of its own, made where it is missing: its packages are no business of the project's."""
    home = FOLDER / "venv"
    python, stamp = home / "bin" / "python", home / ".installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        run(sys.executable, "-m", "venv", "--clear", home)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--require-hashes", "--no-deps", "-r", LOCK)  # the Makefile says why: LOCKED
        stamp.write_text(wanted, encoding="ascii")
    return python


def kafka_streams_command() -> list[str]:
    """Java and its class path, fetched and compiled by Maven where something changed. Java is that of the broker."""
    project, home = ROOT / "bench" / "kafka_streams", FOLDER / "kafka_streams"
    sources = [project / "pom.xml", *sorted(project.rglob("*.java"))]
    wanted, stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(), home / ".built"
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        goals = ("compile", "dependency:copy-dependencies")
        run("mvn", "-q", "-B", "-f", project / "pom.xml", f"-Dbench.folder={home}", *goals)
        stamp.write_text(wanted, encoding="ascii")
    return [java(), "-Xmx1g", "-cp", f"{home / 'classes'}:{home / 'jars'}/*", "bench.Journeys"]


def fresh_name() -> str:
    return "bench" + uuid.uuid4().hex[:8]
