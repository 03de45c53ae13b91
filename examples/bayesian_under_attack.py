"""A Bayesian network under attack: which gradients break it, and how unsure it is of broken images.

Run it: python examples/bayesian_under_attack.py
"""

import torch
from torch import Tensor, nn

import withstand as ws


def trained(dataset: ws.data.Dataset) -> nn.Module:
    """A network whose weights are normal variables; the divergence from the prior counts a third."""
    plain = ws.models.create("mlp", dataset="digits", hidden=[64])
    model = ws.bayes.convert(plain, ws.bayes.Posterior(prior_std=0.3, initial_std=0.1))
    evidence = ws.objectives.Variational(num_data=len(dataset.train), num_samples=2, kl_weight=0.3)
    objective = evidence + 0.02 * ws.penalties.SpectralExpectation()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(15):
        order = ws.data.epoch_order(len(dataset.train), seed=0, epoch=epoch)
        for images, labels in ws.data.batches(dataset.train, 64, order=order):
            optimizer.zero_grad()
            objective(model, images, labels).loss.backward()
            optimizer.step()
    return model


def entropies(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """The mean entropy of the prediction, and its part between the draws: the mutual information."""
    draws = ws.bayes.sample_logits(model, images, 50).softmax(-1)
    total = torch.special.entr(draws.mean(0)).sum(-1).mean()
    within = torch.special.entr(draws).sum(-1).mean()
    return total.item(), (total - within).item()


def main() -> None:
    """Attacks the same network by one draw a step, by the mean of 20 draws, and by its mean weights."""
    torch.manual_seed(0)
    dataset = ws.data.load("digits")
    model = trained(dataset)
    images, labels = next(ws.data.batches(dataset.test, 300))
    predictor = ws.bayes.Predictor(model, num_samples=100)  # the mean probability: it is what is scored
    print("epsilon  gradient of        accuracy  entropy  of it between draws")
    for epsilon in (0.0, 0.05, 0.1, 0.15):
        attack = ws.attacks.PGD(epsilon=epsilon, num_steps=20)
        attacked = {
            "one draw a step": attack(model, images, labels),
            "mean of 20 draws": attack(ws.bayes.Predictor(model, num_samples=20), images, labels),
            "mean weights": ws.attacks.AtMeans(attack)(model, images, labels),
        }
        for name, adversarial in attacked.items() if epsilon else [("(clean)", images)]:
            accuracy = (predictor(adversarial).argmax(1) == labels).double().mean()
            entropy, between = entropies(model, adversarial)
            print(f"{epsilon:7}  {name:18} {accuracy:8.1%} {entropy:8.3f} {between:20.3f}")
    print("Entropy is in nats; differences of a percent or two between attacks are luck of the draws.")


if __name__ == "__main__":
    main()
