"""Building data sets: exact media, the same bytes however often a build is stopped, and what is said about losses."""

import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from crab_jax import cli
from crab_jax.tasks import ALL, Row
from crab_jax.tasks.clips import Ask, Clip, Reject
from data_pipelines import build as building
from data_pipelines.build import BuildError, Options, build
from data_pipelines.command import told
from data_pipelines.decode import PALETTE, read_audio, read_image, read_mask, read_semantic_mask, read_video
from data_pipelines.encoding import PictureFormat
from data_pipelines.records import SCHEMA, open_shards
from tests.media_files import cut, tone, write_sound, write_video

EXACT = Options(jobs=0, size=32, pictures=PictureFormat.PNG)


def spec_of(task, clips, *, splits=("train",)):
    """A task whose annotations are what `clips(root, split)` says."""
    return dataclasses.replace(ALL[task], clips=clips, splits=splits, layout="ANNOTATIONS/HERE.json")


def ask(name, **fields):
    return Ask(id=name, row=Row(label="dog", second=0), **fields)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two videos, sounds, pictures and masks. Sound is at 16 kHz, because importing the resampler takes seconds."""
    root = tmp_path_factory.mktemp("media")
    for k in range(2):
        write_video(root / f"{k}.mp4", frames=12 + k, sound=tone(2, 16000, hz=300 + 100 * k), sound_rate=16000)
    write_video(root / "short.mp4", frames=3, sound=tone(2, 16000), sound_rate=16000)
    write_sound(root / "0.wav", tone(2, 16000, channels=2), 16000, subtype="PCM_16")
    random = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"{k}.png")
        Image.fromarray(255 * random.integers(0, 2, (40, 50), dtype=np.uint8)).save(root / f"mask{k}.png")
    Image.fromarray(PALETTE[random.integers(0, 71, (40, 50))]).save(root / "classes.png")
    return root


def ave_clips(count, *, vids=("0", "1")):
    def clips(root, split):
        for i in range(count):
            vid = vids[i % len(vids)]
            source = f"{root / 'a.json'}, entry {i}"
            video = root / f"{vid}.mp4"
            asks = (ask(f"{split} {i}"), ask(f"{split} {i} again"))
            yield Clip(task="ave", split=split, id=f"c{i}", video=video, frames=10, asks=asks, source=source)

    return clips


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rejects(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------- media


def test_video_and_sound_as_inference_reads_them(media, tmp_path):
    def clips(root, split):
        video, sound = root / "1.mp4", root / "0.wav"
        where = f"{root}/a.json, entry 0"
        yield Clip(task="ave", split=split, id="a", video=video, frames=10, audio=sound, asks=(ask("q"),), source=where)
        yield Clip(task="ave", split=split, id="b", video=video, frames=10, asks=(ask("r"),), source=where)
        short = root / "short.mp4"
        yield Clip(task="ave", split=split, id="c", video=short, frames=10, asks=(ask("s"),), source=where)

    build(spec_of("ave", clips), root=media, out=tmp_path, options=EXACT)
    first, second, third = open_shards(tmp_path, "ave", "train")
    pictures = read_video(media / "1.mp4", frames=10, size=32)
    for record, sound in ((first, "0.wav"), (second, "1.mp4")):
        np.testing.assert_array_equal([record.picture(i) for i in range(10)], pictures)
        np.testing.assert_allclose(record.wave(), read_audio(media / sound), atol=1e-7)
    assert len(third.frames) == 3
    assert first.provenance == {
        "annotation": "a.json, entry 0",
        "video": {"path": "1.mp4", "seconds": pytest.approx(2, abs=0.1), "rate": 10, "size": [64, 48]},
        "audio": {"path": "0.wav", "seconds": 2},
    }
    assert [a.id for a in first.asks] == ["q"]


@pytest.mark.parametrize(
    ("task", "mask", "read"), [("s4", "mask1", read_mask), ("avss", "classes", read_semantic_mask)]
)
def test_pictures_and_masks_as_inference_reads_them(media, tmp_path, task, mask, read):
    def clips(root, split):
        pictures = tuple(root / f"{k}.png" for k in range(3))
        masks = (root / f"{mask}.png",)
        one = ask("q", picture=1, mask=0)
        yield Clip(
            task=task, split=split, id="a", pictures=pictures, audio=root / "0.wav", masks=masks, asks=(one,), source=""
        )

    build(spec_of(task, clips), root=media, out=tmp_path, options=EXACT)
    (record,) = open_shards(tmp_path, task, "train")
    for k in range(3):
        np.testing.assert_array_equal(record.picture(k), read_image(media / f"{k}.png", size=32))
    np.testing.assert_array_equal(record.mask(0), read(media / f"{mask}.png", size=32))
    assert record.semantic == (task == "avss")
    np.testing.assert_array_equal(record.wave(), read_audio(media / "0.wav"))


def test_tasks_without_sound_store_none(media, tmp_path):
    def clips(root, split):
        video = root / "0.mp4"
        yield Clip(task="pretrain-video", split=split, id="a", video=video, frames=8, asks=(ask("q"),), source="")

    build(spec_of("pretrain-video", clips), root=media, out=tmp_path, options=EXACT)
    (record,) = open_shards(tmp_path, "pretrain-video", "train")
    assert (len(record.frames), record.audio) == (8, b"")


def test_jpeg_by_default(media, tmp_path):
    build(spec_of("ave", ave_clips(1)), root=media, out=tmp_path, options=Options(jobs=0, size=32))
    (record,) = open_shards(tmp_path, "ave", "train")
    assert all(frame.startswith(b"\xff\xd8\xff") for frame in record.frames)


# ---------------------------------------------------------------------------------------------------- TFDS, workers


def test_tfds_reads_it_and_never_imports_tensorflow(media, tmp_path):
    code = f"""
