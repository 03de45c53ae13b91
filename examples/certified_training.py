"""Certified training against a plainly trained twin: what can be proven of each.

Run it: python examples/certified_training.py
"""

import math

import torch
from torch import nn

import withstand as ws


def trained(objective: ws.objectives.Objective, train: ws.data.Split) -> nn.Module:
    """A network from the same first weights, on the same batches, whatever the objective."""
    torch.manual_seed(0)
    model = ws.models.create("mlp", dataset="digits", hidden=[64], normalize=False)
    optimizer = torch.optim.Adam(model.parameters())
    rate = ws.schedules.Exponential(start=3e-3, end=1e-4, epochs=15, begin=15)
    for epoch in range(30):
        order = ws.data.epoch_order(len(train), seed=0, epoch=epoch)
        for step, (images, labels) in enumerate(ws.data.batches(train, 64, order=order)):
            progress = epoch + step / math.ceil(len(train) / 64)  # the epochs done
            optimizer.param_groups[0]["lr"] = rate(progress)
            optimizer.zero_grad()
            objective(model, images, labels, progress=progress).loss.backward()
            optimizer.step()
    return model


def main() -> None:
    """Trains both, and compares clean, attacked and certified accuracy in l2."""
    dataset = ws.data.load("digits")
    images, labels = next(ws.data.batches(dataset.test, len(dataset.test)))
    ramp = ws.schedules.Linear(start=0.0, end=0.5, epochs=10)  # the bounds of a new network are loose
    twins = {
        "plain": ws.objectives.CrossEntropy(),
        "certified": ws.objectives.Certified(norm=2, epsilon=ramp, domain="box_ball"),
    }
    print("training    clean | epsilon  attacked  certified")
    for name, objective in twins.items():
        model = trained(objective, dataset.train)
        clean = (model(images).argmax(1) == labels).double().mean()
        for epsilon in (0.1, 0.25, 0.5):
            adversarial = ws.attacks.PGD(norm=2, epsilon=epsilon, num_steps=40)(model, images, labels)
            attacked = (model(adversarial).argmax(1) == labels).double().mean()
            certified = ws.certify(model, images, labels, norm=2, epsilon=epsilon).certified.double().mean()
            print(f"{name:10} {clean:6.1%} | {epsilon:7} {attacked:9.1%} {certified:10.1%}")


if __name__ == "__main__":
    main()
