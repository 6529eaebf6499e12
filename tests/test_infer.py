"""`crab infer` and the Python interface, from files to files, with a random model and rendered media."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params
from PIL import Image

import crab_jax
from crab_jax import checkpoint, cli
from crab_jax import infer as command
from crab_jax.api import Failure, SampleError, WeightsError
from crab_jax.evaluate.engine import Reply
from crab_jax.params import Flat
from crab_jax.tasks import Unparsed, Wording
from crab_jax.tasks.samples import read_sample
from crab_jax.tokens import Tokenizer
from data_pipelines.world import write_quickstart_media

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS = ["avqa", "ave", "avvp", "arig", "s4", "ms3", "ref-avs", "avss", "avcap"]


def talkative() -> Flat:
    """Parameters that say mask tokens often enough for masks to appear."""
    config = tiny_config()
    head = np.array(tiny_params()["llama/head/kernel"])
    head[:, list(config.token_ids.masks)] *= 25
    return tiny_params() | {"llama/head/kernel": head}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Media of nine samples, and weights in which the AVS tasks have their own matrices."""
    root = tmp_path_factory.mktemp("infer")
    samples = write_quickstart_media(root / "media")
    params = talkative()
    overlay = {p: x for p, x in params.items() if p.startswith("mask_decoder/")}
    overlay |= {p: np.asarray(params[p]) * 0.5 for p in ("llama/embed/embedding", "llama/head/kernel")}
    (root / "tokenizer.model").write_bytes(Tokenizer.tiny().model)
    checkpoint.save(
        root / "weights",
        config=tiny_config(),
        params={p: x for p, x in params.items() if p not in overlay or p.startswith("llama/")},
        overlays={"avs": overlay},
        overlay_configs={"avs": tiny_config().mask_decoder},
        tokenizer=root / "tokenizer.model",
    )
    return root, samples


@pytest.fixture(scope="module")
def crab(folders):
    return crab_jax.load(folders[0] / "weights", dtype="float32")


def infer(folders, *args, out="out"):
    out = folders[0] / out
    code = cli.main(["infer", *map(str, args), "--weights", str(folders[0] / "weights"), "--out", str(out)])
    file = out / "results.jsonl"
    return code, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [], out


def test_nine_tasks_and_broken_samples(folders, capsys):
    """Everything in one run; what is broken is reported, costs nothing else, and shows in the exit code."""
    _, samples = folders
    entries = json.loads(samples.read_text())
    (samples.parent / "empty.mp4").write_bytes(b"")
    (samples.parent / "note.txt").write_text("no video")
    broken = [
        {"task": "avqa", "video_path": "missing.mp4", "question": "Is there a drum?"},
        {"task": "ave", "video_path": "empty.mp4"},
        {"task": "ave", "video_path": "note.txt"},
        {"task": "dancing"},
        {"task": "avqa", "video_path": entries[0]["video_path"]},
        {"task": "avqa", "video_path": entries[0]["video_path"], "question": "what is <video> here?"},
    ]
    mixed = samples.with_name("mixed.json")
    mixed.write_text(json.dumps(broken[:3] + entries + broken[3:]))
    code, records, out = infer(folders, mixed, "--max-new-tokens", "24", "--dtype", "float32")
    assert code == 1
    assert [r["index"] for r in records] == list(range(15))
    assert [r["ok"] for r in records] == [False] * 3 + [True] * 9 + [False] * 3
    assert [r["task"] for r in records[3:12]] == [e["task"] for e in entries]
    for record, words in zip(
        records[:3] + records[12:], ("missing.mp4", "empty", "note.txt", "dancing", "question", "<video>"), strict=True
    ):
        assert words in record["error"]
    masks = 0
    for record in records[3:12]:
        assert {"prompt", "text", "parsed", "answer", "tokens", "finished", "seconds", "notes", "files"} <= set(record)
        assert record["parsed"] == (record["answer"]["kind"] != "unparsed")
        assert record["parsed"] or record["answer"]["reason"]
        assert Image.open(out / record["files"]["picture"]).width == 1120
        if "mask" in record["files"]:
            masks += 1
            mask = np.asarray(Image.open(out / record["files"]["mask"]))
            assert mask.shape[:2] == (112, 112)
            assert record["task"] == "avss" or set(np.unique(mask)) <= {0, 255}
        else:
            assert record["answer"]["kind"] != "mask"
    assert masks, "no sample led to a mask: the test tests less than it says"
    (avss,) = [r for r in records if r["task"] == "avss"]
    assert "AVS finetune" in avss["notes"][0]
    err = capsys.readouterr().err
    assert "9 answered" in err
    assert "6 failed" in err
    assert "missing.mp4" in err


