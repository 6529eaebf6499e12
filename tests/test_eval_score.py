"""Answers on disk: masks that score as their logits do, broken files, and scoring without a model."""

import dataclasses
import json

import numpy as np
import pytest
import shard_files as make
from PIL import Image

from crab_jax import cli
from crab_jax.evaluate import journal, listen_look, table
from crab_jax.evaluate.mask_files import MaskFileError, levels_of, read_mask, write_mask
from crab_jax.evaluate.score import ScoreError, score
from crab_jax.evaluate.table import TestSet
from crab_jax.metrics import BinaryMasks, Item, SemanticMasks
from crab_jax.metrics.masks import thresholds
from crab_jax.tasks import TASKS, MaskTokens
from data_pipelines.stream.evaluation import swapped
from data_pipelines.stream.tables import Source

SIZE = 24
MASKS = "<mask_start>" + "".join(f"<mask_{k}>" for k in range(6)) + "<mask_end>"
SAID = MaskTokens(order=(0, 1, 2, 3, 4, 5), emitted=6)


def source(root, records):
    records = [dataclasses.replace(r, split="test") for r in records]
    return Source(make.write_shards(root / "shards", records, size=SIZE), TASKS[records[0].task])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("score")


@pytest.fixture(scope="module")
def questions(root):
    return source(root, [make.avqa(i, size=SIZE, seconds=6) for i in range(2)])


@pytest.fixture(scope="module")
def scenes(root):
    return source(root, [make.s4(i, size=SIZE) for i in range(4)])


def answers(of, text="So the answer is <answer> two </answer>."):
    return [{"id": ask.id, "text": text} for entry in of.shards.index() for ask in entry.asks]


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


# ------------------------------------------------------------------------------------------------------------ masks


def odd_logits(rng):
    """Logits at, right above and right below every threshold, and of every size."""
    limits = thresholds().astype(np.float64)[1:-1]
    at = np.log(limits / (1 - limits)).astype(np.float32)
    near = np.concatenate([at, np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))])
    special = np.array([0, 1e-9, -1e-9, 1e-6, -1e-6, 100, -100, 17, np.inf, -np.inf], np.float32)
    values = np.concatenate([near, special, rng.normal(0, 3, 900 - len(near) - len(special)).astype(np.float32)])
    return rng.permutation(values).reshape(1, 30, 30)


def test_a_binary_mask_scores_as_its_logits(tmp_path):
    """The whole state of the metric is the same, so every number is."""
    from_logits, from_files = BinaryMasks(), BinaryMasks()
    for i in range(4):
        rng = np.random.default_rng(i)
        logits, truth = odd_logits(rng), rng.random((30, 30)) < 0.3 * (i > 0)
        write_mask(tmp_path / f"{i}.png", logits, semantic=False)
        output, remark = read_mask(tmp_path / f"{i}.png", semantic=False)
        assert not remark
        for metric, given in ((from_logits, logits[0]), (from_files, output)):
            metric.update(Item(id=str(i), prediction=SAID, mask=truth, output=given))
    assert from_files.to_json() == from_logits.to_json()


def test_classes_score_as_their_logits(tmp_path):
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(71, 9, 9)).astype(np.float32), rng.integers(0, 71, (9, 9), np.uint8)
    write_mask(tmp_path / "a.png", logits, semantic=True)
    states = []
    for given in (logits, read_mask(tmp_path / "a.png", semantic=True)[0]):
        metric = SemanticMasks()
        metric.update(Item(id="a", prediction=SAID, mask=truth, output=given))
        states.append(metric.to_json())
    assert states[0] == states[1]


