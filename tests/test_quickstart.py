"""The quickstart may be run again at any time; stand-ins for what takes long, but not for who may continue what."""

from __future__ import annotations

import pathlib

import pytest
from models import tiny_config, tiny_params

from crab_jax import assets, checkpoint, cli, model
from crab_jax.evaluate import journal, plan
from crab_jax.evaluate.generate import Sampling
from crab_jax.tasks import Wording
from crab_jax.tokens import Tokenizer
from data_pipelines.world import build
from launch import quickstart

asked: list[list[str]] = []  # what `crab eval` was given


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the quickstart; returns its exit code and the folder of answers."""
    shipped = tmp_path / "mini"
    folders = []
    asked.clear()

    def stand_in(argv):
        if argv[0] == "eval":
            asked.append(argv)
            given = {name: argv[argv.index(f"--{name}") + 1] for name in ("weights", "out", "dtype", "max-new-tokens")}
            folders.append(pathlib.Path(given["out"]))
            settings = plan.settings_of(
                pathlib.Path(given["weights"]), dtype=given["dtype"], wording=Wording.QUICK_START, sampling=Sampling(),
                max_new_tokens=int(given["max-new-tokens"]),
            )  # fmt: skip
            try:
                journal.claim(folders[-1], settings)
            except journal.JournalError:
                return 2
        return 0

    monkeypatch.setattr(assets, "weights_folder", lambda name: shipped)
    monkeypatch.setattr(build, "build", lambda *_, **__: None)
    monkeypatch.setattr(cli, "main", stand_in)
    monkeypatch.setattr(plan, "plan", lambda *_, **__: [])
    monkeypatch.setattr(model, "init", lambda config, key: tiny_params())

    def start(*extra):
        return quickstart.main(["--out", str(tmp_path / "out"), *extra]), folders[-1]

    return start


def ship(folder, seed):
    tokenizer = folder.parent / "tokenizer.model"
    tokenizer.write_bytes(Tokenizer.tiny().model)
    params = tiny_params(seed)
    checkpoint.save(folder, config=tiny_config(), params=params, tokenizer=tokenizer, single_file=True, overwrite=True)


def test_other_weights_or_options_do_not_meet_old_answers(run, tmp_path, monkeypatch):
    ship(tmp_path / "mini", seed=0)
    code, first = run()
    assert code == 0
    assert run() == (0, first)  # the same evaluation goes on
    ship(tmp_path / "mini", seed=1)
    code, other = run()
    assert (code, other != first) == (0, True)
    monkeypatch.setattr(quickstart, "TOKENS", 100)
    code, shorter = run()
    assert (code, shorter not in (first, other)) == (0, True)
    assert all((folder / journal.SETTINGS).is_file() for folder in (first, other, shorter))


def test_a_random_model_is_the_same_each_time(run):
    first = run()
    assert first[0] == 0
    assert run("--seed", "1")[0] == 0
    assert run() == first


def test_the_page_gets_what_comes_with_the_weights(run, tmp_path):
    """Guesses and the ablation where they are there; other sound and other pictures always."""
    ship(tmp_path / "mini", seed=0)
    assert run()[0] == 0
    for name in ("baselines", "ablation"):
        (tmp_path / "mini" / f"{name}.json").write_text("{}")
    assert run()[0] == 0
    before, after = asked
    assert [x for x in before if x.startswith(("--baselines", "--ablation"))] == []
    assert {f"--{name}={tmp_path / 'mini' / name}.json" for name in ("baselines", "ablation")} <= {*after}
    assert all(argv[argv.index("--swap") + 1] == "compare" for argv in asked)


def test_another_version_of_the_world_is_another_folder(run, monkeypatch):
    """What an earlier release left in the same place is no reason to fail."""
    code, first = run()
    monkeypatch.setattr(build, "VERSION", build.VERSION + 1)
    newer, other = run()
    assert (code, newer) == (0, 0)
    assert first.parent != other.parent
