"""Who may import whom, and what must stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Data workers import these; none of them may pull in jax, flax or orbax.
LIGHT = [
    "crab_jax", "crab_jax.assets", "crab_jax.batch", "crab_jax.config", "crab_jax.draw",
    "crab_jax.evaluate.report.command", "crab_jax.evaluate.score", "crab_jax.evaluate.table",
    "crab_jax.layout", "crab_jax.metrics", "crab_jax.params", "crab_jax.plan.command", "crab_jax.plan.hardware",
    "crab_jax.plan.hlo", "crab_jax.tasks", "crab_jax.tasks.samples", "crab_jax.tokens",
    "crab_jax.train.config", "crab_jax.weights",
    "data_pipelines.build", "data_pipelines.check", "data_pipelines.contact_sheet", "data_pipelines.decode",
    "data_pipelines.examples", "data_pipelines.fbank", "data_pipelines.records", "data_pipelines.shard_writer",
    "data_pipelines.stage", "data_pipelines.stream.evaluation", "data_pipelines.stream.packing",
    "data_pipelines.windows", "data_pipelines.world", "data_pipelines.world.baselines", "data_pipelines.world.command",
]  # fmt: skip
# Package or module → prefixes of our own modules that it may import (itself always).
MAY_IMPORT = {
    # Of sharding they take what is on which device; it needs nothing but jax, and does nothing where there is no mesh.
    "crab_jax/nn": ["crab_jax.nn", "crab_jax.config", "crab_jax.sharding"],
    "crab_jax/backbones": [
        "crab_jax.nn", "crab_jax.weights", "crab_jax.params", "crab_jax.config", "crab_jax.sharding",
    ],
    "crab_jax/sharding.py": [],
    "crab_jax/assets/__init__.py": [],
    # Training knows no Crab: it takes anything with the shape of its System.
    # Published files become weights folders and back; of the rest only networks and their sizes matter there.
    "crab_jax/convert": [
        "crab_jax.assets", "crab_jax.backbones", "crab_jax.checkpoint", "crab_jax.config", "crab_jax.folders",
        "crab_jax.groups", "crab_jax.model", "crab_jax.nn", "crab_jax.params", "crab_jax.recipe", "crab_jax.sharding",
        "crab_jax.starting", "crab_jax.system", "crab_jax.train", "crab_jax.weights",
    ],
    "crab_jax/checkpoint.py": [
        "crab_jax.backbones", "crab_jax.config", "crab_jax.folders", "crab_jax.groups", "crab_jax.manifest",
        "crab_jax.model", "crab_jax.params",
    ],
    "crab_jax/fitting.py": ["crab_jax.checkpoint", "crab_jax.groups", "crab_jax.model"],
    "crab_jax/folders.py": ["crab_jax.groups"],
    "crab_jax/groups.py": ["crab_jax.params"],
    "crab_jax/results.py": ["crab_jax.evaluate", "crab_jax.tasks"],
    "crab_jax/api.py": [
        "crab_jax.assets", "crab_jax.batch", "crab_jax.checkpoint", "crab_jax.evaluate", "crab_jax.fitting",
        "crab_jax.model", "crab_jax.results", "crab_jax.tasks", "crab_jax.tokens", "data_pipelines.decode",
        "data_pipelines.examples",
    ],
    "crab_jax/infer.py": [
        "crab_jax.api", "crab_jax.assets", "crab_jax.checkpoint", "crab_jax.draw", "crab_jax.evaluate",
        "crab_jax.tasks",
    ],
    "crab_jax/train": [
        "crab_jax.config", "crab_jax.params", "crab_jax.sharding", "crab_jax.groups", "crab_jax.plan.hardware",
    ],
    "crab_jax/tasks": ["crab_jax.tokens"],
    "crab_jax/draw": ["data_pipelines.image"],
    "crab_jax/metrics": ["crab_jax.tasks"],
    "crab_jax/evaluate/answers.py": ["crab_jax.tasks"],
    "crab_jax/evaluate/journal.py": [],
    "crab_jax/evaluate/mask_files.py": ["crab_jax.metrics"],
    "crab_jax/evaluate/score.py": ["crab_jax.evaluate", "crab_jax.metrics", "crab_jax.tasks", "data_pipelines"],
    "crab_jax/evaluate/table.py": ["crab_jax.evaluate", "crab_jax.metrics", "crab_jax.tasks"],
    "crab_jax/evaluate/report": ["crab_jax.evaluate", "crab_jax.draw", "crab_jax.tasks", "data_pipelines"],
    "crab_jax/routing.py": ["crab_jax.backbones.llama", "crab_jax.model"],
    "crab_jax/losses.py": ["crab_jax.nn"],
    "crab_jax/tokens.py": ["crab_jax.added_tokens", "crab_jax.batch"],
    "crab_jax/added_tokens.py": [],
    "crab_jax/batch.py": ["crab_jax.layout"],
    "crab_jax/command_line.py": [],
    "crab_jax/config.py": [],
    "crab_jax/manifest.py": ["crab_jax.groups"],
    "crab_jax/params.py": ["crab_jax.config"],
    "crab_jax/flops.py": [],
    "crab_jax/plan/hardware.py": [],
    "crab_jax/plan/hlo.py": [],
    "crab_jax/plan/kernels.py": ["crab_jax.plan.hlo"],
    "crab_jax/plan/work.py": ["crab_jax.plan.hardware", "crab_jax.plan.hlo", "crab_jax.plan.kernels"],
    "crab_jax/weights.py": [],
    "crab_jax/layout.py": [],
    "crab_jax/model.py": [
        "crab_jax.backbones", "crab_jax.nn", "crab_jax.batch", "crab_jax.config", "crab_jax.losses", "crab_jax.params",
        "crab_jax.sharding",
    ],
    "data_pipelines/world": [
        "crab_jax.metrics", "crab_jax.tasks", "data_pipelines.image", "data_pipelines.lock",
        "data_pipelines.worker",
    ],
    "data_pipelines": [
        "crab_jax.metrics", "crab_jax.tasks", "crab_jax.tokens", "crab_jax.config", "crab_jax.layout",
        "crab_jax.batch", "crab_jax.draw",
    ],
}  # fmt: skip


def imports(path: pathlib.Path) -> set[str]:
    """Our own modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {
        name for name in found if name.split(".")[0] in ("crab_jax", "data_pipelines", "configs", "launch", "tests")
    }


