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
from crab_jax.metrics import metric_for, reported
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
        return self.runs[self.keys[0]]

    @property
    def notes(self) -> list[str]:
        """What the reader of its answers should know, such as that other weights stood in."""
        return list(dict.fromkeys(note for key in self.keys for note in self.runs[key].get("notes", ())))

    @property
    def unparsed_as(self) -> str:
        """What an answer that could not be understood counts as in the headline."""
        return metric_for(self.task, self.split).unparsed_as

    @property
    def keys(self) -> list[tuple[str, str | None]]:
        """Its runs in the order of the columns."""
        return [key for key in COLUMNS if key in self.runs]

    def heading(self, key: tuple[str, str | None]) -> str:
        """Of the column of a run, with the number of its items where the headline is about others."""
        items = items_of(self.runs[key])
        return COLUMNS[key] if items == items_of(self.main) else f"{COLUMNS[key]}, items: {items}"

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's numbers by the name of ours; empty where they may not be compared."""
        return {} if self.why_not_paper else reported(self.task, self.split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that was scored below a folder.

    Attributes:
        sets: in the order of the tasks.
        settings: what the answers depend on; empty if that is not known.
        broken: files that could not be used, with the reason.
    """

    sets: Sequence[TestSet]
    settings: Mapping[str, Any]
    broken: Sequence[str]


def read_results(out: pathlib.Path) -> Results:
    """Reads a folder of results; what cannot be used is named and costs nothing else.

    Args:
        out: what `crab eval` was given as `--out`.
    """
    settings, broken = None, []
    try:
        settings = journal.read_settings(out)
        if settings is None:
            path = out / journal.SETTINGS
            broken.append(f"{path}: expected the settings of an evaluation, found no such file; weights are not named")
    except journal.JournalError as error:
        broken.append(str(error))
    settings = settings or {}
    found: dict[tuple[str, str], dict[tuple[str, str | None], Scores]] = {}
    for path in sorted(out.glob(f"*/*/*/{SCORES}")):
        try:
            scores = _checked(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            broken.append(f"{path}: expected scores, found {type(error).__name__}: {error}; run the evaluation again")
            continue
        found.setdefault((scores["task"], scores["split"]), {})[scores["mode"], scores["swap"]] = scores
    order = list(TASKS)
    sets = [
        TestSet(task=task, split=split, runs=runs, why_not_paper=why_not_paper(settings.get("model"), runs.values()))
        for (task, split), runs in sorted(found.items(), key=lambda entry: (order.index(entry[0][0]), entry[0][1]))
    ]
    return Results(sets=sets, settings=settings, broken=broken)


_NUMBER = (int, float, type(None))
_FIELDS = {
    "task": str, "split": str, "mode": str, "swap": (str, type(None)), "limit": (int, type(None)),
    "items_in_split": int, "headline": list, "lower_is_better": bool, "expected": int, "answered": int,
    "numbers": dict, "problems": dict,
}  # fmt: skip
_LATER_FIELDS = {"generated": (dict, type(None)), "notes": list}  # files of older versions lack them


def _checked(scores: Any) -> Scores:
    """What tables and pages read of `scores.json`, all of it there and of the right type.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(scores, dict):
        raise ValueError(f"{type(scores).__name__} instead of an object")
    if lacking := [name for name in _FIELDS if name not in scores]:
        raise ValueError(f"no field {lacking[0]!r}")
    for name, kind in (_FIELDS | _LATER_FIELDS).items():
        if name in scores and not isinstance(scores[name], kind):
            raise ValueError(f"field {name!r}: {scores[name]!r:.60}")
    for name, value in scores["numbers"].items():
        if not isinstance(value, _NUMBER):
            raise ValueError(f"number {name!r}: {value!r:.60}")
    for kind, names in scores["problems"].items():
        if not isinstance(names, list):
            raise ValueError(f"problems, {kind!r}: {names!r:.60}")
    for name in ("headline", "notes"):
        if not all(isinstance(text, str) for text in scores.get(name, [])):
            raise ValueError(f"field {name!r}: {scores[name]!r:.60}")
    key = (scores["mode"], scores["swap"])
    if key not in COLUMNS or scores["task"] not in TASKS or not scores["headline"]:
        raise ValueError(f"no run of any known kind: {scores['task']}, {key}")
    return scores


def model_in(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes of the language model; empty where settings do not tell them."""
    model = settings.get("model", {})
    return model if {"layers", "hidden_size"} <= model.keys() else {}


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
                "runs": [{k: v for k, v in s.runs[key].items() if k != "state"} for key in s.keys],
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
            first = [f"{s.task}/{s.split}", items_of(s.main)] if i == 0 else ["", ""]
            better = " ↓" if s.main["lower_is_better"] else ""
            cells = [_score(s, key, name) if key in s.runs else "" for key in columns]
            lines.append(_row([*first, f"{name}{better}", *cells, _paper(s, name)]))
    lines += [
        "",
        "In brackets: the share of answers that could not be understood. ↓: less is better.",
        "",
        *sections,
    ]
    for s in sets:
        lines += _details(s)
    # Ids and names of files may hold what no terminal and no file can.
    return journal.to_utf8("\n".join(lines).rstrip() + "\n").decode()


def headlines(markdown: str) -> str:
    """The first part of what `to_markdown` gives: a line per headline."""
    return markdown.split("\n## ", 1)[0].rstrip() + "\n"


def _about(sets: Sequence[TestSet], settings: Mapping[str, Any]) -> list[str]:
    about = []
    if model := model_in(settings):
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
    notes: dict[str, list[str]] = {}
    for s in sets:
        for note in s.notes:
            notes.setdefault(note, []).append(f"{s.task}/{s.split}")
    if notes:
        about += ["", f"**Note.** {_told(notes)}."]
    return about or ["Nothing is known about the weights."]


def _told(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def _details(s: TestSet) -> list[str]:
    keys = s.keys
    lines = [f"## {s.task}/{s.split}", ""]
    lines += [_row(["number", *map(s.heading, keys), "paper"]), _row(["---", *["---:"] * (len(keys) + 1)])]
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


def items_of(scores: Scores) -> str:
    """How many items a run is about: those that were to be answered, and what became of them if that differs."""
    expected = scores["expected"]
    counted = scores["numbers"].get("items")
    if counted == expected == scores["answered"]:
        return str(expected)
    same = counted == expected or counted is None
    return f"{expected}, {scores['answered']} answered" + ("" if same else f", {counted:.0f} counted")


def _score(s: TestSet, key: tuple[str, str | None], name: str) -> str:
    """A number, the share of unparsed answers, and the number of items where it is not that of the line."""
    numbers, items = s.runs[key]["numbers"], items_of(s.runs[key])
    part = name.partition("/")[2].partition(":")[0]
    shown = with_unparsed(_number(name, numbers.get(name)), numbers.get(f"unparsed/{part}", numbers.get("unparsed")))
    return shown if items == items_of(s.main) else f"{shown}, items: {items}"


def with_unparsed(shown: str, share: float | None) -> str:
    """A number with the share of answers that could not be understood beside it."""
    return f"{shown} [{'–' if share is None else f'{100 * share:.1f} %'}]"


def _number(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f}" if name.split("/")[0].split(":")[0] == "items" else f"{value:.4f}"


def _paper(s: TestSet, name: str) -> str:
    return f"{s.paper[name].value:.4f}" if name in s.paper else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