def test_one_question(folders, capsys):
    _, samples = folders
    entry = next(e for e in json.loads(samples.read_text()) if e["task"] == "avcap")
    code, records, _ = infer(
        folders, "--task", "avcap", "--video", samples.parent / entry["video_path"], "--max-new-tokens", "5", out="one"
    )
    assert code == 0
    assert len(records) == 1
    assert records[0]["tokens"] <= 5
    assert records[0]["text"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give SAMPLES.json, or --task"),
        (["--task", "avqa"], "--question"),
        (["--task", "avqa", "--question", "why?"], "--video"),
        (["--task", "avqa", "--question", "<image>?", "--video", "a.mp4"], "<image>"),
        (["nowhere.json"], "no such file"),
        (["nowhere.json", "--task", "ave"], "not both"),
        (["--task", "ave", "--video", "a.mp4", "--top-p", "0.5"], "--temperature"),
        (["--task", "ave", "--video", "a.mp4", "--batch", "0"], "at least 1"),
        (["--task", "ave", "--video", "a.mp4", "--variant", "ave"], "no set of weights 'ave'"),
    ],
)
def test_wrong_arguments(folders, capsys, args, message):
    code, records, _ = infer(folders, *args, out="wrong")
    assert code == 2
    assert not records
    assert message in capsys.readouterr().err


def test_malformed_json_names_the_line(folders, capsys):
    bad = folders[0] / "bad.json"
    bad.write_text('[\n {"task": "ave",\n  "video_path" "a.mp4"}\n]')
    code, _, _ = infer(folders, bad)
    assert code == 2
    err = capsys.readouterr().err
    assert "line 3" in err
    assert '"video_path" "a.mp4"' in err


def test_ask(crab, folders):
    """Typed answers with masks as arrays."""
    _, samples = folders
    entries = {e["task"]: e for e in json.loads(samples.read_text())}
    path = lambda task, name: samples.parent / entries[task][name]  # noqa: E731
    found = 0
    for task in ("s4", "ms3"):
        answer = crab.ask(task, image=path(task, "image_path"), audio=path(task, "audio_path"), max_new_tokens=24)
        assert answer.sample.task == task
        assert (answer.mask is not None) == (answer.mask_logits is not None)
        if answer.mask is not None:
            found += 1
            assert answer.mask.dtype == bool
            np.testing.assert_array_equal(answer.mask, answer.mask_logits[0] > 0)
        assert answer.picture().width == 1120
    assert found
    answer = crab.ask("avqa", video=path("avqa", "video_path"), question="How many?", max_new_tokens=4)
    assert answer.prompt.endswith("Please answer this question: How many?")
    assert answer.tokens <= 4
    assert answer.frames.shape == (10, 112, 112, 3)


def test_ask_refuses(crab, folders, tmp_path):
    from media_files import write_video

    silent = tmp_path / "silent.mp4"
    write_video(silent, frames=20, sound=None)
    with pytest.raises(SampleError, match="audio"):
        crab.ask("ave", video=silent)
    with pytest.raises(SampleError, match="question"):
        crab.ask("avqa", video=silent)
    with pytest.raises(SampleError, match="no such file"):
        crab.ask("ave", video=tmp_path / "nothing.mp4")
    with pytest.raises(SampleError, match="unknown task"):
        crab.ask("sing", video=silent)


