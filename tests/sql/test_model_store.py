"""Models of an account: rules, slugs, defaults and audit rows, on both databases."""

import asyncio
import json
from typing import Any

import pytest

from stream.core.configuration import ModelRow
from stream.core.models import InvalidModel
from tables.sql.accounts import lock_accounts
from tables.sql.audit import Author
from tables.sql.database import Database, open_database
from tables.sql.model_store import (
    NONE_ACTIVE,
    ModelChange,
    ModelEdit,
    ModelPlace,
    NewModel,
    SlugTaken,
    UnknownModel,
    create_model,
    list_models,
    read_configuration_rows,
    seed_last_touch,
    update_model,
)
from tests.architecture.project import ROOT
from tests.support.model_rows import audits, defaults, empty, fetch, run, store_model

NOW = 1_800_000_000
USER = 7
AUTHOR = Author("ann", "cli")
VECTORS = json.loads((ROOT / "tests" / "golden" / "vectors" / "unit_vectors.json").read_text(encoding="utf-8"))


def vectors(kind: str) -> list[Any]:
    return [pytest.param(each, id=each["id"]) for each in VECTORS[kind]]


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> None:
    await empty(database)


async def create(
    database: Database,
    name: str = "Linear",
    type_name: str = "linear",
    **fields: Any,  # noqa: ANN401 -- of NewModel
) -> ModelChange:
    new = NewModel(user_id=USER, name=name, type_name=type_name, **fields)
    return await create_model(database, new, AUTHOR, now=NOW)


async def update(
    database: Database,
    model_id: int,
    **fields: Any,  # noqa: ANN401 -- of ModelEdit
) -> ModelChange:
    return await update_model(database, ModelPlace(USER, model_id), ModelEdit(**fields), AUTHOR, now=NOW + 1)


@pytest.mark.parametrize("vector", vectors("model_validation_vectors"))
async def test_configs_are_taken_or_refused_as_the_vectors_say(database: Database, vector: dict[str, Any]) -> None:
    if not vector["valid"]:
        with pytest.raises(InvalidModel, match=vector.get("message_contains", ".")):
            await create(database, type_name=vector["type"], config=vector["config"])
        assert await fetch(database, "SELECT 1 FROM `202_attribution_models`") == []
        assert await audits(database) == []
        return
    model = (await create(database, type_name=vector["type"], config=vector["config"])).model
    assert model.type_name == vector["type"].lower()
    assert (json.loads(model.config_text) if model.config_text else {}) == vector["config"]
    assert model.problem == ""


async def test_an_empty_config_is_stored_as_null(database: Database) -> None:
    await create(database, config={})
    assert await fetch(database, "SELECT weighting_config FROM `202_attribution_models`") == [(None,)]


async def test_a_name_that_is_used_twice_gives_two_slugs_and_two_audit_rows(database: Database) -> None:
    """Vector SL-1."""
    config = {"half_life_hours": 24}
    first = await create(database, "Time Decay", "time_decay", config=config, is_default=True)
    second = await create(database, "Time Decay", "time_decay", config=config)
    third = await create(database, "Time Decay", "time_decay", config=config)
    slugs = [change.model.slug for change in (first, second, third)]
    assert slugs == ["time-decay", "time-decay-1", "time-decay-2"]
    written = await audits(database)
    assert [(action, model_id) for action, model_id, _ in written] == [
        ("model_create", change.model.model_id) for change in (first, second, third)
    ]
    metadata = written[0][2]
    assert (metadata["actor"], metadata["source"], metadata["before"]) == ("ann", "cli", None)
    assert metadata["after"]["config"] == config
    assert metadata["after"]["is_default"] is True


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My Custom Model", "my-custom-model"),  # SL-4
        ("\u00dcn\u00ef C\u00f8d\u00e9", "n-c-d"),  # SL-5
        ("!!!", f"model-{NOW}"),  # SL-6
        ("x" * 255, "x" * 191),
        ("  padded  ", "padded"),
    ],
)
async def test_a_slug_is_made_of_the_name(database: Database, name: str, slug: str) -> None:
    model = (await create(database, name)).model
    assert (model.name, model.slug) == (name.strip(), slug)


