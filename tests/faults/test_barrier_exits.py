"""The process ends right after a step of the barrier, or does not hear that its commit succeeded."""

import pytest

from stream.engine.barrier import STEPS
from tests.faults.conftest import Install
from tests.faults.events import Story, click
from tests.faults.installation import Installation
from tests.support.traffic import Rates, traffic

EXIT_CODE = 137
RATES = Rates(conversions=0.3, late=0.3, revised_clicks=0.25, other_campaign=0.25, revised_conversions=0.2)


def run_to_its_end(installation: Installation, place: str) -> None:
    """A worker that ends right after the N-th time of a step."""
    with installation.worker(name=place.replace(":", "-"), exit_at=place) as worker:
        assert worker.wait_exit() == EXIT_CODE
    installation.expel_members()


def drain(installation: Installation) -> None:
    with installation.worker() as worker:
        installation.wait_drained()
        assert worker.stop() == 0


def test_rows_are_right_after_an_exit_behind_each_step_under_load(install: Install, fresh_sqlite: str) -> None:
    installation = install(fresh_sqlite, partitions=3, chunk_records=40)
    installation.send(traffic(5, 1500, now=installation.now, rates=RATES))
    for step in STEPS:
        run_to_its_end(installation, f"{step}:2")
    drain(installation)
    installation.assert_right()


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [1, 3, 7])
def test_rows_are_right_after_an_exit_behind_each_step_anywhere(
    install: Install, fresh_database: str, seed: int, number: int
) -> None:
    installation = install(fresh_database, partitions=3, chunk_records=40)
    installation.send(traffic(seed, 3000, now=installation.now, rates=RATES))
    for step in STEPS:
        run_to_its_end(installation, f"{step}:{number}")
    drain(installation)
    installation.assert_right()


def exit_in_the_chunk_of_the_revisions(installation: Installation, step: str) -> None:
    story = Story(installation.now)
    installation.send(story.before())
    drain(installation)
    installation.send(story.revisions())
    run_to_its_end(installation, f"{step}:1")
    with installation.worker() as worker:
        installation.wait_drained()
        installation.send(story.after())
        installation.wait_drained()
        assert worker.stop() == 0
    # Once more with a state that comes from the changelog.
    installation.send(story.after(1))
    drain(installation)
    installation.assert_right()


def test_a_revised_click_that_missed_the_changelog_leaves_no_trace_in_later_journeys(
    install: Install, fresh_database: str
) -> None:
    exit_in_the_chunk_of_the_revisions(install(fresh_database, partitions=3), "sql")


@pytest.mark.full
@pytest.mark.parametrize("step", STEPS[1:])
def test_revised_clicks_are_right_after_an_exit_behind_any_step(
    install: Install, fresh_database: str, step: str
) -> None:
    exit_in_the_chunk_of_the_revisions(install(fresh_database, partitions=3), step)


def test_a_commit_whose_reply_is_lost_is_repeated_without_harm(install: Install, fresh_database: str) -> None:
    installation = install(fresh_database, partitions=1, chunk_records=40)
    story = Story(installation.now)
    installation.send(story.before())
    drain(installation)
    with installation.worker(lose_reply=2) as worker:
        installation.send([click(99, story.at(1))])
        installation.wait_drained()  # the first commit; the second one is that of the revisions
        installation.send(story.revisions())
        installation.wait_drained()
        installation.send(story.after())
        installation.send(traffic(7, 800, now=installation.now, rates=RATES, users=3))
        installation.wait_drained()
        assert worker.stop() == 0
    installation.assert_right()
