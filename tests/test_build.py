"""Building data sets: exact media, files that TFDS reads, and what becomes of those that are there already."""

import dataclasses
import fcntl
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from crab_jax.tasks.clips import Clip
from data_pipelines import build as building
from data_pipelines.build import BuildError, Options, build
from data_pipelines.command import told
from data_pipelines.decode import read_audio, read_image, read_mask, read_semantic_mask, read_video
from data_pipelines.records import SCHEMA, open_shards
from tests.build_clips import EXACT, ask, ave_clips, files, spec_of, write_media
from tests.media_files import cut


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


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


# ------------------------------------------------------------------------------------------------------------- TFDS


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
