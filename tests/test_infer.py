"""`crab infer` and the Python interface, from files to files, with a random model and rendered media."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params
from PIL import Image

import crab_jax
from crab_jax import checkpoint, cli
from crab_jax.api import SampleError, WeightsError
from crab_jax.params import Flat
from crab_jax.tokens import Tokenizer
from data_pipelines.world import write_quickstart_media

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
