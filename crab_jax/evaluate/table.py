"""One table of everything that was evaluated into a folder, as Markdown and JSON. No jax here.

Per test set the strict headline first, with the share of unparsed answers beside it; the same items with the text of
the answer given, with another clip's sound, with another clip's pictures; and the paper's numbers where they may be
compared. Below, every named variant.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from crab_jax.evaluate import journal
from crab_jax.evaluate.score import PROBLEMS, SCORES
from crab_jax.metrics import reported
from crab_jax.tasks import TASKS

TABLE = "table"  # .md and .json
# Items of the published test sets, as far as the specification says (9.2).
PUBLISHED_ITEMS = {
    ("avqa", "test"): 9129,
    ("ave", "test"): 402,
    ("avvp", "test"): 1200,
    ("s4", "test"): 3700,
    ("ms3", "test"): 320,
    ("avss", "test"): 7500,
}
PUBLISHED_MODEL = {"hidden_size": 4096, "layers": 32, "image_size": 224}
# Runs in the order of the columns: mode and swap → heading.
COLUMNS = {
    ("decoded", None): "decoded",
    ("teacher-forced", None): "text given",
    ("decoded", "sound"): "sound swapped",
    ("decoded", "picture"): "picture swapped",
    ("teacher-forced", "sound"): "text given, sound swapped",
    ("teacher-forced", "picture"): "text given, picture swapped",
}
Scores = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestSet:
    """What is known about one test set.

    Attributes:
        task, split: which.
        runs: mode and swap → what `scores.json` says; at least one.
        why_not_paper: why the paper's numbers do not stand beside these; empty if they do.
    """

    __test__ = False  # for pytest, which takes the name for its own

    task: str
    split: str
    runs: Mapping[tuple[str, str | None], Scores]
    why_not_paper: str

    @property
    def main(self) -> Scores:
        """The run that the headline is about: the first column there is."""
        return next(self.runs[key] for key in COLUMNS if key in self.runs)

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's numbers by the name of ours; empty where they may not be compared."""
        return {} if self.why_not_paper else reported(self.task, self.split)


