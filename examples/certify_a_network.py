"""Prove what no attack can do to a network, and see what stays open between proof and attack.

Run it: python examples/certify_a_network.py
"""

import torch
from torch import Tensor, nn

import withstand as ws


def trained(train: ws.data.Split) -> nn.Module:
    """A small network, trained in the plain way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    objective = ws.objectives.CrossEntropy()
    for epoch in range(20):
        order = ws.data.epoch_order(len(train), seed=0, epoch=epoch)
        for images, labels in ws.data.batches(train, 64, order=order):
            optimizer.zero_grad()
            objective(model, images, labels).loss.backward()
            optimizer.step()
    return model


def percent(*of_each: Tensor) -> str:
    """The share of true entries in each."""
    return "".join(f"{each.double().mean().item():9.1%}" for each in of_each)


def main() -> None:
    """Certifies 200 test images in l2 and in linf, by each method, and attacks them."""
    dataset = ws.data.load("digits")
    model = trained(dataset.train)
    images, labels = next(ws.data.batches(dataset.test, 200))
    print("clean accuracy", percent(model(images).argmax(1) == labels))
    certifiers = [
        ws.Certifier(model, method="box"),  # intervals
        ws.Certifier(model, method="ball"),  # Lipschitz bounds
        ws.Certifier(model, method="box_ball"),  # both at once
        ws.Certifier(model, method="linear"),  # backward linear bounds (CROWN)
        ws.Certifier(model),  # box_ball, and linear for what that leaves: the default
    ]
    print("norm epsilon | proven: box  ball box_ball   linear     best | attacked     open")
    for norm, epsilons in ((2.0, (0.1, 0.2, 0.4)), (float("inf"), (0.01, 0.02, 0.05))):
        for epsilon in epsilons:
            proven = [c.certify(images, labels, norm=norm, epsilon=epsilon).certified for c in certifiers]
            attack = ws.attacks.PGD(norm=norm, epsilon=epsilon, num_steps=40)
            withstood = model(attack(model, images, labels)).argmax(1) == labels
            print(f"{norm:4g} {epsilon:7} |{percent(*proven)} |{percent(withstood, withstood & ~proven[-1])}")
        radii = ws.certified_radius(model, images, labels, norm=norm)
        print(f"     certified radius: median {radii.median():.3f}, largest {radii.max():.3f}")
    print("Proven: no image within epsilon, in [0, 1], gets another label (in exact arithmetic).")
    print("Open: this attack did not break it, and nothing is proven; a better attack, or proof, may decide.")


if __name__ == "__main__":
    main()
