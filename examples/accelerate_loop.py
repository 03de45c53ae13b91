"""Certified training in a loop on accelerate: mixed precision, accumulation, any number of processes.

Run it, with withstand[loops] installed: python examples/accelerate_loop.py, or by accelerate launch
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
    train = TensorDataset(ws.data.to_unit_range(data.train.images), data.train.labels)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(train, 32, shuffle=True))
    torch.manual_seed(accelerator.process_index)  # what is drawn differs between processes
    epsilon = ws.schedules.Linear(start=0.0, end=0.2, epochs=5)
    objective = ws.objectives.Certified(norm=2, epsilon=epsilon, kappa=0.3)
    for epoch in range(8):
        for step, (images, labels) in enumerate(loader):
            with accelerator.accumulate(model):
                loss, terms = objective(model, images, labels, progress=epoch + step / len(loader))
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: " + ", ".join(f"{n} {float(terms[n]):.3f}" for n in terms))
    proof = ws.meters.Certificate(norm=2, epsilons=[0.1, 0.2])
    table = ws.evaluate(accelerator.unwrap_model(model, keep_fp32_wrapper=False), data, [proof]).table
    accelerator.print(table[["measure", "level", "value"]].to_string(index=False))


if __name__ == "__main__":
    main()