def test_the_same_in_batches(crab, folders):
    """A mixed run gives every sample the answer that it gets alone."""
    from crab_jax.tasks.samples import read_samples

    samples = read_samples(folders[1])[:3]
    together = crab.answer(samples, max_new_tokens=10)
    alone = [crab.answer([s], max_new_tokens=10)[0] for s in samples]
    assert [r.text for r in together] == [r.text for r in alone]


def test_weights_that_lack_a_part(folders, tmp_path):
    params = {p: x for p, x in talkative().items() if not p.startswith(("clip/", "mask_decoder/"))}
    import dataclasses

    config = dataclasses.replace(tiny_config(), clip=None, mask_decoder=None)
    checkpoint.save(tmp_path / "part", config=config, params=params, tokenizer=folders[0] / "tokenizer.model")
    with pytest.raises(WeightsError, match="clip missing"):
        crab_jax.load(tmp_path / "part")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("llama", "intermediate_size"), 7, r"mlp/down/kernel: expected \[\d+, 7, \d+\], found"),
        (("llama", "num_layers"), 1, r"expected \[1, .*, found"),
        (("clip", "intermediate_size"), 7, "clip/layers/"),
    ],
)
def test_a_config_that_does_not_fit_the_arrays(folders, tmp_path, place, value, message):
    """Told in words before anything is read, not by a traceback in the middle of the first answer."""
    shutil.copytree(folders[0] / "weights", tmp_path / "weights")
    file = tmp_path / "weights" / "crab.json"
    manifest = json.loads(file.read_text())
    manifest["config"][place[0]][place[1]] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.CheckpointError, match=message):
        crab_jax.load(tmp_path / "weights")


def test_no_mask_decoder(folders, tmp_path):
    import dataclasses

    params = {p: x for p, x in talkative().items() if not p.startswith("mask_decoder/")}
    config = dataclasses.replace(tiny_config(), mask_decoder=None)
    checkpoint.save(tmp_path / "text", config=config, params=params, tokenizer=folders[0] / "tokenizer.model")
    crab = crab_jax.load(tmp_path / "text", dtype=jnp.float32)
    entries = {e["task"]: e for e in json.loads(folders[1].read_text())}
    with pytest.raises(SampleError, match="no mask decoder"):
        crab.ask(
            "s4",
            image=folders[1].parent / entries["s4"]["image_path"],
            audio=folders[1].parent / entries["s4"]["audio_path"],
        )


def fields(folders, task, **more):
    """Fields of the rendered sample of a task, with absolute paths."""
    entry = next(e for e in json.loads(folders[1].read_text()) if e["task"] == task)
    return {k: str(folders[1].parent / v) if k.endswith("_path") else v for k, v in entry.items()} | more


def test_broken_entries_of_any_kind_are_lines_of_json(folders, capsys):
    """Half a surrogate pair, or a number that JSON does not know, in the fields that name a sample."""
    file = folders[0] / "odd.json"
    odd = r'[{"task": "ave", "id": "\ud800"}, {"task": "\ud800"}, {"task": Infinity, "id": NaN}, 3, null, []]'
    file.write_text(odd)
    code, _, out = infer(folders, file, out="odd")
    assert code == 1

    def no_json(name):
        raise ValueError(name)

    lines = (out / "results.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line, parse_constant=no_json) for line in lines]
    assert [r["index"] for r in records] == list(range(6))
    assert records[0]["id"] == "\ud800"
    assert records[2]["task"] is None
    assert capsys.readouterr().err.count("failed: ") == 6


@pytest.mark.parametrize("kind", ["a file", "below a file", "results.jsonl is a folder", "locked"])
def test_where_results_cannot_go(folders, tmp_path, capsys, monkeypatch, kind):
    """Said before the weights are loaded, which may take minutes."""
    monkeypatch.setattr(command, "load", lambda *args, **how: pytest.fail("loaded the weights first"))
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "results.jsonl").mkdir(parents=True)
    out = {"a file": "file", "below a file": "file/sub", "results.jsonl is a folder": "folder", "locked": "taken"}[kind]
    with command.Results.open(tmp_path / "taken") as other:
        other.begin()
        code = cli.main(
            ["infer", "--task", "ave", "--video", "a.mp4", "--weights", str(folders[0] / "weights")]
            + ["--out", str(tmp_path / out)]
        )
    assert code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --out {tmp_path / out}: ")
    assert err.count("\n") == 1
    assert ("another run" in err) == (kind == "locked")


