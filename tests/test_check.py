"""`crab data check`: what it counts, what it finds, and a page that holds everything."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from shards import noise_record, write_data_set

from crab_jax import cli
from crab_jax.tasks import Event, Row
from crab_jax.tasks.clips import Ask
from data_pipelines import encoding
from data_pipelines.records import SCHEMA


def speaks(number, answer, *, seconds=12.0):
    """An avqa record long enough to be asked about."""
    record = noise_record(number, frames=10, seconds=seconds)
    row = Row(question="How many <instruments> & voices?", answer=answer, reasoning="One sees it.")
    return dataclasses.replace(record, asks=(Ask(id=f"q{number}", row=row, raw={"line": number}),))


def of_task(task, number, row, *, frames=1, mask=None, **fields):
    """A record of another task, from noise."""
    record = noise_record(number, frames=frames, seconds=12.0)
    masks = () if mask is None else (encoding.encode_mask(mask),)
    ask = Ask(id=f"{task} {number}", row=row, mask=None if mask is None else 0, **fields)
    return dataclasses.replace(record, task=task, masks=masks, semantic=task == "avss", asks=(ask,))


@pytest.fixture
def everything(tmp_path):
    """Data sets of tasks that look different."""
    disc = (np.hypot(*np.ogrid[-8:8, -8:8]) < 5).astype(np.uint8)
    write_data_set(
        tmp_path, {"train": [[speaks(k, "two" if k % 3 else "cello") for k in range(6)], [speaks(6, "two")]]}
    )
    records = {
        "ave": of_task("ave", 0, Row(events=(Event("Bark", 2, 5),), reasoning="A dog barks."), frames=10),
        "avvp": of_task(
            "avvp", 1, Row(audio_events=(Event("Dog", 0, 3),), visual_events=(Event("Car", 4, 9),)), frames=10
        ),
        "arig": of_task("arig", 2, Row(box=(20, 30, 120, 200), label="dog", second=1), picture=0),
        "s4": of_task("s4", 3, Row(label="dog", second=0), picture=0, mask=disc),
        "avss": of_task("avss", 4, Row(label="dog", second=3), frames=10, picture=3, mask=17 * disc, group="all"),
        "pretrain-image": dataclasses.replace(
            of_task("pretrain-image", 5, Row(question="What is it?", caption="A noise."), picture=0), audio=b""
        ),
        "pretrain-audio": of_task("pretrain-audio", 6, Row(caption="A noise."), frames=0),
    }
    for task, record in records.items():
        write_data_set(tmp_path, {"train": [[record]]}, task=task)
    return tmp_path


def test_says_what_shards_hold(everything, capsys):
    assert cli.main(["data", "check", str(everything / "avqa")]) == 0
    said = capsys.readouterr().out
    assert "7 about 7 clips" in said
    assert "written" not in said  # they have no stored texts
    assert re.search(r"pictures +10\n", said)
    assert re.search(r"sound +12.0 s\n", said)
    assert re.search(r"answers +two +5 █+ 71.4%\n +cello +2 █+ 28.6%", said)
    tokens = int(re.search(r"tokens +(\d+).* tokens.*32 per picture and window", said)[1])
    assert 640 < tokens < 900  # ten pictures, ten windows, prompt and target


def test_counts_records_that_cannot_be_read(everything, capsys):
    path = everything / "avqa" / SCHEMA / "avqa-train.array_record-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[3000] ^= 0xFF
    path.write_bytes(data)
    page = everything / "page.html"
    assert cli.main(["data", "check", str(everything / "avqa"), "--html", str(page), "--items", "7"]) == 1
    assert re.search(r"corrupt +1 records; the first: avqa-train.*record 0:.*hash", capsys.readouterr().out)
    assert "hash" in page.read_text()


def test_index_of_other_records(everything, capsys):
    path = everything / "avqa" / SCHEMA / "index-train.jsonl"
    path.write_text(path.read_text().replace('"clip 2"', '"clip 9"'))
    assert cli.main(["data", "check", str(everything / "avqa")]) == 1
    assert "line 3: expected clip clip 2, 10 pictures" in capsys.readouterr().err


def test_a_broken_data_set_hides_no_other(everything, capsys):
    (everything / "avqa" / SCHEMA / "index-train.jsonl").write_text("{}\n")
    (everything / "ave" / SCHEMA / "rejects.jsonl").write_text('{"split": "tr')
    page = everything / "page.html"
    assert cli.main(["data", "check", str(everything), "--html", str(page)]) == 1
    said = capsys.readouterr()
    assert re.search(r"ave: .*\n  train\n    examples  1", said.out)
    assert "a line of rejects.jsonl that cannot be read" in said.out
    assert "index-train.jsonl, line 1" in said.err
    assert "A dog barks." in page.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": "1.0', r"avqa.1\.0\.0.shards\.json: expected a description of shards, found JSONDecodeError"),
        ('{"schema": "1.0.0", "task": "karaoke", "splits": {}}', "expected a task out of avqa, .*found 'karaoke'"),
        ('{"schema": "1.0.0", "task": ["avqa"], "splits": {}}', r"expected a task out of .*found \['avqa'\]"),
        ('{"schema": "1.0.0", "task": "avqa", "size": 16, "splits": {"train": []}}', "train: expected a description"),
        ("[]", "expected a description of shards"),
        (
            '{"schema": "1.0.0", "task": "avqa", "size": 16, "splits": {"train": {"shards": '
            '[{"file": "index-train.jsonl", "bytes": 1, "records": -1}]}}}',
            "train: expected a description of shards, found ValueError: expected a whole number from 0 up, found -1",
        ),
    ],
)
def test_a_damaged_description_hides_no_other_data_set(everything, capsys, text, message):
    (everything / "avqa" / SCHEMA / "shards.json").write_text(text)
    assert cli.main(["data", "check", str(everything)]) == 1
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert re.findall("^[a-z0-9-]+(?=: )", said.out, re.MULTILINE)[-3:] == ["arig", "pretrain-image", "pretrain-audio"]
    assert said.out.count("examples  1") == 7


def test_written_answers_that_disagree_are_counted(tmp_path, capsys):
    bell, two = Event("Church bell", 0, 3), (Event("Bark", 2, 5), Event("Cat", 0, 1))
    said = {
        "same": ((bell,), "It rings: <event> church bell </event> <range> 0,3 </range>"),
        "other": ((bell,), "<event> Bus </event> <range> 5,9 </range>"),
        "times": ((bell,), "<event> Church bell </event> <range> 0,4 </range>"),
        "none": ((bell,), "It rings."),
        "order": (two, "<event> Bark </event> <range> 2,5 </range> <event> Cat </event> <range> 0,1 </range>"),
        "ours": ((bell,), ""),
    }
    records = [of_task("ave", k, Row(events=e, label_text=t), frames=10) for k, (e, t) in enumerate(said.values())]
    records = [
        dataclasses.replace(r, asks=(dataclasses.replace(r.asks[0], id=name),)) for r, name in zip(records, said)
    ]
    write_data_set(tmp_path, {"train": [records]}, task="ave")
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    line = r"\n    written   3 of 5 written answers disagree with the annotation, first: other\n"
    assert re.search(line, capsys.readouterr().out)


def test_a_split_of_which_there_was_nothing_is_told(everything, capsys):
    manifest = everything / "ave" / SCHEMA / "shards.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"asked": ["train", "test"]}))
    assert cli.main(["data", "check", str(everything / "ave")]) == 0
    assert "  test\n    nothing: the annotations name no example" in capsys.readouterr().out


def test_finds_data_sets_where_they_are(everything, tmp_path_factory, capsys):
    for place in (everything, everything / "ave", everything / "ave" / SCHEMA):
        assert cli.main(["data", "check", str(place)]) == 0
        assert "ave: " in capsys.readouterr().out
    empty = tmp_path_factory.mktemp("empty")
    assert cli.main(["data", "check", str(empty)]) == 1
    assert "expected data sets of schema" in capsys.readouterr().err
    (everything / "ave" / SCHEMA).rename(everything / "ave" / "0.1.0")
    assert cli.main(["data", "check", str(everything / "ave")]) == 1
    assert "found 0.1.0" in capsys.readouterr().err


class _Page(html.parser.HTMLParser):
    """Fails on tags that do not close; notes what the page wants from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.sources, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_contact_sheet_holds_everything(everything, capsys):
    page = everything / "page.html"
    assert cli.main(["data", "check", str(everything), "--html", str(page)]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert not parsed.open
    assert all(s.startswith(("data:image/jpeg", "data:audio/", "#")) for s in parsed.sources)
    assert parsed.seen.count("article") == 4 + 7
    assert parsed.seen.count("audio") == 4 + 6
    for said in (
        "How many <instruments> & voices?", "<answer>", "Bark · 2 to 5 s", "heard: Dog · 0 to 3 s",
        "seen: Car · 4 to 9 s", "mask · ", "dog 2", "box 20, 30, 120, 200",
        '"path": "0.mp4"', "1 groups of alternatives",
    ):  # fmt: skip
        assert said in parsed.text, said


def test_losses_are_told(everything, capsys):
    home = everything / "ave" / SCHEMA
    lines = [
        {"split": "train", "id": "a", "kind": "missing", "reason": "expected x.mp4, found no such file"},
        {"split": "train", "id": "b", "kind": "media", "reason": "b.mp4: expected a video, found text"},
        {"split": "test", "id": "c", "kind": "media", "reason": "c.mp4: expected nothing"},
    ]
    (home / "rejects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["data", "check", str(home)]) == 0
    said = capsys.readouterr().out
    assert "media that are not there" in said
    assert "expected a video, found text" in said
    assert "expected nothing" not in said


def test_unknown_tokenizer(everything, tmp_path, capsys):
    wrong = tmp_path / "wrong.model"
    wrong.write_text("no model")
    assert cli.main(["data", "check", str(everything), "--tokenizer", str(wrong)]) == 1
    assert "wrong.model" in capsys.readouterr().err
