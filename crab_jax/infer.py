"""`crab infer`: answers a file of samples, or one question, and writes what came out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from PIL import Image
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not noticed there
    fcntl = None

from crab_jax import draw
from crab_jax.api import Assistant, Failure, Result, SampleError, load
from crab_jax.assets import weights_folder
from crab_jax.checkpoint import read_manifest
from crab_jax.evaluate.generate import REFERENCE_SAMPLING, Sampling
from crab_jax.tasks import TASKS, Unparsed, Wording
from crab_jax.tasks.samples import BrokenSample, Sample, read_sample, read_samples

RESULTS = "results.jsonl"
QUESTION_FIELDS = {
    "video": "video_path", "image": "image_path", "audio": "audio_path", "mask": "mask_path",
    "question": "question", "exp": "exp", "second": "second",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab infer`."""
    path = pathlib.Path
    parser.add_argument("samples", nargs="?", type=path, metavar="SAMPLES.json", help="list of samples, or use --task")
    parser.add_argument(
        "--weights", type=weights_folder, required=True, metavar="DIR", help="made by `crab convert`; or mini"
    )
    parser.add_argument("--out", type=path, metavar="DIR", help="results, masks and pictures (default: crab_results)")
    one = parser.add_argument_group("one question, without a file")
    one.add_argument("--task", choices=TASKS, help="; ".join(f"{name}: {spec.about}" for name, spec in TASKS.items()))
    one.add_argument("--video", metavar="FILE", help="also gives the sound if there is no --audio")
    one.add_argument("--image", metavar="FILE")
    one.add_argument("--audio", metavar="FILE")
    one.add_argument("--mask", metavar="FILE", help="true mask, to compare with")
    one.add_argument("--question", metavar="TEXT", help="avqa")
    one.add_argument("--exp", metavar="TEXT", help="ref-avs: what to segment")
    one.add_argument("--second", type=int, metavar="N", help="second of the sound that the image belongs to")
    how = parser.add_argument_group("how to answer")
    how.add_argument("--wording", choices=[w.value for w in Wording], default=Wording.QUICK_START.value)
    how.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="float32: parity mode")
    how.add_argument("--batch", type=int, default=8, metavar="N", help="samples at once (default: 8)")
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="instead of each task's own limit")
    how.add_argument("--variant", metavar="NAME", help="answer every task with one set of weights: text, avs or avss")
    how.add_argument(
        "--sample", action="store_true", help="draw tokens as the reference does (0.6, top-k 50, top-p 0.9)"
    )
    how.add_argument("--temperature", type=float, metavar="T", help="0 is greedy, the default")
    how.add_argument("--top-k", type=int, metavar="K")
    how.add_argument("--top-p", type=float, metavar="P")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the random key when drawing")
    parser.add_argument("--no-pictures", action="store_true", help="only results.jsonl and masks")


def run(args: argparse.Namespace) -> int:
    """Runs `crab infer`; answers go to stdout, progress and problems to stderr.

    Returns:
        0 if every sample was answered (understood or not), 1 if any failed, 2 if nothing could be started.
    """
    with contextlib.ExitStack() as stack:
        try:
            samples = _samples(args)
            sampling = _sampling(args)
            if args.batch < 1 or (args.max_new_tokens is not None and args.max_new_tokens < 1):
                raise SampleError("--batch and --max-new-tokens must be at least 1")
            # Before the weights, which may take minutes; nothing is overwritten before they are there.
            results = stack.enter_context(Results.open(args.out or pathlib.Path("crab_results")))
            assistant = _load(args, samples, sampling)
        except (OSError, ValueError) as error:  # all errors of our own are ValueErrors
            sys.stderr.write(f"error: {error}\n")
            return 2
        try:
            failed = answer_all(
                assistant,
                samples,
                results,
                max_new_tokens=args.max_new_tokens,
                pictures=not args.no_pictures,
                one=args.task is not None,
            )
        except BrokenPipeError:
            raise  # of stdout, not of the folder
        except OSError as error:
            sys.stderr.write(f"error: {results.folder}: stopped, because results cannot be written: {error}\n")
            return 1
    return 1 if failed else 0


