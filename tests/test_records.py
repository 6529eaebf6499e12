"""Records and shards: exact round trips, and what is said about damage."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax.tasks import Event, Row
from crab_jax.tasks.clips import Ask
from data_pipelines import encoding, example_proto
from data_pipelines.ask_json import ask_from_json, ask_to_json
from data_pipelines.records import SCHEMA, CorruptRecord, Record, ShardError, open_shards
from tests.shards import noise_record, write_data_set


def test_record_round_trip():
    record = noise_record(3, frames=3, masks=2)
    again = Record.from_bytes(record.to_bytes())
    assert again == record
    assert again.to_bytes() == record.to_bytes()
    random = np.random.default_rng(3)
    np.testing.assert_array_equal(
        [again.picture(i) for i in range(3)], random.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    )
    np.testing.assert_array_equal([again.mask(i) for i in range(2)], random.integers(0, 2, (2, 16, 16), dtype=np.uint8))


def test_record_without_media():
    record = Record(task="avqa", split="test", clip_id="nothing", asks=(Ask(id="a", row=Row()),))
    assert Record.from_bytes(record.to_bytes()) == record
    assert record.wave().shape == (0,)


def test_ask_with_everything():
    row = Row(
        question="Wie viele Töne?",
        events=(Event("Bark", 1, 3), Event("Cat", 0, 10)),
        audio_events=(Event("Speech", 2, 4),),
        box=(1, 2, 3, 4),
        second=0,
    )
    ask = Ask(id="x", row=row, picture=0, mask=0, group="g", raw={"deep": [1, {"a": None}]})
    assert ask_from_json(json.loads(json.dumps(ask_to_json(ask)))) == ask
    assert "raw" not in ask_to_json(ask, raw=False)


def test_unknown_field_of_a_row():
    with pytest.raises(ValueError, match=r"not an ask.*colour"):
        ask_from_json({"id": "x", "row": {"colour": "red"}})


@pytest.mark.parametrize(
    "change",
    [{"id": None}, {"picture": "x"}, {"mask": 1.5}, {"group": 3}, {"row": {"label": 3}}, {"row": {"second": "2"}},
     {"row": {"box": [1, 2, None, 4]}}, {"row": {"events": [["Bark", "1", 3]]}}, {"row": {"events": [[1, 1, 3]]}}],
)  # fmt: skip
def test_values_of_another_type(change):
    with pytest.raises(ValueError, match=r"not an ask \(TypeError.*expected (str|int), found"):
        ask_from_json({"id": "x", "row": {}} | change)


@settings(deadline=None, max_examples=50)
@given(scale=st.integers(-30, 20), seed=st.integers(0, 99), n=st.integers(1, 2000))
def test_sound_keeps_24_bits_at_any_loudness(scale, seed, n):
    wave = np.ldexp(np.random.default_rng(seed).uniform(-1, 1, n), scale).astype(np.float32)
    again = encoding.decode_sound(*encoding.encode_sound(wave))
    assert again.dtype == np.float32
    assert np.abs(again - wave).max() <= np.abs(wave).max() * 2.0**-23


def test_sound_of_16_bits_is_exact():
    whole = np.random.default_rng(0).integers(-(2**15), 2**15, 4000)
    for wave in (whole, whole // 100, np.array([-(2**15), 2**15 - 1]), np.array([0, 0])):
        wave = (wave / 2**15).astype(np.float32)
        np.testing.assert_array_equal(encoding.decode_sound(*encoding.encode_sound(wave)), wave)


def test_sound_beyond_full_scale_survives():
    wave = np.array([1.75, -2.5, 0.25], np.float32)
    np.testing.assert_array_equal(encoding.decode_sound(*encoding.encode_sound(wave)), wave)


def test_jpeg_is_close():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), axis=-1)
    data = encoding.encode_picture(picture, kind=encoding.PictureFormat.JPEG, quality=95)
    assert np.abs(encoding.decode_picture(data).astype(int) - picture).max() <= 8


@pytest.mark.parametrize("damage", [b"", b"no picture", b"\xff\xd8\xff\xe0 half a picture"])
def test_damaged_media_are_named(damage):
    record = Record(task="s4", split="val", clip_id="c7", frames=(damage,), masks=(damage,), audio=b"fLaC" + damage)
    for read, what in ((lambda: record.picture(0), "picture 0"), (lambda: record.mask(0), "mask 0")):
        with pytest.raises(CorruptRecord, match=f"s4/val, clip c7, {what}"):
            read()
    with pytest.raises(CorruptRecord, match="clip c7, sound"):
        record.wave()


def test_bytes_that_are_no_record():
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        Record.from_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match=r"not a record.*KeyError"):
        Record.from_bytes(example_proto.serialize({"task": "avqa"}))


# ------------------------------------------------------------------------------------------------------------ shards


@pytest.fixture
def five(tmp_path):
    records = [noise_record(k) for k in range(5)]
    home = write_data_set(tmp_path, {"train": [records[:3], records[3:]]})
    return tmp_path, home, records


def test_reads_by_number(five):
    out, _, records = five
    shards = open_shards(out, "avqa", "train")
    assert (len(shards), shards.size) == (5, 16)
    assert [shards[i] for i in (4, 0, 2, 3, 1)] == [records[i] for i in (4, 0, 2, 3, 1)]
    assert list(shards) == records
    with pytest.raises(IndexError):
        shards[5]
    copy = pickle.loads(pickle.dumps(shards))
    assert copy[3] == records[3]
    shards.close()
    assert shards[1] == records[1]


def test_index_says_what_records_hold(five):
    out, _, records = five
    entries = list(open_shards(out, "avqa", "train").index())
    assert [e.index for e in entries] == list(range(5))
    for entry, record in zip(entries, records):
        assert entry.clip_id == record.clip_id
        assert (entry.frames, entry.samples, entry.masks) == (2, 8000, 0)
        assert entry.size == len(record.to_bytes())
        assert [(a.id, a.row) for a in entry.asks] == [(a.id, a.row) for a in record.asks]


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_one_damaged_record_loses_only_itself(five):
    out, home, records = five
    flip(home / "avqa-train.array_record-00000-of-00002", 1000)
    shards = open_shards(out, "avqa", "train")
    with pytest.raises(CorruptRecord, match="hash") as caught:
        shards[0]
    assert (caught.value.shard, caught.value.index) == ("avqa-train.array_record-00000-of-00002", 0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.index) == (str(caught.value), 0)
    assert [shards[i] for i in range(1, 5)] == records[1:]


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_shard(five, share):
    out, home, records = five
    path = home / "avqa-train.array_record-00001-of-00002"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    shards = open_shards(out, "avqa", "train")
    with pytest.raises(CorruptRecord, match=rf"expected a shard of {len(whole)} bytes") as caught:
        shards[4]
    assert caught.value.index == 4
    assert shards[2] == records[2]


def test_shard_of_another_split(five):
    out, home, _ = five
    manifest = json.loads((home / "shards.json").read_text())
    (home / "index-val.jsonl").write_text((home / "index-train.jsonl").read_text())
    manifest["splits"]["val"] = manifest["splits"]["train"]
    (home / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptRecord, match="expected a record of avqa/val, found avqa/train"):
        open_shards(out, "avqa", "val")[0]


def test_missing_shard_is_named(five):
    out, home, _ = five
    (home / "avqa-train.array_record-00001-of-00002").unlink()
    with pytest.raises(ShardError, match=r"missing avqa-train\.array_record-00001-of-00002"):
        open_shards(out, "avqa", "train")


def test_index_that_disagrees(five):
    out, home, _ = five
    index = home / "index-train.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:-1]))
    with pytest.raises(ShardError, match="each of 5 records, found 4"):
        list(open_shards(out, "avqa", "train").index())
    index.write_text(lines[0] + "{broken\n")
    with pytest.raises(ShardError, match=r"index-train.jsonl, line 2"):
        list(open_shards(out, "avqa", "train").index())
    index.unlink()
    with pytest.raises(ShardError, match=r"missing index-train.jsonl"):
        open_shards(out, "avqa", "train")


@pytest.mark.parametrize(
    "change", [{"frames": "3"}, {"frames": None}, {"samples": -5}, {"masks": 1.5}, {"size": []}, {"clip_id": 3}]
)
def test_index_with_values_that_cannot_be(five, change):
    out, home, _ = five
    index = home / "index-train.jsonl"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | change), *lines[2:]]))
    with pytest.raises(ShardError, match=rf"line 2: expected what a record holds, found {next(iter(change))}"):
        list(open_shards(out, "avqa", "train").index())


def test_index_that_is_no_text(five):
    out, home, _ = five
    (home / "index-train.jsonl").write_bytes(b"\xff\n" * 5)
    with pytest.raises(ShardError, match=r"line 1: expected what a record holds, found 'utf-8'"):
        list(open_shards(out, "avqa", "train").index())


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v.pop("size"),
        lambda v: v.update(size="big"),
        lambda v: v["splits"].update(train=[1]),
        lambda v: v["splits"]["train"].pop("shards"),
        lambda v: v["splits"]["train"]["shards"][0].update(records="2"),
        lambda v: v["splits"]["train"]["shards"][0].update(records=-1),
        lambda v: v["splits"]["train"]["shards"][0].update(records=10**30),
        lambda v: [s.update(records=2**62 - 1) for s in v["splits"]["train"]["shards"]],
        lambda v: v["splits"]["train"]["shards"][0].update(bytes=-1),
        lambda v: v.update(size=-1),
    ],
)
def test_damaged_description(five, edit):
    out, home, _ = five
    manifest = json.loads((home / "shards.json").read_text())
    edit(manifest)
    (home / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"shards.json, train: expected a description of shards"):
        open_shards(out, "avqa", "train")


def test_wrong_folder_split_and_schema(five, tmp_path):
    out, home, _ = five
    with pytest.raises(ShardError, match="crab data build ave"):
        open_shards(out, "ave", "train")
    with pytest.raises(ShardError, match="split 'test', found train"):
        open_shards(out, "avqa", "test")
    manifest = (home / "shards.json").read_text()
    (home / "shards.json").write_text(manifest.replace(SCHEMA, "0.9.0"))
    with pytest.raises(ShardError, match=rf"expected schema {SCHEMA}, found 0\.9\.0"):
        open_shards(out, "avqa", "train")
    (home / "shards.json").write_text("[1]")
    with pytest.raises(ShardError, match="expected a description of shards"):
        open_shards(out, "avqa", "train")
    home.rename(home.with_name("0.9.0"))
    with pytest.raises(ShardError, match=rf"expected records of schema {SCHEMA}, found schema 0\.9\.0"):
        open_shards(out, "avqa", "train")


def test_reading_needs_neither_tfds_nor_jax(five):
    code = "import sys; from data_pipelines.records import open_shards\n"
    code += f"print(len(open_shards({str(five[0])!r}, 'avqa', 'train')[4].wave()))\n"
    code += "sys.exit(str({'jax', 'tensorflow', 'tensorflow_datasets', 'librosa', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr.strip()) == ("8000\n", "set()")