async def test_the_number_of_a_long_slug_finds_room(database: Database) -> None:
    await create(database, "x" * 255)
    assert (await create(database, "x" * 255)).model.slug == "x" * 180 + "-1"


async def test_an_update_of_the_name_keeps_the_slug(database: Database) -> None:
    """Vector SL-2 with a better result: the reference renames the slug with the name, which breaks links (D43)."""
    await create(database)
    model = (await create(database, "Assisted Model", "assisted")).model
    updated = await update(database, model.model_id, name="Assisted Refined", is_active=False)
    assert updated.model[2:4] == ("Assisted Refined", "assisted-model")
    assert updated.model.is_active is False
    action, model_id, metadata = (await audits(database))[-1]
    assert (action, model_id) == ("model_update", model.model_id)
    assert (metadata["before"]["name"], metadata["after"]["name"]) == ("Assisted Model", "Assisted Refined")


async def test_a_chosen_slug_outlives_an_update(database: Database) -> None:
    """Vector SL-7, a defect of the reference: there it becomes foo-bar."""
    model = (await create(database, "Foo Bar", slug="custom-slug", is_active=False)).model
    assert (await update(database, model.model_id, is_active=True)).model.slug == "custom-slug"
    assert (await update(database, model.model_id, slug="Another_One")).model.slug == "Another_One"


@pytest.mark.parametrize("slug", ["", "two words", "tab\t", "x" * 192, "bell\x07", "\udcff"])
async def test_a_slug_that_cannot_stand_in_a_link_is_refused(database: Database, slug: str) -> None:
    with pytest.raises(InvalidModel):
        await create(database, slug=slug)
    assert await audits(database) == []


@pytest.mark.parametrize("name", ["", "   ", "x" * 256, "\udcff"])
async def test_a_name_must_be_text_of_some_length(database: Database, name: str) -> None:
    with pytest.raises(InvalidModel):
        await create(database, name)


@pytest.mark.parametrize("slug", ["mine", "MINE"])
async def test_a_slug_that_is_taken_is_an_error_and_writes_nothing(database: Database, slug: str) -> None:
    await create(database, slug="mine")
    other = (await create(database)).model
    with pytest.raises(SlugTaken):
        await create(database, slug=slug)
    with pytest.raises(SlugTaken):
        await update(database, other.model_id, slug=slug, name="New")
    assert [model.slug for model in await list_models(database, USER)] == ["mine", "linear"]
    assert len(await audits(database)) == 2


async def test_another_account_has_slugs_of_its_own(database: Database) -> None:
    await create(database)
    new = NewModel(user_id=8, name="Linear", type_name="linear")
    assert (await create_model(database, new, AUTHOR, now=NOW)).model.slug == "linear"
    assert len(await defaults(database, 8)) == len(await defaults(database)) == 1


async def test_the_first_model_becomes_the_default_and_the_second_not(database: Database) -> None:
    first, second = await create(database), await create(database)
    assert (first.model.is_default, second.model.is_default) == (True, False)
    assert await defaults(database) == [first.model.model_id]


async def test_a_new_default_is_active_and_demotes_the_others(database: Database) -> None:
    """Vector MT-3."""
    await create(database)
    await create(database)
    third = await create(database, is_active=False, is_default=True)
    assert (third.model.is_active, third.model.is_default) == (True, True)
    assert any("active" in note for note in third.notes)
    assert await defaults(database) == [third.model.model_id]


