"""Adversarial training in Lightning, its weights held in a ball, and its accuracy under attack.

Run it, with withstand[loops] installed: python examples/lightning_module.py
"""

import lightning
import torch
from torch.utils.data import DataLoader

import withstand as ws


class Robust(ws.integrations.lightning.RobustTraining):
    """A net and its objective; all else is as in any LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ws.models.create("mlp", dataset="digits", hidden=[64])  # or a module of yours
        attack = ws.attacks.PGD(epsilon=ws.schedules.Linear(start=0.0, end=0.1, epochs=4), num_steps=5)
        self.objective = ws.objectives.Adversarial(attack) + 0.001 * ws.penalties.InputGradient()

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    """Trains, and prints what was logged: the terms, and accuracies on test images."""
    data = ws.data.load("digits")
    train, test = (DataLoader([*ws.data.batches(part, 64)], None) for part in (data.train, data.test))
    attacked = ws.integrations.lightning.AttackedAccuracy(ws.attacks.PGD(epsilon=0.1, num_steps=20))
    ball = ws.integrations.lightning.Constrained(ws.constraints.SpectralBall(3.0))
    trainer = lightning.Trainer(max_epochs=6, callbacks=[attacked, ball], logger=False)
    trainer.fit(module := Robust(), train)
    logged = {**trainer.logged_metrics, **trainer.test(module, test, verbose=False)[0]}
    print("\n".join(f"{name:>24} {float(value):.3f}" for name, value in logged.items()))


if __name__ == "__main__":
    main()
