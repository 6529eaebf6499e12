"""Frames of a video, as decord gave them to the reference: evenly spaced, squashed to a square, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib

import av
import numpy as np

from data_pipelines.container import Walk, decode, found_instead, open_container, pick_stream, prepare
from data_pipelines.media import MIN_WHOLE, bad, check_file

_EXPECTED = "a video"


@dataclasses.dataclass(frozen=True)
class MediaInfo:
    """What a container holds; sizes and counts are 0 without video."""

    has_video: bool
    has_audio: bool
    duration_s: float  # 0 when the file does not tell
    fps: float  # average
    width: int  # upright, in pixels
    height: int
    frame_count: int  # pictures that `read_video` samples from


def frame_indices(length: int, *, frames: int) -> list[int]:
    """floor(i · length / n) for i < n = min(frames, length).

    Source: specification 3.1 (the reference's float `arange` gives the same integers).
    """
    n = min(frames, length)
    return [i * length // n for i in range(n)]


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """What a video or sound file holds. Walks the packets and decodes a single picture.

    Raises:
        MediaError: no media, or a container that cannot be opened.
    """
    path = check_file(path, expected="a video or sound file")
    with open_container(path, expected="a video or sound file") as container:
        duration_s = (container.duration or 0) / av.time_base
        has_audio = pick_stream(container, "audio") is not None
        stream = pick_stream(container, "video")
        if stream is None:
            if not has_audio:
                raise bad(path, expected="a video or sound file", found=found_instead(container, "video or audio"))
            return MediaInfo(False, True, duration_s, 0.0, 0, 0, 0)
        fps = float(stream.average_rate or 0)
    count = _count(path)
    with open_container(path, expected=_EXPECTED) as container:
        stream = _video_stream(container, path)
        items = decode(Walk(container).packets(stream), stream)
        first = next((f for f in items if isinstance(f, av.VideoFrame)), None)
        if first is None:
            raise bad(path, expected=_EXPECTED, found="a video stream of which no frame can be decoded")
        width, height = first.width, first.height
        if _clockwise(first) in (90, 270):
            width, height = height, width
    return MediaInfo(True, has_audio, duration_s, fps, width, height, count)


def read_video(path: str | os.PathLike[str], *, frames: int, size: int) -> np.ndarray:
    """Evenly spaced frames of a video.

    The file is read twice, front to back: once for the number of its pictures, which containers do not tell reliably,
    without decoding; once decoding, where only the wanted pictures are converted and kept. The decoder runs on one
    thread, so damaged files also give the same pictures every time.

    Pictures are turned upright when the file says that the camera was held sideways, converted with the colour matrix
    and range the file names (BT.601 if none) and scaled bilinearly to a square without keeping the aspect ratio, all as
    decord does it. One percent of the pictures may be missing or damaged; then the indices are spread over those that
    are there. (Transport streams and raw streams do not announce their length: there, what is missing at the end goes
    unnoticed.)

    Args:
        path: a video in any container and codec that PyAV's FFmpeg knows.
        frames: how many to take; a shorter video gives all it has.
        size: height and width of the result, in pixels.

    Returns:
        uint8 `[n size size 3]`, RGB, n = min(frames, number of pictures).

    Raises:
        MediaError: missing, mislabelled, cut short or damaged file, no video stream, no picture.

    Source: specification 3.1.
    """
    if frames < 1 or size < 1:
        raise ValueError(f"expected at least one frame and pixel, got frames={frames}, size={size}")
    path = check_file(path, expected=_EXPECTED)
    count = _count(path)
    kept, decoded, damaged = _decode_at(path, frame_indices(count, frames=frames), size=size)
    # One lost picture is forgiven in any file: short AVIs end with an empty packet as a matter of course.
    if decoded == 0 or max(count - decoded, 0) + damaged > max(1, (1 - MIN_WHOLE) * count):
        found = f"a video stream of which {decoded} of {count} frames can be decoded, {damaged} of them with damage"
        raise bad(path, expected=_EXPECTED, found=found, advice="record, download or convert it again")
    if decoded != count:
        kept, _, _ = _decode_at(path, frame_indices(decoded, frames=frames), size=size)
    return np.stack(kept)


def _video_stream(container: av.container.InputContainer, path: pathlib.Path) -> av.video.stream.VideoStream:
    stream = pick_stream(container, "video")
    if stream is None:
        raise bad(path, expected="a video with a picture track", found=found_instead(container, "video"))
    prepare(stream, path, expected=_EXPECTED)
    return stream


def _count(path: pathlib.Path) -> int:
    """Pictures that should come out of the decoder, from the packets alone."""
    with open_container(path, expected=_EXPECTED) as container:
        stream = _video_stream(container, path)
        walk = Walk(container)
        count, seen_key, first_pts = 0, False, None
        for packet in walk.packets(stream):
            if packet.is_keyframe and not seen_key:
                # What lies before the first key frame, in file order or on the screen, refers to pictures that a cut
                # removed.
                count, seen_key, first_pts = 0, True, packet.pts
            leading = first_pts is not None and packet.pts is not None and packet.pts < first_pts
            count += not (packet.is_discard or leading)
        rate = float(stream.average_rate or 0)
        walk.check_whole(path, expected=_EXPECTED, slack_s=1.5 / rate if rate else 0.1)
        if count == 0:
            why = f" ({walk.failure})" if walk.failure else ""
            raise bad(path, expected=_EXPECTED, found=f"a video stream with no frames{why}")
    return count


def _decode_at(path: pathlib.Path, indices: list[int], *, size: int) -> tuple[list[np.ndarray], int, int]:
    """The pictures at `indices`; also how many the whole file gave, and how many of them are damaged."""
    kept, decoded, damaged = [], 0, 0
    wanted = set(indices)
    with open_container(path, expected=_EXPECTED) as container:
        stream = _video_stream(container, path)
        scale = _Scaler(size)
        for frame in decode(Walk(container).packets(stream), stream):
            if not isinstance(frame, av.VideoFrame):
                continue  # counted by its absence
            damaged += frame.is_corrupt
            if decoded in wanted:
                try:
                    kept.append(scale(frame))
                except (av.error.FFmpegError, ValueError) as error:
                    what = f"{frame.format.name}, {frame.width}x{frame.height}: {error}"
                    found = f"pixels that cannot become RGB ({what})"
                    raise bad(path, expected=_EXPECTED, found=found) from error
            decoded += 1
    return kept, decoded, damaged


def _clockwise(frame: av.VideoFrame) -> int:
    """Degrees by which the picture has to be turned to stand upright."""
    return -int(frame.rotation) % 360


class _Scaler:
    """frame → uint8 `[size size 3]`, through the filters that decord uses.

    Through libavfilter and not `VideoFrame.reformat`: only the filter knows where chroma samples lie. Its result equals
    decord's in every bit, the other's differs by 0.07 to 0.19 of 255.
    """

    _TURN = {90: ["1"], 180: ["1", "1"], 270: ["2"]}  # arguments of `transpose`

    def __init__(self, size: int):
        self._size = size
        self._key: tuple | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        key = (frame.width, frame.height, frame.format.name, _clockwise(frame))
        if key != self._key:  # a stream may change its size on the way
            self._key, self._graph = key, self._build(frame)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray(format="rgb24")

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        source = {"width": frame.width, "height": frame.height, "format": frame.format.name}
        nodes = [graph.add_buffer(**source, time_base=frame.time_base)]
        nodes += [graph.add("transpose", turn) for turn in self._TURN.get(_clockwise(frame), [])]
        nodes.append(graph.add("scale", f"{self._size}:{self._size}:flags=bilinear"))
        nodes.append(graph.add("format", "rgb24"))
        nodes.append(graph.add("buffersink"))
        for before, after in itertools.pairwise(nodes):
            before.link_to(after)
        graph.configure()
        return graph