async def test_switching_the_default_off_is_honoured(database: Database) -> None:
    """Vector MT-1, a defect of the reference: there it silently stays on (D21)."""
    first = (await create(database)).model
    await create(database)
    safest = (await create(database, "Last", "last_touch")).model
    change = await update(database, first.model_id, is_active=False)
    assert (change.model.is_active, change.model.is_default) == (False, False)
    assert change.default is not None
    assert change.default.model_id == safest.model_id
    assert await defaults(database) == [safest.model_id]
    assert any('"last"' in note for note in change.notes)
    metadata = (await audits(database))[-1][2]
    assert (metadata["default_before"], metadata["default_after"]) == (first.model_id, safest.model_id)


async def test_demoting_and_switching_off_at_once_chooses_another(database: Database) -> None:
    """Vector MT-2: the reference leaves the account without a default."""
    first = (await create(database)).model
    second = (await create(database)).model
    change = await update(database, first.model_id, is_active=False, is_default=False)
    assert (change.model.is_active, change.model.is_default) == (False, False)
    assert await defaults(database) == [second.model_id]


async def test_the_last_active_model_may_be_switched_off_and_that_is_told(database: Database) -> None:
    only = (await create(database)).model
    change = await update(database, only.model_id, is_active=False)
    assert change.default is None
    assert NONE_ACTIVE in change.notes
    assert await defaults(database) == []
    again = await update(database, only.model_id, is_active=True)
    assert again.model.is_default is True


async def test_a_default_without_alternative_stays_and_that_is_told(database: Database) -> None:
    only = (await create(database)).model
    await create(database, is_active=False)
    change = await update(database, only.model_id, is_default=False)
    assert change.is_changed is False
    assert any("stays the default" in note for note in change.notes)
    assert await defaults(database) == [only.model_id]
    assert len(await audits(database)) == 2


async def test_a_demoted_default_stays_active_and_another_is_chosen(database: Database) -> None:
    first, second = (await create(database)).model, (await create(database)).model
    change = await update(database, first.model_id, is_default=False)
    assert (change.model.is_active, change.model.is_default) == (True, False)
    assert await defaults(database) == [second.model_id]


async def test_a_model_that_cannot_be_computed_is_never_chosen(database: Database) -> None:
    first = (await create(database)).model
    await store_model(database, first.model_id + 1, model_type="last_touch", weighting_config="{broken")
    good = (await create(database)).model
    await update(database, first.model_id, is_active=False)
    assert await defaults(database) == [good.model_id]


async def test_two_defaults_of_another_hand_become_one(database: Database) -> None:
    await store_model(database, 11, is_default=1)
    await store_model(database, 12, is_default=1)
    await update(database, 12, name="New")
    assert await defaults(database) == [11]


async def test_an_update_that_changes_nothing_writes_nothing(database: Database) -> None:
    model = (await create(database, type_name="position_based", config=_weights(0.4))).model
    before = await fetch(database, "SELECT * FROM `202_attribution_models`")
    same: dict[str, Any] = {"name": model.name, "slug": model.slug, "type_name": "POSITION_BASED"}
    change = await update(database, model.model_id, **same, config=_weights(0.40), is_active=True, is_default=True)
    assert change.is_changed is False
    assert await fetch(database, "SELECT * FROM `202_attribution_models`") == before
    assert len(await audits(database)) == 1


def _weights(both: float) -> dict[str, float]:
    return {"first_touch_weight": both, "last_touch_weight": both}


async def test_a_type_must_suit_the_config_that_stands(database: Database) -> None:
    model = (await create(database, type_name="time_decay", config={"half_life_hours": 5})).model
    with pytest.raises(InvalidModel, match="does not accept"):
        await update(database, model.model_id, type_name="linear")
    change = await update(database, model.model_id, type_name="linear", config={})
    assert (change.model.type_name, change.model.config_text) == ("linear", "")


