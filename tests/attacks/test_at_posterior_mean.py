"""The attack on the mean network."""

from __future__ import annotations

import torch
from torch import nn

from withstand import bayes
from withstand.attacks import PGD, AtMeans


def _net(std: float) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    return bayes.convert(plain, bayes.Posterior(initial_std=std))


def test_at_means_gives_the_images_of_the_mean_network() -> None:
    model = _net(0.5)
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    attack = PGD(epsilon=0.2, num_steps=4, random_start=False)
    expected = attack(bayes.mean_network(model), images, labels)
    before = torch.get_rng_state()
    for target in (model, bayes.Predictor(model, 7)):
        assert torch.equal(AtMeans(attack)(target, images, labels), expected)
    assert torch.equal(torch.get_rng_state(), before)  # no weight was drawn
    assert not torch.equal(model(images), model(images))  # and the layers draw again


def test_at_means_has_the_settings_of_the_attack_inside() -> None:
    inner = PGD(norm=2.0, epsilon=0.3, num_steps=5)
    attack = AtMeans(inner)
    assert attack.epsilon_at() == 0.3
    assert attack.norm == 2.0
    assert attack.at(0.1).attack == inner.at(0.1)
    assert attack.for_evaluation().attack == inner.for_evaluation()
    assert attack.for_random_answers().attack == inner.for_random_answers()
    assert attack.name == f"means-{inner.name}"
    assert "mean weights" in attack.describe()
