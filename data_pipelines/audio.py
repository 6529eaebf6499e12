"""Sound as `librosa.load(path, sr=16000, mono=True)` gives it, from sound files and from the sound tracks of videos."""

from __future__ import annotations

import os
import pathlib

import av
import numpy as np
import soundfile

from data_pipelines.container import Walk, decode, found_instead, open_container, pick_stream, prepare
from data_pipelines.media import MIN_WHOLE, MediaError, bad, check_file, sniff

RATE = 16_000  # samples per second of everything behind this module
MAX_AUDIO_S = 3600  # longer sound is refused before it fills the memory; no task listens for more than a few minutes

_EXPECTED = "sound"
_AGAIN = "record, download or convert it again"
_SLACK_S = 0.1  # a few packets, beside the share of `MIN_WHOLE`
_MP3_PADDING_S = 0.5  # encoders add a few packets at both ends, which are not part of the sound
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)  # written by programs that stream a WAV and cannot know its length


def read_audio(path: str | os.PathLike[str], *, rate: int = RATE) -> np.ndarray:
    """The sound of a file: mean over the channels, then resampled with soxr HQ, every bit as `librosa.load` gives it.

    WAV, FLAC, Ogg, MP3, AIFF and what else libsndfile knows is read by it, as librosa does; everything else (MP4, M4A,
    WebM, AAC, the sound track of any video) is decoded by PyAV, without resampling there, and then treated the same
    way. Integer samples are scaled to [-1, 1), float samples are taken as they are. A sound track starts with its first
    sample, even where the container would let it start a little after the picture.

    A file may lack one percent of what it announces. An Ogg file that is cut between two pages, and an MP3 without a
    length header, announce nothing and are read as far as they go.

    Args:
        path: a sound file, or a video that has sound.
        rate: samples per second of the result.

    Returns:
        float32 `[n]`, n = ceil(samples · rate / rate of the file).

    Raises:
        MediaError: missing, mislabelled, damaged or cut short file, no sound track, no samples, samples that are not
            finite, more than an hour.

    Source: specification 4.1.
    """
    path = check_file(path, expected=_EXPECTED)
    family, description = sniff(path)
    if family in ("image", "animation", "text", "zeros", "other"):
        raise bad(path, expected=_EXPECTED, found=description)
    loaded = None if family == "video" else _read_soundfile(path, description)
    wave, native = _read_container(path) if loaded is None else loaded
    if wave.size == 0:
        raise bad(path, expected=_EXPECTED, found=f"{description} with 0 samples")
    if not np.isfinite(wave).all():
        raise bad(path, expected=_EXPECTED, found=f"{description} with samples that are not finite (NaN or infinity)")
    return _resample(wave, native, rate)


def _resample(wave: np.ndarray, native: int, rate: int) -> np.ndarray:
    """SoX resampler, high quality: what `librosa.load` does by default."""
    if native == rate:
        return wave
    import librosa  # takes seconds, and sound at 16 kHz does not need it

    return librosa.resample(wave, orig_sr=native, target_sr=rate, res_type="soxr_hq")


def _read_soundfile(path: pathlib.Path, description: str) -> tuple[np.ndarray, int] | None:
    """Mono samples and their rate; None if libsndfile does not know the format or does not see all of it."""
    _check_chunks(path)
    _check_last_page(path)
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    with file:
        _check_length(path, file.frames / file.samplerate)
        if file.format == "MP3" and MIN_WHOLE * _packet_seconds(path) > file.frames / file.samplerate + _MP3_PADDING_S:
            # Without a length header libsndfile guesses one from the first bit rate, and stops there in mid-sound.
            return None
        parts, got = [], 0
        try:
            # Block by block, so that only one channel of a long file is in memory at a time.
            while len(block := file.read(1 << 20, dtype="float32", always_2d=True)):
                parts.append(block.mean(axis=1))
                got += len(block)
        except soundfile.LibsndfileError as error:
            raise bad(
                path, expected=_EXPECTED, found=f"{description} that is damaged ({error.error_string})", advice=_AGAIN
            ) from error
        if got < MIN_WHOLE * file.frames:
            raise _cut_short(path, file.frames / file.samplerate, got / file.samplerate)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32), file.samplerate