class Results:
    """`results.jsonl` and the folder around it.

    A line is in the file as soon as there is an answer, and the file is in the order of the samples at any time: what a
    run has answered stays if it is interrupted.
    """

    def __init__(self, folder: pathlib.Path, file: io.FileIO):
        self.folder = folder
        self._file = file
        self._begun = False
        self._place = 0  # of the first sample that has no line yet
        self._settled = 0  # bytes of the lines before it
        self._lines: dict[int, bytes] = {}  # place → line, of those behind it

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: pathlib.Path) -> Iterator[Results]:
        """Makes the folder and holds its `results.jsonl`; an older one is left alone until `begin`, and so is nothing
        left behind if that is never called.

        Raises:
            SampleError: the folder cannot be made or written, or another run writes into it.
        """
        path = folder / RESULTS
        made = [p for p in (path, folder) if not os.path.lexists(p)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            file = io.FileIO(os.open(path, flags, 0o666), "r+")  # without a buffer: nothing fails later, on closing
        except OSError as error:
            found = "a file, expected a folder" if folder.is_file() else f"{path} cannot be written: {error.strerror}"
            raise SampleError(f"--out {folder}: {found}") from error
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise SampleError(f"--out {folder}: another run is writing there; choose another folder") from None
                except OSError:
                    pass  # a file system without locks: two runs are not noticed there
            results = cls(folder, file)
            try:
                yield results
            finally:
                if not results._begun:
                    for p in made:
                        p.rmdir() if p.is_dir() else p.unlink()

    def begin(self) -> None:
        """Empties the file."""
        self._begun = True
        self._file.truncate(0)

    def add(self, place: int, record: dict[str, Any]) -> None:
        """Writes the line of one sample; of each place once.

        Raises:
            OSError: the disk is full, say; then the file ends after a whole line.
        """
        # Half a surrogate pair has no UTF-8 form; its escape is JSON, too.
        self._lines[place] = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        data = b"".join(line for _, line in sorted(self._lines.items()))
        written = 0
        self._file.seek(self._settled)
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self._settled + data.rfind(b"\n", 0, written) + 1)
            raise
        while self._place in self._lines:
            self._settled += len(self._lines.pop(self._place))
            self._place += 1


def answer_all(
    assistant: Assistant,
    samples: list[Sample | BrokenSample],
    results: Results,
    *,
    max_new_tokens: int | None = None,
    pictures: bool = True,
    one: bool = False,
) -> int:
    """Answers samples; results appear while the rest still runs.

    Args:
        assistant: loaded model.
        samples: as read.
        results: what it holds is replaced.
        max_new_tokens: limit of the answers, if not the tasks' own.
        pictures: also draw one picture per answer.
        one: say the answer itself on stdout instead of a line per sample.

    Returns:
        Number of samples that failed.

    Raises:
        OSError: results cannot be written (any more): the disk is full, say.
    """
    out = results.folder
    results.begin()
    # A bar on a terminal has to move out of the way of every line.
    tty = sys.stderr.isatty()
    say = (lambda text: tqdm.write(text, file=sys.stdout, end="")) if tty else sys.stdout.write
    counts = {"answered": 0, "understood": 0, "failed": 0}
    problems: list[str] = []
    # In a log, where a bar cannot move, it is a line now and then.
    pace = {} if tty else {"mininterval": 30, "maxinterval": 60}
    try:
        with tqdm(total=len(samples), unit="sample", file=sys.stderr, disable=one, desc="infer", **pace) as bar:
            for place, result in assistant.stream(samples, max_new_tokens=max_new_tokens):
                record = _record(result, out, pictures=pictures)
                results.add(place, record)
                bar.update()
                name = f"{str(record['id'])[:60]} ({record['task'] or 'no task'})"
                if isinstance(result, Failure):
                    counts["failed"] += 1
                    problems.append(f"failed: {name}: {result.reason}")
                    continue
                counts["answered"] += 1
                counts["understood"] += result.parsed
                problems += [f"warning: {name}: {problem}" for problem in record.get("problems", [])]
                say(_line(result, record, out, full=one) + "\n")
    finally:  # also after Ctrl-C and on a full disk
        for problem in problems:
            sys.stderr.write(f"{_visible(problem)}\n")
        if not one:
            left = len(samples) - counts["answered"] - counts["failed"]
            sys.stderr.write(
                f"{counts['answered']} answered ({counts['understood']} understood), {counts['failed']} failed"
                f"{f', {left} not reached' if left else ''}; see {out / RESULTS}\n"
            )
    return counts["failed"]


def _load(args: argparse.Namespace, samples: list[Sample | BrokenSample], sampling: Sampling) -> Assistant:
    size = sum(read_manifest(args.weights)["contents"].values())
    sys.stderr.write(f"loading {args.weights} ({_bytes(size)}) …\n")
    started = time.perf_counter()
    assistant = load(
        args.weights,
        dtype=args.dtype,
        wording=args.wording,
        sampling=sampling,
        max_batch=args.batch,
        tasks=sorted({s.task for s in samples if isinstance(s, Sample)}),
        variant=args.variant,
    )
    sys.stderr.write(f"weights loaded in {time.perf_counter() - started:.1f} s\n")
    return assistant


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"


