"""`crab convert` and `crab export`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from tqdm import tqdm

from crab_jax.checkpoint import CheckpointError
from crab_jax.config import ConfigError
from crab_jax.convert import model_config
from crab_jax.convert.crab import CRAB_FILES, PUBLIC, Inputs
from crab_jax.convert.export import ExportError, export
from crab_jax.convert.plan import Plan
from crab_jax.convert.report import ConversionError, fold
from crab_jax.convert.run import convert, find_crab_files
from crab_jax.convert.sources import SourceError
from crab_jax.convert.unsaved import ROWS

_DTYPES = ("float32", "bfloat16", "float16")
_ERRORS = (ConversionError, SourceError, CheckpointError, ConfigError, ExportError, OSError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab convert`."""
    path = pathlib.Path
    files = parser.add_argument_group("files (any subset)")
    files.add_argument("--llama", type=path, metavar="DIR", help="Hugging Face folder of Llama-2-7b-chat-hf")
    files.add_argument("--clip", type=path, metavar="DIR", help="Hugging Face folder of clip-vit-large-patch14")
    files.add_argument("--beats", type=path, metavar="FILE", help="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt")
    files.add_argument("--crab", type=path, metavar="DIR", help="folder with Crab's files under their published names")
    for role, name in CRAB_FILES.items():
        files.add_argument(f"--{role.replace('_', '-')}", type=path, metavar="FILE", help=f"instead of DIR/{name}")
    parser.add_argument("--out", type=path, metavar="DIR", required=True, help="the new weights folder")
    parser.add_argument(
        "--model-config", type=path, metavar="FILE.json", help="numbers that no file carries (default: published model)"
    )
    parser.add_argument("--new-rows", choices=ROWS, help="where the 17 rows of the added tokens come from")
    parser.add_argument("--pe", metavar="{T3,I3,random,FILE}", help="where the mask decoder's frequencies come from")
    parser.add_argument("--dtype", choices=_DTYPES, help="of all parameters (default: as in the files)")
    parser.add_argument(
        "--keep",
        choices=("none", "crab", "all"),
        default="all",
        help="tensors that the network never reads, kept so that an export is complete: of which files (default: all)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing weights folder")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab export`."""
    parser.add_argument("--weights", type=pathlib.Path, metavar="DIR", required=True, help="a weights folder")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", required=True, help="folder for the published files")
    parser.add_argument("--lossy", action="store_true", help="also export weights that --dtype has rounded")


def run(args: argparse.Namespace) -> int:
    """Runs `crab convert`; the report goes to stdout, progress and errors to stderr. Returns the exit code."""
    try:
        with tqdm(unit="B", unit_scale=True, file=sys.stderr, desc="convert", total=0) as bar:

            def planned(plan: Plan, total: int) -> None:
                bar.total = total
                bar.refresh()

            report = convert(
                _inputs(args),
                args.out,
                numbers=model_config.load(args.model_config),
                new_rows=args.new_rows,
                pe=args.pe,
                dtype=args.dtype,
                keep=args.keep,
                overwrite=args.overwrite,
                progress=bar.update,
                planned=planned,
            )
    except _ERRORS as error:
        return _fail(error)
    sys.stdout.write(f"{report.text()}\nwritten to {args.out}; this report is in {args.out / 'report.json'}\n")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Runs `crab export`. Returns the exit code."""
    try:
        with tqdm(unit="B", unit_scale=True, file=sys.stderr, desc="export") as bar:
            result = export(args.weights, args.out, lossy=args.lossy, progress=bar.update)
    except _ERRORS as error:
        return _fail(error)
    lines = [f"{args.out / name}: {count} tensors" for name, count in result.files.items()]
    for role, names in result.dropped.items():
        lines.append(f"{role}: {len(names)} tensors were not kept when it was converted, and are not in the export:")
        lines += [f"  {line}" for line in fold(names)]
    if result.rounded:
        lines.append(f"{len(result.rounded)} tensors were rounded by --dtype and differ from the originals")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _inputs(args: argparse.Namespace) -> Inputs:
    values: dict[str, Any] = {} if args.crab is None else find_crab_files(args.crab)
    given = {role: getattr(args, role) for role in (*PUBLIC, *CRAB_FILES)}
    return Inputs(**values | {role: path for role, path in given.items() if path is not None})


def _fail(error: Exception) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 1
