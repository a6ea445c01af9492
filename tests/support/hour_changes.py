"""What happens to journeys and models in a history, drawn one by one."""

import random
from collections.abc import Mapping, Sequence

from stream.core.configuration import ModelRow
from stream.core.facts import Journey, Outcome
from stream.core.money import Units
from stream.core.toggles import Toggle, ToggleScope
from tests.support.hour_examples import BASE, DEFINITIONS, HOUR, journey, model_row, uncounted
from tests.support.memory_hours import MemoryHours

CONVERSIONS = 12
HOURS = 3


def next_journey(chance: random.Random, journeys: Mapping[int, Journey], *, users: Sequence[int]) -> Journey:
    """A new conversion, or the next version of one, in one of a few hours."""
    conv_id = chance.randint(1, CONVERSIONS)
    time = BASE + chance.randrange(HOURS) * HOUR + chance.randrange(HOUR)
    standing = journeys.get(conv_id)
    if standing is not None:
        return _changed(chance, standing, time)
    found = journey(chance, conv_id, chance.choice(users), conv_time=time, most_touches=6)
    return found if chance.random() < 0.8 else uncounted(found, Outcome.DELETED)


def _changed(chance: random.Random, standing: Journey, time: int) -> Journey:
    """A refund, another conversion of the transaction, a late click, a payout, a move, or nothing to be seen."""
    conversion, version = standing.conversion, standing.version + 1
    other = journey(chance, conversion.conv_id, conversion.user_id, conv_time=conversion.conv_time, most_touches=6)
    match chance.randrange(6):
        case 0:
            return uncounted(standing, chance.choice((Outcome.DELETED, Outcome.DUPLICATE)))
        case 1:
            return other._replace(conversion=other.conversion._replace(conv_time=time), version=version)
        case 2:
            return other._replace(version=version)
        case 3:
            payout = Units(chance.choice((0, -500, 123_456)))
            return standing._replace(conversion=conversion._replace(click_payout=payout), version=version)
        case 4:
            return standing._replace(version=version)
        case _:
            return standing._replace(conversion=conversion._replace(conv_time=time), version=version)


def reconfigure(chance: random.Random, database: MemoryHours, *, users: Sequence[int]) -> None:
    """A model comes, changes, goes or breaks; or multi-touch is switched."""
    user_id = chance.choice(users)
    rows = {row.model_id: row for row in database.models[user_id]}
    model_id = user_id * 100 + chance.randrange(3)
    match chance.randrange(4):
        case 0:
            rows.pop(model_id, None)
        case 1:
            rows[model_id] = ModelRow(model_id, "time_decay", "{broken", is_active=True)
        case 2:
            scope = chance.choice(list(ToggleScope))
            scope_id = 0 if scope is ToggleScope.GLOBAL else chance.choice((4, 5, 11, 12))
            since = BASE + chance.randrange(HOURS * HOUR)
            database.toggles[user_id].append(Toggle(scope, scope_id, since, chance.random() < 0.5))
        case _:
            is_active = chance.random() < 0.8
            rows[model_id] = model_row(model_id, *chance.choice(DEFINITIONS), is_active=is_active)
    database.models[user_id] = list(rows.values())