def _samples(args: argparse.Namespace) -> list[Sample | BrokenSample]:
    given = {field: getattr(args, name) for name, field in QUESTION_FIELDS.items() if getattr(args, name) is not None}
    wording = Wording(args.wording)
    if args.samples is not None:
        if args.task is not None or given:
            raise SampleError("give either SAMPLES.json or --task with its media, not both")
        return read_samples(args.samples, wording=wording)
    if args.task is None:
        raise SampleError("nothing to answer: give SAMPLES.json, or --task with its media")
    sample = read_sample({"task": args.task, **given}, wording=wording)
    if isinstance(sample, BrokenSample):
        flags = {f"'{field}'": f"--{name}" for name, field in QUESTION_FIELDS.items()}
        reason = sample.reason
        for field, flag in flags.items():
            reason = reason.replace(field, flag)
        raise SampleError(reason)
    return [sample]


def _sampling(args: argparse.Namespace) -> Sampling:
    base = REFERENCE_SAMPLING if args.sample else Sampling()
    chosen = {k: getattr(args, k) for k in ("temperature", "top_k", "top_p") if getattr(args, k) is not None}
    if not args.sample and chosen and "temperature" not in chosen:
        raise SampleError("--top-k and --top-p need --temperature above 0, or --sample")
    return Sampling(
        **{"temperature": base.temperature, "top_k": base.top_k, "top_p": base.top_p} | chosen, seed=args.seed
    )


def _record(result: Result | Failure, out: pathlib.Path, *, pictures: bool) -> dict[str, Any]:
    """One line of results.jsonl; writes the files that belong to it.

    Raises:
        OSError: they cannot be written.
    """
    if isinstance(result, Failure):
        # A broken entry may hold anything, also in these two fields.
        raw = result.raw if isinstance(result.raw, dict) else {}
        name = raw["id"] if isinstance(raw.get("id"), (str, int)) else str(result.index)
        task = raw["task"] if isinstance(raw.get("task"), str) else None
        return {"index": result.index, "id": name, "task": task, "ok": False, "error": result.reason}
    record: dict[str, Any] = {
        "index": result.sample.index,
        "id": result.sample.id,
        "task": result.sample.task,
        "ok": True,
        "prompt": result.prompt,
        "text": result.text,
        "parsed": result.parsed,
        "answer": result.value.to_json(),
        "tokens": result.tokens,
        "finished": result.finished,
        "seconds": dict(result.seconds),
        "notes": list(result.notes),
    }
    name = f"{result.sample.id}_{result.sample.task}"
    files: dict[str, str] = {}
    if result.mask is not None:
        files["mask"] = f"{name}_mask.png"
        write = draw.write_semantic_png if TASKS[result.sample.task].semantic else draw.write_mask_png
        write(out / files["mask"], result.mask)
    if pictures:
        picture, problems = _picture(result)
        if picture is not None:
            files["picture"] = f"{name}.png"
            picture.save(out / files["picture"])
        if problems:
            record["problems"] = problems
    return record | {"files": files}


def _picture(result: Result) -> tuple[Image.Image | None, list[str]]:
    """The picture of an answer, and what is wrong with it: media that cannot be read must not cost the answer."""
    try:
        return result.picture(), []
    except ValueError as error:
        sample = result.sample
        if sample.mask_path is None:
            return None, [f"no picture: {error}"]
        without = dataclasses.replace(result, sample=dataclasses.replace(sample, mask_path=None))
        picture, more = _picture(without)
        return picture, more or [f"the picture shows no true mask: {error}"]


def _line(result: Result, record: dict[str, Any], out: pathlib.Path, *, full: bool) -> str:
    """What a person sees of one answer."""
    value, text = result.value, _visible(result.text)
    if isinstance(value, Unparsed):
        shown = f"not understood: {value.reason}"
    else:
        shown = ", ".join(
            f"{k}={v}" for k, v in value.to_json().items() if k not in ("kind", "text") and v not in (None, [])
        )
        shown = _visible(shown) or " ".join(text.split())
    where = record["files"].get("mask") or record["files"].get("picture")
    if full:
        lines = [text or "(empty answer)", f"→ {shown}"]
        lines += [f"→ {out / file}" for file in record["files"].values()]
        lines += [f"note: {note}" for note in result.notes]
        return "\n".join(lines)
    return f"{result.sample.id:>4s} {result.sample.task:8s} {shown}" + (f"  [{where}]" if where else "")


def _visible(text: str) -> str:
    """Text for a terminal: a model can say control characters, which would move the cursor or change colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
