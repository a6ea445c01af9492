# ruff: noqa
# mypy: ignore-errors
"""Pure event logic: state = f(state, event).  Offset-in-value dedupe.

From the measured sketch of the engine; adapted to our events, whose ids are numbers and whose cost is called click_cpc; nothing else.
"""

import orjson
from bisect import insort

loads, dumps = orjson.loads, orjson.dumps
MAXC, MAXJ = 50, 25
STATS = {"events": 0, "dups": 0, "chunks": 0}


def new_state():
    # o: highest applied offset [clicks, conversions]; n: applied counts; c: clicks; j: journeys
    return {"o": [-1, -1], "n": [0, 0], "c": [], "j": {}}


def journey(clicks, ct):
    out = [c[1] for c in clicks if c[0] <= ct]
    return out[-MAXJ:]


def apply_events(st, ti, evs, dedupe=True):
    """evs: list of (offset, raw value) of topic index ti (0 clicks, 1 conversions).
    Returns list of conv ids whose journey was (re)computed."""
    o = st["o"]
    n = st["n"]
    c = st["c"]
    touched = []
    last = o[ti]
    if ti == 0:
        mint = None
        for off, raw in evs:
            if dedupe and off <= last:
                STATS["dups"] += 1
                t = loads(raw)["click_time"]  # state is ahead of SQL after a crash: re-emit touched journeys
                if mint is None or t < mint:
                    mint = t
                continue
            e = loads(raw)
            t = e["click_time"]
            item = [t, e["click_id"], e["campaign_id"], e.get("click_cpc", 0)]
            if not dedupe and item in c:
                STATS["dups"] += 1  # seen again; naive counter still goes up
            elif not c or item >= c[-1]:
                c.append(item)
            else:
                insort(c, item)
            if mint is None or t < mint:
                mint = t
            n[0] += 1
            if off > o[0]:
                o[0] = off
        if len(c) > MAXC:
            del c[:-MAXC]
        if mint is not None:
            for cid, j in st["j"].items():
                if j[0] >= mint:
                    j[1] = journey(c, j[0])
                    touched.append(cid)
    else:
        for off, raw in evs:
            if dedupe and off <= last:
                STATS["dups"] += 1
                touched.append(str(loads(raw)["conv_id"]))  # re-emit outputs
                continue
            e = loads(raw)
            cid = str(e["conv_id"])
            if not dedupe and cid in st["j"]:
                STATS["dups"] += 1
            ct = e["conv_time"]
            st["j"][cid] = [ct, journey(c, ct)]
            touched.append(cid)
            n[1] += 1
            if off > o[1]:
                o[1] = off
    return touched
