"""`crab eval` from shards to the table; canned answers stand in for the networks."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import eval_run
import numpy as np
import pytest
import shard_files as make
from PIL import Image

from crab_jax import cli
from crab_jax.batch import FeatureSizes
from crab_jax.evaluate.engine import Engine
from crab_jax.evaluate.journal import open_journal
from crab_jax.evaluate.run import Run, finish
from crab_jax.metrics import METRICS
from crab_jax.tasks import TASKS, Row, Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines.records import open_shards
from data_pipelines.stream.evaluation import donors, evaluation_items
from data_pipelines.stream.tables import Source, StreamError

HERE = pathlib.Path(__file__).parent
TABLES = ("table.md", "table.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    eval_run.write_inputs(root)
    return root


@pytest.fixture
def canned(monkeypatch):
    monkeypatch.setattr(Engine, "_batch", eval_run.canned())


def arguments(inputs, out, *more):
    return [
        "--shards", str(inputs / "shards"), "--weights", str(inputs / "weights"), "--out", str(out),
        "--dtype", "float32", "--batch", "4", "--gallery", "0", "--router", "0", *more,
    ]  # fmt: skip


def evaluate(inputs, out, *more):
    return cli.main(["eval", *arguments(inputs, out, *more)])


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_of(out):
    """All that must not depend on how a run went; the page without its times."""
    files = {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "speed.json" and not p.name.endswith(".lock")
    }
    page = re.sub(rb'<section id="time".*?</section>|<a href="#time">Time</a>', b"", files["report.html"], flags=re.S)
    return files | {"report.html": b"\n".join(page.split())}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """An evaluation of everything that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_batch", eval_run.canned())
        assert evaluate(inputs, out) == 0
    return out


def test_everything_in_one_table(whole):
    table = json.loads((whole / "table.json").read_text())
    sets = {(s["task"], s["split"]): s for s in table["test_sets"]}
    assert list(sets) == [
        ("avqa", "test"), ("ave", "test"), ("s4", "test"), ("avss", "test"), ("ref-avs", "test_n")
    ]  # fmt: skip
    assert [r["mode"] for r in sets["s4", "test"]["runs"]] == ["decoded", "teacher-forced"]
    assert [r["mode"] for r in sets["avqa", "test"]["runs"]] == ["decoded"]
    for (task, _), found in sets.items():
        for run in found["runs"]:
            assert run["expected"] == run["answered"] == run["numbers"]["items"]
            assert {"unparsed", "items", *run["headline"]} <= run["numbers"].keys()
            assert not run["problems"]
        if task != "ref-avs":  # every named variant
            assert found["runs"][0]["numbers"].keys() == METRICS[task]().result().keys()
        assert "not of the published size" in found["why_not_paper"]
    text = (whole / "table.md").read_text()
    first, details = text.split("\n## ", 1)
    assert "| s4/test | 6 | miou |" in first
    assert "%]" in first
    assert "| text given |" in first
    assert "The paper's numbers are left out" in first
    assert "The paper has no number of these. " in first
    assert "generated or changed data, 3 items where the published test set has 402" in first
    assert "miou:unparsed_left_out" in details
    assert "miou:unparsed_left_out" not in first
    speed = json.loads((whole / "speed.json").read_text())
    assert speed["avqa/test, decoded"]["items_per_s"] > 0
    assert {"compile_share", "compile_s"} <= speed["avqa/test, decoded"].keys()


def test_a_line_per_item(whole):
    lines = lines_of(whole / "avqa/test/decoded/items.jsonl")
    assert [line["number"] for line in lines] == list(range(12))
    assert lines[1]["kind"] == ["Visual", "Location"]
    assert lines[0]["clip"] == "v0000"
    assert "How many quiet instruments" in lines[0]["prompt"]
    assert lines[0]["truth"] == {"kind": "choice", "answer": "one"}
    assert {line["value"]["kind"] for line in lines} == {"choice", "unparsed"}
    right = [line["scores"]["accuracy"] for line in lines]
    assert right == [float(line["value"].get("answer") == line["truth"]["answer"]) for line in lines]
    numbers = json.loads((whole / "avqa/test/decoded/scores.json").read_text())["numbers"]
    assert numbers["accuracy"] == pytest.approx(np.mean(right))
    assert numbers["items/visual/location"] == 4


