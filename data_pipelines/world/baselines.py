"""What can be guessed in a generated world: by saying the most frequent, from the sound alone, from the picture alone.

A random forest learns from the ground-truth attributes that one sense gives (who is heard when and how loud, or who is
seen where, when, and moving when) on the training split, and is scored on the held-out split. A model that scores no
better than the better of the two senses has not joined them. No jax here.
"""

from __future__ import annotations

import collections
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer

from crab_jax.metrics import BinaryMasks, Item, SemanticMasks, VideoParsing, text
from crab_jax.tasks import AudioVisualEvents, Event, MaskTokens
from data_pipelines.world import guesses
from data_pipelines.world.build import NOTES, read_ledger
from data_pipelines.world.kinds import KINDS

SENSES = ("audio", "video")
Truth = dict[str, Any]
Features = dict[str, Any]


class BaselineError(ValueError):
    """A folder without a world in it."""


class Forest:
    """A classifier of feature dicts."""

    def __init__(self, features: Sequence[Features], labels: Sequence[Any]):
        self._vectors = DictVectorizer(sparse=False)
        self._forest = RandomForestClassifier(60, min_samples_leaf=2, random_state=0)
        self._forest.fit(self._vectors.fit_transform(features), labels)

    def label(self, features: Sequence[Features]) -> list[Any]:
        """The most likely label of each."""
        return self._forest.predict(self._vectors.transform(features)).tolist()

    def share(self, features: Sequence[Features]) -> np.ndarray:
        """How likely each is true, for labels of bool.  float64 [n]"""
        classes = self._forest.classes_.tolist()
        if True not in classes:
            return np.zeros(len(features))
        return self._forest.predict_proba(self._vectors.transform(features))[:, classes.index(True)]


