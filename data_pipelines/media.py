"""What every reader of media shares: the error, and a look at the first bytes so that it can say what a file is."""

from __future__ import annotations

import os
import pathlib

MIN_WHOLE = 0.99  # a file that holds at least this share of what it announces is read, a file with less is an error

_HEAD_BYTES = 4096

# (offset, bytes, family, description); the first that fits wins.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\xd8\xff", "image", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "image", "a PNG image"),
    (0, b"BM", "image", "a BMP image"),
    (0, b"II*\0", "image", "a TIFF image"),
    (0, b"MM\0*", "image", "a TIFF image"),
    (0, b"GIF8", "animation", "a GIF image"),
    (8, b"WEBP", "animation", "a WebP image"),
    (8, b"ftypavif", "image", "an AVIF image"),
    (4, b"ftypheic", "image", "a HEIC image"),
    (8, b"WAVE", "audio", "a WAV file"),
    (8, b"AIFF", "audio", "an AIFF file"),
    (8, b"AIFC", "audio", "an AIFF file"),
    (0, b"fLaC", "audio", "a FLAC file"),
    (0, b"ID3", "audio", "an MP3 file"),
    (0, b"OggS", "audio", "an Ogg file"),
    (8, b"AVI ", "video", "an AVI file"),
    (4, b"ftypM4A", "video", "an M4A file"),
    (4, b"ftyp", "video", "an MP4 or MOV file"),
    (4, b"moov", "video", "a MOV file"),
    (0, b"\x1a\x45\xdf\xa3", "video", "a WebM or Matroska file"),
    (0, b"FLV\x01", "video", "an FLV file"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "a WMV or ASF file"),
    (0, b"\x00\x00\x01\xba", "video", "an MPEG file"),
    (0, b"PK\x03\x04", "other", "a ZIP archive"),
    (0, b"\x1f\x8b", "other", "a gzip file"),
    (0, b"%PDF", "other", "a PDF file"),
    (0, b"\x93NUMPY", "other", "a NumPy array"),
)


class MediaError(ValueError):
    """Media that cannot be used. The message says which, what was expected, what was found, perhaps a way out."""


def bad(where: object, *, expected: str, found: str, advice: str = "") -> MediaError:
    """The error about `where` (a path, or a phrase such as "the sound"), for the caller to raise."""
    return MediaError(f"{where}: expected {expected}, found {found}" + (f"; {advice}" if advice else ""))


def check_file(path: str | os.PathLike[str], *, expected: str) -> pathlib.Path:
    """The path, once it is known to be a readable, non-empty, regular file.

    Args:
        path: a file.
        expected: what the caller wants, for the message ("a video").

    Raises:
        MediaError: missing, a folder, a device, unreadable or empty.
    """
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            raise bad(path, expected=expected, found="a folder")
        if not path.exists():
            near = "" if path.parent.is_dir() else f"; the folder {path.parent} does not exist either"
            raise bad(path, expected=expected, found="no such file" + near)
        if not path.is_file():
            raise bad(path, expected=expected, found="something that is not a plain file")
        with path.open("rb") as file:
            if not file.read(1):
                raise bad(path, expected=expected, found="an empty file (0 bytes)")
    except OSError as error:
        raise bad(path, expected=expected, found=f"a file that cannot be read ({error.strerror or error})") from error
    return path


def sniff(path: pathlib.Path) -> tuple[str, str]:
    """What the first bytes say: (family, description); the name of the file plays no part.

    Returns:
        The family, one of "image" (a still), "animation" (an image format that may move), "audio", "video" (a container
        that may hold either), "text", "zeros", "other" (certainly no media), "unknown"; and words for a message.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for offset, magic, family, description in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return family, description
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "audio", "an MP3 or AAC stream"
    if head[:1] == b"\x47" and head[188:189] in (b"\x47", b""):
        return "video", "an MPEG transport stream"
    if not head.strip(b"\0"):
        return (
            "zeros",
            f"{path.stat().st_size} bytes of which the first {len(head)} are zero (an interrupted download?)",
        )
    if _is_text(head):
        kind = (
            "an HTML page"
            if b"<html" in head[:512].lower() or b"<!doctype html" in head[:512].lower()
            else "a text file"
        )
        return "text", f"{kind} (it starts {head[:40].decode('utf-8', 'replace')!r})"
    return "unknown", "data of no known media format"


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut in two at the end of the head.
        text = head[: len(head) - 3].decode("utf-8") if len(head) == _HEAD_BYTES else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\r\f" for c in text)
