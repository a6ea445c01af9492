"""What may a model be called, and which one of an account is its default? Rules of Prosper202, its defects mended."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stream.core.models import InvalidModel, ModelType, weighting_of

NAME_LENGTH = 255
SLUG_LENGTH = 191
_STEM_LENGTH = 180  # of a slug with a number after it

_NO_SLUG_LETTERS = re.compile("[^A-Za-z0-9]+")


def checked_name(text: str) -> str:
    """Without the spaces around it. Raises InvalidModel."""
    name = text.strip()
    if not 1 <= len(name) <= NAME_LENGTH:
        raise InvalidModel(f"the name must have 1 to {NAME_LENGTH} characters, not {len(name)}")
    if not _is_text(name):
        raise InvalidModel("the name is not text in UTF-8, or holds control characters")
    return name


def checked_slug(slug: str) -> str:
    """A slug that somebody chose stays as it is. Raises InvalidModel."""
    if not 1 <= len(slug) <= SLUG_LENGTH:
        raise InvalidModel(f"the slug must have 1 to {SLUG_LENGTH} characters, not {len(slug)}")
    if not _is_text(slug) or any(letter.isspace() for letter in slug):
        raise InvalidModel("the slug must not hold spaces or control characters")
    return slug


def _is_text(text: str) -> bool:
    is_encodable = not any("\ud800" <= letter <= "\udfff" for letter in text)
    return is_encodable and not any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in text)


def slug_of(name: str, now: int) -> str:
    """The slug for a name: its ASCII letters and digits, with hyphens between. `now`: unix seconds, if it has none."""
    slug = _NO_SLUG_LETTERS.sub("-", name).lower().strip("-")[:SLUG_LENGTH]
    return slug or f"model-{now}"


def slugs_for(name: str, now: int) -> Iterator[str]:
    """The slug for a name, and then those to take where it is taken, without end."""
    slug = slug_of(name, now)
    yield slug
    number = 0
    while True:
        number += 1
        yield f"{slug[:_STEM_LENGTH]}-{number}"


def config_text(type_name: str, config: object) -> str:
    """The JSON text of a config that suits the type; '' for an empty one. Raises InvalidModel."""
    weighting_of(type_name, config)
    if not config:
        return ""
    try:
        return json.dumps(config, allow_nan=False, sort_keys=True)
    except (ValueError, RecursionError):
        raise InvalidModel("the weighting config is not JSON") from None


class Candidate(NamedTuple):
    """A model of an account, as far as the choice of its default goes."""

    model_id: int
    type_name: str
    is_active: bool
    is_default: bool
    is_broken: bool


def default_among(candidates: Sequence[Candidate]) -> int | None:
    """The active default stays; without one the safest active model that can be computed is chosen, or none.

    Of two defaults, which another hand may have left, the older one stays.
    """
    standing = [each.model_id for each in candidates if each.is_default and each.is_active]
    if standing:
        return min(standing)
    usable = [each for each in candidates if each.is_active and not each.is_broken]
    return min(usable, key=_safest_first).model_id if usable else None


def _safest_first(candidate: Candidate) -> tuple[bool, int]:
    return candidate.type_name.strip().lower() != ModelType.LAST_TOUCH, candidate.model_id
