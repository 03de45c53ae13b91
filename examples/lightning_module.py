"""Adversarial training in Lightning, its weights held in a ball, and its accuracy under attack.

Run it, with withstand[loops] installed: python examples/lightning_module.py
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import withstand as ws


class Robust(ws.integrations.lightning.RobustTraining):
    """A net and its objective; all else is as in any LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ws.models.create("mlp", dataset="digits", hidden=[64])  # or a module of yours
        attack = ws.attacks.PGD(epsilon=ws.schedules.Linear(start=0.0, end=0.1, epochs=4), num_steps=5)
        self.objective = ws.objectives.Adversarial(attack) + 0.001 * ws.penalties.InputGradient()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main() -> None:
    """Trains, and measures test images as they are and under attack."""
    lightning.seed_everything(0, verbose=False)
    data = ws.data.load("digits")
    parts = (TensorDataset(ws.data.to_unit_range(part.images), part.labels) for part in (data.train, data.test))
    train, test = (DataLoader(part, batch_size=64, shuffle=not i) for i, part in enumerate(parts))
    measured = ws.integrations.lightning.AttackedAccuracy(ws.attacks.PGD(epsilon=0.1, num_steps=20))
    held = ws.integrations.lightning.Constrained(ws.constraints.SpectralBall(3.0))
    trainer = lightning.Trainer(max_epochs=6, accelerator="cpu", callbacks=[measured, held], logger=False)
    trainer.fit(Robust(), train)
    terms = dict(trainer.logged_metrics)
    (scores,) = trainer.test(dataloaders=test, ckpt_path="last", verbose=False)
    print("\n".join(f"{name:>24} {float(value):.3f}" for name, value in {**terms, **scores}.items()))


if __name__ == "__main__":
    main()
