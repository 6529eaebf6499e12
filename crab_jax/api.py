"""The Python interface: load weights once, ask about any video, sound or image, get typed answers.

import crab_jax

crab = crab_jax.load("weights/")
answer = crab.ask("avqa", video="concert.mp4", question="How many instruments are playing?")
answer.value                       # Choice(answer='two')
crab.ask("s4", image="3.jpg", audio="audio.wav").mask      # bool [224 224]
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax import assets, checkpoint
from crab_jax.batch import Example
from crab_jax.evaluate.answers import understand
from crab_jax.evaluate.engine import Engine, Reply, Request
from crab_jax.evaluate.generate import Sampling
from crab_jax.fitting import check_folder
from crab_jax.model import ADDED_TOKENS, CrabConfig
from crab_jax.results import Failure, Prepared, Result, SampleError, WeightsError
from crab_jax.tasks import TASKS, Box, MaskTokens, TaskSpec, Wording
from crab_jax.tasks.samples import BrokenSample, Sample, read_sample
from crab_jax.tokens import Tokenizer
from data_pipelines.decode import read_audio, read_image, read_video
from data_pipelines.examples import build_example

# Which set of weights a task wants, best first (specification 2.3): a run without its own set uses the next one.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("s4", "ms3", "ref-avs"), ("avs", "avss", "text")),
    "avss": ("avss", "avs", "text"),
}


class Assistant:
    """A loaded model that answers questions about media; made by `load`."""

    def __init__(
        self,
        config: CrabConfig,
        variants: Mapping[str, tuple[CrabConfig, dict[str, Any]]],
        tokenizer: Tokenizer,
        *,
        dtype: Any,
        wording: Wording,
        sampling: Sampling,
        max_batch: int,
        variant: str | None,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.config = config
        self.tokenizer = tokenizer
        self.wording = wording
        self._forced = variant
        self._engine = Engine(variants, dtype=dtype, sampling=sampling, max_batch=max_batch, devices=devices)
        self._variants = {name: c for name, (c, _) in variants.items()}

    @property
    def engine(self) -> Engine:
        """What answers requests; for those who make them with `request`."""
        return self._engine

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; may be replaced between questions."""
        return self._engine.sampling

    @sampling.setter
    def sampling(self, value: Sampling) -> None:
        self._engine.sampling = value

    def ask(
        self,
        task: str,
        *,
        video: str | os.PathLike | None = None,
        image: str | os.PathLike | None = None,
        audio: str | os.PathLike | None = None,
        mask: str | os.PathLike | None = None,
        question: str | None = None,
        expression: str | None = None,
        second: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Result:
        """Asks one question.

        Args:
            task: one of `crab_jax.TASKS`.
            video, image, audio: paths; the sound may be the video's own.
            mask: path of the true mask, only shown beside the prediction.
            question: for avqa.
            expression: for ref-avs.
            second: which second of the sound belongs to the image, if the image is not named after it.
            max_new_tokens: limit of the answer, if not the task's own.

        Raises:
            SampleError: media that cannot be read, or an argument that is missing; the message says what to do.
        """
        fields = {
            "task": task,
            "video_path": video,
            "image_path": image,
            "audio_path": audio,
            "mask_path": mask,
            "question": question,
            "exp": expression,
            "second": second,
        }
        fields = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in fields.items() if v is not None}
        sample = read_sample(fields, wording=self.wording)
        if isinstance(sample, BrokenSample):
            raise SampleError(sample.reason)
        (result,) = self.answer([sample], max_new_tokens=max_new_tokens)
        if isinstance(result, Failure):
            raise SampleError(result.reason)
        return result

    def answer(
        self,
        samples: Iterable[Sample | BrokenSample],
        *,
        max_new_tokens: int | None = None,
        progress: Callable[[int], Any] = lambda n: None,
        threads: int = 4,
    ) -> list[Result | Failure]:
        """Answers many samples in batches, in their order; a broken one becomes a `Failure` and stops nothing.

        Args:
            samples: from `crab_jax.tasks.samples.read_samples`, or made by hand.
            max_new_tokens: limit of the answers, if not the tasks' own.
            progress: called with the number of samples that became ready.
            threads: how many samples are read at once.
        """
        samples = list(samples)
        results: dict[int, Result | Failure] = {}
        for place, result in self.stream(samples, max_new_tokens=max_new_tokens, threads=threads):
            results[place] = result
            progress(1)
        return [results[place] for place in range(len(samples))]

    def stream(
        self,
        samples: Sequence[Sample | BrokenSample],
        *,
        max_new_tokens: int | None = None,
        threads: int = 4,
        chunk: int = 64,
    ) -> Iterator[tuple[int, Result | Failure]]:
        """Answers many samples and hands each over once its batch is done.

        Args:
            samples: as in `answer`.
            max_new_tokens: as in `answer`.
            threads: as in `answer`.
            chunk: how many samples are read into memory together; batches are formed among them.

        Yields:
            Place of the sample in `samples`, and its `Result` or `Failure`; in order of chunks, but not inside them.
        """
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
                prepared = list(pool.map(lambda s: self._prepare_or_fail(s, max_new_tokens), part))
            yield from ((start + i, p) for i, p in enumerate(prepared) if isinstance(p, Failure))
            ready = [(start + i, p) for i, p in enumerate(prepared) if isinstance(p, Prepared)]
            for i, reply in self._engine.stream([p.request for _, p in ready]):
                place, chosen = ready[i]
                yield place, self._result(chosen, reply)

    def prepare(self, sample: Sample, *, max_new_tokens: int | None = None) -> Prepared:
        """Reads the media of a sample and builds its prompt.

        Raises:
            data_pipelines.decode.MediaError: media that cannot be read or do not fit the task.
            WeightsError: no weights for this task.
            ValueError: `max_new_tokens` below one.
        """
        spec = TASKS[sample.task]
        config = self._variants[self._variant(spec)[0]]  # first: without weights for the task nothing need be read
        media = spec.media[self.wording]
        size = config.clip.image_size
        # Pictures first: a video that is missing or none at all should be called a video, not a sound.
        video = read_video(sample.video_path, frames=media.frames, size=size) if media.frames else None
        image = read_image(sample.image_path, size=size) if media.image else None
        wave = read_audio(sample.sound_path)
        example = build_example(
            spec,
            self.wording,
            sample.row(),
            name=f"sample {sample.id}",
            tokenizer=self.tokenizer,
            sizes=config.feature_sizes,
            with_target=False,
            video=video,
            image=image,
            wave=wave,
            where=sample.sound_path,
        )
        request, notes = self.request(spec, example, row=sample.index, max_new_tokens=max_new_tokens)
        prompt = spec.prompt(sample.row(), self.wording)
        return Prepared(sample=sample, prompt=prompt, request=request, frames=video, wave=wave, notes=notes)

    def request(
        self, spec: TaskSpec, example: Example, *, row: int, max_new_tokens: int | None = None
    ) -> tuple[Request, tuple[str, ...]]:
        """What the engine is to do with an example of a task, and what the reader of the answer should know.

        Args:
            spec: the task.
            example: as `build_example` makes it.
            row: number of the sample in the run.
            max_new_tokens: limit of the answer, if not the task's own.

        Raises:
            WeightsError: no weights for this task.
            ValueError: `max_new_tokens` below one.
        """
        variant, notes = self._variant(spec)
        limit = spec.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, found {limit}")
        head = None if not spec.needs_masks else "semantic" if spec.semantic else "binary"
        if head is not None and not spec.media[self.wording].image:
            # The reference segments the picture of <image>, never a frame of the video (specification 9.3).
            head, notes = None, (*notes, f"no mask: the wording {self.wording.value} shows no picture to segment")
        return Request(example=example, max_new_tokens=limit, variant=variant, head=head, row=row), notes

    def _prepare_or_fail(self, sample: Sample | BrokenSample, max_new_tokens: int | None) -> Prepared | Failure:
        if isinstance(sample, BrokenSample):
            return Failure(index=sample.index, reason=sample.reason, raw=sample.raw)
        try:
            return self.prepare(sample, max_new_tokens=max_new_tokens)
        except (ValueError, OSError) as error:  # MediaError, WeightsError, PlaceholderError …: all name file and reason
            return _failure(sample, error)

    def _result(self, prepared: Prepared, reply: Reply | Exception) -> Result | Failure:
        sample = prepared.sample
        if isinstance(reply, Exception):
            return _failure(sample, reply)
        spec = TASKS[sample.task]
        text = self.tokenizer.decode_plain(reply.ids)
        value = understand(
            spec, text, mask_tokens=reply.mask_count, cut_off_after=None if reply.finished else len(reply.ids)
        )
        mask = None
        if reply.mask_logits is not None and isinstance(value, MaskTokens):
            # sigmoid(x) > 0.5 is x > 0
            mask = np.argmax(reply.mask_logits, axis=0).astype(np.uint8) if spec.semantic else reply.mask_logits[0] > 0
        return Result(
            sample=sample,
            prompt=prepared.prompt,
            text=text,
            value=value,
            mask=mask,
            mask_logits=reply.mask_logits,
            finished=reply.finished,
            tokens=len(reply.ids),
            seconds=reply.seconds,
            notes=prepared.notes,
            frames=prepared.frames,
            wave=prepared.wave,
        )

    def _variant(self, spec: TaskSpec) -> tuple[str, tuple[str, ...]]:
        """The set of weights that answers a task, and a note if it is not the one it should be."""
        wanted = (self._forced,) if self._forced else VARIANTS.get(spec.name, ("text",))
        for name in wanted:
            config = self._variants.get(name)
            if config is None or (spec.needs_masks and config.mask_decoder is None):
                continue
            if self._forced or name == wanted[0]:
                return name, ()
            note = f"no weights of the {wanted[0].upper()} finetune are loaded, so {_NAMES[name]} stand in"
            return name, (note,)
        loaded = [name for name in wanted if name in self._variants]
        if not loaded:
            raise WeightsError(
                f"task {spec.name}: needs the weights {wanted[0]!r}, loaded are {', '.join(self._variants)}; load them "
                "with the task among `tasks`"
            )
        raise WeightsError(
            f"task {spec.name}: the weights {loaded[0]!r} have no mask decoder; convert again with --crab DIR holding "
            f"{VARIANTS[spec.name][0]}_finetune_weights.bin"
            + (f", or do not ask for the variant {self._forced!r}" if self._forced else "")
        )