import sys, json, pathlib, tempfile
sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})
from tests import test_build as t
from data_pipelines.av_uie import features
from data_pipelines.records import Record, open_shards
import tensorflow_datasets as tfds
out = pathlib.Path({str(tmp_path)!r})
spare = out / "spare"
spare.mkdir()
tempfile.tempdir = str(spare)
t.build(t.spec_of("ave", t.ave_clips(3)), root=pathlib.Path({str(media)!r}), out=out, options=t.EXACT)
assert not list(spare.iterdir())  # TFDS would leave an empty folder there
source = tfds.builder_from_directory(out / "ave" / t.SCHEMA).as_data_source(split="train")
shards = open_shards(out, "ave", "train")
assert len(source) == len(shards) == 3
for seen, record in zip(source, shards):
    assert seen["clip_id"].decode() == record.clip_id
    assert seen["audio"] == record.audio
    assert json.loads(seen["asks"])[1]["id"] == record.asks[1].id
    for i in range(10):
        assert (seen["frames"][i] == record.picture(i)).all()
    plain = features(32).serialize_example(features(32).encode_example(record.to_features()))
    assert Record.from_bytes(plain) == record
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_same_bytes_with_any_number_of_workers(media, tmp_path):
    for jobs in (0, 2):
        options = dataclasses.replace(EXACT, jobs=jobs)
        built = build(spec_of("ave", ave_clips(70)), root=media, out=tmp_path / str(jobs), options=options)
        assert built.counts["train"] == building.Count(
            clips=70, records=70, examples=140, size=built.counts["train"].size
        )
    one, other = (files(tmp_path / str(jobs) / "ave" / SCHEMA) for jobs in (0, 2))
    assert one == other
    assert len([name for name in one if "array_record" in name]) == 3
    assert os.listdir(tmp_path / "2") == ["ave"]
    assert os.listdir(tmp_path / "2" / "ave") == [SCHEMA]


