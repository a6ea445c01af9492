"""What an hour is computed by: the models and settings of an account, and the revision that tells two states apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stream.core.models import InvalidModel, Model, weighting_of
from stream.core.toggles import Switchboard, Toggle


class ModelRow(NamedTuple):
    """A row of 202_attribution_models as it stands there, whoever wrote it."""

    model_id: int
    type_name: str
    config_text: str  # JSON; '' for NULL
    is_active: bool


@dataclass(frozen=True, slots=True)
class Configuration:
    """Of one account."""

    revision: int  # digest of the content in 63 bits: an edit by any hand is seen, and taking it back is no change
    models: Sequence[Model]  # active ones that can be computed, by id
    broken: Mapping[int, str]  # active ones that cannot, with the reason
    toggles: Switchboard


def configuration_of(rows: Sequence[ModelRow], toggles: Sequence[Toggle], *, scopes: str) -> Configuration:
    """`scopes` is the setting that says which scopes get totals; another value is another configuration."""
    active = sorted(row for row in rows if row.is_active)
    models, broken = [], {}
    for row in active:
        try:
            models.append(model_of(row))
        except InvalidModel as error:
            broken[row.model_id] = str(error)
    known = sorted(set(toggles))
    return Configuration(_digest(repr((active, known, scopes))), tuple(models), broken, Switchboard(known))


def model_of(row: ModelRow) -> Model:
    """Raises InvalidModel."""
    try:
        config = json.loads(row.config_text) if row.config_text.strip() else None
    except (ValueError, RecursionError):
        raise InvalidModel("the weighting config is not JSON") from None
    return Model(row.model_id, weighting_of(row.type_name, config))


def _digest(text: str) -> int:
    """Never 0, which stands for an hour that was not computed yet."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1
