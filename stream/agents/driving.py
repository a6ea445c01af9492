"""How is a fold driven? It is given what it asks for, from a transaction or, for a test, from memory."""

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from stream.core.events import Click
from stream.core.facts import Facts, Needs
from stream.core.fold import ClaimClicks, FoldAnswer, FoldStep, ReplaceClicks
from stream.core.folding import Folded


class FoldFacts(Protocol):
    """The facts that a fold stores and asks for; see `stream.agents.ports.FactTransaction`."""

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]: ...
    async def replace_clicks(self, clicks: Sequence[Click]) -> None: ...
    async def read(self, needs: Needs) -> Facts: ...


async def drive(folding: Generator[FoldStep, FoldAnswer, Folded], facts: FoldFacts) -> Folded:
    answer: FoldAnswer = None
    while True:
        try:
            step = folding.send(answer)
        except StopIteration as stop:
            folded: Folded = stop.value
            return folded
        if isinstance(step, ClaimClicks):
            answer = await facts.claim_clicks(step.clicks)
        elif isinstance(step, ReplaceClicks):
            await facts.replace_clicks(step.clicks)
            answer = None
        else:
            answer = await facts.read(step.needs)