def test_a_run_that_cannot_start_leaves_things_as_they_were(folders, tmp_path):
    args = ["infer", "--task", "ave", "--video", "a.mp4", "--weights", str(tmp_path), "--out"]
    assert cli.main([*args, str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.jsonl").write_text("an hour of work")
    assert cli.main([*args, str(tmp_path / "old")]) == 2
    assert (tmp_path / "old" / "results.jsonl").read_text() == "an hour of work"


def failures(samples):
    """Results that need no model, in an order of their own."""
    for place in (2, 0, 3, 1):
        yield place, Failure(index=place, reason=f"reason {place}", raw={"id": f"n{place}"})


class Fake:
    """Stands in for `Assistant`."""

    def __init__(self, error=None):
        self.error = error

    def stream(self, samples, **how):
        for i, pair in enumerate(failures(samples)):
            if i == 3 and self.error is not None:
                raise self.error
            yield pair


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 1, "0 answered (0 understood), 4 failed; see"),
        (KeyboardInterrupt(), 130, "3 failed, 1 not reached; see"),
        (OSError(28, "No space left on device"), 1, "stopped, because results cannot be written"),
    ],
)
def test_what_was_answered_stays(folders, tmp_path, capsys, monkeypatch, error, code, said):
    """After Ctrl-C or on a full disk: every line so far, in the order of the samples."""
    monkeypatch.setattr(command, "load", lambda *args, **how: Fake(error))
    (tmp_path / "four.json").write_text("[1, 2, 3, 4]")
    (tmp_path / "results.jsonl").write_text("a longer line of an earlier run " * 100)
    args = ["infer", str(tmp_path / "four.json"), "--weights", str(folders[0] / "weights"), "--out", str(tmp_path)]
    assert cli.main(args) == code
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [r["index"] for r in records] == ([0, 1, 2, 3] if error is None else [0, 2, 3])
    err = capsys.readouterr().err
    assert said in err
    assert "failed: n2 (no task): reason 2" in err


def test_a_full_disk_leaves_whole_lines(tmp_path):
    class Small:
        """A file of at most 60 bytes that takes 7 at a time."""

        def __init__(self):
            self.data = bytearray()

        def seek(self, place):
            self.place = place

        def truncate(self, size):
            del self.data[size:]

        def write(self, data):
            if self.place >= 60:
                raise OSError(28, "No space left on device")
            data = data[: min(7, 60 - self.place)]
            self.data[self.place : self.place + len(data)] = data
            self.place += len(data)
            return len(data)

    file = Small()
    results = command.Results(tmp_path, file)
    results.begin()
    for place in (1, 0):
        results.add(place, {"index": place, "text": "é"})
    assert [json.loads(line)["index"] for line in bytes(file.data).splitlines()] == [0, 1]
    with pytest.raises(OSError, match="No space"):
        results.add(2, {"index": 2})
    assert [json.loads(line)["index"] for line in bytes(file.data).splitlines()] == [0, 1]