def test_masks_lie_beside_the_lines(whole):
    for line in lines_of(whole / "s4/test/decoded/items.jsonl"):
        assert ("mask" in line) == (line["value"]["kind"] == "mask")
        if "mask" in line:
            with Image.open(whole / "s4/test/decoded" / line["mask"]) as mask:
                assert (mask.mode, mask.size) == ("1", (eval_run.SIZE,) * 2)
    with Image.open(whole / "avss/test/teacher-forced/masks/000000.png") as classes:
        assert classes.mode == "L"
        assert np.array(classes).max() > 1
    forced = lines_of(whole / "s4/test/teacher-forced/items.jsonl")
    assert all(line["text"].startswith("The object that makes the sound is") for line in forced)


def test_run_again_asks_nothing(inputs, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "out")
    monkeypatch.setattr(Engine, "_batch", lambda *_: pytest.fail("asked again"))
    assert evaluate(inputs, out) == 0
    assert files_of(out) == files_of(whole)


def test_killed_and_continued_is_not_killed(inputs, whole, tmp_path):
    """SIGKILL in the first and in a later test set; the second time in the middle of a line as well."""
    out = tmp_path / "out"
    command = [sys.executable, str(HERE / "eval_run.py"), "0.3", *arguments(inputs, out)]
    for after in ("avqa/test/decoded", "s4/test/decoded"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = out / after / "items.jsonl"
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "table.md").exists()
    assert 0 < len(lines_of(journal)) < 6
    with journal.open("ab") as file:
        file.write(b'{"number": 5, "id": "000')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_batch", eval_run.canned())
        assert evaluate(inputs, out) == 0
    assert files_of(out) == files_of(whole)


def test_shares_make_the_whole(inputs, whole, tmp_path, canned, capsys):
    assert evaluate(inputs, tmp_path, "--part", "1/3") == 0
    assert "are still open" in capsys.readouterr().err
    assert not list(tmp_path.rglob("scores.json"))
    assert evaluate(inputs, tmp_path, "--part", "0/3") == 0
    assert (tmp_path / "s4/test/decoded/items.00001-of-00003.jsonl").exists()
    assert evaluate(inputs, tmp_path, "--part", "2/3") == 0
    assert files_of(tmp_path) == files_of(whole)


@pytest.mark.slow
def test_two_processes_of_a_cluster(inputs, whole, tmp_path):
    """`--distributed`, as two processes of a Slurm job on this machine would find themselves."""
    out = tmp_path / "out"
    command = [sys.executable, str(HERE / "eval_run.py"), "0", *arguments(inputs, out, "--distributed")]
    job = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
        "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            command, env=os.environ | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert files_of(out) == files_of(whole)


def test_nobody_takes_the_file_of_a_process_at_work(inputs, whole, tmp_path):
    """One share has nothing left to do while another one answers what had failed: its answers must not get lost."""
    out = shutil.copytree(whole / "avqa/test/decoded", tmp_path / "out")
    lines = lines_of(out / "items.jsonl")
    (out / "items.jsonl").unlink()
    (out / "scores.json").unlink()
    run = Run(source=Source(open_shards(inputs / "shards", "avqa", "test"), TASKS["avqa"]))
    with open_journal(out, process=0, processes=2) as mine:
        mine.add(lines[:-1])
    with open_journal(out, process=1, processes=2) as other:
        other.add([{"id": lines[-1]["id"], "error": "the device ran out of memory"}])
        assert "whoever comes last scores" in finish(run, out)
        assert not (out / "scores.json").exists()
        other.add([lines[-1]])
    scored = finish(run, out)
    assert scored.answered == len(lines)
    assert not any(scored.problems.values())
    assert (out / "items.jsonl").read_bytes() == (whole / "avqa/test/decoded/items.jsonl").read_bytes()
    assert not list(out.glob("items.*-of-*"))


