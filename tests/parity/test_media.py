"""The front ends against the reference's numbers on real files: fbank, sound, images and masks, video."""

from __future__ import annotations

import hashlib
import pathlib
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from data_pipelines import decode, fbank, windows


class Media:
    """The files of a case, if this machine has them and they are the ones the case was recorded from."""

    def __init__(self, folder: pathlib.Path | None):
        self._folder = folder

    def find(self, case, recorded: str) -> pathlib.Path | None:
        """The file that the manifest calls `assets/example/X` or `assets/X`; None if it is absent or another one."""
        if self._folder is None:
            return None
        path = self._folder / recorded.removeprefix("assets/").removeprefix("example/")
        if not path.is_file():
            return None
        known = {**case.manifest.get("media", {}), **case.manifest.get("waveforms", {})}.get(recorded, {})
        want = known.get("sha256_16")
        return path if want in (None, hashlib.sha256(path.read_bytes()).hexdigest()[:16]) else None


@pytest.fixture
def media(request):
    try:
        return Media(request.getfixturevalue("examples"))
    except pytest.skip.Exception:  # a case may still hold what it takes to check a part of it
        return Media(None)


class Ledger:
    """What was compared, so that nothing recorded stays unchecked without a reason."""

    def __init__(self, case):
        self._case, self._done, self._skipped = case, set(), {}

    def check(self, name, value, **options):
        self._case.check(name, value, **options)
        self._done.add(name)

    def skip(self, name, reason):
        self._skipped[name] = reason

    def close(self):
        results = {n for role in ("output", "intermediate", "gradient") for n in self._case.names(role)}
        forgotten = results - self._done - set(self._skipped)
        assert not forgotten, f"never compared: {sorted(forgotten)}"
        if not self._done:
            pytest.skip("; ".join(sorted(set(self._skipped.values()))))
        for reason in sorted(set(self._skipped.values())):
            left_out = [n for n, r in self._skipped.items() if r == reason]
            warnings.warn(f"{self._case.name}: {len(left_out)} tensors not compared: {reason}", stacklevel=2)


