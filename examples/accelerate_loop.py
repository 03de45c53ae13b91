"""Certified training in a loop on accelerate: mixed precision, accumulated gradients, any number of processes.

Run it, with withstand[loops] installed: accelerate launch examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import withstand as ws


def main() -> None:
    """Trains, and counts the test images that are certified."""
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    data = ws.data.load("digits")
    torch.manual_seed(0)
    model = ws.models.create("mlp", dataset="digits", hidden=[64])  # or a module of yours
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(ws.data.to_unit_range(data.train.images), data.train.labels), 32, True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    epsilon = ws.schedules.Linear(start=0.0, end=0.2, epochs=5)
    objective = ws.objectives.Certified(norm=2, epsilon=epsilon, kappa=0.3)
    for epoch in range(8):
        for step, (images, labels) in enumerate(loader):
            with accelerator.accumulate(model):
                loss, terms = objective(model, images, labels, progress=epoch + step / len(loader))
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        shown = ", ".join(f"{name} {float(value):.3f}" for name, value in terms.items())
        accelerator.print(f"epoch {epoch + 1}: loss {float(loss):.3f}, {shown}")
    trained = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    images, labels = ws.data.to_unit_range(data.test.images), data.test.labels
    proof = ws.certify(trained, images, labels, norm=2, epsilon=0.2)
    accelerator.print(f"certified at 0.2: {float(proof.certified.float().mean()):.1%} of the test images")


if __name__ == "__main__":
    main()
