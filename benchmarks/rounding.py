"""How far rounding moves the logits of small nets, as a share of the largest logit.

    python benchmarks/rounding.py

A certificate holds of the network in exact arithmetic. For float32, float16 and bfloat16 this gives, over the
test images of digits, the largest difference between a logit of the network in that precision and of its
float64 copy:

- ``own``: of the network with its weights in that precision, as ``ws.certify`` of it gives;
- ``autocast``: of the float32 network under autocast to that precision, likewise;
- ``cast``: of the network cast to that precision, from what was certified in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand import Certifier, certify, data, models
from withstand.data import batches

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


def shares(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """Precision -> the largest differences, over the largest logit in float64.

    Args:
        model: In float32 and eval mode.
        images: Float tensor (batch, …) in [0, 1].
    """
    exact = Certifier(model).predict(images)
    labels, largest = exact.argmax(dim=1), float(exact.abs().max())

    def rounding(network: nn.Module) -> float:
        return float(certify(network, images, labels, norm=2, epsilon=0.0).rounding.max()) / largest

    result = {}
    for dtype in PRECISIONS:
        cast = copy.deepcopy(model).to(dtype)
        with torch.no_grad():
            moved = float((cast(images.to(dtype)).double() - exact).abs().max()) / largest
        of_dtype = {"own": rounding(cast), "cast": moved}
        if dtype != torch.float32:
            with torch.autocast("cpu", dtype=dtype):
                of_dtype["autocast"] = rounding(model)
        result[str(dtype).removeprefix("torch.")] = of_dtype
    return result | {"float64": {"largest_logit": largest}}


def train(model: nn.Module, dataset: data.Dataset, num_epochs: int) -> None:
    """Plain training with Adam, in place."""
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(num_epochs):
        for batch in batches(dataset.train, 32):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of training, beside the untrained nets")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    dataset = data.load("digits")
    images = next(batches(dataset.test, len(dataset.test))).images
    result: dict[str, object] = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "num_images": len(images),
    }
    for name in ("mlp", "cnn-small"):
        torch.manual_seed(0)
        model = models.create(name, dataset="digits")
        result[f"{name}, untrained"] = shares(model.eval(), images)
        train(model.train(), dataset, arguments.epochs)
        result[f"{name}, trained"] = shares(model.eval(), images)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