def test_masks_edited_by_hand(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(MaskFileError, match=r"a\.png: missing"):
        read_mask(path, semantic=False)
    write_mask(path, np.random.default_rng(0).normal(size=(1, 9, 9)).astype(np.float32), semantic=False)
    edited = ~np.array(Image.open(path))
    Image.fromarray(edited).save(path)
    mask, remark = read_mask(path, semantic=False)
    np.testing.assert_array_equal(mask, edited)  # the mask counts
    assert "levels of another mask" in remark
    levels_of(path).unlink()
    assert "no levels" in read_mask(path, semantic=False)[1]
    with pytest.raises(MaskFileError, match="expected pixels of mode L, found 1"):
        read_mask(path, semantic=True)
    path.write_bytes(b"\x89PNG nothing")
    with pytest.raises(MaskFileError, match="no PNG that can be read"):
        read_mask(path, semantic=False)
    with pytest.raises(ValueError, match="NaN"):
        write_mask(path, np.full((1, 3, 3), np.nan, np.float32), semantic=False)


# ---------------------------------------------------------------------------------------------------------- journal


def test_lines_that_are_no_answers(tmp_path):
    good = {"id": "a", "text": "x"}
    bad = ["{", "[1]\n", {"text": "x"}, {"id": 3, "text": "x"}, {"id": "b"}, {"id": "b", "text": "x", "error": "y"}]
    bad += [{"id": "b", "text": "x", "tokens": "12"}, "\xff\n"]
    path = write(tmp_path / "items.jsonl", [good, "\n", *(b if b != "{" else "{\n" for b in bad)])
    read = journal.read_lines([path])
    assert read.lines == [good]
    assert len(read.broken) == len(bad)
    assert read.broken[0].startswith("items.jsonl, line 3:")
    with pytest.raises(journal.JournalError, match="expected a file of answers"):
        journal.read_lines([tmp_path / "nothing"])


def test_an_answer_takes_the_place_of_failures(tmp_path):
    lines = [{"id": "a", "error": "1"}, {"id": "b", "error": "1"}, {"id": "a", "text": "x"}, {"id": "b", "error": "2"}]
    read = journal.read_lines([write(tmp_path / "items.jsonl", lines)])
    assert read.lines == lines[2:]


def test_a_full_disk_leaves_whole_lines(tmp_path):
    with journal.open_journal(tmp_path) as file:
        file.add([{"id": "a", "text": "x"}])

        class Full:
            def __init__(self, inner):
                self.inner, self.left = inner, 10

            def write(self, data):
                if not self.left:
                    raise OSError(28, "No space left on device")
                n = self.inner.write(data[: self.left])
                self.left = 0
                return n

            def __getattr__(self, name):
                return getattr(self.inner, name)

        file._file = Full(file._file)
        with pytest.raises(OSError, match="No space"):
            file.add([{"id": "b", "text": "y"}])
    assert (tmp_path / "items.jsonl").read_bytes() == b'{"id": "a", "text": "x"}\n'


def test_a_folder_is_for_one_evaluation(tmp_path):
    journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})
    journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})
    with pytest.raises(journal.JournalError, match='weights: there "a", now "b"'):
        journal.claim(tmp_path / "out", {"weights": "b", "wording": "w"})
    (tmp_path / "out/run.json").write_text("{")
    with pytest.raises(journal.JournalError, match=r"run\.json: expected the settings"):
        journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})


# ---------------------------------------------------------------------------------------------------------- scoring


def test_everything_that_does_not_fit_is_named(questions, tmp_path):
    lines = answers(questions)  # six
    del lines[5]
    lines[4] |= {"value": {"kind": "choice", "answer": "nine"}}
    lines += [dict(lines[0]), lines[1] | {"text": "<answer> one </answer>"}, {"id": "stranger", "text": "x"}]
    lines[3] = {"id": lines[3]["id"], "error": "no media"}
    scored = score(questions, lines, folder=tmp_path, broken=["items.jsonl, line 9: what"])
    ids = [line["id"] for line in answers(questions)]
    assert {k: list(v) for k, v in scored.problems.items() if v} == {
        "missing": [ids[5]],
        "unexpected": ["stranger"],
        "repeated": [ids[0]],
        "contradictory": [ids[1]],
        "failed": [f"{ids[3]}: no media"],
        "edited": [ids[4]],
        "broken_lines": ["items.jsonl, line 9: what"],
    }
    assert (scored.expected, scored.answered, scored.numbers["items"]) == (6, 3, 6)
    assert scored.numbers["unparsed"] == 0.5
    assert scored.numbers["accuracy"] == pytest.approx(1 / 6)  # "two" is right in the second of three, here the fifth
    assert len(scored.told()) == 7


def test_the_text_counts_whatever_else_a_line_says(questions, tmp_path):
    lines = [line | {"truth": {"answer": "two"}, "scores": {"accuracy": 1.0}} for line in answers(questions)]
    assert score(questions, lines, folder=tmp_path).numbers["accuracy"] == pytest.approx(1 / 3)


def test_answers_of_another_task(questions, scenes, tmp_path):
    with pytest.raises(ScoreError, match="none of the 4 predictions"):
        score(questions, answers(scenes, MASKS), folder=tmp_path)


def test_masks_that_do_not_fit(scenes, tmp_path):
    lines = answers(scenes, MASKS)
    for i, size in enumerate((SIZE, SIZE + 1)):
        write_mask(tmp_path / f"{i}.png", np.ones((1, size, size), np.float32), semantic=False)
        lines[i]["mask"] = f"{i}.png"
    lines[2]["mask"] = "gone.png"
    lines[3] |= {"mask": "0.png", "mask_tokens": 5}
    scored = score(scenes, lines, folder=tmp_path)
    assert [p.split(":")[0] for p in sorted(scored.problems["unfit"])] == [lines[1]["id"], lines[2]["id"]]
    assert scored.numbers["items"] == 4
    assert scored.numbers["unparsed"] == 0.75
    without = score(scenes, answers(scenes, MASKS), folder=tmp_path)
    assert len(without.problems["unfit"]) == 4
    assert "no predicted mask is given" in without.problems["unfit"][0]