@pytest.fixture
def ave_root(media, tmp_path):
    """A root as the AVE data set has it, with 130 clips."""
    root = tmp_path / "root"
    (root / "data/ave_data").mkdir(parents=True)
    (root / "AVE_Dataset/AVE").mkdir(parents=True)
    entries = []
    for i in range(130):
        os.link(media / f"{i % 2}.mp4", root / f"AVE_Dataset/AVE/{i}.mp4")
        entries.append({"event": "Bark", "vid": str(i), "start_time": 0, "end_time": 2})
    (root / "data/ave_data/test_samples.json").write_text(json.dumps(entries))
    return root


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_continued(ave_root, tmp_path, how):
    options = Options(jobs=0, size=32, splits=("test",))
    build(ALL["ave"], root=ave_root, out=tmp_path / "undisturbed", options=options)
    stage = tmp_path / "stopped" / "ave" / f"{SCHEMA}.building"
    crab = [sys.executable, "-m", "crab_jax.cli", "data", "build", "ave", "--splits", "test", "--size", "32"]
    words = ["--root", str(ave_root), "--out", str(tmp_path / "stopped"), "--jobs", "1"]
    for _ in range(5):  # on a busy machine the build may be done before the signal comes: then once more
        shutil.rmtree(tmp_path / "stopped", ignore_errors=True)
        running = subprocess.Popen([*crab, *words], stderr=subprocess.PIPE, text=True)
        while not list(stage.glob("*.done.json")) and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(how)
        _, said = running.communicate(timeout=60)  # also waits for the workers, which hold the pipe
        if running.returncode:
            break
    assert running.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130), said
    assert not (tmp_path / "stopped" / "ave" / SCHEMA).exists()
    kept = list(stage.glob("*.done.json"))
    assert 0 < len(kept) < 5
    (stage.parent / f"incomplete.ABCDEF_{SCHEMA}").mkdir()  # as if TFDS had been killed
    watched = _Watched()
    build(ALL["ave"], root=ave_root, out=tmp_path / "stopped", options=options, progress=watched)
    assert watched.steps[0] == 32, "what was finished is not encoded again"
    assert watched.clips == sum(watched.steps) == 130
    assert files(tmp_path / "stopped" / "ave" / SCHEMA) == files(tmp_path / "undisturbed" / "ave" / SCHEMA)
    assert os.listdir(tmp_path / "stopped" / "ave") == [SCHEMA]


class _Watched(building.Progress):
    def __init__(self):
        self.clips, self.steps = 0, []

    def start(self, clips):
        self.clips = clips

    def advance(self, clips):
        self.steps.append(clips)


class Deadly(pathlib.PosixPath):
    """Whoever looks for this file dies, as a decoder may that runs into a defect."""

    def exists(self, **_):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_costs_one_clip(media, tmp_path):
    plain = ave_clips(40)

    def clips(root, split):
        for i, clip in enumerate(plain(root, split)):
            yield dataclasses.replace(clip, video=Deadly(clip.video)) if i in (3, 20) else clip

    built = build(spec_of("ave", clips), root=media, out=tmp_path, options=dataclasses.replace(EXACT, jobs=2))
    first, second = rejects(built.folder)
    assert (first["id"], first["kind"], first["examples"], second["id"]) == ("c3", "crash", 2, "c20")
    assert "ended the process" in first["reason"]
    assert (built.counts["train"].records, built.counts["train"].media) == (38, 4)
    ids = [f"c{i}" for i in range(40) if i not in (3, 20)]
    assert [record.clip_id for record in open_shards(tmp_path, "ave", "train")] == ids


def test_clips_are_drawn_as_they_are_needed(media, tmp_path):
    drawn, ahead = 0, []

    def clips(root, split):
        nonlocal drawn
        drawn = 0
        for clip in ave_clips(100)(root, split):
            drawn += 1
            yield clip

    class Watch(building.Progress):
        done = 0

        def advance(self, clips):
            self.done += clips
            ahead.append(drawn - self.done)

    build(spec_of("ave", clips), root=media, out=tmp_path, options=EXACT, progress=Watch())
    assert max(ahead) < 32


# ------------------------------------------------------------------------------------------------------------ losses


