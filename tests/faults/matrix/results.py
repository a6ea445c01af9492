"""What came of each fault: one file each, so that a run which was cut short goes on where it was, and the page."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.matrix.contract import Fault

ROOT = Path(__file__).resolve().parent.parent.parent.parent
RESULTS = Path(os.environ.get("FAULTS_FOLDER", ROOT / "var" / "faults"))
PAGE = RESULTS / "RELIABILITY.md" if "FAULTS_FOLDER" in os.environ else ROOT / "docs" / "RELIABILITY.md"
FOUND = (Path(__file__).with_name("found.md"), ROOT / "tests" / "simulation" / "found.md")
SHIPPED = ("stream", "tables", "topics.yaml", "requirements.lock")
SHOWN_DIGITS = 12  # of a digest


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one fault. Times in seconds; `problem` empty: all is right."""

    name: str
    struck: int
    shares: tuple[float, ...]  # of the records, at each stroke
    records: int
    expected: int
    found: int
    lost: int
    doubled: int
    wrong: int
    recovery: float | None
    longest_lag: float
    seconds: float
    on: str  # the day
    code: str = ""  # digest of what is shipped
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def is_right(self) -> bool:
        return not self.problem


def digest_of_code(root: Path = ROOT) -> str:
    """Of all that an installation runs. Tests are not in it: what a fault does is for its own history to tell."""
    found = hashlib.sha256()
    for part in SHIPPED:
        for path in sorted([root / part, *(root / part).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                found.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def path_of(name: str, folder: Path = RESULTS) -> Path:
    return folder / f"{name}.json"


def write(result: Result, folder: Path = RESULTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft = path_of(result.name, folder).with_suffix(".new")
    draft.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    draft.replace(path_of(result.name, folder))


def read(name: str, folder: Path = RESULTS) -> Result | None:
    try:
        fields = json.loads(path_of(name, folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Result(**fields | {"shares": tuple(fields["shares"]), "notes": tuple(fields["notes"])})


def line(result: Result) -> str:
    """For the terminal."""
    if not result.is_right:
        return f"FAILED {result.problem.splitlines()[0]:.160}"
    return (
        f"ok: struck {result.struck}x, {result.records:,} records, {result.found:,} of {result.expected:,} rows,"
        f" {result.lost} lost, {result.doubled} doubled, recovered in {_seconds(result.recovery)},"
        f" longest lag {_seconds(result.longest_lag)}"
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def write_page(faults: Iterable[Fault], results: Sequence[Result], path: Path = PAGE) -> str:
    """Only with a result of each fault; returns what is to be said of it."""
    faults = list(faults)
    there = {result.name for result in results}
    missing = [fault.name for fault in faults if fault.name not in there]
    if missing:
        return f"{path} is left as it is: no result yet of {len(missing)} of {len(faults)} faults: {', '.join(missing)}"
    path.write_text(page(faults, results), encoding="utf-8")
    return f"{path} tells of all {len(faults)} faults"


def page(faults: Iterable[Fault], results: Sequence[Result]) -> str:
    by_name = {result.name: result for result in results}
    lines = [_head(results), ""]
    lines += [
        "| fault | struck | at | records | rows expected | found | lost | doubled | wrong | recovered | longest lag |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ran = [fault for fault in faults if fault.name in by_name]
    lines += [_row(by_name[fault.name]) for fault in ran]
    lines += ["", "## What each of them does", ""]
    lines += [_about(fault, by_name[fault.name]) for fault in ran]
    for found in FOUND:
        if found.exists():
            lines += ["", found.read_text(encoding="utf-8").strip()]
    return "\n".join([*lines, ""])


def _head(results: Sequence[Result]) -> str:
    failed = sum(not result.is_right for result in results)
    days = sorted({result.on for result in results})
    verdict = f"{failed} of {len(results)} faults failed" if failed else f"All {len(results)} faults came out right"
    minutes = sum(result.seconds for result in results) / 60
    lost, doubled = sum(result.lost for result in results), sum(result.doubled for result in results)
    return f"""# What the faults left behind

Made by `make faults`; [faults.md](faults.md) tells what happens in each case and why. {verdict}, on
{" to ".join(days)}, in {minutes:.0f} minutes: {sum(result.struck for result in results)} strokes, {lost} rows lost,
{doubled} doubled.

Each fault strikes an installation of its own, on a real broker, database and cache, while records come in at a steady
pace: late, doubled, revised, deleted, broken. "At" is the share of the records that were stored when it struck; outside
20 % to 80 % the run fails. Then all rows are compared with oracles that share no code with the product: touchpoints,
journeys, conversion logs, clicks, snapshots and credits; and topics and offsets with the rows. "Recovered" is the time
from the end of the fault until all records that were in the log by then were stored; "longest lag" is how long a record
waited at most, the fault itself included. Both are seen from outside, twice a second. Workers that end are started
again half a second later. One that was killed stays a member of its group for 10 s, its session timeout.

{_code(results)}"""


def _code(results: Sequence[Result]) -> str:
    """Which code was it? One digest, or which fault ran with which."""
    names: dict[str, list[str]] = {}
    for result in results:
        names.setdefault(result.code[:SHOWN_DIGITS] or "unknown", []).append(result.name)
    what = f"The code is told by a digest of {', '.join(f'`{part}`' for part in SHIPPED)}"
    if len(names) == 1:
        return f"{what}: `{next(iter(names))}`, the same in each run."
    lines = [f"- `{digest}`: {', '.join(of_code)}" for digest, of_code in names.items()]
    return "\n".join([f"{what}. **Not all faults ran with the same**:", "", *lines])


def _row(result: Result) -> str:
    shares = f"{min(result.shares):.0%} to {max(result.shares):.0%}" if len(result.shares) > 1 else ""
    shares = shares or (f"{result.shares[0]:.0%}" if result.shares else "")
    numbers = (result.records, result.expected, result.found, result.lost, result.doubled, result.wrong)
    cells = [
        result.name if result.is_right else f"**{result.name}: FAILED**",
        str(result.struck),
        shares.replace("%", " %"),
        *(f"{number:,}" for number in numbers),
        _seconds(result.recovery),
        _seconds(result.longest_lag),
    ]
    return f"| {' | '.join(cells)} |"


def _about(fault: Fault, result: Result) -> str:
    texts = [fault.about, *dict.fromkeys(result.notes)]
    if not result.is_right:
        texts.append(f"Failed: {result.problem.splitlines()[0]}")
    return f"- **{fault.name}**: {'. '.join(text.rstrip('.') for text in texts)}."
