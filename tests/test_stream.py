"""The stream from shards to batches, in one process."""

import dataclasses
import json

import numpy as np
import pytest
import shard_files as make
from stream_run import SETTINGS, SIZE, SIZES, digest, open_stream

from crab_jax.layout import Layout
from crab_jax.tasks import PRETRAINING, TASKS, Row, Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines import encoding
from data_pipelines.examples import ExampleSize, Stored, build_example, measure
from data_pipelines.records import Record, open_shards
from data_pipelines.stream.evaluation import evaluation_items
from data_pipelines.stream.loader import BudgetError, StateError, Stream
from data_pipelines.stream.rows import read_example, size_of
from data_pipelines.stream.tables import Source, StreamError, read_table

TOKENIZER = Tokenizer.tiny()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Data sets that are quick to read, and two with ten windows per example."""
    out = tmp_path_factory.mktemp("shards")
    make.write_shards(out, [make.s4(i, size=SIZE) for i in range(9)], size=SIZE)
    make.write_shards(out, [make.avss(i, size=SIZE) for i in range(7)], size=SIZE)
    make.write_shards(out, [make.ave(i, size=SIZE) for i in range(6)], size=SIZE)
    make.write_shards(out, [make.ref_avs(i, size=SIZE) for i in range(3)], size=SIZE)
    make.write_shards(out, [make.avqa(i, size=SIZE, seconds=12) for i in range(3)], size=SIZE)
    return out


@pytest.fixture
def copy(shards, tmp_path):
    """The same, to be damaged."""
    import shutil

    return shutil.copytree(shards, tmp_path / "shards")


def changed(**kwargs):
    return dataclasses.replace(SETTINGS, **kwargs)


def take(stream, n):
    with stream:
        return [next(stream) for _ in range(n)]


def source(out, task, spec=None):
    return Source(open_shards(out, task, "train"), spec or TASKS[task])


# ------------------------------------------------------------------------------------------------------ examples

ROW = Row(
    question="What sounds?", answer="flute", exp="the Loud one", second=2, label="cello", box=(1, 2, 30, 40),
    caption="A cello plays.", definition="a bowed instrument", events=make.ave(0, size=8).asks[0].row.events,
    reasoning="It is heard.",
)  # fmt: skip


@pytest.mark.parametrize("wording", list(Wording))
@pytest.mark.parametrize("spec", [*TASKS.values(), *PRETRAINING.values()], ids=lambda spec: spec.name)
@pytest.mark.parametrize("with_target", [True, False])
def test_sizes_are_known_before_anything_is_read(spec, wording, with_target):
    """What planning counts with is what comes out, for every task and wording; also with fewer pictures than asked."""
    media = spec.media[wording]
    rng = np.random.default_rng(0)
    wave = rng.normal(size=99_999).astype(np.float32)
    pictures = rng.integers(0, 256, (7, SIZE, SIZE, 3), np.uint8)
    shared = {"tokenizer": TOKENIZER, "sizes": SIZES, "with_target": with_target}
    stored = Stored(pictures=7, samples=len(wave))
    size = measure(spec, wording, ROW, stored=stored, picture=2, has_mask=spec.needs_masks, **shared)
    record = Record(
        task=spec.name,
        split="train",
        clip_id="c",
        frames=tuple(encoding.encode_picture(p, kind=encoding.PictureFormat.PNG, quality=95) for p in pictures),
        audio=(sound := encoding.encode_sound(wave))[0],
        audio_exponent=sound[1],
        masks=(encoding.encode_mask(np.eye(SIZE, dtype=np.uint8)),) if spec.needs_masks else (),
    )
    ask = Ask(id="a", row=ROW, picture=2, mask=0 if spec.needs_masks else None)
    example = read_example(record, ask, spec, wording=wording, name="x", **shared)
    assert size_of(example, SIZES) == size
    direct = build_example(
        spec, wording, ROW, name="x", video=pictures[: media.frames] if media.frames <= 7 else pictures,
        image=pictures[2], wave=record.wave(), **shared,
    )  # fmt: skip
    assert (direct.prompt, direct.target) == (example.prompt, example.target)
    np.testing.assert_array_equal(direct.fbank, example.fbank)
    if media.image:
        np.testing.assert_array_equal(example.frames[example.mask_frame], pictures[2])
    if media.image and spec.needs_masks:
        assert example.mask.sum() == SIZE
        assert example.mask_semantic == spec.semantic


def test_targets_of_pretraining_end_with_a_blank():
    ends = []
    for spec in (TASKS["avcap"], PRETRAINING["pretrain-image"]):
        example = build_example(
            spec, Wording.QUICK_START, ROW, name="x", tokenizer=TOKENIZER, sizes=SIZES, with_target=True,
            video=np.zeros((10, SIZE, SIZE, 3), np.uint8), image=np.zeros((SIZE, SIZE, 3), np.uint8),
            wave=np.ones(160_000, np.float32),
        )  # fmt: skip
        ends.append(example.target[-2:])
    assert all(end[1] == TOKENIZER.eos for end in ends)
    assert ends[0][0] != TOKENIZER.encode("a ")[-1]
    assert ends[1][0] == TOKENIZER.encode("a ")[-1]


# -------------------------------------------------------------------------------------------------------- batches


def test_every_example_once_per_epoch(shards):
    stream = open_stream(shards, settings=changed(epochs=2))
    assert stream.units == 9 + 7 + 6
    names = [name for _, info in stream for row in info.names for name in row]
    half = len(names) // 2
    assert half == stream.units
    for epoch in (names[:half], names[half:]):
        # Rows of an epoch's last block also hold the beginning of the next epoch, unless blocks end there too.
        assert {n.split(",")[0] for n in epoch} == {"s4/train", "avss/train", "ave/train"}
    counts = {n: names.count(n) for n in names}
    assert all(c == 2 for n, c in counts.items() if not n.startswith("avss"))
    moments = sorted(n for n in names if n.startswith("avss"))
    assert len(set(moments)) == 14, "each avss clip comes with another frame in the second epoch"
    with pytest.raises(StopIteration):
        next(stream)


def test_batches_hold_what_info_says(shards):
    batch, info = take(open_stream(shards), 1)[0]
    assert batch.tokens.shape == (4, 320)
    assert batch.frames.shape == (4, 12, SIZE, SIZE, 3)
    assert [int(row.max()) for row in batch.segment] == [len(names) for names in info.names]
    assert info.examples == sum(map(len, info.names)) > 4
    assert info.fill["tokens"] == (batch.segment > 0).mean()
    assert set(info.fill) == {"tokens", "frames", "windows", "masks"}
    for names, masks in zip(info.names, batch.mask_segment):
        wanted = [n + 1 for n, name in enumerate(names) if not name.startswith("ave")]
        assert masks[masks > 0].tolist() == wanted
    assert (batch.mask_semantic.sum(axis=1) == [sum(n.startswith("avss") for n in row) for row in info.names]).all()


@pytest.mark.parametrize("packed", [True, False])
def test_global_batches_are_the_same_for_any_number_of_processes(shards, packed):
    settings = changed(packed=packed)
    whole = take(open_stream(shards, settings=settings), 6)
    for processes in (2, 4):
        parts = [
            take(open_stream(shards, settings=settings, process=p, processes=processes), 6) for p in range(processes)
        ]
        for n, (batch, info) in enumerate(whole):
            joined = type(batch)(*(np.concatenate(xs) for xs in zip(*(part[n][0] for part in parts))))
            assert digest(joined) == digest(batch)
            assert sum((part[n][1].names for part in parts), ()) == info.names
            assert {part[n][1].number for part in parts} == {n}


def test_one_example_per_row(shards):
    for batch, info in take(open_stream(shards, settings=changed(packed=False)), 3):
        assert [len(names) for names in info.names] == [1] * 4
        assert batch.segment.max() == 1
        assert (batch.segment[:, -1] == 1).all(), "padded on the left, as inference is"


def test_the_last_batch_is_filled_up(shards):
    stream = open_stream(shards, settings=changed(epochs=1, rows=7))
    parts = [open_stream(shards, settings=changed(epochs=1, rows=4), process=p, processes=4) for p in range(4)]
    batches = list(stream)
    assert all(b.tokens.shape[0] == 7 for b, _ in batches)
    assert batches[-1][1].names[-1] == ()
    assert sum(info.examples for _, info in batches) == stream.units
    alone = [list(part) for part in parts]
    assert len({len(part) for part in alone}) == 1, "processes must agree on the number of batches"
    assert sum(info.examples for part in alone for _, info in part) == stream.units


def test_weights(shards):
    stream = open_stream(shards, settings=changed(weights={"s4/train": 3, "ave/train": 1}))
    names = [n for _, info in take(stream, 12) for row in info.names for n in row]
    share = sum(n.startswith("s4") for n in names) / len(names)
    assert 0.65 < share < 0.85
    assert not any(n.startswith("avss") for n in names)


def test_all_moments(shards):
    stream = open_stream(shards, ("avss", "ref-avs"), settings=changed(choose="all", epochs=1))
    names = [n for _, info in stream for row in info.names for n in row]
    assert len(names) == len(set(names)) == 7 * 10 + 3 * 2 * 10


def test_ten_windows_of_a_minute(shards):
    """Only what is heard is decoded; the rest makes no difference."""
    ids = {}
    record = source(shards, "avqa").shards[0]
    for name, wave in (("whole", record.wave()), ("parts", None)):
        shared = {"tokenizer": TOKENIZER, "sizes": SIZES, "with_target": True, "name": "x"}
        spec = TASKS["avqa"]
        if wave is None:
            ids[name] = read_example(record, record.asks[0], spec, wording=Wording.QUICK_START, **shared).fbank
        else:
            video = np.stack([record.picture(i) for i in range(10)])
            row = record.asks[0].row
            ids[name] = build_example(spec, Wording.QUICK_START, row, video=video, wave=wave, **shared).fbank
    np.testing.assert_array_equal(ids["whole"], ids["parts"])
    assert ids["whole"].shape == (10, 38, 128)


# ---------------------------------------------------------------------------------------------------------- state


def test_going_on(shards):
    """From any step, in a new stream, also for another number of processes; nothing of the past is needed."""
    reference = [digest(b) for b, _ in take(open_stream(shards), 30)]
    stream = open_stream(shards)
    for _ in range(11):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    stream.close()
    assert len(json.dumps(state)) < 2000
    again = open_stream(shards)
    again.set_state(state)
    assert again.get_state() == state
    assert [digest(b) for b, _ in take(again, 19)] == reference[11:]
    halves = [open_stream(shards, process=p, processes=2) for p in range(2)]
    for half in halves:
        half.set_state(state)
    joined = [
        type(a)(*(np.concatenate(xs) for xs in zip(a, b))) for (a, _), (b, _) in zip(*(take(h, 5) for h in halves))
    ]
    assert [digest(b) for b in joined] == reference[11:16]


def test_a_state_can_be_set_at_any_time(shards):
    stream = open_stream(shards)
    start = stream.get_state()
    with stream:
        first = [digest(next(stream)[0]) for _ in range(3)]
        stream.set_state(start)
        assert [digest(next(stream)[0]) for _ in range(3)] == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed: 5 in the state, 6 here"),
        ({"layout": dataclasses.replace(SETTINGS.layout, tokens=512)}, "layout.tokens: 320 in the state, 512 here"),
        ({"wording": Wording.RELEASE_TRAIN}, "wording: quick-start in the state, release-train here"),
        ({"weights": {"s4/train": 1.0}}, "weights: None in the state"),
        ({"rows": 8, "packed": False}, "rows: 4 in the state, 8 here\n  packed: True in the state, False here"),
    ],
)
def test_a_state_of_other_settings_is_refused(shards, change, message):
    state = open_stream(shards).get_state()
    with pytest.raises(StateError, match=message.replace(".", r"\.")):
        open_stream(shards, settings=changed(max_left_out=1.0, **change)).set_state(state)


def test_a_state_of_other_data_is_refused(shards, tmp_path):
    state = open_stream(shards, ("s4",)).get_state()
    make.write_shards(tmp_path, [make.s4(i, size=SIZE) for i in range(8)], size=SIZE)
    with pytest.raises(StateError, match=r"source 1: s4/train [0-9a-f]+ in the state, s4/train [0-9a-f]+ here"):
        open_stream(tmp_path, ("s4",)).set_state(state)
    with pytest.raises(StateError, match="source 2: nothing in the state, ave/train"):
        open_stream(shards, ("s4", "ave")).set_state(state)


@pytest.mark.parametrize("state", [{}, {"version": 1, "batch": "x"}, {"version": 2}, None, [1]])
def test_what_is_no_state(shards, state):
    with pytest.raises(StateError, match="state of"):
        open_stream(shards).set_state(state)


def test_a_damaged_state_is_refused(shards):
    """Not taken for another place in the stream, and no endless planning of what lies before."""
    with open_stream(shards, settings=changed(block=8)) as stream:
        for _ in range(3):
            next(stream)
        state = stream.get_state()
        assert state["cursor"][1] > 0
        for change in (
            {"batch": 2.5}, {"batch": True}, {"batch": 10**30}, {"batch": 0}, {"cursor": [-3, 0]}, {"cursor": [0, -7]},
            {"cursor": [0, 99]}, {"cursor": [0]}, {"cursor": 3}, {"cursor": ["0", 0]}, {"version": 1}, {"version": 3},
        ):  # fmt: skip
            with pytest.raises(StateError, match="expected the state of a data stream"):
                stream.set_state(state | change)
        block, row = state["cursor"]
        for change in (  # each could be the state of this stream at some other moment
            {"cursor": [block, row + 1]}, {"cursor": [block + 1, row]}, {"batch": 2}, {"skipped": {"ave": "gone"}},
        ):  # fmt: skip
            with pytest.raises(StateError, match=r"changed after it was taken: checksum '[0-9a-f]+' instead of"):
                stream.set_state(state | change)
        del state["checksum"]
        with pytest.raises(StateError, match="checksum None instead of"):
            stream.set_state(state)
        with pytest.raises(StateError, match="found version 1, of another version of the program"):
            stream.set_state(state | {"version": 1})
        assert next(stream)[1].number == 3  # it goes on as if nothing had been asked


# ------------------------------------------------------------------------------------------------------ bad input


def damage(out, task, names):
    """Turns bytes over in the middle of shards."""
    for file in sorted((out / task).rglob("*.array_record-*"))[:names]:
        data = bytearray(file.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(255 - x for x in data[middle : middle + 64])
        file.write_bytes(bytes(data))


def test_damaged_records_leave_a_gap(copy, shards):
    damage(copy, "s4", 2)
    whole = list(open_stream(shards, settings=changed(epochs=1)))
    stream = open_stream(copy, settings=changed(epochs=1))
    found = list(stream)
    assert 1 <= len(stream.skipped) <= 4
    assert all("s4" in name and "array_record-0000" in reason for name, reason in stream.skipped.items())
    gone = sum(len(info.skipped) for _, info in found)
    assert gone == len(stream.skipped)
    names, complete = ({n for _, info in part for row in info.names for n in row} for part in (found, whole))
    assert names < complete
    assert len(names) + gone == len(complete)
    assert stream.get_state()["skipped"] == stream.skipped


def test_too_many_damaged_records_are_fatal(copy):
    damage(copy, "s4", 3)
    with pytest.raises(BudgetError, match=r"3 examples could not be read, max_skipped allows 2.*\n.*s4/train"):
        list(open_stream(copy, ("s4",), settings=changed(epochs=2), max_skipped=2))


def test_a_record_that_is_not_what_the_index_says(copy):
    index = next((copy / "s4").rglob("index-train.jsonl"))
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    lines[0]["samples"] -= 16_000
    lines[1]["asks"][0]["row"]["second"] = 1
    lines[2]["asks"].append(lines[2]["asks"][0])
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stream = open_stream(copy, ("s4",), settings=changed(epochs=1))
    list(stream)
    assert sorted(stream.skipped) == ["s4/train, 0000-0-0", "s4/train, record 2, question 1"]
    assert "the index promises ExampleSize" in stream.skipped["s4/train, 0000-0-0"]


def test_examples_larger_than_the_layout_are_named_and_counted(shards):
    small = dataclasses.replace(SETTINGS.layout, tokens=85)
    with pytest.raises(StreamError, match=r"(?s)6 of 85 examples cannot be used, max_left_out allows 1.00%.*ave/train"):
        open_stream(shards, settings=changed(layout=small))
    stream = open_stream(shards, settings=changed(layout=small, max_left_out=0.1, epochs=1))
    names = [f"ave/train, {ask.id}" for entry in source(shards, "ave").shards.index() for ask in entry.asks]
    assert [x.name for x in stream.left_out] == names
    assert all("tokens, the layout holds 85" in x.reason for x in stream.left_out)
    assert sum(info.examples for _, info in stream) == 9 + 7


def test_unusable_questions_are_named(tmp_path):
    """Too short a sound, a picture that is not there, a field that is missing: known before anything is read."""
    good = make.s4(0, size=SIZE)
    short = dataclasses.replace(make.s4(1, size=SIZE), audio=encoding.encode_sound(np.ones(1600, np.float32))[0])
    (ask,) = good.asks
    asks = (
        dataclasses.replace(ask, id="far", picture=9),
        dataclasses.replace(ask, id="none", picture=None),
        dataclasses.replace(ask, id="when", row=Row(label="x", second=7)),
    )
    make.write_shards(tmp_path, [good, short, dataclasses.replace(good, asks=asks)], size=SIZE)
    stream = open_stream(tmp_path, ("s4",), settings=changed(max_left_out=1.0))
    reasons = {x.name: x.reason for x in stream.left_out}
    assert stream.units == 1
    assert "at least 0.875 s of sound" in reasons["s4/train, 0001-0-0"]
    assert "picture 9, there are 5" in reasons["s4/train, far"]
    assert "expected a picture" in reasons["s4/train, none"]
    assert "found second 7" in reasons["s4/train, when"]


def test_settings_that_do_not_fit(shards):
    s4 = source(shards, "s4")
    wide = dataclasses.replace(SIZES, image_size=32)
    with pytest.raises(StreamError, match="pictures of 16 pixels per side, the model looks at 32"):
        Stream([s4], SETTINGS, tokenizer=TOKENIZER, sizes=wide, cache=False)
    with pytest.raises(StreamError, match="each once, found s4/train, s4/train"):
        Stream([s4, s4], SETTINGS, tokenizer=TOKENIZER, sizes=SIZES, cache=False)
    with pytest.raises(StreamError, match="4 rows for process 0 of 3"):
        open_stream(shards, processes=3)
    with pytest.raises(StreamError, match="buffer from 1"):
        open_stream(shards, buffer=0)


# ----------------------------------------------------------------------------------------------- lengths, evaluation


def test_lengths_are_remembered(shards, tmp_path, monkeypatch):
    arguments = {"wording": Wording.QUICK_START, "tokenizer": TOKENIZER, "sizes": SIZES, "cache": tmp_path / "c"}
    first = read_table(source(shards, "s4"), **arguments)
    (file,) = (tmp_path / "c").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("data_pipelines.stream.tables.measure", None)
        again = read_table(source(shards, "s4"), **arguments)
    assert (again.digest, again.name, again.left_out) == (first.digest, first.name, first.left_out)
    for field in ("record", "ask", "unit", "size"):
        np.testing.assert_array_equal(getattr(again, field), getattr(first, field))
    file.write_bytes(b"damaged")
    assert len(read_table(source(shards, "s4"), **arguments)) == len(first)
    other = read_table(source(shards, "s4"), **arguments | {"wording": Wording.RELEASE_TRAIN})
    assert other.digest != first.digest
    unwritable = arguments | {"cache": file / "no folder"}
    assert len(read_table(source(shards, "s4"), **unwritable)) == len(first)


def test_evaluation_asks_everything_once(copy):
    damage(copy, "s4", 1)
    arguments = {"wording": Wording.RELEASE_TEST, "tokenizer": TOKENIZER, "sizes": SIZES}
    whole = list(evaluation_items(source(copy, "s4"), **arguments))
    assert [item.number for item in whole] == list(range(9))
    assert 1 <= sum(item.example is None for item in whole) <= 4
    assert all("array_record-00000" in item.reason for item in whole if item.example is None)
    good = whole[-1]
    assert not good.example.target
    assert (good.example.unplaced, good.example.mask, good.mask.shape) == (1, None, (SIZE, SIZE))
    parts = [list(evaluation_items(source(copy, "s4"), **arguments, process=p, processes=2)) for p in range(2)]
    assert sorted(item.number for part in parts for item in part) == list(range(9))
    assert {item.name: item.number for part in parts for item in part} == {i.name: i.number for i in whole}


def test_sizes_have_the_names_of_the_layout():
    assert {f.name for f in dataclasses.fields(Layout)} == set(ExampleSize._fields)
