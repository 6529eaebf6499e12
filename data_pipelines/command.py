"""`crab data build` and `crab data check`."""

from __future__ import annotations

import argparse
import pathlib
import sys

from tqdm import tqdm

from crab_jax.tasks import ALL
from crab_jax.tasks.clips import AnnotationError
from data_pipelines import build
from data_pipelines.encoding import PictureFormat
from data_pipelines.records import ShardError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    about = "turn annotations and media into shards; run it again to continue"
    sub = actions.add_parser("build", help=about, description=about)
    names = ["all", *ALL]
    sub.add_argument("tasks", nargs="+", choices=names, metavar="TASK", help=f"one or more of {', '.join(names)}")
    sub.add_argument("--root", type=pathlib.Path, required=True, help="folder with the data sets as they come")
    sub.add_argument("--out", type=pathlib.Path, required=True, help="shards go to OUT/TASK/VERSION")
    sub.add_argument("--jobs", type=_whole(0), default=1, metavar="N", help="worker processes (default 1)")
    sub.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="these only (default all of a task)")
    sub.add_argument("--size", type=_whole(1), default=224, help="pixels per side (default 224)")
    sub.add_argument("--frames", choices=list(PictureFormat), default=PictureFormat.JPEG, help="how to store pictures")
    sub.add_argument("--quality", type=_whole(1, 100), default=95, help="of JPEG, 1 to 100 (default 95)")
    help_ = "stop when more than this share of the examples is unusable; missing media do not count (default 0.05)"
    sub.add_argument("--max-rejects", type=_share, default=0.05, metavar="SHARE", help=help_)
    sub.add_argument("--overwrite", action="store_true", help="build again what is complete")
    sub.set_defaults(act=_build)
    about = "say what shards hold, and show some of it"
    sub = actions.add_parser("check", help=about, description=about)
    sub.add_argument("shards", type=pathlib.Path, help="what was given to build as --out, or a task's folder in it")
    sub.add_argument("--html", type=pathlib.Path, metavar="FILE", help="write a contact sheet, a page for any browser")
    sub.add_argument("--items", type=_whole(1), default=4, metavar="N", help="examples per split on it (default 4)")
    help_ = "count tokens with this SentencePiece model (default: the project's small one)"
    sub.add_argument("--tokenizer", type=pathlib.Path, metavar="FILE", help=help_)
    sub.set_defaults(act=_check)


def run(args: argparse.Namespace) -> int:
    """Does what the command line asks for; returns the exit code."""
    return args.act(args)


def _whole(least: int, most: int | None = None):
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {text}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"expected at most {most}, found {text}")
        return value

    return number


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text}")
    return value


class _Bar(build.Progress):
    """A bar on standard error, with an estimate of the time left."""

    def __init__(self, task: str):
        self._task, self._bar = task, None

    def start(self, clips: int) -> None:
        # Into a file or a log, a line now and then is enough.
        pause = 0.1 if sys.stderr.isatty() else 30
        self._bar = tqdm(total=clips, desc=self._task, unit=" clips", mininterval=pause, dynamic_ncols=True)

    def advance(self, clips: int) -> None:
        self._bar.update(clips)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _build(args: argparse.Namespace) -> int:
    tasks = list(ALL) if "all" in args.tasks else list(dict.fromkeys(args.tasks))
    options = build.Options(
        splits=tuple(args.splits),
        size=args.size,
        pictures=PictureFormat(args.frames),
        quality=args.quality,
        max_rejects=args.max_rejects,
        jobs=args.jobs,
        overwrite=args.overwrite,
    )
    failed = []
    for task in tasks:
        bar = _Bar(task)
        try:
            built = build.build(ALL[task], root=args.root, out=args.out, options=options, progress=bar)
        except (AnnotationError, build.BuildError, OSError) as error:
            bar.close()
            sys.stderr.write(f"{task}: {error}\n" if not str(error).startswith(task) else f"{error}\n")
            failed.append(task)
            continue
        bar.close()
        sys.stdout.write(told(task, built))
    if failed and len(tasks) > 1:
        sys.stderr.write(f"not built: {', '.join(failed)}\n")
    return 1 if failed else 0


def told(task: str, built: build.Built) -> str:
    """What was built, for people: a line for the data set and one per split."""
    lines = [f"{task}: {'complete already, left as it is: ' if built.was_there else ''}{built.folder}"]
    lines += [f"  built again, because of what was there: {built.because}"] if built.because else []
    for split, count in built.counts.items():
        line = f"{count.examples} examples about {count.records} of {count.clips} clips, {count.size / 2**20:.1f} MiB"
        lost = {
            "unusable annotations": count.annotations,
            "examples without their media": count.missing,
            "examples with unusable media": count.media,
        }
        said = ", ".join(f"{number} {what}" for what, number in lost.items() if number)
        lines.append(f"  {split:<7} {line}" + (f"; {said}" if said else ""))
    lines += [f"  {split:<7} {build.EMPTY}" for split in built.empty]
    if any(c.annotations + c.missing + c.media for c in built.counts.values()):
        lines.append(f"  {built.folder / build.REJECTS} lists what could not be used")
    return "\n".join(lines) + "\n"


def _check(args: argparse.Namespace) -> int:
    from crab_jax.tokens import TokenizerError
    from data_pipelines import check

    try:
        return check.report(
            args.shards, html=args.html, items=args.items, tokenizer=args.tokenizer, say=sys.stdout.write
        )
    except (ShardError, TokenizerError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