def read_results(out: pathlib.Path) -> tuple[list[TestSet], list[str]]:
    """Everything that was scored below a folder, in the order of the tasks, and files that could not be used.

    Args:
        out: what `crab eval` was given as `--out`.
    """
    settings, broken = {}, []
    try:
        settings = journal.read_settings(out) or {}
    except journal.JournalError as error:
        broken.append(str(error))
    found: dict[tuple[str, str], dict[tuple[str, str | None], Scores]] = {}
    for path in sorted(out.glob(f"*/*/*/{SCORES}")):
        try:
            scores = json.loads(path.read_bytes())
            key = (scores["mode"], scores["swap"])
            if key not in COLUMNS or scores["task"] not in TASKS or not scores["headline"]:
                raise ValueError(f"no run of any known kind: {scores['task']}, {key}")
            if not isinstance(scores.get("generated") or {}, dict):
                raise ValueError(f"generated: {scores['generated']!r:.60}")
            _ = (scores["numbers"].items(), scores["problems"].items(), scores["expected"] + scores["answered"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            broken.append(f"{path}: expected scores, found {type(error).__name__}: {error}; run the evaluation again")
            continue
        found.setdefault((scores["task"], scores["split"]), {})[key] = scores
    order = list(TASKS)
    sets = [
        TestSet(task=task, split=split, runs=runs, why_not_paper=why_not_paper(settings.get("model"), runs.values()))
        for (task, split), runs in sorted(found.items(), key=lambda entry: (order.index(entry[0][0]), entry[0][1]))
    ]
    return sets, broken


def why_not_paper(model: Mapping[str, int] | None, runs: Iterable[Scores]) -> str:
    """Why results may not stand beside the paper's; empty if the weights and the test set have the published sizes.

    Args:
        model: sizes of the model, as `PUBLISHED_MODEL`.
        runs: of one test set.
    """
    reasons = [] if model == PUBLISHED_MODEL else ["the weights are not of the published size"]
    for scores in runs:
        expected = PUBLISHED_ITEMS.get((scores["task"], scores["split"]))
        if scores["limit"] is not None and scores["limit"] < scores["items_in_split"]:
            reasons.append(f"only {scores['limit']} of {scores['items_in_split']} items were asked")
        if mark := scores.get("generated"):
            reasons.append(f"generated data ({mark.get('world', 'unknown')})")
        elif expected is not None and scores["items_in_split"] != expected:
            found = scores["items_in_split"]
            reasons.append(f"generated or changed data, {found} items where the published test set has {expected}")
    return ", ".join(dict.fromkeys(reasons))


def to_json(
    sets: Sequence[TestSet], settings: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Plain JSON types; `more` stands beside them."""
    return {
        "settings": dict(settings),
        "test_sets": [
            {
                "task": s.task,
                "split": s.split,
                "paper": {name: dataclasses.asdict(r) for name, r in s.paper.items()},
                "why_not_paper": s.why_not_paper,
                "runs": [{k: v for k, v in s.runs[key].items() if k != "state"} for key in COLUMNS if key in s.runs],
            }
            for s in sets
        ],
    } | dict(more or {})


def to_markdown(sets: Sequence[TestSet], settings: Mapping[str, Any], sections: Sequence[str] = ()) -> str:
    """The table for people; lines of further sections go before the details."""
    columns = [key for key in COLUMNS if any(key in s.runs for s in sets)]
    lines = ["# Evaluation", "", *_about(sets, settings), ""]
    head = ["test set", "items", "number", *(COLUMNS[key] for key in columns), "paper"]
    lines += [_row(head), _row(["---", "---:", "---", *["---:"] * (len(columns) + 1)])]
    for s in sets:
        for i, name in enumerate(s.main["headline"]):
            first = [f"{s.task}/{s.split}", _items(s.main)] if i == 0 else ["", ""]
            better = " ↓" if s.main["lower_is_better"] else ""
            cells = [_score(s.runs[key], name) if key in s.runs else "" for key in columns]
            lines.append(_row([*first, f"{name}{better}", *cells, _paper(s, name)]))
    lines += [
        "",
        "In brackets: the share of answers that could not be understood. ↓: less is better.",
        "",
        *sections,
    ]
    for s in sets:
        lines += _details(s)
    return "\n".join(lines).rstrip() + "\n"


def headlines(markdown: str) -> str:
    """The first part of what `to_markdown` gives: a line per headline."""
    return markdown.split("\n## ", 1)[0].rstrip() + "\n"


def _about(sets: Sequence[TestSet], settings: Mapping[str, Any]) -> list[str]:
    model = settings.get("model") or {}
    about = []
    if model:
        sampling = settings.get("sampling") or {}
        how = "greedy" if not sampling.get("temperature") else ", ".join(f"{k} {v}" for k, v in sampling.items())
        about.append(
            f"Language model of {model['layers']} layers, width {model['hidden_size']}; weights "
            f"`{settings.get('weights', '')[:12]}`, {settings.get('dtype')}; wording {settings.get('wording')}; {how}."
        )
    reasons: dict[str, list[str]] = {}
    for s in sets:
        if s.why_not_paper and reported(s.task, s.split):
            reasons.setdefault(s.why_not_paper, []).append(f"{s.task}/{s.split}")
    if reasons:
        about += ["", f"**The paper's numbers are left out, because these are not its setting.** {_told(reasons)}."]
    others: dict[str, list[str]] = {}
    for s in sets:
        if not reported(s.task, s.split) and (why := why_not_paper(PUBLISHED_MODEL, s.runs.values())):
            others.setdefault(why, []).append(f"{s.task}/{s.split}")
    if others:
        about += ["", f"The paper has no number of these. {_told(others)}."]
    return about or ["Nothing is known about the weights."]


def _told(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def _details(s: TestSet) -> list[str]:
    keys = [key for key in COLUMNS if key in s.runs]
    lines = [f"## {s.task}/{s.split}", ""]
    lines += [_row(["number", *(COLUMNS[key] for key in keys), "paper"]), _row(["---", *["---:"] * (len(keys) + 1)])]
    names = list(dict.fromkeys([*s.main["headline"], *(n for key in keys for n in s.runs[key]["numbers"])]))
    for name in names:
        cells = [_number(name, s.runs[key]["numbers"].get(name)) for key in keys]
        lines.append(_row([f"**{name}**" if name in s.main["headline"] else name, *cells, _paper(s, name)]))
    remarks = [f"{r.name}: {r.remark}." for r in s.paper.values() if r.remark]
    if s.paper and (s.task, s.split) not in PUBLISHED_ITEMS:
        remarks.append("The size of the published test set is not known here.")
    lines += ["", *(f"- {remark}" for remark in remarks)] if remarks else []
    for key in keys:
        for kind, names in s.runs[key]["problems"].items():
            shown = "; ".join(str(n).replace("\n", " ").replace("|", "\\|")[:160] for n in names[:5])
            more = "; …" if len(names) > 5 else ""
            lines += ["", f"{COLUMNS[key]}, **{len(names)} {kind}** ({PROBLEMS.get(kind, kind)}): {shown}{more}"]
    return [*lines, ""]


def _items(scores: Scores) -> str:
    expected = scores["expected"]
    counted = scores["numbers"].get("items")
    if counted == expected == scores["answered"]:
        return str(expected)
    return f"{expected}, {scores['answered']} answered" + ("" if counted == expected else f", {counted:.0f} counted")


def _score(scores: Scores, name: str) -> str:
    part = name.partition("/")[2].partition(":")[0]
    unparsed = scores["numbers"].get(f"unparsed/{part}", scores["numbers"].get("unparsed"))
    return f"{_number(name, scores['numbers'].get(name))} [{'–' if unparsed is None else f'{100 * unparsed:.1f} %'}]"


def _number(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if name.split("/")[0].split(":")[0] == "items" else f"{value:.4f}"


def _paper(s: TestSet, name: str) -> str:
    return f"{s.paper[name].value:.4f}" if name in s.paper else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