def test_an_unfinished_line_is_named(inputs, whole, canned, capsys, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    path = out / "avqa/test/decoded/items.jsonl"
    with path.open("a") as file:
        file.write('{"id": "0000')
    assert evaluate(inputs, out, "--task", "avqa") == 0
    assert f'avqa/test, decoded: {path}: dropped its last line, which is incomplete: {{"id": "0000' in (
        capsys.readouterr().err
    )


def test_weights_that_stand_in_are_named(inputs, whole, canned, capsys, tmp_path):
    note = "no weights of the AVSS finetune are loaded, so those of the pretraining stand in"
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "avss/test/decoded/items.jsonl").unlink()
    assert evaluate(inputs, out, "--task", "avss") == 0
    said = capsys.readouterr()
    assert f"avss/test, decoded: note: {note}" in said.err
    assert "avqa/test, decoded: note" not in said.err
    assert f"avss/test: {note}" in said.out
    assert all(line["notes"] == [note] for line in lines_of(out / "avss/test/decoded/items.jsonl"))
    sets = {s["task"]: s for s in json.loads((out / "table.json").read_text())["test_sets"]}
    assert [run["notes"] for run in sets["avss"]["runs"]] == [[note]] * 2
    assert sets["avqa"]["runs"][0]["notes"] == []
    assert f"<strong>Note:</strong> {note}." in (out / "report.html").read_text()


