"""Opens containers (MP4, WebM, AVI …) with PyAV, walks their packets and notices when the end is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import av

from data_pipelines.media import MIN_WHOLE, bad, sniff

# Formats whose header says how long they are, independently of how many bytes follow. Elsewhere libav estimates the
# duration from the size of the file, which agrees with whatever is left of it.
_ANNOUNCES_DURATION = {"mov", "matroska", "avi", "asf", "flv"}


@contextlib.contextmanager
def open_container(path: pathlib.Path, *, expected: str) -> Iterator[av.container.InputContainer]:
    """The container of a file that exists; closed at the end of the block.

    Raises:
        MediaError: the bytes are no container, or one that is broken at its root (an MP4 without its index).
    """
    family, description = sniff(path)
    # Text is refused before libav sees it: it would follow playlists (HLS, concat) to other files.
    if family in ("image", "text", "zeros", "other"):
        raise bad(path, expected=expected, found=description)
    try:
        # "file:" because a name such as "http:clip.mp4" is a file here and nothing else.
        container = av.open(
            f"file:{path.absolute()}", options={"protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except (av.error.FFmpegError, ValueError) as error:
        why = "a file cut short or damaged" if family in ("video", "audio", "animation") else "it cannot be opened"
        found = f"{description}, but {why} ({_reason(error)})"
        raise bad(path, expected=expected, found=found, advice="record, download or convert it again") from error
    with container:
        yield container


def found_instead(container: av.container.InputContainer, missing: str) -> str:
    """For messages: "no audio stream, only a video stream (h264)"."""
    found = []
    for stream in container.streams:
        kind = "cover picture" if is_cover(stream) else f"{stream.type} stream"
        codec = stream.codec_context.name if stream.codec_context is not None else "unknown codec"
        found.append(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} ({codec})")
    return f"no {missing} stream, only {' and '.join(found)}" if found else "no stream at all"


def is_cover(stream: av.stream.Stream) -> bool:
    """Whether a video stream is only the cover picture of a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def pick_stream(container: av.container.InputContainer, kind: str) -> av.stream.Stream | None:
    """The stream of a kind ("video" or "audio") that libav thinks best, as decord and ffmpeg do; None without one."""
    best = container.streams.best(kind)
    if best is not None and not is_cover(best):
        return best
    return next((s for s in container.streams if s.type == kind and not is_cover(s)), None)


def prepare(stream: av.stream.Stream, path: pathlib.Path, *, expected: str) -> None:
    """Readies a stream for decoding, on one thread.

    Raises:
        MediaError: this build of FFmpeg has no decoder for it.
    """
    if stream.codec_context is None:
        advice = "convert it to H.264 and AAC"
        raise bad(path, expected=expected, found="a codec that this FFmpeg cannot decode", advice=advice)
    stream.codec_context.thread_count = 1


@dataclasses.dataclass
class Walk:
    """One pass over the packets of a container; notes how far they reach."""

    container: av.container.InputContainer
    failure: str = ""  # why reading stopped before the end of the file, if it did
    end_s: float = 0.0  # the latest end of any packet, in seconds from the start of the container

    def packets(self, stream: av.stream.Stream) -> Iterator[av.Packet]:
        """Packets of `stream` in file order; the others are walked too, any of them may prove the file whole."""
        start_s = (self.container.start_time or 0) / av.time_base
        try:
            for packet in self.container.demux():
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.dts is None and not packet.size:  # PyAV's signal to flush, not a packet of the file
                    continue
                if stamp is not None and packet.time_base:
                    end_s = float((stamp + (packet.duration or 0)) * packet.time_base) - start_s
                    self.end_s = max(self.end_s, end_s)
                if packet.stream_index == stream.index:
                    yield packet
        except av.error.FFmpegError as error:
            self.failure = _reason(error)

    def check_whole(self, path: pathlib.Path, *, expected: str, slack_s: float) -> None:
        """After the last packet: does the container hold what its header announces?

        Args:
            path: for the message.
            expected: for the message.
            slack_s: what the end may lack beside the share allowed, in seconds: about one frame, whose length the last
                packet of some formats does not tell.

        Raises:
            MediaError: more than one percent is missing.
        """
        names = set(self.container.format.name.split(","))
        if not self.container.duration or not names & _ANNOUNCES_DURATION:
            return
        announced_s = self.container.duration / av.time_base
        if self.end_s + slack_s < MIN_WHOLE * announced_s:
            found = f"a file cut short: it announces {announced_s:.2f} s and ends after {max(self.end_s, 0):.2f} s"
            found += f" ({self.failure})" if self.failure else ""
            raise bad(path, expected=expected, found=found, advice="record, download or convert it again")


def decode(packets: Iterator[av.Packet], stream: av.stream.Stream) -> Iterator[av.frame.Frame | av.error.FFmpegError]:
    """Frames of the packets and of the final flush; a packet that cannot be decoded yields its error instead."""
    for packet in packets:
        try:
            yield from packet.decode()
        except av.error.FFmpegError as error:
            yield error
    # Ends the decoder, which holds frames back while it reorders them.
    try:
        yield from stream.codec_context.decode(None)
    except av.error.EOFError:
        pass
    except av.error.FFmpegError as error:
        yield error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
