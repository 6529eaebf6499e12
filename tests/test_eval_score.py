"""Answers on disk: masks that score as their logits do, broken files, and scoring without a model."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
import shard_files as make
from PIL import Image

from crab_jax import cli
from crab_jax.evaluate import journal, listen_look, table
from crab_jax.evaluate.baselines import Baseline
from crab_jax.evaluate.mask_files import MaskFileError, levels_of, read_mask, write_mask
from crab_jax.evaluate.score import ScoreError, score
from crab_jax.evaluate.table import TestSet
from crab_jax.evaluate.write_table import write_table
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


def test_the_last_line_may_lack_its_end(tmp_path):
    """Somebody's editor took the line break away, or a kill the rest of the line."""
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}')
    with journal.open_journal(tmp_path) as file:
        assert not file.dropped
        file.add([{"id": "c", "text": "z"}])
    assert [line["id"] for line in journal.read_lines([path]).lines] == ["a", "b", "c"]
    whole = path.read_bytes()
    for rest in (b'{"id": "d", "te', b'{"id": "d"}', b"\xff"):
        path.write_bytes(whole + rest)
        with journal.open_journal(tmp_path) as file:
            assert f"{path}: dropped its last line, which is incomplete: " in file.dropped
        assert path.read_bytes() == whole


def test_nobody_joins_files_that_somebody_writes(tmp_path):
    one, other = journal.open_journal(tmp_path, process=1, processes=2), journal.open_journal(tmp_path)
    with one, other, journal.joining(tmp_path) as alone:
        assert not alone
    with journal.joining(tmp_path) as alone, journal.joining(tmp_path) as other:
        assert (alone, other) == (True, False)


def test_a_folder_is_for_one_evaluation(tmp_path):
    journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})
    journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})
    with pytest.raises(journal.JournalError, match='weights: there "a", now "b"'):
        journal.claim(tmp_path / "out", {"weights": "b", "wording": "w"})
    (tmp_path / "out/run.json").write_text("{")
    with pytest.raises(journal.JournalError, match=r"run\.json: expected the settings"):
        journal.claim(tmp_path / "out", {"weights": "a", "wording": "w"})
    for damaged in ("[]", '{"weights": 3}', '{"model": [32]}', '{"swap": []}'):
        (tmp_path / "out/run.json").write_text(damaged)
        with pytest.raises(journal.JournalError, match=r"run\.json: expected the settings"):
            journal.read_settings(tmp_path / "out")


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


def png_with(kind, data):
    """A mask with one more chunk, or with another header."""
    file = io.BytesIO()
    Image.fromarray(np.ones((SIZE, SIZE), bool)).save(file, "PNG")
    start, header, rest = file.getvalue()[:8], file.getvalue()[8:33], file.getvalue()[33:]
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return start + (chunk if kind == b"IHDR" else header + chunk) + rest


@pytest.mark.parametrize(
    "broken",
    [
        png_with(b"IHDR", bytes(8)), png_with(b"gAMA", bytes(2)), png_with(b"cHRM", bytes(5)),
        png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20))), "a\0.png", "\ud800.png",
    ],
    ids=["IHDR", "gAMA", "cHRM", "zTXt", "NUL", "surrogate"],
)  # fmt: skip
def test_a_broken_mask_stays_in_the_denominator(scenes, tmp_path, broken):
    write_mask(tmp_path / "good.png", np.ones((1, SIZE, SIZE), np.float32), semantic=False)
    lines = [line | {"mask": "good.png"} for line in answers(scenes, MASKS)]
    if isinstance(broken, bytes):
        (tmp_path / "broken.png").write_bytes(broken)
    lines[1]["mask"] = "broken.png" if isinstance(broken, bytes) else broken
    scored = score(scenes, lines, folder=tmp_path)
    assert [kind for kind, names in scored.problems.items() if names] == ["unfit"]
    assert scored.problems["unfit"][0].startswith(f"{lines[1]['id']}: {tmp_path}")
    assert (scored.numbers["items"], scored.numbers["unparsed"]) == (4, 0.25)


def test_half_a_surrogate_pair_in_an_id(questions, root, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", [*answers(questions), {"id": "\ud800", "text": "x"}])
    command = ["eval", "--score", str(path), "--shards", str(root / "shards"), "--task", "avqa"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "1 unexpected" in capsys.readouterr().out.encode("utf-8").decode()
    for name in ("scores.json", "table.json"):
        assert json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "out/scores.json").read_text())["problems"]["unexpected"] == ["\ud800"]
    assert "1 unexpected** (answers to no item of this test set; they are left out): \\ud800" in (
        tmp_path / "out/table.md"
    ).read_text(encoding="utf-8")


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
    journal.claim(tmp_path, {"weights": "a"})
    found = table.read_results(tmp_path)
    assert [s.task for s in found.sets] == ["ave"]
    assert found.settings == {"weights": "a"}
    assert len(found.broken) == 2
    assert all("expected scores" in b for b in found.broken)