def test_answers_to_nothing_are_named_whatever_their_id(inputs, whole, canned, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    with (out / "ave/test/decoded/items.jsonl").open("a") as file:
        file.write('{"id": "\\ud800", "text": "x"}\n')
    assert evaluate(inputs, out, "--task", "ave") == 1
    assert "1 unexpected" in (out / "table.md").read_text(encoding="utf-8")


def test_pictures_of_another_size_claim_no_folder(inputs, canned, capsys, tmp_path):
    other = shutil.copytree(inputs, tmp_path / "inputs")
    manifest = other / "shards/ave/1.0.0/shards.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"size": 224}))
    assert evaluate(other, tmp_path / "out", "--task", "ave") == 2
    assert "pictures of 224 pixels per side, the model looks at 112" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_run_is_refused(inputs, whole, canned, capsys, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    assert evaluate(inputs, out, "--max-new-tokens", "7") == 2
    assert "max_new_tokens: there null, now 7" in capsys.readouterr().err
    other = shutil.copytree(inputs, tmp_path / "inputs")
    (other / "weights/tokenizer.model").write_bytes((other / "weights/tokenizer.model").read_bytes() + b"\x00")
    assert evaluate(other, out) == 2
    assert "weights: there" in capsys.readouterr().err
    assert files_of(out) == files_of(whole)


def test_two_runs_into_one_folder(inputs, whole, canned, capsys, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    with open_journal(out / "avqa/test/decoded"):
        assert evaluate(inputs, out, "--task", "avqa") == 2
    assert "another run is writing there" in capsys.readouterr().err


def test_swapped_media_stand_beside(inputs, whole, canned, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    assert evaluate(inputs, out, "--swap", "sound", "--task", "avqa,s4") == 0
    assert evaluate(inputs, out, "--swap", "picture", "--task", "s4", "--mode", "decoded") == 0
    lines = lines_of(out / "avqa/test/decoded-sound-swapped/items.jsonl")
    giver = {line["clip"]: line["sound_of"] for line in lines}
    assert set(giver) == set(giver.values())
    assert all(clip != other for clip, other in giver.items())
    assert "picture_of" in lines_of(out / "s4/test/decoded-picture-swapped/items.jsonl")[0]
    first = (out / "table.md").read_text().split("\n## ")[0]
    assert "| decoded | text given | sound swapped | picture swapped | text given, sound swapped |" in first


def test_one_clip_cannot_swap():
    with pytest.raises(StreamError, match="the split has 1"):
        donors(["a", "a"])
    assert sorted(donors("abcdefg")) == list(range(7))


def test_a_frame_gets_no_media_of_its_own_video(tmp_path):
    """Each frame of ARIG is a record; its neighbours sound alike."""
    videos = ["a", "b", "a", "c", "b", "b", "c"]
    assert all(videos[i] != videos[k] for i, k in enumerate(donors(videos)))
    shown = Row(box=(1, 2, 3, 4), label="cello")
    records = [
        dataclasses.replace(
            make.s4(i, size=112), task="arig", split="test", clip_id=f"clip_{i // 2}_{i % 2}",
            frames=make.s4(i, size=112).frames[:1], masks=(),
            asks=(Ask(id=f"{i}", row=dataclasses.replace(shown, second=i % 2), picture=0),),
        )
        for i in range(8)
    ]  # fmt: skip
    source = Source(make.write_shards(tmp_path, records, size=112), TASKS["arig"])
    sizes = FeatureSizes(image_size=112, frame_tokens=2, window_tokens=2, patch=16)
    items = evaluation_items(source, wording=Wording.QUICK_START, tokenizer=Tokenizer.tiny(), sizes=sizes, swap="sound")
    pairs = [(item.clip, item.media_of) for item in items]
    assert len(pairs) == 8
    assert all(own[:-2] != other[:-2] for own, other in pairs)


def test_unreadable_records_and_a_limit(inputs, canned, tmp_path, capsys):
    """A broken record is asked about, counts as unparsed, and is named; nothing else is lost."""
    broken = shutil.copytree(inputs, tmp_path / "inputs")
    (shard,) = (broken / "shards/avqa/1.0.0").glob("*array_record*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    shard.write_bytes(data)
    assert evaluate(broken, tmp_path / "out", "--task", "avqa", "--limit", "11") == 1
    scores = json.loads((tmp_path / "out/avqa/test/decoded/scores.json").read_text())
    lost = 11 - scores["answered"]
    assert lost > 0
    assert len(scores["problems"]["failed"]) == lost
    assert scores["numbers"]["items"] == 11
    assert scores["numbers"]["unparsed"] >= lost / 11
    assert "failed (items that could not be read" in capsys.readouterr().err
    text = (tmp_path / "out/table.md").read_text()
    assert "only 11 of 12 items were asked" in text
    assert f"{lost} failed" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "avqua"], "expected all, or some of"),
        (["--task", "arig"], "crab data build arig"),
        (["--split", "train"], "expected the split 'train'"),
        (["--task", "s4", "--wording", "release-train"], "shows no picture to segment; use --wording quick-start"),
    ],
)
def test_wrong_arguments(inputs, tmp_path, capsys, more, message):
    assert evaluate(inputs, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_folders(inputs, tmp_path, capsys):
    assert cli.main(["eval", "--shards", str(inputs / "shards"), "--out", str(tmp_path)]) == 2
    assert "expected --weights DIR" in capsys.readouterr().err


def test_an_ablation_comes_onto_the_page(inputs, canned, capsys, tmp_path):
    file = tmp_path / "ablation.json"
    file.write_text("{")
    assert evaluate(inputs, tmp_path / "out", "--task", "avqa", "--ablation", str(file)) == 2
    assert "expected what launch.ablation wrote" in capsys.readouterr().err
    file.write_text('{"heads-1": {"avqa/test, accuracy": [0.5]}}')
    assert evaluate(inputs, tmp_path / "out", "--task", "avqa", "--ablation", str(file)) == 0
    assert '<section id="ablation"' in (tmp_path / "out" / "report.html").read_text()
