"""Files that may be compressed by gzip, whatever their name says."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

_MAGIC = b"\x1f\x8b"


def unpacked(file: Path) -> bytes:
    """What is in a file.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    raw = file.read_bytes()
    try:
        return gzip.decompress(raw) if raw[:2] == _MAGIC else raw
    except (EOFError, zlib.error) as error:
        raise OSError(f"{file} is damaged: {error}") from error