def _check_chunks(path: pathlib.Path) -> None:
    """WAV and AIFF: compares the announced size of the samples with the file, which libsndfile does in silence."""
    with path.open("rb") as file:
        head = file.read(12)
        order = {b"RIFF": "little", b"FORM": "big"}.get(head[:4])
        if order is None:
            return
        total = path.stat().st_size
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], order)
            if header[:4] in (b"data", b"SSND"):
                there = total - file.tell()
                if size not in _UNKNOWN_SIZES and there < MIN_WHOLE * size:
                    found = f"a file cut short: it announces {size} bytes of samples and holds {there}"
                    raise bad(path, expected=_EXPECTED, found=found, advice=_AGAIN)
                return
            file.seek(size + size % 2, os.SEEK_CUR)


def _check_last_page(path: pathlib.Path) -> None:
    """Ogg: the last page must be whole; its lengths are in its header (27 bytes, then one length per segment)."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return
        total = path.stat().st_size
        file.seek(max(0, total - (1 << 17)))  # a page has at most 65 307 bytes
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    if len(page) < 27 + segments or len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        raise bad(path, expected=_EXPECTED, found="an Ogg file cut short in the middle of a page", advice=_AGAIN)


def _packet_seconds(path: pathlib.Path) -> float:
    """Length of an MP3 by counting its frames."""
    try:
        with open_container(path, expected=_EXPECTED) as container:
            stream = pick_stream(container, "audio")
            packets = Walk(container).packets(stream) if stream is not None else iter(())
            return float(sum((p.duration or 0) * p.time_base for p in packets))
    except MediaError:
        return 0.0  # libav cannot open what libsndfile could: there is nothing to compare with


def _read_container(path: pathlib.Path) -> tuple[np.ndarray, int]:
    """Mono samples and their rate, through PyAV."""
    with open_container(path, expected=_EXPECTED) as container:
        stream = pick_stream(container, "audio")
        if stream is None:
            advice = "give the sound as a file of its own (audio_path)"
            raise bad(path, expected=_EXPECTED, found=found_instead(container, "audio"), advice=advice)
        prepare(stream, path, expected=_EXPECTED)
        walk = Walk(container)
        parts, native, samples, lost, first_s, last_s = [], 0, 0, 0, None, 0.0
        for frame in decode(walk.packets(stream), stream):
            if not isinstance(frame, av.AudioFrame):
                lost += 1
                continue
            native = native or frame.sample_rate
            if frame.sample_rate != native:
                found = f"{native} Hz that become {frame.sample_rate} Hz"
                raise bad(path, expected="sound with one sample rate throughout", found=found, advice="convert it")
            parts.append(_mono(frame))
            samples += frame.samples
            _check_length(path, samples / native)
            if frame.time is not None:
                first_s = frame.time if first_s is None else first_s
                last_s = frame.time + frame.samples / native
        walk.check_whole(path, expected=_EXPECTED, slack_s=_SLACK_S)
        if not parts:
            raise bad(path, expected=_EXPECTED, found="an audio stream of which no sample can be decoded")
        if lost > max(1, (1 - MIN_WHOLE) * (len(parts) + lost)):
            found = f"a damaged sound track: {lost} of {len(parts) + lost} packets cannot be decoded"
            raise bad(path, expected=_EXPECTED, found=found, advice=_AGAIN)
        if first_s is not None and samples / native + _SLACK_S < MIN_WHOLE * (last_s - first_s):
            found = f"a sound track with gaps: {samples / native:.2f} s of sound in {last_s - first_s:.2f} s of time"
            raise bad(path, expected=_EXPECTED, found=found, advice=_AGAIN)
        return np.concatenate(parts), native


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Mean over the channels, float32 `[n]`; integers are scaled to [-1, 1)."""
    array = frame.to_ndarray()  # planar [channels n], packed [1 n · channels]
    if frame.format.is_packed:
        array = array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    return array.astype(np.float32).mean(axis=0)


def _check_length(path: pathlib.Path, seconds: float) -> None:
    if seconds > MAX_AUDIO_S:
        raise bad(
            path, expected=f"at most {MAX_AUDIO_S} s of sound", found=f"{seconds:.0f} s or more", advice="cut the clip"
        )


def _cut_short(path: pathlib.Path, announced_s: float, there_s: float) -> MediaError:
    found = f"a file cut short: it announces {announced_s:.2f} s and ends after {there_s:.2f} s"
    return bad(path, expected=_EXPECTED, found=found, advice=_AGAIN)
