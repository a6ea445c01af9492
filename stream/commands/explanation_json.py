"""An explained conversion for machines. Keys are promised by `explain --help` and stay."""

from stream.commands.crediting import Crediting, ModelCredits
from stream.commands.showing import utc
from stream.config import Settings
from stream.core.events import Click, Conversion
from stream.core.facts import Journey, Outcome, Touch
from stream.core.journeys import converting_touch, window_of
from stream.core.money import Units, amount_text
from tables.sql.explanations import Explanation, TouchpointRow

SCOPES = ("ppc_account_id", "ppc_network_id", "landing_page_id", "text_ad_id", "aff_network_id")
_DAY_SECONDS = 86_400


def reason_of(explanation: Explanation) -> str:
    """Why the outcome is what it is; '' where there is nothing to explain."""
    journey = explanation.journey
    match journey.outcome:
        case Outcome.DELETED:
            return "the conversion is deleted"
        case Outcome.DUPLICATE:
            counts = explanation.counts_instead
            other = f"conversion {counts} counts" if counts is not None else "another conversion counted"
            return f"{other} for the same click and transaction"
        case Outcome.COUNTED:
            return ""


def window_json(settings: Settings, explanation: Explanation) -> dict[str, object]:
    """Where candidates for touches lie, both ends included."""
    journey = explanation.journey
    converting = converting_touch(journey.conversion, explanation.clicks.get(journey.conversion.click_id))
    window = window_of(journey.conversion, journey.key, converting, settings.lookback_days * _DAY_SECONDS)
    until = window.until.click_time
    return {
        "days": settings.lookback_days,
        "since": window.since,
        "since_utc": utc(window.since),
        "until": until,
        "until_utc": utc(until),
    }


def as_json(settings: Settings, explanation: Explanation, crediting: Crediting) -> dict[str, object]:
    """The keys that --help promises."""
    journey = explanation.journey
    conversion = journey.conversion
    return {
        "conv_id": conversion.conv_id,
        "conversion": _conversion_json(conversion),
        "outcome": str(journey.outcome),
        "reason": reason_of(explanation) or None,
        "counts_instead": explanation.counts_instead,
        "journey": {
            "user_id": journey.key.user_id,
            "campaign_id": journey.key.campaign_id,
            "visitor_id": journey.key.visitor_id or None,
            "identity": "visitor" if journey.key.names_visitor else "campaign",
            "click_unknown": journey.click_unknown,
            "incomplete": journey.incomplete,
            "purged": journey.purged,
            "version": journey.version,
            "click_cpc": amount_text(journey.click_cpc),
            "ppc_account_id": journey.ppc_account_id,
            "aff_network_id": journey.aff_network_id,
            "date_hour": journey.date_hour,
            "date_hour_utc": utc(journey.date_hour),
        },
        "converting_click": _click_json(explanation.clicks.get(conversion.click_id)),
        "window": window_json(settings, explanation),
        "touches": [
            _touch_json(journey, position, touch, explanation.clicks.get(touch.click_id))
            for position, touch in enumerate(journey.touches)
        ],
        "touchpoint_rows": [_row_json(row) for row in explanation.touchpoints],
        "touchpoint_rows_differ": explanation.touchpoints != explanation.touchpoints_expected,
        "credits": _credits_json(explanation, crediting),
    }


def _credits_json(explanation: Explanation, crediting: Crediting) -> dict[str, object]:
    standing = explanation.standing
    hour, credited = standing.hour, standing.credited
    return {
        "is_multi_touch_on": explanation.is_multi_touch_on,
        "hour": {
            "date_hour": standing.key.date_hour,
            "date_hour_utc": utc(standing.key.date_hour),
            "revision": hour.revision,
            "published_revision": hour.published_revision,
            "is_published": hour.revision > 0 and hour.revision == hour.published_revision,
            "is_final": hour.is_final,
            "is_current": crediting.is_current,
        },
        "stand_in_hour": credited.hour.date_hour if credited else None,
        "of_version": credited.version if credited else None,
        "models": [_model_json(each) for each in crediting.models],
    }


def _model_json(each: ModelCredits) -> dict[str, object]:
    model = each.model
    return {
        "model_id": each.model_id,
        "slug": model.slug if model else None,
        "name": model.name if model else None,
        "type": model.type_name if model else None,
        "is_active": each.is_active,
        "is_default": bool(model and model.is_default),
        "problem": each.problem or None,
        "stored": str(each.stored),
        "touches": [
            {
                "position": share.position,
                "touch_position": share.place,
                "click_id": share.click_id,
                "parts": share.parts,
                "credit": amount_text(Units(share.parts)),
                "revenue": amount_text(share.revenue),
                "cost": amount_text(share.cost),
            }
            for share in each.shares
        ],
        "rows": [
            {
                "date_hour": row.date_hour,
                "position": row.position,
                "click_id": row.click_id,
                "credit": amount_text(Units(row.credit)),
            }
            for row in each.rows
        ],
    }


def _conversion_json(conversion: Conversion) -> dict[str, object]:
    return {
        "click_id": conversion.click_id,
        "user_id": conversion.user_id,
        "campaign_id": conversion.campaign_id,
        "click_time": conversion.click_time,
        "click_time_utc": utc(conversion.click_time),
        "conv_time": conversion.conv_time,
        "conv_time_utc": utc(conversion.conv_time),
        "click_payout": amount_text(conversion.click_payout),
        "click_cpc": None if conversion.click_cpc is None else amount_text(conversion.click_cpc),
        "visitor_id": conversion.visitor_id or None,
        "transaction_id": conversion.transaction_id or None,
        "aff_network_id": conversion.aff_network_id,
        "deleted": bool(conversion.deleted),
        "revised_at": conversion.revised_at or None,
        "revised_at_utc": utc(conversion.revised_at or None),
    }


def _click_json(stored: Click | None) -> dict[str, object] | None:
    if stored is None:
        return None
    return {
        "click_id": stored.click_id,
        "user_id": stored.user_id,
        "campaign_id": stored.campaign_id,
        "visitor_id": stored.visitor_id or None,
        "click_time": stored.click_time,
        "click_time_utc": utc(stored.click_time),
        "click_cpc": amount_text(stored.click_cpc),
        "click_bot": bool(stored.click_bot),
        "click_filtered": bool(stored.click_filtered),
        "revised_at": stored.revised_at or None,
        **{scope: getattr(stored, scope) for scope in SCOPES},
    }


def _touch_json(journey: Journey, position: int, touch: Touch, stored: Click | None) -> dict[str, object]:
    return {
        "position": position,
        "click_id": touch.click_id,
        "click_time": touch.click_time,
        "click_time_utc": utc(touch.click_time),
        "seconds_before": journey.conversion.conv_time - touch.click_time,
        "is_converting": touch.click_id == journey.conversion.click_id,
        "click": _click_json(stored),
    }


def _row_json(row: TouchpointRow) -> dict[str, int]:
    return {"position": row.position, "click_id": row.click_id, "click_time": row.click_time}
