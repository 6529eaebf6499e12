"""The data benchmark: what its rows are made of, never how fast anything is."""

import json

import numpy as np
import pytest

from data_pipelines.fbank import normalised_fbank
from data_pipelines.stream.tables import Table
from launch import bench
from launch.benchmarks import data, log_mel
from launch.benchmarks.timing import Spread


def test_the_jitted_log_mel_is_the_same():
    windows = np.random.default_rng(0).normal(size=(3, 9_000)).astype(np.float32) / 8
    np.testing.assert_allclose(log_mel.jitted(windows), normalised_fbank(windows), atol=1e-4)


def test_fill_counts_what_rows_hold():
    """Of nine sources, each with examples of one size."""
    tables = []
    for task, tokens in zip(data.TASKS, (700, 710, 720, 140, 140, 140, 440, 180, 690), strict=True):
        frames = 1 if tokens < 500 else 10
        size = np.tile([tokens, frames, frames, int(tokens == 140), 6], (40, 1))
        tables.append(Table(f"{task}/train", np.arange(40), np.zeros(40, int), np.arange(40), size, (), task))
    rows, tokens = data._packed(tables, data.LAYOUTS[0], blocks=2)
    assert rows[:, 0].sum() == tokens.sum()
    assert abs(len(tokens) - 4096) < 20
    assert (rows <= [getattr(data.LAYOUTS[0], name) for name in data.PACKED]).all()
    assert 0.85 < rows[:, 0].mean() / data.LAYOUTS[0].tokens <= 1


def test_table_and_json(tmp_path, capsys):
    figures = [
        data.Figure(section="A", what="x", unit="ms", value=Spread(2.0, 1.0, 3.0), against="y", ratio=0.5, aim="≤ 1"),
        data.Figure(section="A", what="z", unit="MiB", value=Spread(7.0, 7.0, 7.0)),
    ]
    document, file = tmp_path / "doc.md", tmp_path / "numbers.json"
    document.write_text("before\n<!-- bench:data -->\nold\n<!-- /bench:data -->\nafter\n")
    bench.write(figures, name="data", arguments=["data"], json_file=file, document=document, form=data)
    table = capsys.readouterr().out
    assert "| x | 2.00 (1.00 to 3.00) ms | y | 0.50 | ≤ 1 |" in table
    assert "| z | 7.00 MiB |  |  |  |" in table
    assert table.count("**A**") == 1
    assert "old" not in document.read_text()
    assert table.strip() in document.read_text()
    assert json.loads(file.read_text())["figures"][1]["value"]["median"] == 7


def test_arguments(monkeypatch):
    seen = {}
    monkeypatch.setattr(data, "measure", lambda **kwargs: seen.update(kwargs) or [])
    assert bench.main(["data", "--only", "fill", "--clips", "3"]) == 0
    assert (seen["only"], seen["clips"], seen["rounds"], seen["folder"]) == (["fill"], 3, 5, None)
    with pytest.raises(SystemExit):
        bench.main(["data", "--clips", "0"])
