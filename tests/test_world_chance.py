"""What the generated data sets keep from training, and how far chance or one sense alone gets."""

import collections
import json
import pathlib
import types

import numpy as np
import pytest

from data_pipelines.world import baselines, build, casting, events, stills
from data_pipelines.world.build import read_ledger
from data_pipelines.world.layouts import DATA_SETS
from data_pipelines.world.orders import Order

SIZE = (128, 96)


def test_training_shows_no_reserved_combination_and_other_splits_often_do():
    shares = {}
    for split in ("train", "test"):
        found = []
        for seed in range(120):
            rng = np.random.default_rng([seed, len(split)])
            cast = casting.Casting.of(rng, split).stand(casting.names_in("avss"), 1 + seed % 4, seed % 2)
            found.append(casting.reserved(cast))
        shares[split] = np.mean(found)
    assert shares["train"] == 0
    assert 0.35 < shares["test"] < 0.65
    names = casting.names_in("avss")
    pairs = [casting.reserved_pair(a, b) for a in names for b in names if a < b]
    assert 0.06 < np.mean(pairs) < 0.25
    for name in names:  # every kind can be learnt: it keeps two sides and most partners
        assert sum(casting.reserved_side(name, side) for side in casting.SIDES) <= 1
        assert sum(casting.reserved_pair(name, other) for other in names if other != name) < len(names) / 2


class Blind:
    """A studio that makes no files, to draw many scenes in a moment."""

    def stage(self, scene):
        return types.SimpleNamespace(scene=scene)

    def video(self, stage, video, audio):
        return audio


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Many clips of AVQA, AVE and LLP, without media."""
    root = tmp_path_factory.mktemp("drawn")
    (root / build.NOTES).mkdir()
    (root / build.NOTES / "world.json").write_text(json.dumps({"size": SIZE}))
    for task in ("avqa", "ave", "avvp"):
        for split, count in (("train", 160), ("test", 60)):
            with (root / build.NOTES / f"{task}-{split}.jsonl").open("w") as file:
                for index in range(count):
                    order = Order(root, task, split, index, 0, SIZE, 4)
                    entry = {"index": index, **DATA_SETS[task].make(order, Blind())}
                    file.write(json.dumps(entry) + "\n")
    return root


def test_question_types_and_answers_are_balanced(drawn):
    types_, answers = collections.Counter(), collections.defaultdict(collections.Counter)
    on_stage = collections.defaultdict(list)
    for entry in read_ledger(drawn, "avqa", "train"):
        for row, item in zip(entry["rows"], entry["truth"]["items"], strict=True):
            types_[tuple(row["type"])] += 1
            answers[item["template"]][row["answer"]] += 1
            if item["template"] == "sound_exists":
                seen = {p["kind"] for p in entry["truth"]["performers"] if p["seen"]}
                on_stage[row["answer"]].append(item["slots"][0] in seen)
    assert len(types_) == 9
    assert min(types_.values()) > 0.03 * types_.total()
    for template, counts in answers.items():
        if set(counts) <= {"yes", "no"} and counts.total() >= 30:
            assert max(counts.values()) < 0.85 * counts.total(), (template, counts)
    # Whether something is seen must not tell whether it is heard.
    assert abs(np.mean(on_stage["yes"]) - np.mean(on_stage["no"])) < 0.25


def test_one_sense_alone_is_not_enough(drawn):
    table = baselines.measure(drawn)
    assert set(table) == {"avqa", "avqa, Audio-Visual", "ave", "avvp", "avvp, headline"}
    for sense in ("majority", "audio", "video"):
        assert table["avvp, headline"][sense] < 72
        assert table["ave"][sense] < 68
        assert table["avqa, Audio-Visual"][sense] < 65
        assert table["avqa"][sense] < 72
    text = baselines.report(drawn)
    assert text.count("\n") == 6
    assert json.loads((drawn / build.NOTES / "baselines.json").read_text()) == table


def performer(kind, seen=(), heard=()):
    return {"kind": kind, "seen": seen, "heard": heard}


def test_headline_of_video_parsing():
    """Something heard for ten seconds and seen for five of them."""
    names = sorted(casting.names_in("avvp"))
    half = {"performers": [performer(names[0], seen=[[0, 5]], heard=[[0, 10]])]}
    reached = baselines._avvp_type([half], [half])
    assert reached["audio"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)  # 5 of 10 guessed seconds are right
    assert reached["video"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert reached["majority"] == pytest.approx(reached["audio"])  # heard and seen all the time
    silence = {"performers": [performer(names[1])]}
    assert baselines._avvp_type([half], [silence]) == {"majority": 1, "audio": 1, "video": 1}  # says nothing


def test_headline_of_semantic_masks(monkeypatch):
    one, two = sorted(casting.names_in("avss"))[:2]
    cast = [performer(one, heard=[[0, 1]]), performer(two)]
    clip = {"performers": cast, "areas": [[30, 10]], "pixels": 100}
    monkeypatch.setattr(baselines, "_scores", lambda *_: np.array([[[0.9], [0.1]]]))
    reached = baselines._avss_classes([clip], [clip])
    assert reached["audio"] is None
    assert reached["majority"] == pytest.approx((60 / 70 + 1) / 71)  # the second one is background
    assert reached["video"] == pytest.approx(2 / 71)


def test_headline_of_expressions(monkeypatch):
    """Two expressions over two pictures; in the second picture the one that is meant first cannot be seen."""
    clip = {
        "performers": [performer(None), performer(None)], "items": [{"who": 0}, {"who": 1}],
        "areas": [[30, 10], [0, 10]], "pixels": 100,
    }  # fmt: skip
    monkeypatch.setattr(baselines, "_likeliest", lambda *_: {(0, 0): 0, (0, 1): 0})
    reached = baselines._ref_avs_masks([clip], [clip])
    assert reached["audio"] is None
    assert reached["majority"] == pytest.approx((0.75 + 0.9 + 0.25 + 1) / 4)  # 0.9 of what is empty is left so
    assert reached["video"] == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_baselines_want_the_size_of_pictures(tmp_path):
    (tmp_path / build.NOTES).mkdir()
    (tmp_path / build.NOTES / "world.json").write_text("{}")
    with pytest.raises(baselines.BaselineError, match="settings of a world with its size"):
        baselines.measure(tmp_path)


def test_stills_give_nothing_away_by_movement():
    rules = casting.Casting(np.random.default_rng(3), None)
    order = Order(pathlib.Path(), "ms3", "train", 0, 0, SIZE, 4)
    cast = rules.stand(casting.names_in("avss"), 3)
    scene = stills._scene(rules, order, cast, {1: ((0, 5),)}, 5)
    assert {p.moves for p in scene.performers} == {((0.0, 5.0),)}
    assert [bool(p.heard) for p in scene.performers] == [False, True, False]


def test_seen_and_heard_begin_and_end_apart():
    rules = casting.Casting(np.random.default_rng(3), None)
    pairs = [events.overlapping(rules) for _ in range(200)]
    assert np.mean([seen == heard for seen, heard in pairs]) < 0.2
    for edge in (0, 1):
        assert 0.25 < np.mean([seen[edge] > heard[edge] for seen, heard in pairs]) + 0.1 < 0.65