def test_grain_is_in_one_place():
    """It imports jax, and may change."""
    users = [path for path in sorted((ROOT / "data_pipelines").rglob("*.py")) if "import grain" in path.read_text()]
    assert users == [ROOT / "data_pipelines/stream/loader.py"]


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_import_table(place):
    root = ROOT / place
    own = place.removesuffix(".py").replace("/", ".")
    for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
        for name in imports(path):
            allowed = (own, *MAY_IMPORT[place])
            assert name.startswith(allowed), (
                f"{path.relative_to(ROOT)} imports {name}, allowed are {', '.join(allowed)}"
            )


def test_packages_need_no_checkout():
    """`configs` and `launch` exist only in a checkout; the installed packages must not want them."""
    for package in ("crab_jax", "data_pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            outside = [n for n in imports(path) if n.split(".")[0] in ("configs", "launch", "tests")]
            assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


def test_light_modules_do_not_import_jax():
    code = f"import importlib, sys\nfor m in {LIGHT!r}: importlib.import_module(m)\n"
    code += "heavy = sorted({'jax', 'flax', 'orbax', 'librosa', 'torch', 'tensorflow'} & set(sys.modules))\n"
    code += "sys.exit(f'imported: {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_metrics_need_numpy_alone():
    """So docs/metrics.md says; the answer types of the tasks must not bring a tokenizer along."""
    code = "import sys, crab_jax.metrics\n"
    code += "heavy = sorted({'jax', 'flax', 'sentencepiece'} & set(sys.modules))\n"
    code += "sys.exit(f'imported: {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