@pytest.fixture
def broken_root(media, tmp_path):
    """Clip 0 is fine, 1 has no video, 2 half of one, 3 a mask that is no image, 4 lacks one of two masks."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("0.mp4", "0.png", "mask0.png", "0.wav"):
        os.link(media / name, root / name)
    write_video(root / "2.mp4", frames=30, sound=tone(3, 44100))
    cut(root / "2.mp4", 0.5)
    (root / "3.png").write_text("not found")
    return root


def broken_clips(root, split):
    for i in range(3):
        where = f"{root}/a.json, entry {i}"
        video = root / f"{i}.mp4"
        yield Clip(task="ave", split=split, id=f"v{i}", video=video, frames=4, asks=(ask(f"q{i}"),), source=where)
    yield Reject(task="ave", split=split, id="x", source=f"{root}/a.json, entry 3", reason="expected a dict, found 7")


def test_losses_are_counted_and_listed(broken_root, tmp_path):
    options = dataclasses.replace(EXACT, max_rejects=0.5)
    built = build(spec_of("ave", broken_clips), root=broken_root, out=tmp_path, options=options)
    count = built.counts["train"]
    assert (count.clips, count.records, count.annotations, count.missing, count.media) == (3, 1, 1, 1, 1)
    annotation, missing, damaged = rejects(built.folder)
    assert annotation == {
        "split": "train", "id": "x", "kind": "annotation", "reason": "expected a dict, found 7",
        "source": "a.json, entry 3",
    }  # fmt: skip
    assert missing == {
        "split": "train", "id": "v1", "kind": "missing", "reason": "expected 1.mp4, found no such file",
        "source": "a.json, entry 1", "examples": 1,
    }  # fmt: skip
    assert (damaged["id"], damaged["kind"]) == ("v2", "media")
    assert damaged["reason"].startswith("2.mp4: expected a video, found")
    assert [r.clip_id for r in open_shards(tmp_path, "ave", "train")] == ["v0"]


def test_a_mask_loses_only_what_asks_about_it(broken_root, tmp_path):
    def clips(root, split):
        masks = (root / "gone.png", root / "3.png", root / "mask0.png")
        asks = (
            *(ask(f"q{k}", picture=0, mask=k) for k in range(3)),
            ask("q3", picture=1, mask=2),
            ask("q4", picture=0),
        )
        pictures, sound = (root / "0.png",), root / "0.wav"
        yield Clip(task="s4", split=split, id="a", pictures=pictures, audio=sound, masks=masks, asks=asks, source="a")

    options = dataclasses.replace(EXACT, max_rejects=1)
    built = build(spec_of("s4", clips), root=broken_root, out=tmp_path, options=options)
    (record,) = open_shards(tmp_path, "s4", "train")
    assert [(a.id, a.mask) for a in record.asks] == [("q2", 0), ("q4", None)]
    np.testing.assert_array_equal(record.mask(0), read_mask(broken_root / "mask0.png", size=32))
    assert [(r["id"], r["kind"]) for r in rejects(built.folder)] == [
        ("q0", "missing"),
        ("q1", "media"),
        ("q3", "media"),
    ]
    assert "at least 2 pictures, found 1" in rejects(built.folder)[2]["reason"]


def test_too_many_rejects_stop_and_mended_files_are_read_again(broken_root, media, tmp_path):
    spec, options = spec_of("ave", broken_clips), dataclasses.replace(EXACT, max_rejects=0.25)
    with pytest.raises(BuildError, match=r"at most 25.0% of 4 examples.*found 2 so far.*--max-rejects"):
        build(spec, root=broken_root, out=tmp_path, options=options)
    listed = (tmp_path / "ave" / f"{SCHEMA}.building" / "rejects.jsonl").read_text()
    assert '"v2"' in listed
    (broken_root / "2.mp4").unlink()
    os.link(media / "1.mp4", broken_root / "2.mp4")
    built = build(spec, root=broken_root, out=tmp_path, options=options)
    assert built.counts["train"].records == 2


def test_media_that_are_all_missing(tmp_path):
    with pytest.raises(BuildError, match=r"(?s)ave/train: expected usable.*found none; the first: .*0.mp4.*HERE.json"):
        build(spec_of("ave", ave_clips(3)), root=tmp_path, out=tmp_path / "out", options=EXACT)


def test_a_split_that_is_empty_is_left_out_unless_asked_for(media, tmp_path):
    rejected = Reject(task="ave", split="val", id="x", source=f"{media}/a.json, entry 3", reason="expected a dict")

    def clips(root, split):
        return iter([rejected]) if split == "val" else ave_clips(1)(root, split)

    spec = spec_of("ave", clips, splits=("val", "train"))
    for again in (False, True):
        built = build(spec, root=media, out=tmp_path, options=EXACT)
        assert (list(built.counts), built.empty, built.was_there) == (["train"], ("val",), again)
        assert re.search(r"\n  val +nothing: the annotations name no example", told("ave", built))
    (line,) = rejects(built.folder)
    assert (line["split"], line["reason"]) == ("val", "expected a dict")
    asked = dataclasses.replace(EXACT, splits=("val",))
    with pytest.raises(BuildError, match="ave/val: expected usable examples"):
        build(spec, root=media, out=tmp_path / "other", options=asked)


def test_sound_too_short_for_the_task(media, tmp_path):
    clips = ave_clips(2)

    def avqa(root, split):
        for clip in clips(root, split):
            yield dataclasses.replace(clip, task="avqa")

    with pytest.raises(BuildError, match=r"at least 5.250 s of sound"):
        build(spec_of("avqa", avqa), root=media, out=tmp_path, options=dataclasses.replace(EXACT, max_rejects=1))


def test_missing_sound_is_taken_from_the_video(media, tmp_path):
    def clips(root, split):
        video, gone = root / "0.mp4", root / "gone.mp3"
        yield Clip(task="ave", split=split, id="a", video=video, frames=4, audio=gone, asks=(ask("q"),), source="")

    build(spec_of("ave", clips), root=media, out=tmp_path, options=EXACT)
    (record,) = open_shards(tmp_path, "ave", "train")
    assert record.provenance["audio"]["path"] == "0.mp4"


def test_clips_with_the_same_id(media, tmp_path):
    def clips(root, split):
        for clip in ave_clips(2)(root, split):
            yield dataclasses.replace(clip, id="same")

    options = dataclasses.replace(EXACT, max_rejects=0.4)
    built = build(spec_of("ave", clips), root=media, out=tmp_path, options=options)
    assert built.counts["train"].records == 1
    assert "once, found 'same' again" in rejects(built.folder)[0]["reason"]


# ------------------------------------------------------------------------------------------------ what is there already


@pytest.fixture
def built(media, tmp_path):
    return build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT).folder


def test_a_complete_data_set_is_left(media, tmp_path, built):
    before = files(built)
    asked = dataclasses.replace(EXACT, splits=("train",))
    again = build(spec_of("ave", ave_clips(5)), root=media, out=tmp_path, options=asked)
    assert (again.was_there, again.counts["train"].examples) == (True, 4)
    assert files(built) == before


def test_a_data_set_built_otherwise_is_refused(media, tmp_path, built):
    other = dataclasses.replace(EXACT, size=16)
    with pytest.raises(BuildError, match=r"size 32 instead of 16; choose another --out, or --overwrite"):
        build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=other)
    again = build(
        spec_of("ave", ave_clips(3)), root=media, out=tmp_path, options=dataclasses.replace(other, overwrite=True)
    )
    assert (again.was_there, again.counts["train"].records) == (False, 3)
    assert open_shards(tmp_path, "ave", "train").size == 16


@pytest.mark.parametrize("what", ["shard", "cut shard", "index"])
def test_what_is_missing_is_built_again(media, tmp_path, built, what):
    before = files(built)
    path = built / ("index-train.jsonl" if what == "index" else "ave-train.array_record-00000-of-00001")
    if what == "cut shard":
        cut(path, 0.5)
    else:
        path.unlink()
    again = build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT)
    assert not again.was_there
    assert re.search(rf"ave: .*\n  built again, because of what was there: .*{path.name}", told("ave", again))
    assert files(built) == before
    assert os.listdir(tmp_path / "ave") == [SCHEMA]
    assert build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT).was_there


def test_what_is_missing_stays_as_it_is_until_it_can_be_built(media, tmp_path, built):
    (built / "index-train.jsonl").unlink()
    left = files(built)
    with pytest.raises(BuildError, match="expected usable examples"):
        build(spec_of("ave", lambda root, split: iter(())), root=media, out=tmp_path, options=EXACT)
    assert files(built) == left


@pytest.mark.parametrize(
    "splits",
    [
        {"train": {"shards": []}},
        {"train": {"shards": [], "counts": {"a": 1}}},
        {"train": {"shards": [], "counts": {"clips": -1}}},
        {"train": {"shards": [], "counts": {"clips": "many"}}},
        {"train": {"shards": [{"file": "x", "bytes": 1, "records": 10**30}], "counts": {}}},
        {"train": {"counts": {}}},
        {"train": []},
        {},
    ],
)
def test_a_damaged_description_is_refused(media, tmp_path, built, splits):
    manifest = json.loads((built / "shards.json").read_text())
    (built / "shards.json").write_text(json.dumps(manifest | {"splits": splits}))
    with pytest.raises(BuildError, match=r"shards.json.*: expected .*found .*; choose another --out, or --overwrite"):
        build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT)


def test_another_schema_is_refused(media, tmp_path, built):
    built.rename(built.with_name("0.9.0"))
    with pytest.raises(BuildError, match=rf"one of schema {SCHEMA}, found one of schema 0\.9\.0"):
        build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT)


def test_a_second_build_waits_outside(media, tmp_path):
    stage = tmp_path / "ave" / f"{SCHEMA}.building"
    stage.mkdir(parents=True)
    with (stage / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build is running"):
            build(spec_of("ave", ave_clips(2)), root=media, out=tmp_path, options=EXACT)


def test_a_full_disk_is_foreseen(media, tmp_path, monkeypatch):
    def free(_):
        return type("Usage", (), {"free": free.bytes})

    monkeypatch.setattr(building.shutil, "disk_usage", free)
    free.bytes = 1000
    with pytest.raises(BuildError, match=r"at least .* GiB more on the disk"):
        build(spec_of("ave", ave_clips(40)), root=media, out=tmp_path, options=EXACT)
    free.bytes = 200_000
    with pytest.raises(BuildError, match=r"about .* GiB more.*what is encoded is kept"):
        build(spec_of("ave", ave_clips(64)), root=media, out=tmp_path, options=EXACT)
    assert list((tmp_path / "ave" / f"{SCHEMA}.building").glob("*.done.json"))


# ------------------------------------------------------------------------------------------------------- command line


def test_command_line(ave_root, tmp_path, capsys):
    words = ["data", "build", "ave", "--root", str(ave_root), "--out", str(tmp_path), "--size", "16", "--jobs", "0"]
    assert cli.main(words) == 1
    assert "data/ave_data/valid_train_samples.json" in capsys.readouterr().err
    words += ["--splits", "test", "--frames", "png"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "130 examples about 130 of 130 clips" in said.out
    assert "130/130" in said.err
    assert cli.main(words) == 0
    assert "complete already" in capsys.readouterr().out
    assert cli.main([*words, "--splits", "val"]) == 1
    assert "expected splits out of train, test, found val" in capsys.readouterr().err


def test_command_line_builds_what_it_can(ave_root, tmp_path, capsys):
    words = ["--root", str(ave_root), "--out", str(tmp_path), "--size", "16", "--jobs", "0", "--splits", "test"]
    assert cli.main(["data", "build", "avqa", "ave", *words]) == 1
    said = capsys.readouterr()
    assert "not built: avqa\n" in said.err
    assert (tmp_path / "ave" / SCHEMA).is_dir()


def test_wrong_root(tmp_path, capsys):
    assert cli.main(["data", "build", "s4", "--root", str(tmp_path / "no"), "--out", str(tmp_path)]) == 1
    assert "expected the folder that holds the data set s4, found none\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--jobs", "-1"], ["--max-rejects", "1.5"], ["--size", "0"], ["--frames", "gif"], ["--quality", "101"]]
)
def test_wrong_options(tmp_path, words):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "build", "s4", "--root", str(tmp_path), "--out", str(tmp_path), *words])