def test_a_true_mask_that_cannot_be_read_costs_neither_answer_nor_picture(folders, capsys):
    entry = fields(folders, "s4", mask_path=str(folders[0] / "nowhere.png"))
    file = folders[0] / "masked.json"
    file.write_text(json.dumps([entry]))
    code, (record,), out = infer(folders, file, "--max-new-tokens", "24", "--dtype", "float32", out="masked")
    assert code == 0
    assert "mask" in record["files"], "no mask, so no true mask was wanted: the test tests nothing"
    assert (out / record["files"]["picture"]).is_file()
    assert "nowhere.png" in record["problems"][0]
    assert "warning: " in capsys.readouterr().err


def test_control_characters_do_not_reach_the_terminal():
    assert command._visible("é\x1b[2J\x9b\ud800\ta\nb") == "é\\x1b[2J\\x9b\\ud800\ta\nb"


def test_a_closed_pipe_ends_the_run_quietly(folders):
    code = (
        "import sys; from crab_jax import cli, infer; "
        "infer.run = lambda args: [print('x' * 100) for _ in range(10000)]; raise SystemExit(cli.main(sys.argv[1:]))"
    )
    args = [sys.executable, "-c", code, "infer", "a.json", "--weights", "w"]
    done = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.stdout.read(10)
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() == 141


def test_a_user_without_a_home(monkeypatch, tmp_path, capsys):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(cli.pathlib.Path, "home", nowhere)
    assert cli.main(["infer", str(tmp_path / "none.json"), "--weights", "w"]) == 2
    assert "none.json: no such file" in capsys.readouterr().err
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_missing_video_is_called_a_video(crab, tmp_path):
    with pytest.raises(SampleError, match="expected a video, found no such file"):
        crab.ask("ave", video=tmp_path / "nothing.mp4")


def test_no_mask_where_no_picture_is_shown(crab, folders, monkeypatch):
    """Otherwise the first frame of the video would be segmented, whatever second was asked about."""
    monkeypatch.setattr(crab, "wording", Wording.RELEASE_TRAIN)
    video = fields(folders, "ave")["video_path"]
    sample = read_sample({"task": "s4", "video_path": video, "second": 3}, wording=Wording.RELEASE_TRAIN)
    prepared = crab.prepare(sample)
    assert prepared.request.head is None
    assert any("no mask" in note for note in prepared.notes)
    monkeypatch.setattr(crab, "wording", Wording.QUICK_START)
    assert crab.prepare(read_sample(fields(folders, "s4"))).request.head == "binary"


def test_mask_tokens_spelled_in_letters_are_none(crab, folders):
    prepared = crab.prepare(read_sample(fields(folders, "s4")))
    *_, a, b, c = crab.tokenizer.encode("\ue000")  # three bytes that keep the letters from becoming a token
    letters = crab.tokenizer.encode("".join(f"<mask\ue000_{k}>" for k in range(6)))
    ids = [i for i in letters if i not in (a, b, c)]
    assert not set(ids) & set(crab.tokenizer.token_ids.masks)
    reply = Reply(ids=(*ids, crab.tokenizer.eos), finished=True, mask_count=0, mask_logits=None, seconds={})
    result = crab._result(prepared, reply)
    assert result.text.count("<mask_") == 6
    assert isinstance(result.value, Unparsed)
    assert result.mask is None


def test_senseless_arguments(crab, folders):
    weights = folders[0] / "weights"
    with pytest.raises(SampleError, match="at least 1"):
        crab.ask("avcap", video=fields(folders, "avcap")["video_path"], max_new_tokens=0)
    for wrong in ({"dtype": "float16"}, {"max_batch": 0}, {"tasks": ["sing"]}, {"wording": "rude"}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            crab_jax.load(weights, **wrong)


def test_tasks_whose_weights_were_left_out(folders):
    crab = crab_jax.load(folders[0] / "weights", tasks="s4", dtype="float32")
    with pytest.raises(SampleError, match="needs the weights 'text', loaded are avs; load them"):
        crab.ask("ave", video=fields(folders, "ave")["video_path"])
