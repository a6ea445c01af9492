"""`python -m bench.figures FILE`: puts the figures of a run (`python -m bench --json FILE`) into docs/benchmarks.md."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.surroundings import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def markdown(run: dict[str, Any]) -> str:
    plan = run["plan"]
    lines = [
        f"{plan['events']:,} events, {plan['keys']:,} keys, {plan['partitions']} partitions.",
        "",
        "| contestant | events | seconds | events/s | CPU seconds | events per CPU second | peak MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in run["results"]:
        speeds = f"{one['events_per_s']:,.0f} | {one['cpu_seconds']:.1f} | {one['events_per_cpu_s']:,.0f}"
        lines.append(
            f"| {one['label']} | {one['events']:,} | {one['wall_seconds']:.1f} | {speeds} | {one['peak_mb']:,.0f} |"
        )
    for text in run["hours"]:
        lines += ["", text]
    lines += ["", "| work | measured as | reach | got | |", "|---|---|---:|---:|---|"]
    for ratio in run["ratios"]:
        outcome = "reached" if ratio["met"] else "missed"
        numbers = f"{ratio['reach']:,.6g} | {ratio['got']:,.3g}" if ratio["reach"] < 100 else _large(ratio)
        lines.append(f"| {ratio['work']} | {ratio['measure']} | {numbers} | {outcome} |")
    return "\n".join(lines)


def _large(ratio: dict[str, Any]) -> str:
    return f"{ratio['reach']:,.0f} | {ratio['got']:,.0f}"


def main(file: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE} has lost its marks"
    figures = markdown(json.loads(file.read_text(encoding="utf-8")))
    PAGE.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
