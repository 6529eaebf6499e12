"""The config of every part: from the original configs, from shapes, and from the numbers that no file carries."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from crab_jax.backbones import beats, clip, llama
from crab_jax.backbones.mask_decoder import MaskDecoderConfig
from crab_jax.config import ConfigError, build, to_dict
from crab_jax.convert import infer, unsaved
from crab_jax.convert.crab import KINDS, OVERLAYS, VOCABULARY, Files
from crab_jax.convert.engine import common_dtype
from crab_jax.convert.model_config import ModelNumbers, read_json
from crab_jax.convert.report import Report
from crab_jax.convert.sources import SourceError, Tensor
from crab_jax.model import ADDED_TOKENS, CrabConfig

_PADDED = (
    "mirrors of LLaMA-2 that ship an extra <pad> token shift the id of every added token by one, so that the trained "
    "rows no longer fit"
)


@dataclasses.dataclass
class Configs:
    """What `find_configs` found.

    Attributes:
        parts: field of `CrabConfig` → config; parts that are absent or contradictory are not in it.
        overlays: overlay → its own mask decoder, which may differ in the number of queries.
        originals: relative path → small files that belong to an export.
        tokenizer: `tokenizer.model`.
    """

    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    overlays: dict[str, MaskDecoderConfig] = dataclasses.field(default_factory=dict)
    originals: dict[str, bytes] = dataclasses.field(default_factory=dict)
    tokenizer: pathlib.Path | None = None

    def crab(self) -> CrabConfig:
        """All parts together, as a weights folder describes them."""
        return CrabConfig(**self.parts)


def find_configs(files: Files, numbers: ModelNumbers, report: Report, *, new_rows: unsaved.Rows | None) -> Configs:
    """Finds the config of every part that the files hold.

    Args:
        files: all tensors; LLaMA's two matrices in it are replaced by matrices with the added rows.
        numbers: what no file carries.
        report: receives everything that is wrong, and the sizes.
        new_rows: source of the added rows.
    """
    finder = _Finder(files, numbers, report, new_rows)
    finder.llama()
    finder.clip()
    finder.beats()
    finder.projectors()
    finder.mask_decoders()
    finder.widths()
    return finder.found


class _Finder:
    def __init__(self, files: Files, numbers: ModelNumbers, report: Report, new_rows: unsaved.Rows | None):
        self.files, self.numbers, self.report, self.new_rows = files, numbers, report, new_rows
        self.found = Configs()

    def attempt(self, label: str, make: Callable[[], Any]) -> Any:
        """A config, or None and a problem in the report."""
        try:
            config = make()
            return build(type(config), to_dict(config))  # also checks the types of what came from a file
        except (ConfigError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            told = str(error).startswith(f"{label}: ")
            self.report.problems.append(f"{'' if told else f'{label}: '}{kind}{error}")
            return None

    def original(self, role: str) -> dict[str, Any]:
        """The config.json of a folder; every small JSON file beside it is kept for export."""
        folder = self.files.sources[role].path
        folder = folder if folder.is_dir() else folder.parent
        for path in sorted(folder.glob("*.json")):
            if path.stat().st_size < 1 << 20:
                self.found.originals[f"{role}/{path.name}"] = path.read_bytes()
        return read_json(folder / "config.json")

    def check_depth(self, part: str, claimed: Any) -> None:
        """A config that claims millions of layers must not become millions of rules."""
        tensors = len(self.files.base[part])
        if isinstance(claimed, int) and claimed > tensors:
            raise ConfigError(f"its config claims {claimed} layers, its files hold {tensors} tensors")

    # --- LLaMA ---

    def llama(self) -> None:
        if "llama" not in self.files.sources:
            if self.files.base.pop("llama", None):
                self.report.notes.append("no LLaMA folder: the LoRA tensors are kept for export only")
            return
        tensors, base = self.files.tensors("llama"), self.numbers.base_vocabulary
        lora = None
        if infer.count(tensors, r"layers\.(\d+)\..*lora_"):
            lora = self.attempt("finetune", lambda: infer.lora(tensors, self.numbers.lora))
            if lora is None:
                return
            self.report.sizes |= {"lora_heads": lora.heads, "lora_rank": lora.rank}
        elif "finetune" not in self.files.sources:
            self.report.notes.append("no joint file: the language model has no LoRA")

        def make():
            original = self.original("llama")
            self.check_depth("llama", original.get("num_hidden_layers"))
            if original.get("vocab_size") != base:
                rows = original.get("vocab_size")
                raise ConfigError(f"config.json says vocab_size {rows}, the weights expect {base}; {_PADDED}")
            return llama.config_from_original(original, vocab_size=base + ADDED_TOKENS, lora=lora)

        config = self.attempt("llama", make)
        if config is not None:
            self.found.parts["llama"] = config
            self.report.sizes["vocabulary"] = {"base": base, "added": ADDED_TOKENS, "rows": base + ADDED_TOKENS}
            self.grow(config.hidden_size)
        self.tokenizer()

    def tokenizer(self) -> None:
        import sentencepiece

        path = self.files.sources["llama"].path
        path = (path if path.is_dir() else path.parent) / "tokenizer.model"
        if not path.is_file():
            self.report.problems.append(f"llama: {path} is missing; it belongs to the same download as the weights")
            return
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
        except (RuntimeError, OSError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            self.report.problems.append(f"llama: {path} is no SentencePiece model ({why})")
            return
        expected = self.numbers.base_vocabulary
        if pieces != expected:
            self.report.problems.append(
                f"llama: {path} has {pieces} pieces, the weights expect exactly {expected}; {_PADDED}"
            )
        self.found.tokenizer = path

    def grow(self, width: int) -> None:
        """Appends the rows of the added tokens to the matrices of the LLaMA folder."""
        base = self.numbers.base_vocabulary
        held = self.files.base["llama"]
        avs = next((self.files.overlays[r].get("llama", {}) for r in OVERLAYS if r in self.files.overlays), {})
        choice = self.new_rows or unsaved.default_rows(width, base, has_avs=bool(avs))
        for key in VOCABULARY:
            found = held.get(key)
            if found is None or found.role != "llama":
                continue  # missing, or brought whole by Crab's joint file
            if found.tensor.shape != (base, width):
                self.report.problems.append(
                    f"llama: {found.name} has the shape {found.tensor.shape}, expected ({base}, {width}); {_PADDED}"
                )
                continue
            matrix = key.removesuffix(".weight")
            try:
                source = avs[key].tensor if key in avs else None
                rows, about = unsaved.new_rows(choice, matrix, width, avs=source)
            except SourceError as error:
                self.report.problems.append(str(error))
                continue
            # Zeros and noise fit any type; rows that mean something are kept exactly.
            exact = choice not in ("zeros", "random")
            dtype = common_dtype(found.tensor.dtype, rows.dtype) if exact else found.tensor.dtype
            held[key] = dataclasses.replace(found, tensor=_under(found.tensor, rows, dtype))
            self.report.sources[f"{matrix} rows {base} to {base + ADDED_TOKENS - 1}"] = about

    # --- encoders ---

    def clip(self) -> None:
        if "clip" not in self.files.sources:
            return

        def make():
            original = self.original("clip")
            for table in (original, *(original.get(n) for n in ("vision_config", "vision_config_dict"))):
                if isinstance(table, Mapping):
                    self.check_depth("clip", table.get("num_hidden_layers"))
            return clip.config_from_original(original, taps=self.numbers.clip_taps)

        self.add("clip", self.attempt("clip", make))

    def beats(self) -> None:
        if "beats" not in self.files.sources:
            return
        source = self.files.sources["beats"]

        def make():
            cfg = source.extra.get("cfg")
            if not isinstance(cfg, dict):
                raise ConfigError(f"{source.path}: no 'cfg' beside 'model', so its sizes are unknown")
            self.check_depth("beats", cfg.get("encoder_layers"))
            return beats.config_from_original(cfg)

        self.add("beats", self.attempt("beats", make))

    def add(self, part: str, config: Any) -> None:
        if config is not None:
            self.found.parts[part] = config

    # --- Crab's own parts ---

    def projectors(self) -> None:
        for part, kind in KINDS.items():
            if tensors := self.files.tensors(part):
                numbers = getattr(self.numbers, part)
                config = self.attempt(part, lambda t=tensors, n=numbers, k=kind: infer.projector(t, n, kind=k))
                self.add(part, config)
                if config is not None:
                    self.report.sizes.setdefault("queries", {})[part] = config.num_queries

    def mask_decoders(self) -> None:
        n = self.numbers.mask_decoder
        if tensors := self.files.tensors("mask_decoder"):
            # A joint file may bring a mask decoder of its own; then it was finetuned.
            finetuned = any(found.role == "finetune" for found in self.files.base["mask_decoder"].values())
            low_res = n.low_res if finetuned or n.pretrain_low_res is None else n.pretrain_low_res
            self.add("mask_decoder", self.mask_decoder("mask_decoder", tensors, low_res))
        for role, parts in self.files.overlays.items():
            tensors = {key: found.tensor for key, found in parts.get("mask_decoder", {}).items()}
            if tensors:
                config = self.mask_decoder(f"{role}/mask_decoder", tensors, n.low_res)
                if config is not None:
                    self.found.overlays[role] = config

    def mask_decoder(self, label: str, tensors: Mapping[str, Tensor], low_res: int) -> MaskDecoderConfig | None:
        def make():
            return infer.mask_decoder(
                tensors,
                self.numbers.mask_decoder,
                grid=self.from_clip("grid"),
                image_size=self.from_clip("image_size"),
                low_res=low_res,
            )

        config = self.attempt(label, make)
        if config is not None:
            self.report.sizes.setdefault("queries", {})[label] = config.num_queries
        return config

    def from_clip(self, name: Literal["grid", "image_size"]) -> int:
        given, tower = getattr(self.numbers.mask_decoder, name), self.found.parts.get("clip")
        if tower is None:
            if given is None and "clip" in self.files.sources:
                raise ConfigError(f"{name} is unknown, because the CLIP folder has no usable config")
            if given is None:
                raise ConfigError(
                    f"{name} is unknown: give the CLIP folder, or mask_decoder.{name} in the model config"
                )
            return given
        value = {"grid": tower.image_size // tower.patch_size, "image_size": tower.image_size}[name]
        if given not in (None, value):
            raise ConfigError(f"mask_decoder.{name} is {given} in the model config, but {value} in the CLIP folder")
        return value

    def widths(self) -> None:
        """Parts that feed each other must agree."""
        parts = self.found.parts
        decoders = {"mask_decoder": parts.get("mask_decoder")}
        decoders |= {f"{role}/mask_decoder": config for role, config in self.found.overlays.items()}
        pairs = [
            ("clip", "hidden_size", "vl_projector", "encoder_width", parts.get("vl_projector")),
            ("beats", "encoder_embed_dim", "al_projector", "encoder_width", parts.get("al_projector")),
            ("llama", "hidden_size", "vl_projector", "out_features", parts.get("vl_projector")),
            ("llama", "hidden_size", "al_projector", "out_features", parts.get("al_projector")),
        ]
        for label, decoder in decoders.items():
            pairs.append(("clip", "hidden_size", label, "image_features", decoder))
            pairs.append(("llama", "hidden_size", label, "in_features", decoder))
        for giver, given, taker, taken, reader in pairs:
            if giver not in parts or reader is None:
                continue
            gives, takes = getattr(parts[giver], given), getattr(reader, taken)
            if gives != takes:
                self.report.problems.append(
                    f"{giver} gives vectors of width {gives}, {taker} reads {takes}: these files do not belong together"
                )


def _under(matrix: Tensor, rows: Tensor, dtype: np.dtype) -> Tensor:
    """The matrix with more rows under it."""
    shape = (matrix.shape[0] + rows.shape[0], matrix.shape[1])

    def read() -> np.ndarray:
        out = np.empty(shape, dtype)
        out[: matrix.shape[0]] = np.asarray(matrix)
        out[matrix.shape[0] :] = np.asarray(rows)
        return out

    return Tensor(shape, dtype, read, matrix.file)
