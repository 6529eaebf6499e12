"""`crab convert` and `crab export`: what they print, what they return, and their errors."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest

pytest.importorskip("torch")

import converted_files
import published_files as files

from crab_jax.config import to_dict
from crab_jax.convert import command
from crab_jax.convert.run import find_crab_files
from crab_jax.convert.sources import SourceError

original = converted_files.original  # a fixture


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_command(original, tmp_path, capsys):
    config = tmp_path / "model.json"
    config.write_text(json.dumps(to_dict(files.numbers(original.config))))
    (tmp_path / "crab").mkdir()
    for role in ("finetune", "avs"):
        shutil.copy(original.path(role), tmp_path / "crab")
    (tmp_path / "crab" / "adapter_model.bin").write_bytes(b"?")
    out = tmp_path / "w"
    arguments = ("--llama", str(original.path("llama")), "--clip", str(original.path("clip")),
                 "--beats", str(original.path("beats")), "--crab", str(tmp_path / "crab"),
                 "--visual-pretrain", str(original.path("visual_pretrain")), "--out", str(out),
                 "--model-config", str(config))  # fmt: skip
    assert command.run(parse(*arguments)) == 0
    shown = capsys.readouterr()
    assert "lora_heads: 3" in shown.out
    assert "adapter_model.bin: not one of the published names" in shown.out
    assert "replaced: " in shown.out
    assert "convert" in shown.err, "progress goes to stderr"
    report = json.loads((out / "report.json").read_text())
    assert report["sizes"]["vocabulary"]["rows"] == files.BASE + 17
    manifest = json.loads((out / "crab.json").read_text())
    assert {f["role"] for f in manifest["files"]} == {"llama", "clip", "beats", "visual_pretrain", "finetune", "avs"}
    (joint,) = (f for f in manifest["files"] if f["role"] == "finetune")
    import hashlib

    assert joint["weights"][0]["sha256"] == hashlib.sha256(original.path("finetune").read_bytes()).hexdigest()

    assert command.run(parse(*arguments)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert command.run(parse(*arguments, "--overwrite", "--dtype", "bfloat16")) == 0

    exporter = argparse.ArgumentParser()
    command.add_export_arguments(exporter)
    capsys.readouterr()
    assert command.run_export(exporter.parse_args(["--weights", str(out), "--out", str(tmp_path / "e")])) == 1
    assert "--lossy" in capsys.readouterr().err
    assert (
        command.run_export(exporter.parse_args(["--weights", str(out), "--out", str(tmp_path / "e"), "--lossy"])) == 0
    )
    assert "finetune_weights.bin: " in capsys.readouterr().out


def test_command_errors(original, tmp_path, capsys):
    for arguments, message, code in (
        (("--crab", str(tmp_path / "none")), "no such folder", 2),
        (("--crab", str(original.folder / "llama")), "expected some of visual_pretrain.bin", 2),
        (("--beats", str(tmp_path / "x.pt")), "no such file", 2),
        (("--clip", str(original.path("clip"))), "taps", 1),
        (("--clip", str(original.path("clip")), "--model-config", str(tmp_path / "x.json")), "cannot be read", 2),
        ((), "no files given", 2),
    ):
        assert command.run(parse(*arguments, "--out", str(tmp_path / "w"))) == code
        shown = capsys.readouterr()
        assert message in shown.err, (arguments, shown.err)
        assert shown.err.startswith("error: "), "no bar that moves nothing"
    assert not (tmp_path / "w").exists()


def test_find_crab_files_names_the_error(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        find_crab_files(tmp_path / "x")
    (tmp_path / "finetune_weights.bin").write_bytes(b"")
    (tmp_path / "other.pt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    found = find_crab_files(tmp_path)
    assert found == {"finetune": tmp_path / "finetune_weights.bin", "strays": (tmp_path / "other.pt",)}
