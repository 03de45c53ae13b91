"""What linear bounds of the small MNIST net cost, and how much they prove.

    python benchmarks/linear_bounds.py RUN
    python benchmarks/linear_bounds.py model.safetensors --method=box_ball

The first 500 test images at linf 0.1, in float64, intermediate bounds by full backward passes: seconds, the
capture of the graph among them, the largest memory of the process, and which share is correct and proven. The
net is ``cnn-small`` (16 and 32 channels, 100 hidden units), or any other one on MNIST of a run folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

import withstand as ws
from withstand.data import batches
from withstand.types import Batch

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def network(source: Path) -> nn.Module:
    """The net of a run folder; or ``cnn-small`` with the weights of a file."""
    if source.is_dir():
        return ws.load(source)
    return ws.load("cnn-small", weights=source, dataset="mnist")


def cost(model: nn.Module, batch: Batch, method: str, epsilon: float) -> dict[str, float]:
    """Seconds, bytes and shares of one certification of a batch.

    Args:
        model: In eval mode.
        batch: Images in [0, 1] and labels.
        method: Of ``ws.Certifier``.
        epsilon: Within linf.
    """
    before, started, busy = peak_memory(), time.perf_counter(), time.process_time()
    certifier = ws.Certifier(model, method=method)  # type: ignore[arg-type]  # it says which there are
    result = certifier.certify(*batch, norm=float("inf"), epsilon=epsilon)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    correct = certifier.predict(batch.images).argmax(1) == batch.labels
    return {
        "seconds": seconds,
        "cpu_seconds": busy,
        "peak_bytes": peak_memory(),
        "peak_bytes_before": before,
        "correct": float(correct.double().mean()),
        "proven": float(result.certified.double().mean()),
    }


def peak_memory() -> int:
    """The most that the process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT


def main() -> None:
    """Certifies once and prints one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a run folder, or a file of weights of cnn-small")
    parser.add_argument("--method", default="linear", help="of ws.certify")
    parser.add_argument("--epsilon", type=float, default=0.1, help="within linf")
    parser.add_argument("--images", type=int, default=500, help="the first so many of the test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = network(arguments.source)
    batch = next(batches(ws.data.load("mnist").test, arguments.images))
    result = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "method": arguments.method,
        "epsilon": arguments.epsilon,
        "num_images": len(batch.labels),
        **cost(model, batch, arguments.method, arguments.epsilon),
    }
    text = json.dumps(result)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
