"""Images as data URIs, and what an attack changed."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MID_GREY = 128.0
# Of 127, so that rounding the factor never clips.
_SWING = 126.0


def amplification(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8]) -> float:
    """The factor that lets the largest change swing from mid-grey almost to black or white.

    Args:
        clean: uint8 array of any shape.
        adversarial: uint8 array of the same shape.

    Returns:
        Two significant digits, rounded down; 1 where nothing changed.
    """
    changes = np.abs(adversarial.astype(np.float64) - clean.astype(np.float64))
    largest = float(changes.max(initial=0.0))
    if largest == 0:
        return 1.0
    factor = _SWING / largest
    unit = 10.0 ** (1 - math.floor(math.log10(factor)))
    # 6.3 is no float: the inner rounding keeps it from falling to 6.2.
    return round(math.floor(round(factor * unit, 9)) / unit, 6)


def difference(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The signed change times a factor, on mid-grey: lighter is more, darker is less."""
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    return np.clip(np.rint(_MID_GREY + factor * change), 0, 255).astype(np.uint8)


def data_uri(image: NDArray[np.uint8]) -> str:
    """A PNG of (height, width, 1 or 3) as a data URI."""
    buffer = io.BytesIO()
    grey_or_colour = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(grey_or_colour)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
