"""What the next owner must forget or do again, should a chunk reach SQL and not the changelog or the outputs."""

from collections.abc import Iterable, Sequence

from stream.core.folding import Folded
from stream.core.keys import JourneyKey
from tables.state.journeys import encode_key

# As texts in the progress row: keys whose remembered state may be wrong, and conversions to compute again.
_CONVERSION = "conversion "
_KEY = "key "


def unsettled_texts(folded: Folded, keys: frozenset[bytes], conversions: frozenset[int]) -> list[str]:
    all_keys = {encode_key(key) for key in folded.unsettled} | keys
    return [
        *sorted(_KEY + key.decode() for key in all_keys),
        *(f"{_CONVERSION}{conv_id}" for conv_id in sorted(folded.restated | conversions)),
    ]


def key_texts(keys: Iterable[JourneyKey]) -> list[str]:
    """For whoever changes facts beside the owner: the keys whose remembered state may be wrong then."""
    return sorted({_KEY + encode_key(key).decode() for key in keys})


def unsettled_of(texts: Sequence[str]) -> tuple[frozenset[bytes], frozenset[int]]:
    keys = frozenset(text.removeprefix(_KEY).encode() for text in texts if text.startswith(_KEY))
    conversions = frozenset(int(text.removeprefix(_CONVERSION)) for text in texts if text.startswith(_CONVERSION))
    return keys, conversions
