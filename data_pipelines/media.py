"""What every reader of media shares: the error, and a look at the first bytes so that it can say what a file is."""

from __future__ import annotations

import codecs
import os
import pathlib
import string

MIN_WHOLE = 0.99  # a file that holds at least this share of what it announces is read, a file with less is an error

_HEAD_BYTES = 4096
_PRINTABLE = frozenset(string.printable.encode())
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

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
    (0, b"#!AMR", "audio", "an AMR file"),
    (0, b"OggS", "audio", "an Ogg file"),
    (8, b"AVI ", "video", "an AVI file"),
    (4, b"ftypM4A", "video", "an M4A file"),
    (4, b"ftyp", "video", "an MP4 or MOV file"),
    (4, b"moov", "video", "a MOV file"),
    (4, b"mdat", "video", "a MOV file"),
    (4, b"wide", "video", "a MOV file"),
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
    if not head.strip(b"\0"):
        size = path.stat().st_size
        return "zeros", f"{size} bytes of which the first {len(head)} are zero (an interrupted download?)"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[:2] not in _UTF16:
        return "audio", "an MP3 or AAC stream"
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "video", "an MPEG transport stream"
    text = _text(head)
    if text is not None:
        kind = "an HTML page" if "<html" in text[:512].lower() else "a text file"
        return "text", f"{kind} (it starts {text[:40]!r})"
    return "unknown", "data of no known media format"


def _text(head: bytes) -> str | None:
    """The characters, if the bytes are text."""
    try:
        # Incremental, because a character may be cut in two at the end of the head.
        text = codecs.getincrementaldecoder("utf-16" if head[:2] in _UTF16 else "utf-8")().decode(head)
    except UnicodeDecodeError:
        # Another encoding, or a stray byte: most of it is printable ASCII nevertheless, of random bytes two in five.
        mostly = b"\0" not in head and sum(c in _PRINTABLE for c in head) > 0.7 * len(head)
        return head.decode("latin-1") if mostly else None
    return text if all(c.isprintable() or c in "\t\n\r\f\ufeff" for c in text) else None
