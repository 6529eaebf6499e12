"""How the files together become one model: everything is checked before anything is read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from crab_jax.backbones.mask_decoder import PE_TENSORS, MaskDecoderConfig
from crab_jax.config import ConfigError
from crab_jax.convert import infer, unsaved
from crab_jax.convert.configs import Configs, find_configs
from crab_jax.convert.crab import CRAB_FILES, PUBLIC, Files, Found, Inputs, sort_files, table, vocabulary_table
from crab_jax.convert.engine import Parameter, import_part
from crab_jax.convert.model_config import ModelNumbers
from crab_jax.convert.report import Report, fold
from crab_jax.convert.sources import SourceError, Tensor
from crab_jax.model import ADDED_TOKENS, CrabConfig
from crab_jax.weights import KEEP, WeightTable

Keep = Literal["none", "crab", "all"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversion that can only fail for lack of disk.

    Attributes:
        config: of the model without overlays.
        params: path → parameter, still in the files.
        overlays: "avs", "avss" → path → parameter.
        overlay_configs: overlay → its own mask decoder.
        kept: role → name in the file → tensor that is no parameter and is kept for export.
        files: provenance of every tensor of every file, as JSON types; see docs/conversion.md.
        originals: relative path → small files that belong to an export (config.json and the like).
        tokenizer: `tokenizer.model`.
        report: what was found and decided.
    """

    config: CrabConfig
    params: dict[str, Parameter]
    overlays: dict[str, dict[str, Parameter]]
    overlay_configs: dict[str, MaskDecoderConfig]
    kept: dict[str, dict[str, Tensor]]
    files: list[dict[str, Any]]
    originals: dict[str, bytes]
    tokenizer: pathlib.Path | None
    report: Report

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        sections = (self.params, *self.overlays.values(), *self.kept.values())
        return sum(x.nbytes for section in sections for x in section.values())


def make_plan(
    inputs: Inputs,
    numbers: ModelNumbers,
    *,
    new_rows: unsaved.Rows | None = None,
    pe: str | None = None,
    dtype: Any = None,
    keep: Keep = "all",
) -> Plan:
    """Checks everything that can be checked without reading the weights.

    Args:
        inputs: the files.
        numbers: what no file carries.
        new_rows: source of the rows of the added tokens; None: the default of `unsaved.default_rows`.
        pe: source of the frequencies of the mask decoder; None: those of the file if it has them, else the default of
            `unsaved.frequencies`.
        dtype: of all parameters; None: as in the files.
        keep: which tensors that are no parameters are kept, so that an export is complete: those of no file, of
            Crab's own files, or also the other towers and buffers of the public releases (0.5 GB, mostly CLIP's text
            tower).

    Raises:
        ConversionError: with everything that is wrong, not only the first.
    """
    report = Report()
    files = sort_files(inputs, report)
    configs = find_configs(files, numbers, report, new_rows=new_rows)
    importer = _Importer(files, configs, report, pe, None if dtype is None else np.dtype(dtype))
    params = importer.base()
    rows = numbers.base_vocabulary + ADDED_TOKENS
    overlays = {role: importer.overlay(role, rows) for role in files.overlays}
    report.notes += [f"{path}: not one of the published names, left alone" for path in inputs.strays]
    report.raise_if_fatal()
    kept, provenance = _provenance(files, importer.places, keep)
    report.kept = {role: len(tensors) for role, tensors in kept.items()}
    return Plan(
        config=configs.crab(),
        params=params,
        overlays=overlays,
        overlay_configs=configs.overlays,
        kept=kept,
        files=provenance,
        originals=configs.originals,
        tokenizer=configs.tokenizer,
        report=report,
    )