_NAMES = {"avs": "those of the AVS finetune", "avss": "those of the AVSS finetune", "text": "those of the pretraining"}


def _failure(sample: Sample, error: Exception) -> Failure:
    return Failure(index=sample.index, reason=str(error), raw={"id": sample.id, "task": sample.task})


def _read(
    folder: pathlib.Path, overlays: Sequence[str], *, with_base: bool, dtype: Any
) -> dict[str, tuple[CrabConfig, dict[str, Any]]]:
    """Sets of weights, name → sizes and parameters, in the compute dtype.

    A function of its own, because nothing else may hold on to the arrays: the engine empties these dicts while it moves
    them, and only then is a large model never in memory twice.
    """
    loaded = checkpoint.load(folder, dtype=dtype, overlays=overlays)
    variants = {"text": (loaded.config, dict(loaded.params))} if with_base else {}
    for name in overlays:
        over = loaded.with_overlay(name)
        variants[name] = (over.config, dict(over.params))
    return variants


def load(
    weights: str | os.PathLike,
    *,
    dtype: Any = "bfloat16",
    wording: Wording | str = Wording.QUICK_START,
    sampling: Sampling | None = None,
    max_batch: int = 8,
    tasks: Sequence[str] | None = None,
    variant: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Assistant:
    """Loads a weights folder, made by `crab convert`.

    Args:
        weights: the folder, or "mini" for the model that comes with the project.
        dtype: "bfloat16", or "float32" for parity with the reference (twice the memory).
        wording: how tasks are asked; the published weights most probably expect the quick-start wording.
        sampling: greedy if None.
        max_batch: at most this many samples at once; more memory, more throughput.
        tasks: only load what these tasks need; None: all.
        variant: answer every task with this set of weights ("text", "avs", "avss").
        devices: of this process, to share batches; None: the first.

    Raises:
        crab_jax.checkpoint.CheckpointError: no weights folder, or a broken one.
        WeightsError: a part is missing without which nothing can be answered.
        ValueError: another dtype, wording or task than there is, or `max_batch` below one.
    """
    wording = Wording(wording)
    tasks = tuple(TASKS) if tasks is None else (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}; tasks: {', '.join(TASKS)}")
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        raise ValueError(f"dtype: expected bfloat16 or float32, found {dtype!r}")
    if max_batch < 1:
        raise ValueError(f"max_batch: expected at least 1, found {max_batch}")
    folder = assets.weights_folder(weights)
    manifest = checkpoint.read_manifest(folder)
    config = checkpoint.read_config(folder, manifest)
    lacking = [part for part in config.missing() if part != "mask_decoder"]
    if lacking:
        raise WeightsError(
            f"{folder}: {', '.join(lacking)} missing; these weights were converted from a subset of the files, convert "
            "again together with the others"
        )
    if variant not in (None, "text", *manifest["overlays"]):
        have = ", ".join(["text", *manifest["overlays"]])
        raise WeightsError(f"{folder}: no set of weights {variant!r}; there are: {have}")
    tokenizer_file = folder / "tokenizer.model"
    if not tokenizer_file.is_file():
        raise WeightsError(f"{tokenizer_file}: missing; copy tokenizer.model of the language model there")
    tokenizer = Tokenizer.load(tokenizer_file, base_vocabulary=config.llama.vocab_size - ADDED_TOKENS)

    have = set(manifest["overlays"])
    wanted = {v for task in tasks for v in VARIANTS.get(task, ("text",))[:1]}
    if variant is not None:
        wanted = {variant}
    elif wanted - have - {"text"}:  # another set stands in
        wanted |= have | {"text"}
    for name in sorted(wanted & (have | {"text"})):
        check_folder(folder, manifest, None if name == "text" else name)
    variants = _read(folder, sorted(have & wanted), with_base="text" in wanted, dtype=jnp.dtype(dtype))
    return Assistant(
        config,
        variants,
        tokenizer,
        dtype=dtype,
        wording=wording,
        sampling=sampling or Sampling(),
        max_batch=max_batch,
        variant=variant,
        devices=devices,
    )


__all__ = ["Assistant", "Box", "Failure", "Prepared", "Result", "SampleError", "WeightsError", "load"]
