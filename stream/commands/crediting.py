"""What does each model make of a conversion, and do the stored rows say the same?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stream.core.attribution import credit_touches
from stream.core.configuration import Configuration, configuration_of, model_of
from stream.core.credit import Credit, split
from stream.core.money import Units
from stream.core.results import CreditedAt
from stream.core.totals import Earner, earner_of
from tables.sql.explanations import CreditOfConversion, Explanation
from tables.sql.models import StoredModel


class Stored(StrEnum):
    """How the rows stand to what was computed now."""

    SAME = "same"
    DUE = "due"  # the hour asks to be written, and a worker will do it
    DIFFERENT = "different"


STORED_MEANINGS = {
    Stored.SAME: "stored likewise",
    Stored.DUE: "not yet written: the hour is due",
    Stored.DIFFERENT: "stored differently: rebuild the hour with --force",
}


class Share(NamedTuple):
    """Of one touch, by one model."""

    position: int  # as it is stored
    place: int  # of the touch in the journey
    click_id: int
    parts: Credit
    revenue: Units
    cost: Units


@dataclass(frozen=True, slots=True)
class ModelCredits:
    """What a model gives, and what is stored of it."""

    model_id: int
    model: StoredModel | None  # None: rows are there, and the model is no more
    problem: str  # why there are no shares; '': it can be computed
    shares: Sequence[Share]
    rows: Sequence[CreditOfConversion]
    stored: Stored

    @property
    def is_active(self) -> bool:
        return self.model is not None and self.model.is_active


@dataclass(frozen=True, slots=True)
class Crediting:
    """Of a conversion, with the models that it was asked for."""

    models: Sequence[ModelCredits]
    is_current: bool  # the hour was computed with the models and settings as they are now


def crediting_of(explanation: Explanation, *, scopes: str, slug: str | None) -> Crediting:
    """Of all active models, and of others that have rows; or of the one with the slug, also an inactive one."""
    configuration = configuration_of([model.row for model in explanation.models], explanation.toggles, scopes=scopes)
    is_current = explanation.standing.hour.configuration == configuration.revision
    is_due = _is_due(explanation, configuration)
    by_id = {model.model_id: model for model in explanation.models}
    if slug is None:
        wanted = {model.model_id for model in explanation.models if model.is_active}
        wanted |= {row.model_id for row in explanation.credits}
    else:
        wanted = {model.model_id for model in explanation.models if model.slug == slug}
    credits = [_model_credits(explanation, model_id, by_id.get(model_id), is_due=is_due) for model_id in sorted(wanted)]
    return Crediting(credits, is_current)


def _is_due(explanation: Explanation, configuration: Configuration) -> bool:
    """Will a worker look at it by itself? Final hours wait for a rebuild when just models or settings change."""
    standing = explanation.standing
    should_stand = CreditedAt(standing.key, standing.journey.version) if _earner(explanation) else None
    if standing.credited != should_stand:
        return True
    hour = standing.hour
    return bool(hour.revision) and not hour.is_final and hour.configuration != configuration.revision


def _earner(explanation: Explanation) -> Earner | None:
    return earner_of(explanation.journey, is_multi_touch_on=explanation.is_multi_touch_on)


def _model_credits(explanation: Explanation, model_id: int, model: StoredModel | None, *, is_due: bool) -> ModelCredits:
    rows = [row for row in explanation.credits if row.model_id == model_id]
    problem = ""
    if model is not None:
        problem = model.problem or explanation.standing.hour.problems.get(model_id, "")
    shares = list(_shares(explanation, model)) if model is not None and not problem else []
    expected = [
        CreditOfConversion(model_id, explanation.journey.date_hour, share.position, share.click_id, share.parts)
        for share in (shares if model is not None and model.is_active else ())
    ]
    otherwise = Stored.DUE if is_due else Stored.DIFFERENT
    stored = Stored.SAME if expected == rows else otherwise
    return ModelCredits(model_id, model, problem, shares, rows, stored)


def _shares(explanation: Explanation, model: StoredModel) -> Iterator[Share]:
    earner = _earner(explanation)
    if earner is None:
        return
    # With multi-touch off the earner's only touch is the converting click, wherever that stands in the journey.
    places = {touch.click_id: place for place, touch in enumerate(explanation.journey.touches)}
    credits = credit_touches(
        model_of(model.row).weighting,
        conv_time=earner.conv_time,
        converting=earner.converting,
        click_times=[touch.click_time for touch in earner.touches],
    )
    parts = [each.credit for each in credits]
    revenues, costs = split(earner.payout, parts), split(earner.cost, parts)
    for each, revenue, cost in zip(credits, revenues, costs, strict=True):
        click_id = earner.touches[each.place].click_id
        yield Share(each.position, places[click_id], click_id, each.credit, revenue, cost)