async def test_a_broken_model_of_another_hand_can_be_renamed_switched_off_and_mended(database: Database) -> None:
    await store_model(database, 5, model_type="time_decay", weighting_config="{")
    assert [each.problem for each in await list_models(database, USER)] == ["the weighting config is not JSON"]
    await update(database, 5, name="Broken", is_active=False)
    with pytest.raises(InvalidModel):
        await update(database, 5, type_name="time_decay")
    change = await update(database, 5, config={"half_life_hours": 1}, is_active=True)
    assert (change.model.problem, change.model.is_default) == ("", True)


async def test_a_model_of_another_account_is_unknown(database: Database) -> None:
    await store_model(database, 5, user_id=8)
    with pytest.raises(UnknownModel):
        await update(database, 5, name="Mine")
    with pytest.raises(UnknownModel):
        await update_model(database, ModelPlace(USER, None, "model-5"), ModelEdit(name="x"), AUTHOR, now=NOW)


async def test_last_touch_is_seeded_once_and_only_where_there_is_no_model(database: Database) -> None:
    for _ in range(2):
        async with database.transaction() as connection:
            await lock_accounts(connection, [USER, 8], now=NOW)
            await seed_last_touch(connection, USER, NOW)
    await store_model(database, 99, user_id=8, is_active=0)
    async with database.transaction() as connection:
        assert await seed_last_touch(connection, 8, NOW) is None
    (model,) = await list_models(database, USER)
    assert model[2:8] == ("Last Touch", "last-touch", "last_touch", "", True, True)
    ((action, model_id, metadata),) = await audits(database)
    assert (action, model_id, metadata["source"]) == ("model_create", model.model_id, "worker")


async def test_many_at_once_end_with_distinct_slugs_and_one_default(schema_url: str) -> None:
    """Two Databases share nothing but the server or the file."""
    databases = [open_database(schema_url) for _ in range(2)]
    changes = await asyncio.gather(*(create(databases[number % 2], is_default=True) for number in range(8)))
    assert len({change.model.slug for change in changes}) == 8
    assert len(await defaults(databases[0])) == 1
    models = await list_models(databases[0], USER)
    edits = [{"is_active": False}, {"is_default": True}] * 4
    await asyncio.gather(
        *(update(databases[number % 2], models[number].model_id, **edits[number]) for number in range(8))
    )
    assert len(await defaults(databases[0])) == 1
    for each in databases:
        await each.close()


async def test_whatever_other_hands_wrote_can_be_read_for_a_fire(database: Database) -> None:
    await store_model(database, 1, weighting_config="{", is_active=0)
    await store_model(database, 2, model_type="", weighting_config="null")
    await store_model(database, 3, user_id=8, model_type="\u00fcnknown", weighting_config="[]")
    await run(
        database,
        "INSERT INTO `202_attribution_settings` (user_id, scope_type, scope_id, model_id, multi_touch_enabled,"
        " multi_touch_disabled_at, effective_at, created_at, updated_at) VALUES"
        " (7, 'global', NULL, 0, 0, NULL, 50, 1, 1), (7, 'landing_page', 3, 0, 0, 1, 1, 1, 1),"
        " (7, 'campaign', NULL, 0, 0, 1, 1, 1, 1), (8, 'Campaign', 3, 0, 0, 60, 1, 1, 1)",
        "INSERT INTO `202_stream_toggles` (user_id, scope_type, scope_id, since, is_enabled) VALUES"
        " (7, 'moon', 1, 1, 1), (7, 'advertiser', 4, 70, 1)",
    )
    async with database.reading() as connection:
        found = await read_configuration_rows(connection, [7, 8, 9])
    assert sorted(found[7][0]) == [ModelRow(1, "linear", "{", is_active=False), ModelRow(2, "", "null", is_active=True)]
    assert found[7][1] == [("advertiser", 4, 70, True), ("global", 0, 50, False)]
    assert found[8] == ([ModelRow(3, "\u00fcnknown", "[]", is_active=True)], [("campaign", 3, 60, False)])
    assert found[9] == ([], ())
