"""The page of an evaluation: what it must show is counted, in the HTML and in a browser."""

import html.parser
import json
import re
import shutil

import browser
import eval_run
import pytest

from crab_jax import cli
from crab_jax.evaluate import baselines
from crab_jax.evaluate.engine import Engine
from crab_jax.evaluate.report import charts, gallery
from crab_jax.evaluate.report.findings import ROUTER, SPEED, Router, read_findings
from crab_jax.evaluate.report.page import REPORT, ReportError, write_report

SETS = ("avqa-test", "ave-test", "s4-test", "avss-test", "ref-avs-test_n")
BASELINES = {
    "avqa": {"score": "accuracy", "clips": 4, "majority": 41.7, "audio": 38.9, "video": 30.6},
    "avqa, Audio-Visual": {"score": "accuracy", "clips": 4, "majority": 27.8, "audio": 25.0, "video": None},
    "avss": {"score": "mIoU of classes per picture", "clips": 2, "majority": 50.0, "audio": None, "video": 45.0},
}


class Elements(html.parser.HTMLParser):
    """All elements of a page: (tag, attributes), in their order."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {k: v or "" for k, v in attributes}))

    def all(self, tag, cls=""):
        return [a for t, a in self.found if t == tag and (not cls or cls in a.get("class", "").split())]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """An evaluation with canned answers, compared with swapped media, with baselines and router weights."""
    root = tmp_path_factory.mktemp("report")
    eval_run.write_inputs(root)
    world = root / "world" / "bandstand"
    world.mkdir(parents=True)
    (world / "baselines.json").write_text(json.dumps(BASELINES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_batch", eval_run.canned())
        assert cli.main([
            "eval", "--shards", str(root / "shards"), "--weights", str(root / "weights"), "--out", str(root / "out"),
            "--dtype", "float32", "--batch", "4", "--swap", "compare", "--router", "0", "--gallery", "1",
            "--baselines", str(world.parent), "--mode", "decoded",
        ]) == 0  # fmt: skip
    weights = [[[0.2, 0.3, 0.5]] * 7, [[0.6, 0.3, 0.1]] * 7]
    for task in ("avqa", "s4"):
        told = {"items": ["a", "b"], "linears": list("qkvogud"), "weights": weights}
        (root / "out" / task / "test/decoded" / ROUTER).write_text(json.dumps(told))
    write_report(root / "out", root / "shards", items=1)
    return root


@pytest.fixture(scope="module")
def page(results):
    return (results / "out" / REPORT).read_text(encoding="utf-8")


def test_it_shows_what_it_must(page):
    elements = Elements(page)
    ids = [a["id"] for _, a in elements.found if a.get("id")]
    assert [i for i in ids if i in SETS] == list(SETS)
    assert len(ids) == len(set(ids))
    assert {"overview", "senses", "router", "time"} <= set(ids)
    assert len(elements.all("a", "score")) == len(SETS)
    items = elements.all("article", "item")
    assert 6 <= len(items) <= 2 * len(SETS)
    assert any("right" in a["class"].split() for a in items)
    assert any({"wrong", "unparsed"} & set(a["class"].split()) for a in items)
    clips = len(items)  # every one has sound and more than one picture
    assert len(elements.all("div", "strip")) == len(elements.all("svg", "wave")) == clips
    assert len(elements.all("img", "spectrum")) == len(elements.all("audio")) == clips
    assert len(elements.all("div", "truth")) > clips  # texts, and lanes
    assert len(elements.all("figure", "truth")) == len(elements.all("figure", "said")) >= 3
    assert len(elements.all("table", "heat")) == 2
    assert page.count('title="layer 2, head 3: 0.100"') == 2
    assert len(elements.all("table", "confusion")) == 2
    rows = page.split('<table class="senses">')[1].split("</table>")[0]
    assert rows.count('<th scope="row">') == len(SETS)
    assert "mIoU of classes per picture, another score" in rows
    assert rows.count("% not understood</small>") == 3 * len(SETS)
    marks = [a["class"] for a in elements.all("u") if "title" in a]
    assert sorted(set(marks)) == ["audio", "majority", "video"]


def test_it_stands_alone_and_can_be_read_aloud(page):
    elements = Elements(page)
    for _, attributes in elements.found:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in page.split("<style>")[1].split("</style>")[0]
    assert all(a.get("alt") for a in elements.all("img"))
    assert all(a.get("aria-label") for a in elements.all("svg"))
    assert all(a.get("tabindex") == "0" for a in elements.all("div", "scroll"))
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert len(page) < 8_000_000


def test_texts_of_a_model_stay_texts(results, tmp_path):
    out = shutil.copytree(results / "out", tmp_path / "out")
    path = out / "avqa/test/decoded/items.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["text"] = '<script>alert(1)</script> <answer> <img src="http://x/y"> </answer>'
        line["value"] = {"kind": "choice"}  # edited by hand, and broken
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(out, results / "shards", items=1)
    text = (out / REPORT).read_text(encoding="utf-8")
    assert "&lt;script&gt;" in text
    assert text.count("<script") == 1
    assert not [a for a in Elements(text).all("img") if a["src"].startswith("http")]


def test_the_same_again(results, page, tmp_path, capsys):
    """All but the times, also from `crab report`."""
    out = shutil.copytree(results / "out", tmp_path / "out")
    (out / SPEED).unlink()
    again = tmp_path / "again.html"
    command = ["report", str(out), "--shards", str(results / "shards"), "--gallery", "1", "--out", str(again)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.strip() == str(again)
    text = again.read_text(encoding="utf-8")
    assert 'id="time"' not in text

    def timeless(whole):
        return re.sub(r'<section id="time".*?</section>|<a href="#time">Time</a>', "", whole, flags=re.S).split()

    assert timeless(text) == timeless(page)
    for name in ("table.md", "table.json"):
        assert (out / name).read_bytes() == (results / "out" / name).read_bytes()


def test_broken_files_cost_nothing_else(results, tmp_path):
    out = shutil.copytree(results / "out", tmp_path / "out")
    (out / "s4/test/decoded" / ROUTER).write_text("{")
    (out / SPEED).write_text('{"a": {"items": "many"}}')
    (out / baselines.BASELINES).write_text('{"avqa": {"score": "accuracy", "majority": "most"}}')
    (out / "ave/test/decoded/scores.json").write_text("[]")
    told = write_report(out, tmp_path / "nowhere")
    assert len([line for line in told if "no gallery" in line]) == len(SETS)  # ave: with swapped media
    assert {line.split(":")[0].rsplit("/", 1)[-1] for line in told if "no gallery" not in line} == {
        ROUTER, SPEED, baselines.BASELINES, "scores.json",
    }  # fmt: skip
    elements = Elements((out / REPORT).read_text())
    assert len(elements.all("table", "heat")) == 1
    assert len(elements.all("a", "score")) == len(SETS)
    assert not elements.all("article")
    with pytest.raises(ReportError, match="expected scores that `crab eval --out` wrote"):
        write_report(tmp_path, None)


@pytest.mark.parametrize(
    ("damaged", "found"),
    [
        (None, "no such file"), ("{", "Expecting property name"), ("[]", "list"), ('{"model": 3}', "model = 3"),
        ('{"model": {}, "weights": null}', "weights = None"), ("{}", ""), ('{"model": {"layers": 2}}', ""),
    ],
)  # fmt: skip
def test_settings_that_are_missing_or_damaged(results, tmp_path, capsys, damaged, found):
    """The page says nothing about the weights then, and everything else."""
    out = shutil.copytree(results / "out", tmp_path / "out")
    path = out / "run.json"
    path.unlink() if damaged is None else path.write_text(damaged)
    assert cli.main(["report", str(out)]) == bool(found)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {path}: expected the settings of an evaluation, found {found}" if found else "")
    text = (out / REPORT).read_text(encoding="utf-8")
    assert len(Elements(text).all("a", "score")) == len(SETS)
    assert "Language model of" not in text + (out / "table.md").read_text(encoding="utf-8")


def test_what_stands_beside_captions(tmp_path):
    """CIDEr-D is no share: as it is on the page, beside the baseline that is CIDEr-D, too."""
    for swap, name, value, items in ((None, "decoded", 0.81, 40), ("sound", "decoded-sound-swapped", 0.31, 8)):
        scores = {
            "task": "avcap", "split": "test", "mode": "decoded", "swap": swap, "limit": None, "items_in_split": 40,
            "headline": ["cider_d"], "lower_is_better": False, "expected": items, "answered": items, "problems": {},
            "numbers": {"cider_d": value, "unparsed": 0.125, "items": items}, "generated": {"world": "bandstand"},
        }  # fmt: skip
        (tmp_path / "avcap/test" / name).mkdir(parents=True)
        (tmp_path / "avcap/test" / name / "scores.json").write_text(json.dumps(scores))
    rows = {"score": "F of words", "majority": 1.0, "audio": 2.0, "video": 3.0}
    retrieved = {"score": "CIDEr-D of a similar clip", "majority": 11.0, "audio": 22.0, "video": 33.0}
    (tmp_path / baselines.BASELINES).write_text(json.dumps({"avcap": rows, "avcap, retrieved": retrieved}))
    (tmp_path / "run.json").write_text("{}")
    assert write_report(tmp_path, None) == []
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    row = page.split('<table class="senses">')[1].split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"<b>(.*?)</b>", row) == ["0.810", "0.310"]
    assert re.findall(r'<td class="base">(.*?)</td>', row) == ["0.110", "0.220", "0.330"]
    assert "another score" not in row
    assert re.findall(r"<small>(.*?)</small></td>", row) == [
        "12.5 % not understood, 40 items", "12.5 % not understood, 8 items"
    ]  # fmt: skip
    assert "cannot be compared" in page
    table = page.split('<table class="plain baselines">')[1].split("</table>")[0]
    assert re.findall("<td>(.*?)</td>", table) == ["1.0 %", "2.0 %", "3.0 %", "0.110", "0.220", "0.330"]
    assert '<th scope="col">sound swapped, items: 8</th>' in page
    assert "such an answer counts as an empty sentence." in page


def test_the_page_says_what_an_unparsed_answer_counts_as(page):
    found = re.findall(r"such an answer counts as (.*?)\.", page)
    assert found == [
        "wrong", "silence in every second", "an empty mask with an F of 0", "wrong", "a mask of the whole picture"
    ]  # fmt: skip
    assert "in events as silence" not in page


def test_baselines_stand_in_the_table(results, tmp_path, capsys):
    told = json.loads((results / "out/table.json").read_text())
    (line,) = [each for each in told["listen_look"] if each["task"] == "avqa"]
    assert line["baseline"]["audio"] == pytest.approx(0.389)
    assert None not in (line["as_it_is"], line["other_sound"], line["other_pictures"])
    assert None not in line["unparsed"].values()
    assert [b["number"] for b in told["baselines"]] == ["accuracy", "accuracy/audio_visual", ""]
    assert "## Does it listen, does it look?" in (results / "out/table.md").read_text()
    assert cli.main(["report", str(results / "out"), "--baselines", str(tmp_path)]) == 2
    assert "expected the root of a world" in capsys.readouterr().err


def test_verdicts():
    def line(value, kind="choice"):
        return {"id": f"{value}{kind}", "text": "x", "value": {"kind": kind}, "scores": {"accuracy": value, "s": value}}

    lines = [line(1.0), line(0.0), line(0.0, "unparsed"), {"id": "f", "error": "no media"}, line(None)]
    judged = gallery.judge("avqa", "test", lines)
    assert [j.verdict for j in judged] == ["right", "wrong", "unparsed"]
    assert [j.verdict for j in gallery.judge("ref-avs", "test_n", lines)] == ["wrong", "right", "unparsed"]
    many = gallery.judge("avqa", "test", [line(float(i % 2)) for i in range(100)])
    assert [j.verdict for j in gallery.choose(many, 3)] == ["right"] * 3 + ["wrong"] * 3
    captions = [line(0.0) | {"scores": {"cider_d": v}} for v in (0.0, 0.0, 0.0, 1.0)]
    assert [j.verdict for j in gallery.judge("avcap", "test", captions)] == ["wrong", "wrong", "wrong", "right"]


def test_confusion_counts_every_answer():
    def line(true, said):
        value = {"kind": "choice", "answer": said} if said else {"kind": "unparsed"}
        return {"truth": {"kind": "choice", "answer": true}, "value": value}

    names = [f"word {i:02d}" for i in range(14)]
    lines = [line(names[i % 14], names[(i * 3) % 14]) for i in range(60)] + [line("word 00", "")]
    found = charts.confusion("avqa", lines)
    assert sum(c["count"] for row in found["rows"] for c in row["cells"]) == 61
    assert found["columns"][-2:] == [charts.OTHER, charts.NOTHING]
    assert len(found["rows"]) == charts.LABELS + 1
    assert charts.confusion("s4", lines) is None


def test_router_maps_share_a_scale():
    import numpy as np

    low = np.full((2, 7, 3), 1 / 3)
    high = np.stack([np.tile([0.1, 0.2, 0.7], (7, 1))] * 2)
    found = charts.router_maps({n: Router(items=2, linears="qkvogud", weights=w) for n, w in (("a", low), ("b", high))})
    assert (found["low"], found["high"]) == (pytest.approx(0.1), pytest.approx(0.7))
    assert found["maps"][1]["rows"][2][0]["share"] == pytest.approx(1)
    assert len(found["maps"][0]["rows"]) == 3
    assert charts.router_maps({}) is None


def test_sounds_are_left_out_before_the_page_grows(results, monkeypatch, tmp_path):
    monkeypatch.setattr("crab_jax.evaluate.report.page.LIMIT_BYTES", 1_000_000)
    path = tmp_path / "small.html"
    write_report(results / "out", results / "shards", items=1, path=path)
    text = path.read_text()
    assert not Elements(text).all("audio")
    assert "sounds were left out" in text


def test_findings_of_continued_runs_add_up(results):
    speed = read_findings(results / "out").speed
    assert set(speed) >= {"avqa/test, decoded", "avqa/test, decoded, sound swapped"}
    assert all(run["items"] > 0 for run in speed.values())


# ---------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def opened():
    path = browser.find_browser()
    if path is None:
        pytest.skip("no browser: put Chromium on PATH, or its path into CHROMIUM")
    with browser.open_page(path) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(opened, results, page, scheme, width):
    address = (results / "out" / REPORT).as_uri()
    opened.requests.clear()
    opened.problems.clear()
    opened.visit(address, width=width, height=800, scheme=scheme)
    count = lambda selector: opened.run(f"document.querySelectorAll('{selector}').length")  # noqa: E731
    elements = Elements(page)
    assert count("section.set") == len(SETS)
    assert count("article.item") == len(elements.all("article"))
    assert count("table.heat tbody td") == 2 * 2 * 3
    assert count("a.score") == len(SETS)
    assert opened.run("document.documentElement.scrollWidth") == width  # nothing to scroll sideways
    decoded = (
        "(async () => { let n = 0; for (const image of document.images) { image.loading = 'eager';"
        " await image.decode(); n += image.naturalWidth > 1; } return n })()"
    )
    assert opened.run(decoded) == len(elements.all("img"))
    hidden = (
        "[...document.querySelectorAll('.lane i, .big, .verdict')].filter(e => e.getBoundingClientRect().width < 2)"
    )
    assert opened.run(f"{hidden}.length") == 0
    ink, paper = (opened.run(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    bright = lambda colour: sum(map(int, re.findall(r"\d+", colour)[:3])) > 384  # noqa: E731
    assert (bright(ink), bright(paper)) == (scheme == "dark", scheme == "light")
    opened.run("document.getElementById('theme').click()")
    assert bright(opened.run("getComputedStyle(document.body).backgroundColor")) == (scheme == "dark")
    opened.run("localStorage.clear()")
    assert set(opened.requests) == {address}
    assert not opened.problems


def test_keys_reach_everything(opened, results):
    opened.visit((results / "out" / REPORT).as_uri(), width=800)
    reached = set()
    for _ in range(40):
        opened.press("Tab", 9)
        reached.add(opened.run("document.activeElement.tagName + ' ' + document.activeElement.className"))
    assert {"A skip", "A ", "BUTTON ", "A score", "DIV scroll"} <= reached


def test_an_ablation_stands_on_the_page(results, tmp_path, capsys):
    out = shutil.copytree(results / "out", tmp_path / "out")
    scores = {
        "heads-1": {"ave/test, accuracy": [0.25, 0.75]},
        "heads-3": {"ave/test, accuracy": [0.5], "s4/test, miou": []},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run/ablation.json").write_text(json.dumps(scores))
    assert cli.main(["report", str(out), "--ablation", str(tmp_path / "run")]) in (0, 1)
    page = (out / REPORT).read_text()
    part = page[page.index('<section id="ablation"') :].split("</section>")[0]
    assert re.findall("<td>(.*?)</td>", part) == ["0.500 ± 0.354 (2)", "0.500 (1)", "–", "–"]
    assert re.findall('<th scope="col">(.*?)</th>', part) == ["number", "heads-1", "heads-3"]
    for damaged in ("{", "[]", "{}", '{"heads-1": {"x": ["a"]}}', '{"heads-1": {"x": [NaN]}}'):
        (tmp_path / "run/ablation.json").write_text(damaged)
        assert cli.main(["report", str(out), "--ablation", str(tmp_path / "run")]) == 2
        assert "expected what launch.ablation wrote" in capsys.readouterr().err
    (out / "ablation.json").write_text("{")
    assert any("give --ablation again" in line for line in write_report(out, None))
    assert 'id="ablation"' not in (out / REPORT).read_text()
