"""Robustness of test images as a benchmark that verifiers of networks run: ONNX, VNN-LIB, ``instances.csv``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from withstand.core.answers import predicted
from withstand.core.folder_path import as_folder_path
from withstand.core.setting_rules import COUNT, POSITIVE
from withstand.data import Dataset, batches
from withstand.properties import robustness, to_vnnlib
from withstand.runs.adoption import usual_epsilon
from withstand.runs.exporting import Exported, Network, logits_of, network_of, write_onnx
from withstand.types import DataError, RunFolderError

INSTANCES = "instances.csv"
_NETWORKS, _PROPERTIES = "onnx", "vnnlib"  # the folders that verifiers' benchmarks have
_BATCH = 100
_SECONDS = 60.0


@dataclass(frozen=True)
class Robustness:
    """What is to be verified of test images: that none within epsilon has another answer.

    Attributes:
        norm: Of the ball, linf: properties in VNN-LIB are of boxes.
        epsilon: In [0, 1] units; where None the one that is usual of the data in linf, 8/255 of most.
        count: Of how many images, the first that the network gets right.
        clip: Whether only images in [0, 1] count.
        timeout: Seconds that ``instances.csv`` gives to each.
    """

    norm: float | str = "linf"
    epsilon: float | None = None
    count: int = 10
    clip: bool = True
    timeout: float = _SECONDS

    def __post_init__(self) -> None:
        COUNT("count", self.count)
        POSITIVE("timeout", self.timeout)
        robustness
'''