def test_scoring_needs_no_model(questions, root, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", answers(questions))
    command = ["eval", "--score", str(path), "--shards", str(root / "shards")]
    assert cli.main(command) == 2
    assert "say which task" in capsys.readouterr().err
    assert cli.main([*command, "--task", "avqa", "--out", str(tmp_path / "out")]) == 0
    assert "| avqa/test | 6 | accuracy | 0.3333 [0.0 %]" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/scores.json").read_text())["numbers"]["accuracy"] == pytest.approx(1 / 3)
    write(path, answers(questions)[:4])
    assert cli.main([*command, "--task", "avqa"]) == 1
    told = capsys.readouterr()
    assert "2 missing (items without an answer" in told.err
    assert "| avqa/test | 6, 4 answered |" in told.out
    assert cli.main([*command, "--task", "s4"]) == 2
    assert "none of the" in capsys.readouterr().err
    write(path, ["what\n"])
    assert cli.main([*command, "--task", "avqa"]) == 2
    assert "no answers in it; mine.jsonl, line 1" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ table


def scores_of(task, split, items, *, limit=None, mode="decoded", **numbers):
    return {
        "task": task, "split": split, "mode": mode, "swap": None, "limit": limit, "items_in_split": items,
        "headline": ["accuracy"], "lower_is_better": False, "expected": items, "answered": items,
        "numbers": {"accuracy": 0.5, "unparsed": 0.1, "items": float(items)} | numbers, "problems": {},
    }  # fmt: skip


def test_the_paper_stands_beside_the_published_setting_only():
    published = table.PUBLISHED_MODEL
    assert table.why_not_paper(published, [scores_of("ave", "test", 402)]) == ""
    assert "generated or changed data" in table.why_not_paper(published, [scores_of("ave", "test", 24)])
    assert "only 10 of 402" in table.why_not_paper(published, [scores_of("ave", "test", 402, limit=10)])
    assert "weights" in table.why_not_paper({"layers": 2}, [scores_of("ave", "test", 402)])
    runs = {("decoded", None): scores_of("ave", "test", 402)}
    sets = [table.TestSet(task="ave", split="test", runs=runs, why_not_paper="")]
    text = table.to_markdown(sets, {})
    assert "| ave/test | 402 | accuracy | 0.5000 [10.0 %] | 0.8015 |" in text
    assert "whether the end second counts is not stated" in text
    assert table.to_json(sets, {})["test_sets"][0]["paper"]["accuracy"]["value"] == 0.8015


def test_a_broken_file_of_scores_costs_no_other(tmp_path):
    good = tmp_path / "ave/test/decoded/scores.json"
    write(good, [scores_of("ave", "test", 3)])
    write(tmp_path / "avqa/test/decoded/scores.json", ["{"])
    write(tmp_path / "s4/test/decoded/scores.json", [{"mode": "decoded", "swap": None}])
    sets, broken = table.read_results(tmp_path)
    assert [s.task for s in sets] == ["ave"]
    assert len(broken) == 2
    assert all("expected scores" in b for b in broken)


def test_swapped_records():
    one, other = make.s4(0, size=8), make.s4(1, size=8)
    heard, seen = swapped(one, other, "sound"), swapped(one, other, "picture")
    assert (heard.audio, heard.frames, heard.masks) == (other.audio, one.frames, one.masks)
    assert (seen.audio, seen.frames, seen.asks) == (one.audio, other.frames, one.asks)
    short = swapped(one, dataclasses.replace(other, frames=other.frames[:2]), "picture")
    assert short.frames == (*other.frames[:2], *[other.frames[1]] * 3)


def test_every_column_of_listen_and_look_has_its_own_run():
    def scores(value):
        return {"headline": ["miou"], "lower_is_better": False, "numbers": {"miou": value, "unparsed": value / 10}}

    runs = {("decoded", None): scores(0.7), ("decoded", "sound"): scores(0.2), ("decoded", "picture"): scores(0.1)}
    runs[("text", "sound")] = scores(0.9)  # another mode
    (line,) = listen_look.compare([TestSet(task="s4", split="test", runs=runs, why_not_paper="generated")], [])
    assert line.scores == {None: 0.7, "sound": 0.2, "picture": 0.1}
    assert line.unparsed == pytest.approx({None: 0.07, "sound": 0.02, "picture": 0.01})
    said = line.to_json()
    assert (said["as_it_is"], said["other_sound"], said["other_pictures"], said["baseline"]) == (0.7, 0.2, 0.1, None)
    (row,) = [x for x in listen_look.to_markdown([line]) if x.startswith("| s4/test")]
    assert row.startswith("| s4/test | miou | 0.7000 | 0.2000 | 0.1000 |")
    alone = TestSet(task="s4", split="test", runs={("decoded", None): scores(0.7)}, why_not_paper="generated")
    assert listen_look.compare([alone], []) == []
