"""The whole behaviour of a chunk: from its events, remembered state and the facts it asks for, to what is to be done.

`fold` is a generator that neither reads nor writes. It yields steps (store these clicks, read those facts), is sent the
answers, and returns `Folded`. Effects follow from the events of the chunk, not from the difference between two states:
a chunk delivered twice asks for the same effects again.

    settle clicks -> remember them -> settle conversions -> who is affected -> their histories -> their journeys
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from stream.core.events import Click, Conversion
from stream.core.facts import Facts, Needs
from stream.core.folding import Folded, Folding, Place
from stream.core.keys import JourneyKey
from stream.core.settle import SettledClicks, settle_clicks
from stream.core.state import KeyState


class ClaimClicks(NamedTuple):
    """Store those that are new. The answer: the stored rows of the others, by id, locked."""

    clicks: Sequence[Click]


class ReplaceClicks(NamedTuple):
    """Overwrite stored rows. No answer."""

    clicks: Sequence[Click]


class ReadFacts(NamedTuple):
    """The answer: Facts, with what the earlier steps stored."""

    needs: Needs


FoldStep = ClaimClicks | ReplaceClicks | ReadFacts
FoldAnswer = Mapping[int, Click] | Facts | None


def fold(
    place: Place,
    load: Callable[[JourneyKey], KeyState | None],
    clicks: Sequence[Click],
    conversions: Sequence[Conversion],
) -> Generator[FoldStep, FoldAnswer, Folded]:
    """`load` gives the remembered state of a key. Events are those of one chunk, each kind in the order of its log."""
    settled = yield from _settle_clicks(clicks)
    folding = Folding(place, load, settled)
    needs = folding.first_needs(conversions)
    if needs is not None:
        folding.take_first_facts((yield from _read(needs)), conversions)
    needs = folding.second_needs()
    if needs is not None:
        folding.take_second_facts((yield from _read(needs)))
    folding.find_keys()
    # An unknown key first; then, its state known, a conversion that is older than what a state keeps.
    for _ in range(2):
        histories = folding.missing_histories()
        if not histories:
            break
        folding.take_histories((yield from _read(Needs(histories=histories))).histories)
    return folding.finish()


def _settle_clicks(clicks: Sequence[Click]) -> Generator[FoldStep, FoldAnswer, SettledClicks]:
    """Afterwards SQL holds the winner of each id, and every later read sees it."""
    if not clicks:
        return SettledClicks()
    unstored = settle_clicks(clicks, {})
    stored = yield ClaimClicks(list(unstored.winners.values()))
    assert isinstance(stored, Mapping)
    if not stored:
        return unstored
    settled = settle_clicks(clicks, stored)
    if settled.changed:
        yield ReplaceClicks([winner for _, winner in settled.changed])
    return settled


def _read(needs: Needs) -> Generator[FoldStep, FoldAnswer, Facts]:
    facts = yield ReadFacts(needs)
    assert isinstance(facts, Facts)
    return facts
