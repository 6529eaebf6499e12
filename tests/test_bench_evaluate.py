"""The evaluation benchmark: what its rows are made of, never how fast anything is."""

import json

import pytest

from launch import bench
from launch.benchmarks import evaluate


def told(items, seconds, compile_s):
    busy = seconds - compile_s
    return {
        "items": items, "failed": 0, "seconds": seconds, "compile_s": compile_s, "items_per_s": items / seconds,
        "items_per_s_compiled": items / busy if busy else None, "compile_share": compile_s / seconds,
    }  # fmt: skip


def test_rows_for_every_run_and_cache(monkeypatch, tmp_path, capsys):
    calls = []

    def run(shards, weights, out, cache, **options):
        calls.append((cache, options["items"]))
        out.mkdir()
        cold = not cache.exists()
        cache.mkdir(exist_ok=True)
        runs = {"avqa/test, decoded": told(8, 4.0, 3.0 if cold else 0.5), "s4/test, decoded": told(2, 1.0, 1.0)}
        (out / "speed.json").write_text(json.dumps(runs))

    monkeypatch.setattr(evaluate, "_evaluate", run)
    monkeypatch.setattr(evaluate, "write_random_weights", lambda folder, seed: folder.mkdir())
    monkeypatch.setattr(evaluate, "_image_size", lambda weights: 112)
    monkeypatch.setattr(evaluate, "_shards", lambda place, *_: place)
    document = tmp_path / "doc.md"
    document.write_text("<!-- bench:evaluate -->\n<!-- /bench:evaluate -->\n")
    file = tmp_path / "numbers.json"
    assert bench.main(["evaluate", "--items", "8", "--json", str(file), "--update", str(document)]) == 0
    assert [items for _, items in calls] == [8, 8]
    assert calls[0][0] == calls[1][0]
    table = capsys.readouterr().out
    assert table.strip() in document.read_text()
    assert "| avqa/test, 8 items | 2.00 items/s | 75% of the time compiling; 8.00 items/s without |  |  |" in table
    assert "| avqa/test, 8 items | 2.00 items/s | 12% of the time compiling; 2.29 items/s without |  |  |" in table
    assert table.count("| s4/test, 2 items | 2.00 items/s | 100% of the time compiling |") == 2
    assert table.count("the whole command, 10 items") == 2
    assert len(json.loads(file.read_text())["figures"]) == 6


def test_a_failed_command_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.cli, "main", lambda arguments: 2)
    rendered = []
    monkeypatch.setattr(evaluate.build, "build", lambda *_, **settings: rendered.append(settings))
    with pytest.raises(evaluate.BenchError, match=r"crab data build ave .*: ended with 2"):
        evaluate._shards(tmp_path, 112, ["ave"], 9)
    assert rendered[0]["least"] == 9, "a clip for every item that is wanted"
    with pytest.raises(evaluate.BenchError, match="crab eval: ended with 2"):
        evaluate._evaluate(
            tmp_path, tmp_path, tmp_path / "out", tmp_path / "cache", items=1, batch=1, dtype="float32", tasks=["ave"]
        )
