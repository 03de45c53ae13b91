"""Attack a network of your own, measure it in several ways, and write a page about it.

Run it: python examples/attack_your_network.py
"""

import torch
from torch import Tensor, nn

import withstand as ws


class MyNetwork(nn.Module):
    """Any module that maps images in [0, 1] to logits will do; what normalises them is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Linear(16 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8)."""
        logits: Tensor = self.last(self.features((images - 0.5) / 0.5).flatten(1))
        return logits


def main() -> None:
    """Trains the network without any defence, and attacks it."""
    torch.manual_seed(0)
    dataset = ws.data.load("digits")
    model = MyNetwork()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(10):
        order = ws.data.epoch_order(len(dataset.train), seed=0, epoch=epoch)
        for images, labels in ws.data.batches(dataset.train, 64, order=order):
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()

    epsilons = [0.05, 0.1, 0.2]
    meters = [
        ws.meters.Attacks([ws.attacks.fgsm(), ws.attacks.PGD(num_steps=40, num_restarts=2)], epsilons),
        ws.meters.Suite("fast", epsilons),  # several attacks, and a look for signs of false robustness
        ws.meters.NoiseCurve(num_levels=6),
    ]
    found = ws.evaluate(model, dataset, meters, out="runs/my-network")  # found.table: a row a figure
    for measure in ("clean accuracy", "attacked accuracy", "accuracy under noise"):
        rows = found.table[found.table["measure"] == measure]
        by_level = rows.pivot(index="by", columns="level", values="value").rename_axis(index=None)
        print(f"\n{measure}\n{by_level.to_string(float_format='{:.1%}'.format)}")
    print()
    for check in found.results.checks:
        print({True: "passed: ", False: "FAILED: ", None: "not run:"}[check.passed], check.title)
    print("\nThe page, with adversarial images:", ws.report("runs/my-network"))


if __name__ == "__main__":
    main()
