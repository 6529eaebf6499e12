"""What one sense gives of a scene's ground truth, as features; and the scores that guesses are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.world.casting import side_of
from data_pipelines.world.kinds import KINDS

Truth = dict[str, Any]
Features = dict[str, Any]


def now(spans: Sequence[Sequence[float]], second: float) -> bool:
    """Whether a moment lies in one of the intervals."""
    return any(start <= second < end for start, end in spans)


def _length(spans: Sequence[Sequence[float]]) -> float:
    return sum(end - start for start, end in spans)


def candidate(t: Truth, who: int, second: int, sense: str) -> Features:
    """What a sense knows about one performer in one second."""
    p, everybody = t["performers"][who], t["performers"]
    if sense == "audio":
        others = [q for q in everybody if q["heard"]]
        return {
            "kind": p["kind"],
            "now": now(p["heard"], second),
            "length": _length(p["heard"]),
            "loudness": p["loudness"],
            "rank": sum(q["loudness"] > p["loudness"] for q in others),
            "others": len(others),
            "others now": sum(now(q["heard"], second) for q in others),
            "second": second,
        }
    others = [q for q in everybody if q["seen"]]
    return {
        "kind": p["kind"],
        "now": now(p["seen"], second),
        "length": _length(p["seen"]),
        "moving": now(p["moves"], second + 0.5),
        "moves": _length(p["moves"]),
        "place": p["place"],
        "depth": p["depth"],
        "size": p["size"],
        "others": len(others),
        "others moving": sum(now(q["moves"], second + 0.5) for q in others),
        "second": second,
    }


def asked_by_ear(t: Truth, item: dict[str, Any]) -> Features:
    """What the ear knows about a question: who is heard, when, how loud."""
    heard = {p["kind"]: p for p in t["performers"] if p["heard"]}
    by_start = sorted(heard, key=lambda k: heard[k]["heard"][0][0])
    by_loudness = sorted(heard, key=lambda k: -heard[k]["loudness"])
    found: Features = {"template": item["template"], "heard": len(heard)}
    found |= {"first": by_start[0], "last": by_start[-1], "loudest": by_loudness[0]} if heard else {}
    for n, kind in enumerate(item["slots"]):
        found |= {f"{n} is": kind, f"{n} heard": kind in heard}
        if kind in heard:
            found |= {f"{n} length": _length(heard[kind]["heard"]), f"{n} loudness": by_loudness.index(kind)}
            rank = by_start.index(kind)
            found |= {f"{n} after": by_start[rank + 1]} if rank + 1 < len(by_start) else {}
            found |= {f"{n} before": by_start[rank - 1]} if rank else {}
    if len(item["slots"]) == 2 and set(item["slots"]) <= set(heard):
        one, other = (heard[kind] for kind in item["slots"])
        found |= {"louder": one["loudness"] > other["loudness"]}
        found |= {"longer": _length(one["heard"]) > _length(other["heard"])}
    return found


def asked_by_eye(t: Truth, item: dict[str, Any]) -> Features:
    """What the eye knows about a question: who stands where, and who moves when."""
    seen = [p for p in t["performers"] if p["seen"]]
    kinds = [p["kind"] for p in seen]
    moving = [_length(p["moves"]) for p in seen]
    found: Features = {"template": item["template"], "seen": len(seen), "kinds": len(set(kinds)), "in": t["setting"]}
    found |= {"leftmost": kinds[0], "rightmost": kinds[-1], "moving": sum(m > 0 for m in moving)} if seen else {}
    found |= {"left moves": moving[0], "right moves": moving[-1]} if seen else {}
    if seen:
        first = min(range(len(seen)), key=lambda k: (seen[k]["moves"] or [[99]])[0][0])
        found |= {"first to move": kinds[first], "its rank": first, "from the right": len(seen) - 1 - first}
    for n, kind in enumerate(item["slots"]):
        found |= {f"{n} is": kind, f"{n} count": kinds.count(kind)}
        if kind in kinds:
            rank = kinds.index(kind)
            found |= {f"{n} moves": moving[rank], f"{n} left": kinds[rank - 1] if rank else "nobody"}
            found |= {f"{n} right": kinds[rank + 1] if rank + 1 < len(kinds) else "nobody"}
    return found


def referred(t: Truth, expression: str, who: int) -> Features:
    """What the eye knows about one performer and an expression."""
    performers = t["performers"]
    text, named = expression, None
    for k, p in enumerate(performers):
        if (noun := KINDS[p["kind"]].noun) in expression:
            text, named = expression.replace(noun, "…"), k
    found: Features = {"text": text, "rank": who, "from the right": len(performers) - 1 - who, "count": len(performers)}
    found |= {"place from named": who - named} if named is not None else {}
    p = performers[who]
    return found | {"depth": p["depth"], "size": p["size"], "moves": _length(p["moves"]), "starts": _start(p)}


def _start(p: dict[str, Any]) -> float:
    return p["moves"][0][0] if p["moves"] else 99.0


def role(p: dict[str, Any]) -> str:
    """What a caption says of a performer."""
    return ("plays" if p["heard"] else "is silent") if p["seen"] else "is elsewhere"


def heard_kinds(t: Truth) -> set[Any]:
    """What the ear knows of a clip as a whole."""
    return {p["kind"] for p in t["performers"] if p["heard"]}


def seen_places(t: Truth) -> set[Any]:
    """What the eye knows of a clip as a whole."""
    return {t["setting"], *((p["kind"], side_of(p["place"])) for p in t["performers"] if p["seen"])}


def overlap(one: set[Any], other: set[Any]) -> float:
    """How alike two sets are, 0 to 1."""
    return len(one & other) / max(len(one | other), 1)


def f_score(wanted: np.ndarray, said: np.ndarray) -> float:
    """F of true cells; 1 if there are none and none is said."""
    total = wanted.sum() + said.sum()
    return float(2 * (wanted & said).sum() / total) if total else 1.0


def set_iou(weights: np.ndarray, wanted: np.ndarray, said: np.ndarray) -> float:
    """IoU of two unions of disjoint regions of these sizes; 1 if both are empty."""
    union = weights[wanted | said].sum()
    return float(weights[wanted & said].sum() / union) if union else 1.0


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes (x1, y1, x2, y2)."""
    wide = min(one[2], other[2]) - max(one[0], other[0]) + 1
    high = min(one[3], other[3]) - max(one[1], other[1]) + 1
    both = max(wide, 0) * max(high, 0)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other)]
    return both / (sum(areas) - both)
