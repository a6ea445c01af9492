"""A bug as its patch describes it: what it is, what must find it, what it needs to show itself; then the difference."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PATCHES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Bug:
    """`findings`: beginnings of what the audit, the oracle or a named assertion of the product says."""

    patch: Path
    meaning: str
    findings: tuple[str, ...]
    needs_fault: bool

    @classmethod
    def of(cls, patch: Path) -> Self:
        """Raises ValueError for a header that lacks anything."""
        meaning, found_by, needs, *_ = patch.read_text().splitlines()
        if not found_by.startswith("Found by: ") or needs not in ("Needs: a fault", "Needs: nothing"):
            raise ValueError(f"{patch.name}: after the meaning come Found by and Needs")
        findings = tuple(found_by.removeprefix("Found by: ").split(" or "))
        return cls(patch, meaning, findings, needs == "Needs: a fault")

    @property
    def name(self) -> str:
        return self.patch.stem

    def is_found_by(self, failure: str) -> bool:
        """`failure`: the type of the error and what it says. Any other error may be the bug's, and is no finding."""
        kind, _, text = failure.partition(": ")
        return kind in ("Wrong", "AssertionError") and any(text.startswith(finding) for finding in self.findings)


def all_bugs() -> list[Bug]:
    return [Bug.of(patch) for patch in sorted(PATCHES.glob("*.patch"))]


def applied(patch: Path, folder: Path, *options: str) -> str:
    """What git says; the text before the first file is passed over. Raises ValueError where a patch no longer fits."""
    done = subprocess.run(
        ["git", "apply", "--verbose", *options, str(patch)], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{patch.name} no longer fits: {done.stderr}")
    return done.stderr