@pytest.mark.case("c01a")
def test_fbank(case):
    ledger, config = Ledger(case), case.config
    width, shift = (config[f"frame_{what}_ms"] * config["sample_rate"] // 1000 for what in ("length", "shift"))
    ours = (fbank.MEAN, fbank.STD, fbank.BINS, fbank.WINDOW, fbank.SHIFT)
    assert ours == (config["fbank_mean"], config["fbank_std"], config["num_mel_bins"], width, shift)
    for name in case.names("output") + case.names("intermediate"):
        signal, _, kind = name.rpartition("/")
        wave = case[f"{signal}/waveform"]
        if kind != "fbank_raw":
            # The path that was fed doubles too: ours is float64 inside for both, so it takes the float32 wave.
            ledger.check(name, fbank.normalised_fbank(wave))
            continue
        # These are the values of `fbank` before normalisation, whose tolerance allows for the noise that float32
        # leaves in near-silent bins; the tolerance recorded here does not (no second float32 implementation meets it).
        # So: everything under the tolerance of `fbank`, and under this one whatever lies within e^-15 of the loudest
        # bin of its frame.
        raw, recorded = fbank.fbank(wave), case[name]
        mean, scale = config["fbank_mean"], 2 * config["fbank_std"]
        case.check(f"{signal}/fbank", (raw - mean) / scale, expected=(recorded - mean) / scale)
        ledger.check(name, raw, where=recorded > recorded.max(axis=1, keepdims=True) - 15)
    for signal in {n.split("/")[0] for n in case.names("input")}:
        with pytest.raises(ValueError, match="at least 400 samples"):
            fbank.fbank(case[f"{signal}/waveform"][: width - 1])
    ledger.close()


def _rule(case, loader: str, task: str, windows_recorded: int, second: int | None) -> dict:
    """How the reference cut the sound of this task, from the rules of the manifest."""
    for rule in (r for key, r in case.config.items() if key.startswith("rule_")):
        if task in rule["tasks"]:
            if "centres" in rule:
                assert windows_recorded == len(rule["centres"]), f"{loader}/{task}"
                return {"rule": "six_second_grid", "seconds": rule["tot"]}
            if windows_recorded == 1:
                return {"rule": "one_second_of_image", "seconds": rule["tot"], "second": second}
            assert windows_recorded == rule["tot"], f"{loader}/{task}"
            return {"rule": "each_second", "seconds": rule["tot"]}
    raise AssertionError(f"no rule for task {task}")


@pytest.mark.case("c01b")
def test_audio(case, media):
    ledger, waves = Ledger(case), {}
    assert case.config["sample_rate"] == decode.RATE
    whole = re.compile(r"the whole of (\S+) as loaded")
    stored = {
        m[1]: case[n] for n in case.names("input") if (m := whole.search(case.tensors[n].get("about", ""))) is not None
    }

    def load(recorded):
        if recorded not in waves:
            path = media.find(case, recorded)
            waves[recorded] = stored.get(recorded) if path is None else decode.read_audio(path)
            if path is not None and recorded in stored:
                np.testing.assert_allclose(waves[recorded], stored[recorded], atol=1e-6)
        return waves[recorded]

    for name in case.names("intermediate", "waveform/"):
        recorded = name.removeprefix("waveform/").split("[")[0]
        first, stop = map(int, re.search(r"samples (\d+)\.\.(\d+)", case.tensors[name]["about"]).groups())
        if (wave := load(recorded)) is None:
            ledger.skip(name, "media not here")
        else:
            ledger.check(name, wave[first:stop])
    for recorded, facts in case.manifest["waveforms"].items():
        if (wave := load(recorded)) is not None:
            assert len(wave) == facts["samples_16k"], recorded
            np.testing.assert_allclose(
                [wave.mean(), np.sqrt((wave**2).mean())], [facts["mean"], facts["rms"]], atol=1e-5
            )

    about = re.compile(r"task (\S+) idx=(\S+) file ([^,;]+)")
    for group in sorted({tuple(n.split("/")[:2]) for n in case.names("output")}):
        names = case.names("output", "/".join(group) + "/")
        task, second, recorded = next(
            m for n in names if (m := about.search(case.tensors[n].get("about", "")))
        ).groups()
        if (wave := load(recorded)) is None:
            for name in names:
                ledger.skip(name, "media not here")
            continue
        count = len(case["/".join([*group, "mel_mean"])])
        rule = _rule(case, group[0], task, count, None if second == "None" else int(second))
        ours = windows.log_mel_windows(wave, **rule)
        for name in names:
            what = name.split("/")[2]
            if what == "mel_mean":
                value = ours.mean(axis=1)
            elif what == "frame_mean":
                value = ours.mean(axis=2)
            elif "[" in what:
                value = ours[int(what.split("[")[1][:-1])]
            else:  # the quick-start drops the axis of a single window
                value = ours.reshape(case[name].shape)
            ledger.check(name, value)
    ledger.close()


def _pixel_values(images: np.ndarray, config: dict) -> np.ndarray:
    """uint8 [… H W 3] → CLIP's input float32 [… 3 H W]"""
    scaled = images.astype(np.float32) / 255
    normal = (scaled - np.float32(config["image_mean"])) / np.float32(config["image_std"])
    return np.moveaxis(normal, -1, -3)


def _direct(path: pathlib.Path, config: dict) -> np.ndarray:
    """CLIP's own preprocessing, which keeps the aspect ratio. No loader of Crab uses it, so it has no code but this."""
    image = Image.open(path).convert("RGB")
    short, crop = config["size"]["shortest_edge"], config["crop_size"]
    scale = short / min(image.size)
    width, height = (max(short, int(side * scale)) for side in image.size)
    left, top = (width - crop) // 2, (height - crop) // 2
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return resized[top : top + crop, left : left + crop]


@pytest.mark.case("c01c")
def test_images(case, media):
    ledger, size = Ledger(case), case.config["crop_size"]
    window = re.compile(r"pixel_values\[:, (\d+):(\d+), (\d+):(\d+)\]")
    for name in case.names("output") + case.names("intermediate"):
        parts = name.split("/")
        if name == "v2_palette":
            ledger.check(name, decode.PALETTE)
            np.testing.assert_array_equal(decode.labels_from_colors(case[name]), np.arange(len(case[name])))
        elif parts[0] == "color_mask_to_label":
            ledger.check(name, decode.labels_from_colors(case["/".join([parts[0], "rgb"])]))
        elif parts[0] == "mask":
            about = case.tensors[name]["about"]
            path = media.find(case, about.split(";")[0])
            read = decode.read_semantic_mask if "palette" in about else decode.read_mask
            if path is None:
                ledger.skip(name, "media not here")
            else:
                ledger.check(name, read(path, size=case[name].shape[-1])[None])
        else:
            image = "/".join(parts[:2])
            path = media.find(case, f"assets/example/{image}")
            if path is None:
                ledger.skip(name, "media not here")
                continue
            pixels = _direct(path, case.config) if parts[2] == "direct" else decode.read_image(path, size=size)
            if parts[2] == "resized_u8":
                ledger.check(name, pixels)
                continue
            values = _pixel_values(pixels, case.config)
            if parts[3] == "crop":
                top, bottom, left, right = map(int, window.search(case.tensors[name]["about"]).groups())
                ledger.check(name, values[:, top:bottom, left:right])
            elif parts[3] == "row_mean":
                ledger.check(name, values.mean(axis=2))
            else:
                assert parts[3] == "chan_stats", name
                flat = values.reshape(3, -1).astype(np.float64)
                ledger.check(name, np.stack([flat.mean(1), flat.std(1, ddof=1), flat.min(1), flat.max(1)]))
    ledger.close()


@pytest.mark.case("c01d")
def test_video(case, media):
    ledger, config, read = Ledger(case), case.config, {}
    size = config["crop_size"]
    for recorded, facts in case.manifest["media"].items():
        n = min(config["n_frames"], facts["vlen"])
        assert decode.frame_indices(facts["vlen"], frames=config["n_frames"]) == facts["indices"]
        names = [x for x in case.tensors if x.startswith(recorded + "/")]
        path = media.find(case, recorded)
        if path is not None:
            info = decode.probe(path)
            assert (info.frame_count, [info.width, info.height]) == (facts["vlen"], facts["source_size"])
            assert info.fps == pytest.approx(facts["fps"], abs=0.01)
            read[recorded] = decode.read_video(path, frames=config["n_frames"], size=size)
            assert read[recorded].shape == (n, size, size, 3)
        for name in names:
            what = name.removeprefix(recorded + "/")
            if what.endswith("/crop"):
                # "Given exactly these uint8 frames", says the manifest: another FFmpeg may round a pixel otherwise.
                frame = case[f"{recorded}/frame_u8{what.removeprefix('pixel_values').removesuffix('/crop')}"]
                ledger.check(name, _crop_like(_pixel_values(frame, config), case[name]))
            elif path is None:
                ledger.skip(name, "media not here")
            elif what.startswith("frame_u8"):
                ledger.check(name, read[recorded][int(what[9:-1])])
            else:
                values = _pixel_values(read[recorded], config).reshape(n, 3, -1).astype(np.float64)
                statistic = {"pixel_values/chan_mean": values.mean(2), "pixel_values/chan_std": values.std(2, ddof=1)}
                ledger.check(name, statistic[what])
    ledger.close()


def _crop_like(values: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """The square of `values` that the recorded crop is: the manifest does not say where it lies."""
    views = np.lib.stride_tricks.sliding_window_view(values, crop.shape[1:], axis=(1, 2))  # [3 y x h w]
    corner = np.abs(views[..., 0, 0] - crop[:, None, None, 0, 0]).sum(axis=0)
    for y, x in np.argwhere(corner < 1e-2):
        if np.abs(views[:, y, x] - crop).max() < 1e-2:
            return views[:, y, x]
    raise AssertionError("the recorded crop is nowhere in the recorded frame")
