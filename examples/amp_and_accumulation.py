"""A plain loop in mixed precision, with a scaler, that accumulates the gradients of each batch in parts.

Run it: python examples/amp_and_accumulation.py
"""

import torch

import withstand as ws


def main() -> None:
    """Trains in float16 on a GPU, else in bfloat16, and attacks what was trained."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    data = ws.data.load("digits")
    torch.manual_seed(0)
    model = ws.models.create("mlp", dataset="digits", hidden=[64]).to(device)  # or a module of yours
    attack = ws.attacks.PGD(epsilon=0.1, num_steps=5)
    objective = ws.objectives.Adversarial(attack) + 0.01 * ws.penalties.LossGradient()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(8):
        order = ws.data.epoch_order(len(data.train), seed=0, epoch=epoch)
        for batch in ws.data.batches(data.train.to(device), 64, order=order):
            optimizer.zero_grad()
            for images, labels in zip(*(tensor.chunk(2) for tensor in batch), strict=True):
                with torch.autocast(device, dtype=dtype):
                    loss, terms = objective(model, images, labels, progress=epoch)
                scaler.scale(loss * len(labels) / len(batch.labels)).backward()
            scaler.step(optimizer)
            scaler.update()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {float(terms[name]):.3f}" for name in terms))
    table = ws.evaluate(model, data, [ws.meters.Attacks([attack], epsilons=[0.05, 0.1])]).table
    print(table[["measure", "level", "value"]].head(3).to_string(index=False))


if __name__ == "__main__":
    main()