def measure(root: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Task → `score` (what is counted), and `majority`, `audio`, `video` in percent.

    Raises:
        BaselineError: no world, or none of its tasks is finished.
    """
    pixels = _pixels(root)
    table: dict[str, dict[str, Any]] = {}
    for task, (score, split, measured) in _TASKS.items():
        train, test = (
            [e["truth"] | {"pixels": pixels} for e in read_ledger(root, task.split(",")[0], s)]
            for s in ("train", split)
        )
        if train and test:
            reached = measured(train, test)
            rounded = {k: None if v is None else round(100 * float(v), 1) for k, v in reached.items()}
            table[task] = {"score": score, "clips": len(test), **rounded}
    if not table:
        raise BaselineError(f"{root}: no task has both a train and a held-out split yet")
    return table


def _pixels(root: pathlib.Path) -> int:
    """Of a picture."""
    path = root / NOTES / "world.json"
    try:
        width, height = json.loads(path.read_bytes())["size"]
        return width * height
    except FileNotFoundError:
        raise BaselineError(f"{root}: expected the root of a world that `crab world --out` made") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BaselineError(f"{path}: expected the settings of a world with its size, found {error!r:.80}") from error


def report(root: pathlib.Path) -> str:
    """The table as Markdown; also written to `bandstand/baselines.json`."""
    table = measure(root)
    (root / NOTES / "baselines.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    lines = ["| task | score | held-out clips | majority | audio only | video only |", "|---|---|---:|---:|---:|---:|"]
    for task, row in table.items():
        cells = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("majority", *SENSES)]
        lines.append(f"| {task} | {row['score']} | {row['clips']} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ whole questions


def _avqa(train: list[Truth], test: list[Truth], *, family: str = "") -> dict[str, float]:
    """Accuracy on a family of questions, or on all; the majority is that of each template."""
    train, test = (
        [t | {"items": [item for item in t["items"] if family in ("", item["type"][0])]} for t in part]
        for part in (train, test)
    )
    labels = [item["answer"] for t in train for item in t["items"]]
    wanted = np.array([item["answer"] for t in test for item in t["items"]])
    reached = {}
    for sense, features in (
        ("majority", lambda t, item: {"template": item["template"]}),
        ("audio", guesses.asked_by_ear),
        ("video", guesses.asked_by_eye),
    ):
        rows, asked = ([features(t, item) for t in part for item in t["items"]] for part in (train, test))
        reached[sense] = np.mean(np.array(Forest(rows, labels).label(asked)) == wanted)
    return reached


# ------------------------------------------------------------------------------- candidates: who, and in which second


def _candidates(truths: list[Truth], sense: str, seconds: int) -> list[tuple[int, int, int, Features]]:
    """(clip, performer, second, features) of whoever this sense notices in a clip."""
    return [
        (clip, who, second, guesses.candidate(t, who, second, sense))
        for clip, t in enumerate(truths)
        for who, p in enumerate(t["performers"])
        if (p["heard"] if sense == "audio" else p["seen"])
        for second in range(seconds)
    ]


def _scores(train, test, sense: str, seconds: int, true: Callable[[Truth, int, int], bool]) -> np.ndarray:
    """How likely each performer of each test clip is meant, second by second; 0 if unnoticed.  float64 [clips 9 s]"""
    rows = _candidates(train, sense, seconds)
    forest = Forest([f for *_, f in rows], [true(train[clip], who, second) for clip, who, second, _ in rows])
    asked = _candidates(test, sense, seconds)
    likely = np.zeros((len(test), 9, seconds))
    for (clip, who, second, _), value in zip(asked, forest.share([f for *_, f in asked])):
        likely[clip, who, second] = value
    return likely


def _ave(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """Accuracy over seconds: the kind of the event, or nothing."""

    def true(t: Truth, who: int, second: int) -> bool:
        return who == t["who"] and t["start"] <= second < t["end"]

    wanted = np.array([[true(t, t["who"], s) for s in range(10)] for t in test])
    reached = {"majority": (~wanted).mean()}
    for sense in SENSES:
        likely = _scores(train, test, sense, 10, true)
        right = []
        for clip, t in enumerate(test):
            who = int(likely[clip].sum(1).argmax())
            said = likely[clip, who] >= 0.5 * max(likely[clip, who].max(), 1e-9)
            right.append(np.where(wanted[clip], said & (who == t["who"]), ~said).mean())
        reached[sense] = np.mean(right)
    return reached


def _avvp(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """Mean of audio and visual F over cells of kind and second, clip by clip; what a sense gives is known exactly."""
    reached: dict[str, float] = {"majority": 0.0}
    sense_of = {"heard": "audio", "seen": "video"}
    for sense in SENSES:
        values = []
        for field, own in sense_of.items():
            likely = None
            if own != sense:
                likely = _scores(train, test, sense, 10, functools.partial(_happens, field))
            for clip, t in enumerate(test):
                wanted = np.array([[guesses.now(p[field], s) for s in range(10)] for p in t["performers"]])
                said = wanted if likely is None else likely[clip, : len(wanted)] >= 0.5
                values.append(guesses.f_score(wanted, said))
        reached[sense] = np.mean(values)
    return reached


def _avvp_type(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """Type@AV of seconds, by the metric itself. A sense knows its own events exactly, and guesses that the other sense
    has the same ones at the same times; majority is the better of nothing and the most frequent event, all the time.
    """

    def events(t: Truth, field: str) -> tuple[Event, ...]:
        return tuple(
            Event(KINDS[p["kind"]].names["avvp"], round(start), round(end))
            for p in t["performers"]
            for start, end in p[field]
        )

    def reached(guess: Callable[[Truth], tuple[Event, ...]]) -> float:
        metric = VideoParsing()
        for n, t in enumerate(test):
            truth = AudioVisualEvents(events(t, "heard"), events(t, "seen"))
            metric.update(Item(id=str(n), truth=truth, prediction=AudioVisualEvents(guess(t), guess(t))))
        return metric.result()["segment/type"]

    named = collections.Counter(e.name for t in train for field in ("heard", "seen") for e in events(t, field))
    usual = tuple(Event(name, 0, 10) for name, _ in named.most_common(1))
    return {
        "majority": max(reached(lambda t: ()), reached(lambda t: usual)),
        "audio": reached(lambda t: events(t, "heard")),
        "video": reached(lambda t: events(t, "seen")),
    }


def _happens(field: str, t: Truth, who: int, second: int) -> bool:
    return guesses.now(t["performers"][who][field], second)


_sounding = functools.partial(_happens, "heard")


def _arig(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """Share of boxes with IoU of at least a half."""
    boxes: dict[str, list] = {}
    for t in train:
        for item in t["items"]:
            if (box := item["boxes"][item["who"]]) is not None:
                boxes.setdefault(t["performers"][item["who"]]["kind"], []).append(box)
    usual = np.median([b for of_kind in boxes.values() for b in of_kind], axis=0)
    by_kind = {kind: np.median(of_kind, axis=0) for kind, of_kind in boxes.items()}
    likely = _scores(train, test, "video", 5, _sounding)
    hits: dict[str, list[bool]] = {"majority": [], "audio": [], "video": []}
    for clip, t in enumerate(test):
        for item in t["items"]:
            wanted = item["boxes"][item["who"]]
            if wanted is None:
                continue
            shown = [k for k, box in enumerate(item["boxes"]) if box is not None]
            seen = item["boxes"][max(shown, key=lambda k: likely[clip, k, item["second"]])]
            heard = by_kind.get(t["performers"][item["who"]]["kind"], usual)
            for sense, box in (("majority", usual), ("audio", heard), ("video", seen)):
                hits[sense].append(guesses.box_iou(wanted, box) >= 0.5)
    return {sense: np.mean(found) for sense, found in hits.items()}


def _marked(train: list[Truth], test: list[Truth]) -> Iterator[tuple[Truth, int, np.ndarray, np.ndarray]]:
    """Picture by picture: the clip, the second, who sounds, and who the picture alone says does; bool [performers]."""
    likely = _scores(train, test, "video", len(test[0]["areas"]), _sounding)
    for clip, t in enumerate(test):
        for second, areas in enumerate(t["areas"]):
            guess = likely[clip, : len(areas), second]
            wanted = np.array([_sounding(t, k, second) for k in range(len(areas))])
            yield t, second, wanted, (guess >= 0.5) | (guess == guess.max())


def _masks(train: list[Truth], test: list[Truth], *, semantic: bool = False) -> dict[str, float | None]:
    """Mean IoU over pictures. Nobody's mask overlaps another's, so it follows from areas (semantic: from who is named).

    Majority is everybody in the picture. The sound alone says who, not where: no number.
    """
    values: dict[str, list[float]] = {"majority": [], "video": []}
    for t, second, wanted, said in _marked(train, test):
        areas = np.array(t["areas"][second], float)
        weights = (areas > 0).astype(float) if semantic else areas
        values["majority"].append(guesses.set_iou(weights, wanted, np.ones_like(wanted)))
        values["video"].append(guesses.set_iou(weights, wanted, said))
    return {"audio": None, **{k: np.mean(v) for k, v in values.items()}}


_MASK = MaskTokens(tuple(range(6)), 6)


def _side_by_side(t: Truth, second: int, ids: Sequence[int]) -> np.ndarray:
    """A picture that scores like the true one: nobody's mask overlaps another's, so only areas matter.

    Args:
        t: a clip.
        second: which of its pictures.
        ids: what the pixels of every performer are; all others are 0.

    Returns:
        int [1 pixels].
    """
    areas = t["areas"][second]
    return np.repeat([*ids, 0], [*areas, t["pixels"] - sum(areas)])[None]


def _avss_classes(train: list[Truth], test: list[Truth]) -> dict[str, float | None]:
    """Mean IoU over all 71 classes, by the metric itself; majority and picture alone as in `_masks`."""
    metrics = {"majority": SemanticMasks(), "video": SemanticMasks()}
    for n, (t, second, wanted, said) in enumerate(_marked(train, test)):
        labels = np.array([KINDS[p["kind"]].label for p in t["performers"]])
        true = _side_by_side(t, second, labels * wanted)
        for sense, marked in (("majority", np.ones_like(wanted)), ("video", said)):
            output = _side_by_side(t, second, labels * marked)
            metrics[sense].update(Item(id=str(n), prediction=_MASK, mask=true, output=output))
    return {"audio": None, **{sense: metric.result()["miou"] for sense, metric in metrics.items()}}


def _likeliest(train: list[Truth], test: list[Truth]) -> dict[tuple[int, int], int]:
    """(clip, number of an expression) → the performer that the picture alone makes the likeliest."""

    def rows(truths):
        return [
            (clip, n, who, guesses.referred(t, item["exp"], who), item["who"] == who)
            for clip, t in enumerate(truths)
            for n, item in enumerate(t["items"])
            if item["who"] is not None
            for who in range(len(t["performers"]))
        ]

    known = rows(train)
    forest = Forest([f for *_, f, _ in known], [true for *_, true in known])
    asked = rows(test)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for (clip, n, who, _, _), value in zip(asked, forest.share([f for *_, f, _ in asked])):
        best[clip, n] = max(best.get((clip, n), (-1.0, -1)), (float(value), who), key=lambda pair: pair[0])
    return {which: who for which, (_, who) in best.items()}


def _ref_avs(train: list[Truth], test: list[Truth]) -> dict[str, float | None]:
    """Share of expressions whose object is found; the sound alone knows no pixels."""
    said = _likeliest(train, test)
    chance = np.mean([1 / len(test[clip]["performers"]) for clip, _ in said])
    right = np.mean([who == test[clip]["items"][n]["who"] for (clip, n), who in said.items()])
    return {"majority": chance, "audio": None, "video": right}


def _ref_avs_masks(train: list[Truth], test: list[Truth]) -> dict[str, float | None]:
    """Mean IoU over pictures, by the metric itself; the sound alone knows no pixels.

    Majority marks everybody. The picture alone marks the likeliest performer: exactly one is meant, so marking a second
    one as well never has a higher expected IoU.
    """
    metrics = {"majority": BinaryMasks(frames_per_video=10), "video": BinaryMasks(frames_per_video=10)}
    for (clip, n), who in _likeliest(train, test).items():
        t = test[clip]
        everybody = np.arange(len(t["performers"]))
        for second in range(len(t["areas"])):
            true = _side_by_side(t, second, everybody == t["items"][n]["who"])
            for sense, marked in (("majority", everybody >= 0), ("video", everybody == who)):
                output = _side_by_side(t, second, marked)
                metrics[sense].update(Item(id=f"{clip} {n} {second}", prediction=_MASK, mask=true, output=output))
    return {"audio": None, **{sense: metric.result()["miou"] for sense, metric in metrics.items()}}


def _avcap(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """F of what a caption says: who is there, and whether it sounds in sight, is silent, or sounds out of sight."""
    reached: dict[str, float] = {"majority": 0.0}
    for sense, field, said_of in (("audio", "heard", "plays"), ("video", "seen", "plays")):
        values = []
        for t in test:
            wanted = {(p["kind"], guesses.role(p)) for p in t["performers"]}
            said = {(p["kind"], said_of) for p in t["performers"] if p[field]}
            values.append(2 * len(wanted & said) / max(len(wanted) + len(said), 1))
        reached[sense] = np.mean(values)
    return reached


def _retrieved(train: list[Truth], test: list[Truth]) -> dict[str, float]:
    """CIDEr-D of a training clip's caption: the most frequent one, or that of the clip most alike to one sense.

    Alike are clips that share performers: heard (sound), or seen at the same side of the same setting (picture).
    """
    common, _ = collections.Counter(t["caption"] for t in train).most_common(1)[0]
    said = {"majority": [common] * len(test)}
    for sense, noticed in (("audio", guesses.heard_kinds), ("video", guesses.seen_places)):
        known = [(noticed(t), t["caption"]) for t in train]
        said[sense] = [max(known, key=lambda k: guesses.overlap(k[0], noticed(t)))[1] for t in test]
    true = {str(n): [text.words(t["caption"])] for n, t in enumerate(test)}
    reached = {}
    for sense, captions in said.items():
        scores = text.cider_d({str(n): text.words(c) for n, c in enumerate(captions)}, true)
        reached[sense] = np.mean(list(scores.values()))
    return reached


# Task, or task and part; a part called "headline" counts exactly what `crab eval` counts.
_TASKS: Mapping[str, tuple[str, str, Callable[[list[Truth], list[Truth]], Mapping[str, float | None]]]] = {
    "avqa": ("accuracy", "test", _avqa),
    "avqa, Audio-Visual": ("accuracy", "test", functools.partial(_avqa, family="Audio-Visual")),
    "ave": ("accuracy of seconds", "test", _ave),
    "avvp": ("F of seconds, audio and visual", "test", _avvp),
    "avvp, headline": ("Type@AV of seconds", "test", _avvp_type),
    "ms3": ("mIoU", "test", _masks),
    "s4": ("mIoU", "test", _masks),
    "avss": ("mIoU of classes per picture", "test", lambda train, test: _masks(train, test, semantic=True)),
    "avss, headline": ("mIoU over 71 classes", "test", _avss_classes),
    "ref-avs": ("object found", "test_s", _ref_avs),
    "ref-avs, headline": ("mIoU", "test_s", _ref_avs_masks),
    "arig": ("IoU of 0.5", "test", _arig),
    "avcap": ("F of who does what", "test", _avcap),
    "avcap, retrieved": ("CIDEr-D of the caption of a similar clip", "test", _retrieved),
}
