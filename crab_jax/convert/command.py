"""`crab convert` and `crab export`."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from crab_jax.checkpoint import CheckpointError, check_target, read_manifest
from crab_jax.config import ConfigError
from crab_jax.convert import model_config
from crab_jax.convert.crab import CRAB_FILES, OVERLAYS, PUBLIC, Inputs
from crab_jax.convert.export import ExportError, export
from crab_jax.convert.plan import Plan
from crab_jax.convert.published_names import export_run
from crab_jax.convert.report import ConversionError, fold
from crab_jax.convert.run import convert, find_crab_files
from crab_jax.convert.runs import save_whole
from crab_jax.convert.sources import SourceError
from crab_jax.convert.unsaved import ROWS

_DTYPES = ("float32", "bfloat16", "float16")
_ERRORS = (ConversionError, SourceError, CheckpointError, ConfigError, ExportError, OSError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab convert`."""
    path = pathlib.Path
    runs = parser.add_argument_group("a run of launch.train, instead of files")
    runs.add_argument(
        "run_folder",
        type=path,
        nargs="?",
        metavar="RUN",
        help="workdir of a run, one checkpoint of it, or a weights folder",
    )
    runs.add_argument("--to", choices=("torch",), help="write what RUN trained under its published name into DIR")
    runs.add_argument(
        "--moved", action="append", default=[], metavar="OLD=NEW", help="a folder that RUN started from lies there now"
    )
    files = parser.add_argument_group("files (any subset)")
    files.add_argument("--llama", type=path, metavar="DIR", help="Hugging Face folder of Llama-2-7b-chat-hf")
    files.add_argument("--clip", type=path, metavar="DIR", help="Hugging Face folder of clip-vit-large-patch14")
    files.add_argument("--beats", type=path, metavar="FILE", help="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt")
    files.add_argument("--crab", type=path, metavar="DIR", help="folder with Crab's files under their published names")
    for role, name in CRAB_FILES.items():
        also = "; with RUN: the workdir of that stage" if role in OVERLAYS else ""
        files.add_argument(
            f"--{role.replace('_', '-')}", type=path, metavar="FILE", help=f"instead of DIR/{name}{also}"
        )
    about = "the new weights folder; with --to, the folder of the file"
    parser.add_argument("--out", type=path, metavar="DIR", required=True, help=about)
    parser.add_argument(
        "--model-config", type=path, metavar="FILE.json", help="numbers that no file carries (default: published model)"
    )
    parser.add_argument("--new-rows", choices=ROWS, help="where the 17 rows of the added tokens come from")
    parser.add_argument("--pe", metavar="{T3,I3,random,FILE}", help="where the mask decoder's frequencies come from")
    parser.add_argument("--dtype", choices=_DTYPES, help="of all parameters (default: as in the files)")
    parser.add_argument(
        "--keep",
        choices=("none", "crab", "all"),
        help="tensors that the network never reads, kept so that an export is complete: of which files (default: all)",
    )
    runs.add_argument(
        "--single-file",
        action="store_true",
        help="all arrays in one safetensors file: for small models that are shipped",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing weights folder")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab export`."""
    parser.add_argument("--weights", type=pathlib.Path, metavar="DIR", required=True, help="a weights folder")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", required=True, help="folder for the published files")
    parser.add_argument("--lossy", action="store_true", help="also export weights that --dtype has rounded")


def run(args: argparse.Namespace) -> int:
    """Runs `crab convert`; the report goes to stdout, progress and errors to stderr.

    Returns:
        0 if everything was written, 1 if it failed, 2 if the command is wrong and nothing was started.
    """
    try:
        if args.run_folder is None and args.single_file:
            raise SourceError("--single-file: only for RUN, whose model is small enough to be shipped")
        if args.run_folder is None:
            inputs, numbers = _files(args), model_config.load(args.model_config)
        else:
            moved = _moved(args)
        if args.to is None:
            check_target(args.out, overwrite=args.overwrite)
    except _ERRORS as error:
        return _fail(error, code=2)
    try:
        with _bar("convert") as bar:
            if args.run_folder is None:
                lines = _convert(args, inputs, numbers, bar)
            elif args.to is None:
                overlays = {role: path for role in OVERLAYS if (path := getattr(args, role)) is not None}
                lines = save_whole(
                    args.run_folder, args.out, overlays=overlays, moved=moved, dtype=args.dtype,
                    single_file=args.single_file, overwrite=args.overwrite, planned=bar.begin, progress=bar.update,
                )  # fmt: skip
                lines.append(f"written to {args.out}")
            else:
                lines = _to_torch(args, moved, bar)
    except _ERRORS as error:
        return _fail(error)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _convert(args: argparse.Namespace, inputs: Inputs, numbers: model_config.ModelNumbers, bar: _Bar) -> list[str]:
    def planned(_: Plan, total: int) -> None:
        bar.begin(total)

    report = convert(
        inputs, args.out, numbers=numbers, new_rows=args.new_rows, pe=args.pe, dtype=args.dtype, 
        keep=args.keep or "all", overwrite=args.overwrite, progress=bar.update, planned=planned,
    )  # fmt: skip
    return [report.text(), f"written to {args.out}; this report is in {args.out / 'report.json'}"]


def _to_torch(args: argparse.Namespace, moved: dict[str, str], bar: _Bar) -> list[str]:
    written = export_run(
        args.run_folder, args.out, moved=moved, overwrite=args.overwrite, planned=bar.begin, progress=bar.update
    )
    lines = [f"{written.path}: {written.tensors} tensors"]
    if written.unread:
        lines.append(f"{written.unread} of them are never read by the network; they are those of the base")
    if written.missing:
        lines.append(
            f"{written.missing} tensors of the published file are not in it: no network reads them, the base has none"
        )
    return lines


def run_export(args: argparse.Namespace) -> int:
    """Runs `crab export`. Returns the exit code, see `run`."""
    try:
        read_manifest(args.weights)
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise CheckpointError(f"{args.out}: exists and is not empty; choose another folder")
    except _ERRORS as error:
        return _fail(error, code=2)
    try:
        with _bar("export") as bar:
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


def _files(args: argparse.Namespace) -> Inputs:
    """The published files that are named.

    Raises:
        SourceError: none, or one that is not there; or options that only a run can have.
    """
    if args.to or args.moved:
        raise SourceError("--to and --moved belong to the workdir of a run: crab convert RUN --out DIR")
    values: dict[str, Any] = {} if args.crab is None else find_crab_files(args.crab)
    given = {role: path for role in (*PUBLIC, *CRAB_FILES) if (path := getattr(args, role)) is not None}
    if not values and not given:
        names = ", ".join(f"--{role.replace('_', '-')}" for role in (*PUBLIC, "crab", *CRAB_FILES))
        raise SourceError(f"no files given: name at least one with {names}; or the workdir of a run")
    for path in given.values():
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder")
    return Inputs(**values | given)


def _moved(args: argparse.Namespace) -> dict[str, str]:
    """Checks the options of a run.

    Raises:
        SourceError: an option that it cannot have, or a folder that is not there.
    """
    overlays = [] if args.to else list(OVERLAYS)
    others = [r for r in (*PUBLIC, "crab", *CRAB_FILES, "model_config", "new_rows", "pe", "keep") if r not in overlays]
    others += ["dtype"] if args.to else []
    if wrong := [name for name in others if getattr(args, name) is not None]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise SourceError(f"{options}: not together with the run {args.run_folder}, which has its own weights")
    for path in (args.run_folder, *(getattr(args, role) for role in overlays)):
        if path is not None and not path.is_dir():
            raise SourceError(f"{path}: no such folder; expected the workdir of a run")
    pairs = [item.partition("=") for item in args.moved]
    if wrong := [item for item, (old, _, new) in zip(args.moved, pairs, strict=True) if not old or not new]:
        raise SourceError(f"--moved {wrong[0]}: expected OLD=NEW, two folders")
    return {old: new for old, _, new in pairs}


class _Bar:
    """A progress bar that appears with the first byte, so that an early error stands alone."""

    def __init__(self, name: str):
        self._name, self._total, self._shown = name, None, None

    def begin(self, total: int) -> None:
        self._total = total

    def update(self, count: int) -> None:
        if self._shown is None:
            self._shown = tqdm(unit="B", unit_scale=True, file=sys.stderr, desc=self._name, total=self._total)
        self._shown.update(count)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()


@contextlib.contextmanager
def _bar(name: str) -> Iterator[_Bar]:
    bar = _Bar(name)
    try:
        yield bar
    finally:
        bar.close()


def _fail(error: Exception, *, code: int = 1) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code
