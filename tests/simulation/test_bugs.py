"""The deliberate bugs fit the shipped files, and nothing but what each of them names counts as its being caught."""

from pathlib import Path

import pytest

from tests.simulation.bugs.patches import Bug, all_bugs, applied

ROOT = Path(__file__).parents[2]
NAMES = (
    "effects-from-the-difference-of-states", "epoch-ignored-by-recovery", "fence-dropped", "floor-ignored",
    "journeys-without-the-lock", "lookback-off-by-one", "no-retraction-from-the-old-hour", "offsets-before-changelog",
    "offsets-before-sql", "split-not-exact", "window-offsets-before-the-fire", "zombie-accepted",
)  # fmt: skip


def test_there_are_twelve() -> None:
    assert tuple(bug.name for bug in all_bugs()) == NAMES


@pytest.mark.parametrize("bug", all_bugs(), ids=lambda bug: bug.name)
def test_a_bug_fits_the_shipped_files_to_the_line(bug: Bug) -> None:
    assert "offset" not in applied(bug.patch, ROOT, "--check").replace(bug.patch.name, "")


@pytest.mark.parametrize("bug", all_bugs(), ids=lambda bug: bug.name)
def test_a_bug_is_found_by_what_it_names_alone(bug: Bug) -> None:
    assert bug.is_found_by(f"Wrong: {bug.findings[0]} and so on")
    for other in (f"KeyError: {bug.findings[0]}", "Wrong: does not settle: it is due", "StartRefused: partition 0", ""):
        assert not bug.is_found_by(other)


def test_a_patch_says_what_finds_it(tmp_path: Path) -> None:
    patch = tmp_path / "it.patch"
    patch.write_text("A bug.\n\n--- a/one.py\n+++ b/one.py\n")
    with pytest.raises(ValueError, match=r"it\.patch: after the meaning come Found by and Needs"):
        Bug.of(patch)
