"""The pieces in a training loop of your own: objective, penalty, constraint, schedules, validation.

Run it: python examples/your_own_loop.py
"""

import copy
import math

import torch
from torch import nn

import withstand as ws


def accuracy(model: nn.Module, split: ws.data.Split, attack: ws.attacks.Attack | None = None) -> float:
    """The share of a split that the model gets right, clean or under an attack."""
    images, labels = next(ws.data.batches(split, len(split)))
    model.eval()
    adversarial = images if attack is None else attack(model, images, labels)
    return float((model(adversarial).argmax(1) == labels).double().mean())


def main() -> None:
    """Trains while epsilon grows, and keeps the epoch that does best under attack on validation data."""
    torch.manual_seed(0)
    dataset = ws.data.load("digits")
    model = ws.models.create("mlp", dataset="digits", hidden=[128])  # or a module of yours
    rate = ws.schedules.Exponential(start=3e-3, end=3e-4, epochs=6, begin=6)
    attack = ws.attacks.PGD(epsilon=ws.schedules.Linear(start=0.0, end=0.1, epochs=6), num_steps=5)
    objective = ws.objectives.Adversarial(attack) + 0.002 * ws.penalties.InputGradient()
    ball = ws.constraints.SpectralBall(ws.schedules.Continuation(end=2.0))
    optimizer = torch.optim.AdamW(model.parameters())
    strong = ws.attacks.PGD(epsilon=0.1, num_steps=20)
    batches_per_epoch = math.ceil(len(dataset.train) / 64)
    best, best_weights = 0.0, copy.deepcopy(model.state_dict())
    print("epoch epsilon   rate    loss  penalty | validation: clean  attacked")
    for epoch in range(12):
        order = ws.data.epoch_order(len(dataset.train), seed=0, epoch=epoch)
        for step, (images, labels) in enumerate(ws.data.batches(dataset.train, 64, order=order)):
            progress = epoch + step / batches_per_epoch  # the epochs done, of which schedules are functions
            model.train()
            optimizer.param_groups[0]["lr"] = rate(progress)
            optimizer.zero_grad()
            loss, terms = objective(model, images, labels, progress=progress)
            loss.backward()
            optimizer.step()
            ball.project_(model, progress=progress)
        clean, attacked = (accuracy(model, dataset.validation, each) for each in (None, strong))
        now = f"{epoch:5} {terms['epsilon']:7.3f} {rate(progress):6.4f} {terms['adversarial']:7.3f}"
        print(f"{now} {terms['input_gradient']:8.1f} | {clean:17.1%} {attacked:9.1%}")
        if attacked > best:
            best, best_weights = attacked, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    clean, attacked = (accuracy(model, dataset.test, each) for each in (None, strong))
    print(f"The best epoch, on test images: {clean:.1%} clean, {attacked:.1%} attacked at {strong.epsilon}")


if __name__ == "__main__":
    main()