class _Importer:
    """Matches tensors with rules, part by part.

    Attributes:
        places: role and name → the section of the weights folder that holds the tensor.
    """

    def __init__(self, files: Files, configs: Configs, report: Report, pe: str | None, dtype: np.dtype | None):
        self.files, self.configs, self.report, self.pe, self.dtype = files, configs, report, pe, dtype
        self.places: dict[tuple[str, str], str] = {}

    def base(self) -> dict[str, Parameter]:
        params: dict[str, Parameter] = {}
        for part, founds in self.files.base.items():
            if part in self.configs.parts:
                here = self.part(part, part, self.configs.parts[part], founds, "base")
                params |= {f"{part}/{path}": value for path, value in here.items()}
        return params

    def overlay(self, role: str, rows: int) -> dict[str, Parameter]:
        """A mask decoder and the two matrices, all of them complete in one file.

        Args:
            role: "avs" or "avss".
            rows: that the matrices must have.
        """
        founds = self.files.overlays[role]
        params: dict[str, Parameter] = {}
        widths = [c.hidden_size for c in (self.configs.parts.get("llama"),) if c is not None]
        if role in self.configs.overlays:
            config = self.configs.overlays[role]
            widths.append(config.in_features)
            here = self.part(f"{role}/mask_decoder", "mask_decoder", config, founds["mask_decoder"], role)
            params |= {f"mask_decoder/{path}": value for path, value in here.items()}
        matrices = founds.get("llama", {})
        tall = [found for found in matrices.values() if found.tensor.shape[:1] != (rows,)]
        for found in tall:
            self.report.problems.append(
                f"{role}: {found.name} has the shape {found.tensor.shape}, expected {rows} rows: {rows - ADDED_TOKENS} "
                f"of the tokenizer and {ADDED_TOKENS} of the added tokens. With another number it was trained with "
                "another tokenizer, and its ids mean something else"
            )
        if tall or not widths:
            return params
        rules, width = vocabulary_table(rows, widths[0]), widths[0]
        shapes = {"embed/embedding": (rows, width), "head/kernel": (width, rows)}
        tensors = {key: found.tensor for key, found in matrices.items()}
        here = import_part(rules, tensors, shapes, part=f"{role}/llama", report=self.report, dtype=self.dtype)
        self.places |= {(found.role, found.name): role for found in matrices.values()}
        return params | {f"llama/{path}": value for path, value in here.items()}

    def part(
        self, label: str, part: str, config: Any, founds: Mapping[str, Found], section: str
    ) -> dict[str, Parameter]:
        """The parameters of one part; everything that does not fit goes into the report."""
        try:
            rules, shapes = table(part, config), infer.shapes(part, config)
        except ConfigError as error:
            self.report.problems.append(str(error))
            return {}
        frequencies: dict[str, Parameter] = {}
        if part == "mask_decoder":
            founds, frequencies = self.frequencies(label, config, founds, section)
        tensors = {key: found.tensor for key, found in founds.items()}
        params = import_part(rules, tensors, shapes, part=label, report=self.report, dtype=self.dtype)
        self.leftovers(rules, founds, section)
        return params | frequencies

    def frequencies(
        self, label: str, config: MaskDecoderConfig, founds: Mapping[str, Found], section: str
    ) -> tuple[dict[str, Found], dict[str, Parameter]]:
        """The matrices of the positional encoding: from `--pe`, the file (a whole state dict has them), or a default.

        Returns:
            What is left for the rules, and path → matrix.
        """
        own = {path: founds[name] for path, name in PE_TENSORS.items() if name in founds}
        rest = {key: found for key, found in founds.items() if key not in PE_TENSORS.values()}
        shape = (2, config.prompt_dim // 2)
        if self.pe is None and len(own) == len(PE_TENSORS) and all(f.tensor.shape == shape for f in own.values()):
            tensors, about = {path: found.tensor for path, found in own.items()}, "the file itself"
            self.places |= {(found.role, found.name): section for found in own.values()}
        else:
            for found in own.values():
                self.report.ignore("frequencies that are replaced by --pe", f"{found.role}: {found.name}")
            try:
                tensors, about = unsaved.frequencies(self.pe, config.prompt_dim)
            except SourceError as error:
                if str(error) not in self.report.problems:
                    self.report.problems.append(str(error))
                return rest, {}
        for path, name in PE_TENSORS.items():
            self.report.sources[f"{label}/{path} ({name})"] = about
        dtype = self.dtype
        params = {p: Parameter(t.shape, t.dtype if dtype is None else dtype, {(): t}, KEEP) for p, t in tensors.items()}
        return rest, params

    def leftovers(self, rules: WeightTable, founds: Mapping[str, Found], section: str) -> None:
        """Notes where the tensors of a part go, and which of them nothing knows."""
        used = {key for rule in rules.rules for _, key in rule.keys()}
        strange: dict[str, list[str]] = {}
        for key, found in founds.items():
            if key in used:
                self.places[found.role, found.name] = section
            elif key not in rules.unused:
                reason = rules.why_ignored(key)
                if key in rules.copies and not self.equal(found, founds.get(rules.copies[key])):
                    continue
                if reason is not None:
                    self.report.ignore(reason, f"{found.role}: {found.name}")
                else:
                    strange.setdefault(found.role, []).append(found.name)
        for role, names in strange.items():
            self.report.unexpected.setdefault(role, []).extend(names)
            if role in PUBLIC:
                self.report.problems.append(
                    f"{role}: {len(names)} tensors that this network does not have, it may be another model: "
                    + ", ".join(fold(names))
                )

    def equal(self, copy: Found, original: Found | None) -> bool:
        """Whether a second name holds the numbers of the first. Reads both, unless they are one tensor of the file."""
        if original is None:
            return True  # missing, which is in the report already
        x, y = copy.tensor, original.tensor
        if x.place is not None and (x.file, x.place) == (y.file, y.place):
            return True
        try:
            if x.shape == y.shape and x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes():
                return True
            wrong = f"{copy.role}: {copy.name} differs from {original.name}, which this network shares between them"
        except SourceError as error:
            wrong = f"{copy.role}: {error}"
        self.report.problems.append(wrong)
        return False


def _provenance(
    files: Files, places: Mapping[tuple[str, str], str], keep: Keep
) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Any]]]:
    """What is kept beside the parameters, and for every tensor of every file where it went.

    `in` of a tensor is "base" or an overlay (a parameter), "kept", "twin" (another name of the shared tensor `same_as`)
    or "dropped".
    """
    kept: dict[str, dict[str, Tensor]] = {}
    records = []
    for role, source in files.sources.items():
        keeps = keep == "all" or (keep == "crab" and role in CRAB_FILES)
        shared = {t.place: name for name, t in source.tensors.items() if t.place and (role, name) in places}
        names = [path.name for path in source.files]
        tensors = []
        for name, tensor in source.tensors.items():
            entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}
            if len(names) > 1:
                entry["file"] = names.index(tensor.file.name)
            if (role, name) in places:
                entry["in"] = places[role, name]
            elif tensor.place in shared:
                entry |= {"in": "twin", "same_as": shared[tensor.place]}
            elif keeps:
                entry["in"] = "kept"
                kept.setdefault(role, {})[name] = tensor
            else:
                entry["in"] = "dropped"
            tensors.append(entry)
        records.append(
            {
                "role": role,
                "path": CRAB_FILES.get(role, role),  # a file, or a folder for the public releases
                "format": source.format,
                "weights": [{"name": path.name, "size": path.stat().st_size} for path in source.files],
                "extra": {k: v for k, v in source.extra.items() if k not in ("not_tensors", "metadata")},
                "tensors": tensors,
            }
        )
    return kept, records