@pytest.mark.parametrize(
    "change",
    [
        {"limit": ...}, {"split": ...}, {"lower_is_better": ...}, {"items_in_split": ...}, {"answered": ...},
        {"problems": [1]}, {"problems": {"failed": 3}}, {"numbers": {"accuracy": "much"}}, {"headline": [1]},
        {"swap": []}, {"split": 3}, {"notes": [[]]}, {"generated": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_scores_that_lack_something_cost_no_other(tmp_path, change):
    journal.claim(tmp_path, {"weights": "a"})
    write(tmp_path / "ave/test/decoded/scores.json", [scores_of("ave", "test", 3)])
    damaged = scores_of("avqa", "test", 3) | change
    damaged = {name: value for name, value in damaged.items() if value is not ...}
    write(tmp_path / "avqa/test/decoded/scores.json", [damaged])
    text, broken = write_table(tmp_path)
    assert "| ave/test | 3 |" in text
    (told,) = broken
    assert told.startswith(f"{tmp_path / 'avqa/test/decoded/scores.json'}: expected scores, found ValueError: ")


def test_columns_about_other_items_say_so():
    runs = {("decoded", None): scores_of("ave", "test", 402), ("decoded", "sound"): scores_of("ave", "test", 402)}
    runs["decoded", "sound"] |= {"swap": "sound", "expected": 9, "answered": 9, "limit": 9}
    runs["decoded", "sound"]["numbers"] = {"accuracy": 0.25, "unparsed": 0.0, "items": 9.0}
    of = TestSet(task="ave", split="test", runs=runs, why_not_paper="limited")
    text = table.to_markdown([of], {})
    assert "| ave/test | 402 | accuracy | 0.5000 [10.0 %] | 0.2500 [0.0 %], items: 9 |" in text
    assert "| number | decoded | sound swapped, items: 9 | paper |" in text
    (line,) = listen_look.compare([of], [])
    assert not line.same_items
    assert line.to_json()["items"] == {"as_it_is": 402, "other_sound": 9, "other_pictures": None}
    assert "| 0.5000 [10.0 %], items: 402 | 0.2500 [0.0 %], items: 9 | – |" in "\n".join(
        listen_look.to_markdown([line])
    )


def test_the_baseline_that_counts_the_same_stands_beside():
    runs = {("decoded", swap): scores_of("avcap", "test", 5) for swap in (None, "sound")}
    for run in runs.values():
        run["headline"] = ["cider_d"]
    of = TestSet(task="avcap", split="test", runs=runs, why_not_paper="generated")
    words = Baseline(task="avcap", split="test", part="", measure="F of words", number="", values={"audio": 0.5})
    same = dataclasses.replace(words, part="retrieved", measure="CIDEr-D", number="cider_d")
    assert listen_look.compare([of], [words, same])[0].baseline == same
    assert listen_look.compare([of], [words])[0].baseline == words
    assert listen_look.compare([of], [dataclasses.replace(same, number="bleu_4")])[0].baseline is None


def test_swapped_records():
    one, other = make.s4(0, size=8), make.s4(1, size=8)
    heard, seen = swapped(one, other, "sound"), swapped(one, other, "picture")
    assert (heard.audio, heard.frames, heard.masks) == (other.audio, one.frames, one.masks)
    assert (seen.audio, seen.frames, seen.asks) == (one.audio, other.frames, one.asks)
    short = swapped(one, dataclasses.replace(other, frames=other.frames[:2]), "picture")
    assert short.frames == (*other.frames[:2], *[other.frames[1]] * 3)


def test_every_column_of_listen_and_look_has_its_own_run():
    def scores(value):
        numbers = {"miou": value, "unparsed": value / 10, "items": 6.0}
        about = {"headline": ["miou"], "lower_is_better": False, "expected": 6, "answered": 6}
        return about | {"numbers": numbers}

    runs = {("decoded", None): scores(0.7), ("decoded", "sound"): scores(0.2), ("decoded", "picture"): scores(0.1)}
    runs[("text", "sound")] = scores(0.9)  # another mode
    (line,) = listen_look.compare([TestSet(task="s4", split="test", runs=runs, why_not_paper="generated")], [])
    assert line.scores == {None: 0.7, "sound": 0.2, "picture": 0.1}
    assert line.unparsed == pytest.approx({None: 0.07, "sound": 0.02, "picture": 0.01})
    said = line.to_json()
    assert (said["as_it_is"], said["other_sound"], said["other_pictures"], said["baseline"]) == (0.7, 0.2, 0.1, None)
    assert said["unparsed"] == pytest.approx({"as_it_is": 0.07, "other_sound": 0.02, "other_pictures": 0.01})
    (row,) = [x for x in listen_look.to_markdown([line]) if x.startswith("| s4/test")]
    assert row.startswith("| s4/test | miou | 0.7000 [7.0 %] | 0.2000 [2.0 %] | 0.1000 [1.0 %] |")
    alone = TestSet(task="s4", split="test", runs={("decoded", None): scores(0.7)}, why_not_paper="generated")
    assert listen_look.compare([alone], []) == []
