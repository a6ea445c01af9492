"""`explain`: the journey of a conversion, its credits by model, and the records that they come from."""

import asyncio
import json
from collections.abc import Iterator

import click

from stream.commands.crediting import STORED_MEANINGS, Crediting, ModelCredits, Stored, crediting_of
from stream.commands.dead_letters import escaped
from stream.commands.explanation_json import SCOPES, as_json, reason_of, window_json
from stream.commands.showing import add_row, length, listing, show, utc
from stream.config import Settings, read_settings
from stream.core.errors import StreamError
from stream.core.money import Units, amount_text
from tables.sql.database import open_database
from tables.sql.explanations import Explanation, read_explanation


class UnknownConversion(StreamError):
    """The database holds no conversion of this id."""


async def explanation_of(settings: Settings, conv_id: int) -> Explanation:
    database = open_database(settings.database_url)
    try:
        explanation = await read_explanation(database, conv_id)
    finally:
        await database.close()
    if explanation is None:
        raise UnknownConversion(
            f"conversion {conv_id} is not in the database",
            hint='"python -m stream status" shows whether workers are behind,'
            ' "python -m stream dead-letters list" what could not be read',
        )
    return explanation


def facts(settings: Settings, explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Names and values about the conversion and its journey, for a person."""
    journey = explanation.journey
    conversion, key = journey.conversion, journey.key
    window = window_json(settings, explanation)
    yield "happened", _moment(conversion.conv_time)
    yield "counts in hour", _moment(journey.date_hour)
    reason = reason_of(explanation)
    yield "outcome", f"{journey.outcome}: {reason}" if reason else str(journey.outcome)
    yield "payout", amount_text(conversion.click_payout)
    yield "cost", amount_text(journey.click_cpc) + ("" if conversion.click_cpc is None else ", as the conversion says")
    yield "transaction", conversion.transaction_id or "none"
    yield "click", f"{conversion.click_id}, at {_moment(conversion.click_time)} as the conversion says"
    yield "deleted", "yes" if conversion.deleted else "no"
    yield "revised", _moment(conversion.revised_at) if conversion.revised_at else "no"
    visitor = f", visitor {key.visitor_id}" if key.names_visitor else ""
    yield "journey of", f"user {key.user_id}, campaign {key.campaign_id}{visitor}"
    yield "lookback", f"{window['days']} days: {window['since_utc']} to {window['until_utc']}, both included"
    yield "version", str(journey.version)
    if journey.click_unknown:
        yield "click unknown", "the click has not come yet: its touch rests on the conversion's word"
    if journey.incomplete:
        yield "incomplete", "earlier clicks may have been removed before they were counted"
    if journey.purged:
        yield "purged", "by hand; the converting click earns alone, until a replay or a later event restores it"


def _moment(seconds: int) -> str:
    return f"{utc(seconds)} ({seconds})"


def show_touches(explanation: Explanation) -> None:
    journey = explanation.journey
    columns = [
        "position",
        "click",
        "time",
        "unix",
        "before",
        "campaign",
        "visitor",
        "cpc",
        "flags",
        *map(_short, SCOPES),
    ]
    rows = listing(*columns, numbers=["position", "click", "unix", "before", "campaign", "cpc", *map(_short, SCOPES)])
    for position, touch in enumerate(journey.touches):
        stored = explanation.clicks.get(touch.click_id)
        flags = ["converting"] if touch.click_id == journey.conversion.click_id else []
        cells = ["", "", ""]
        scopes = [""] * len(SCOPES)
        if stored is None:
            flags.append("unknown")
        else:
            flags += ["bot"] if stored.click_bot else []
            flags += ["filtered"] if stored.click_filtered else []
            cells = [str(stored.campaign_id), escaped(stored.visitor_id), amount_text(stored.click_cpc)]
            scopes = [str(getattr(stored, scope)) for scope in SCOPES]
        age = length(journey.conversion.conv_time - touch.click_time)
        time = utc(touch.click_time) or ""
        first = (str(position), str(touch.click_id), time, str(touch.click_time), age)
        add_row(rows, *first, *cells, ", ".join(flags), *scopes)
    show(rows)


def _short(scope: str) -> str:
    return scope.removesuffix("_id").replace("_", " ")


def warn_of_rows(explanation: Explanation) -> None:
    click.echo("warning: 202_conversion_touchpoints holds other rows than the journey:", err=True)
    wanted, found = explanation.touchpoints_expected, explanation.touchpoints
    for mark, rows in (("missing", [row for row in wanted if row not in found]), ("there", found)):
        for row in rows:
            note = "" if mark == "missing" or row in wanted else ", not of the journey"
            click.echo(
                f"  {mark}: position {row.position}, click {row.click_id}, {_moment(row.click_time)}{note}", err=True
            )


def hour_lines(explanation: Explanation, crediting: Crediting) -> Iterator[tuple[str, str]]:
    """Names and values about the hour that the conversion counts in."""
    standing = explanation.standing
    hour = standing.hour
    if not hour.revision:
        yield "hour", f"{_moment(standing.key.date_hour)}, not yet written"
    else:
        is_published = hour.revision == hour.published_revision
        parts = [
            f"revision {hour.revision}",
            "final" if hour.is_final else "open",
            "published" if is_published else f"not yet published, revision {hour.published_revision} is",
        ]
        if not crediting.is_current:
            parts.append("computed with other models or settings than those of now")
        yield "hour", f"{_moment(standing.key.date_hour)}, {', '.join(parts)}"
    if not explanation.is_multi_touch_on:
        yield "multi-touch", "off at the time of the conversion: all goes to the converting click"
    if standing.credited is not None and standing.credited.hour != standing.key:
        yield "credits stand", f"in hour {_moment(standing.credited.hour.date_hour)} still"


def show_credits(explanation: Explanation, crediting: Crediting) -> None:
    click.echo("credits")
    for name, value in hour_lines(explanation, crediting):
        click.echo(f"  {name + ':':16}{value}")
    numbers = ["position", "touch", "click", "parts", "credit", "revenue", "cost"]
    rows = listing("model", *numbers, numbers=numbers)
    for each in crediting.models:
        for share in each.shares:
            numbers = list(map(str, (share.position, share.place, share.click_id, share.parts)))
            amounts = map(amount_text, (Units(share.parts), share.revenue, share.cost))
            add_row(rows, _name_of(each), *numbers, *amounts)
    if any(each.shares for each in crediting.models):
        show(rows)
    if not any(each.is_active for each in crediting.models):
        click.echo("no active model: nothing is attributed")
    for each in crediting.models:
        click.echo(f"{_name_of(each)}: {_verdict_on(each)}")


def _name_of(each: ModelCredits) -> str:
    return f"{escaped(each.model.slug)} ({each.model_id})" if each.model else f"model {each.model_id}"


def _verdict_on(each: ModelCredits) -> str:
    parts = []
    if each.model is None:
        parts.append("the model is no more")
    elif not each.is_active:
        parts.append("not active")
    if each.problem:
        parts.append(f"cannot be computed: {escaped(each.problem)}")
    if each.rows or (each.shares and each.is_active):
        parts.append(STORED_MEANINGS[each.stored])
    return ", ".join(parts) or "no credits"


def warn_of_credits(crediting: Crediting) -> None:
    """Rows that no worker will mend by itself."""
    for each in crediting.models:
        if each.stored is Stored.DIFFERENT:
            click.echo(f"warning: 202_attribution_touchpoints holds other rows of {_name_of(each)}:", err=True)
            for row in each.rows:
                click.echo(
                    f"  there: hour {_moment(row.date_hour)}, position {row.position}, click {row.click_id},"
                    f" credit {amount_text(Units(row.credit))}",
                    err=True,
                )


def _check_slug(explanation: Explanation, slug: str | None) -> None:
    if slug is not None and all(model.slug != slug for model in explanation.models):
        known = ", ".join(escaped(model.slug) for model in explanation.models) or "none"
        user_id = explanation.journey.key.user_id
        raise click.UsageError(f'user {user_id} has no model "{escaped(slug)}"; there are: {known}')


@click.command(name="explain")
@click.argument("conv_id", type=click.IntRange(min=1))
@click.option("--model", "slug", metavar="SLUG", help="Credits of this model alone, also of an inactive one.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
def command(conv_id: int, slug: str | None, is_json: bool) -> None:
    """Show the journey of a conversion, its credits by model, and the records that they come from.

    \b
    JSON: conv_id, conversion {the event as it stands}, outcome, reason, counts_instead,
      journey {user_id, campaign_id, visitor_id, identity, click_unknown, incomplete, purged, version, click_cpc,
        ppc_account_id, aff_network_id, date_hour, date_hour_utc},
      converting_click {the click as it is stored, or null}, window {days, since, since_utc, until, until_utc},
      touches [{position, click_id, click_time, click_time_utc, seconds_before, is_converting,
        click {likewise}}],
      touchpoint_rows [{position, click_id, click_time}], touchpoint_rows_differ,
      credits {is_multi_touch_on, stand_in_hour, of_version,
        hour {date_hour, date_hour_utc, revision, published_revision, is_published, is_final, is_current},
        models [{model_id, slug, name, type, is_active, is_default, problem,
          stored ("same", "due": a worker will write it, or "different": rebuild),
          touches [{position, touch_position, click_id, parts, credit, revenue, cost}], computed now,
          rows [{date_hour, position, click_id, credit}] of 202_attribution_touchpoints}]}
    """
    settings = read_settings()
    explanation = asyncio.run(explanation_of(settings, conv_id))
    _check_slug(explanation, slug)
    crediting = crediting_of(explanation, scopes=settings.scopes, slug=slug)
    is_different = explanation.touchpoints != explanation.touchpoints_expected
    if is_json:
        click.echo(json.dumps(as_json(settings, explanation, crediting)))
    else:
        click.echo(f"conversion {conv_id}")
        for name, value in facts(settings, explanation):
            click.echo(f"  {name + ':':16}{escaped(value)}")
        if explanation.journey.touches:
            show_touches(explanation)
        else:
            click.echo("no touches")
        show_credits(explanation, crediting)
    warn_of_credits(crediting)
    if is_different:
        warn_of_rows(explanation)
    elif not is_json:
        click.echo(f"202_conversion_touchpoints holds the same {len(explanation.touchpoints)} rows")
