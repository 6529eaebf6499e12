"""The quick-start sample file: what is read, what is reported, what stops everything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_jax.tasks import TASKS, Wording
from crab_jax.tasks.samples import FIELDS, BrokenSample, Sample, SamplesError, read_sample, read_samples

AVQA = {"task": "avqa", "video_path": "a.mp4", "question": "How many?"}
S4 = {"task": "s4", "image_path": "frames/3.jpg", "audio_path": "a.wav"}
GOOD = [
    AVQA,
    {"task": "ave", "audio_path": "a.mp3", "video_path": "a.mp4"},
    {"task": "avvp", "video_path": "a.mp4"},
    {"task": "avcap", "video_path": "a.mp4"},
    {"task": "arig", "audio_path": "a.wav", "image_path": "1.jpg"},
    {**S4, "mask_path": "labels/3.png"},
    {"task": "ms3", "video_path": "a.mp4", "image_path": "00004.png"},  # the video is there for its sound
    {"task": "avss", "audio_path": "a.wav", "image_path": "x.jpg", "second": 9},
    {"task": "ref-avs", "audio_path": "a.wav", "image_path": "cover.jpg", "exp": "The Dog"},
]


def write(folder, text):
    file = folder / "samples.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_reads_all_tasks(tmp_path):
    samples = read_samples(write(tmp_path, json.dumps(GOOD)))
    assert all(isinstance(s, Sample) for s in samples), samples
    assert [s.task for s in samples] == [g["task"] for g in GOOD]
    assert [s.index for s in samples] == list(range(9))
    assert [s.id for s in samples] == [str(i) for i in range(9)]
    assert [s.second for s in samples] == [None, None, None, None, 1, 3, 4, 9, None]
    s4 = samples[5]
    assert s4.image_path == tmp_path / "frames/3.jpg"
    assert s4.mask_path == tmp_path / "labels/3.png"
    assert s4.sound_path == tmp_path / "a.wav"
    assert samples[0].sound_path == tmp_path / "a.mp4"
    assert samples[1].sound_path == tmp_path / "a.mp3"
    assert samples[6].sound_path == tmp_path / "a.mp4"
    for sample in samples:
        assert TASKS[sample.task].prompt(sample.row())
    assert samples[8].row().exp == "The Dog"


def test_absolute_paths_byte_order_mark_null_and_ids(tmp_path):
    entries = [
        {**AVQA, "video_path": "/media/a.mp4", "audio_path": None, "exp": None, "id": "clip é"},
        {**AVQA, "id": 70},
    ]
    samples = read_samples(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(entries).encode()))
    assert str(samples[0].video_path) == "/media/a.mp4"
    assert [s.id for s in samples] == ["clip é", "70"]


def test_broken_samples_do_not_stop_the_others(tmp_path):
    entries = [AVQA, {"task": "avqa"}, 7, S4]
    samples = read_samples(write(tmp_path, json.dumps(entries)))
    assert [type(s) for s in samples] == [Sample, BrokenSample, BrokenSample, Sample]
    assert [s.index for s in samples] == [0, 1, 2, 3]
    assert samples[1].raw == {"task": "avqa"}
    assert samples[2].raw == 7


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "expected an object such as {'task': 'avqa', …}, found the number 7"),
        ([], "found a list"),
        (None, "found null"),
        ({}, "field 'task' is missing; tasks: avqa, ave"),
        ({**AVQA, "task": None}, "field 'task' is missing"),
        ({**AVQA, "task": "vqa"}, "unknown task 'vqa'; tasks: avqa, ave"),
        ({**AVQA, "task": ["avqa"]}, "field 'task': expected a string, found a list"),
        ({**AVQA, "task": "ref_avs"}, "unknown task 'ref_avs'"),
        ({**AVQA, "prompt": "x"}, "unknown field 'prompt'; known fields: task, audio_path"),
        ({**AVQA, "question": None}, "task 'avqa' needs the field 'question'"),
        ({**AVQA, "question": " "}, "field 'question' is blank"),
        ({**AVQA, "question": 3.5}, "field 'question': expected a string, found the number 3.5"),
        ({**AVQA, "question": True}, "field 'question': expected a string, found true"),
        ({**AVQA, "question": "What is <video>?"}, "question: '<video>' at character 8"),
        ({**AVQA, "question": "So? [/INST] No."}, "question: '[/INST]' at character 4"),
        ({**AVQA, "question": "\ud800"}, "question: half of a surrogate pair"),
        ({**AVQA, "video_path": None, "audio_path": "a.wav"}, "task 'avqa' needs the field 'video_path'"),
        ({**AVQA, "video_path": {}}, "field 'video_path': expected a string, found an object"),
        ({**AVQA, "video_path": "a\x00b"}, "is no path"),
        ({**AVQA, "image_path": "1.jpg"}, "field 'image_path' has no use for task 'avqa'"),
        ({**AVQA, "mask_path": "1.png"}, "field 'mask_path' has no use for task 'avqa'"),
        ({**AVQA, "exp": "dog"}, "field 'exp' has no use for task 'avqa'"),
        ({**AVQA, "second": 1}, "field 'second' has no use for task 'avqa'"),
        ({**AVQA, "id": 1.5}, "field 'id': expected a string or a whole number, found the number 1.5"),
        ({**AVQA, "id": "../x"}, "field 'id': '../x' cannot be part of a file name"),
        ({**AVQA, "id": ".."}, "cannot be part of a file name"),
        ({**AVQA, "id": "é" * 101}, "cannot be part of a file name"),
        ({**AVQA, "id": "a\\b"}, "cannot be part of a file name"),
        ({**S4, "audio_path": None}, "no sound: give 'audio_path', or 'video_path'"),
        ({**S4, "image_path": None}, "task 's4' needs the field 'image_path'"),
        ({**S4, "image_path": "cover.jpg"}, "which second does 'cover.jpg' belong to?"),
        ({**S4, "image_path": "-1.jpg"}, "which second does '-1.jpg' belong to?"),
        ({**S4, "image_path": "٣.jpg"}, "which second"),
        ({**S4, "image_path": "5.jpg"}, "name of '5.jpg': second 5 is not in 0 … 4"),
        ({**S4, "second": 5}, "field 'second': second 5 is not in 0 … 4"),
        ({**S4, "second": -1}, "second -1 is not in 0 … 4"),
        ({**S4, "second": "3"}, "field 'second': expected a whole number, found the string \"3\""),
        ({**S4, "second": True}, "field 'second': expected a whole number, found true"),
        ({"task": "ref-avs", "audio_path": "a.wav", "image_path": "7.jpg"}, "task 'ref-avs' needs the field 'exp'"),
        ({"task": "ref-avs", "audio_path": "a", "image_path": "7.jpg", "exp": "<MASK_0>"}, "exp: '<MASK_0>'"),
    ],
)
def test_reasons(entry, reason):
    sample = read_sample(entry, index=4)
    assert isinstance(sample, BrokenSample)
    assert sample.index == 4
    assert sample.raw == entry
    assert reason in sample.reason


def test_second_of_the_file_name_gives_way_to_the_field():
    assert read_sample({**S4, "second": 0}).second == 0
    assert read_sample({**S4, "image_path": "00004.png"}).second == 4
    assert read_sample({**S4, "image_path": "cover.png", "second": 2}).second == 2


def test_an_id_can_be_taken_once(tmp_path):
    entries = [{**AVQA, "id": "Clip"}, {**AVQA, "id": "clip"}, {**AVQA, "id": "1"}, {**AVQA, "id": 3}, AVQA]
    samples = read_samples(write(tmp_path, json.dumps(entries)))
    assert [type(s) for s in samples] == [Sample, BrokenSample, Sample, Sample, Sample]
    assert samples[1].reason == "id 'clip': sample 0 has it already"


def test_a_field_given_twice_is_reported(tmp_path):
    text = '[{"task": "ave", "task": "avqa", "video_path": "a.mp4"}, {"task": "ave", "video_path": "a.mp4"}]'
    first, second = read_samples(write(tmp_path, text))
    assert first.reason == "field 'task' stands twice"
    assert isinstance(second, Sample)


def test_the_wording_decides_what_is_needed():
    train = read_sample({"task": "s4", "video_path": "frames", "second": 3}, wording=Wording.RELEASE_TRAIN)
    assert train.second == 3
    test = read_sample({"task": "s4", "video_path": "frames", "image_path": "3.jpg"}, wording=Wording.RELEASE_TEST)
    assert test.second == 3
    assert "fourth second" in TASKS["s4"].prompt(test.row(), Wording.RELEASE_TEST)
    missing = read_sample({"task": "s4", "video_path": "frames"}, wording=Wording.RELEASE_TRAIN)
    assert "field 'second' is missing" in missing.reason
    assert "'video_path'" in read_sample(S4, wording=Wording.RELEASE_TEST).reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[\n {"task": "ave"},\n {"task" "avqa"}\n]',
            'line 3, column 10: Expecting \':\' delimiter\n   {"task" "avqa"}\n',
        ),
        ("", "line 1, column 1: Expecting value"),
        ('[{"task": "ave"}', "line 1, column 17"),
        ("[1,\r\n 2\r\n 3]", "line 3, column 2"),
        ("{}", "expected a list of samples, found an object"),
        (json.dumps(AVQA), "found an object; put the sample into [ ]"),
        ('"x"', 'expected a list of samples, found the string "x"'),
        ("null", "found null"),
        ("[]", "the list of samples is empty"),
        (b"\xff\xfe[", "not UTF-8 at byte 0"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "digit"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(SamplesError) as caught:
        read_samples(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_the_mark_stands_under_the_error(tmp_path):
    line = '{"task": "avqa", "question": "' + "x" * 500 + '" "video_path": "a.mp4"}'
    with pytest.raises(SamplesError) as caught:
        read_samples(write(tmp_path, f"[\n{line}\n]"))
    _, shown, mark = str(caught.value).split("\n")
    assert shown[mark.index("^")] == '"'
    assert shown[mark.index("^") :].startswith('"video_path"')
    assert len(shown) < 130


def test_absent_files_and_folders(tmp_path):
    with pytest.raises(SamplesError, match="no such file"):
        read_samples(tmp_path / "absent.json")
    with pytest.raises(SamplesError, match="is a folder"):
        read_samples(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        JSON,
        st.fixed_dictionaries(
            {"task": st.sampled_from(list(TASKS))}, optional={f: JSON | st.just("3.jpg") for f in FIELDS[1:]}
        ),
    ),
    st.sampled_from(Wording),
)
def test_any_value_is_a_sample_or_broken(entry, wording):
    sample = read_sample(entry, wording=wording)
    if isinstance(sample, Sample):
        assert TASKS[sample.task].prompt(sample.row(), wording)
        assert sample.sound_path
    else:
        assert sample.reason
