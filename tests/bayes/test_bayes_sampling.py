"""Many weight samples in one pass, and the mean probability over them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand import bayes
from withstand.bayes import Drawing, Posterior, Predictor, kinds, sampling
from withstand.bayes.posterior import Estimator
from withstand.types import ModelError

ESTIMATORS: tuple[Estimator, ...] = ("local", "flipout", "shared")
NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain layers first": lambda: [
        nn.Flatten(),
        nn.Linear(9, 6),
        nn.Tanh(),
        nn.Linear(6, 5),
        nn.Linear(5, 3),
    ],
    "convolution": lambda: [nn.Conv2d(1, 3, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)],
    "norms": lambda: [nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(9, 5), nn.LayerNorm(5), nn.Linear(5, 3)],
    "dropout first": lambda: [nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)],
}


def _net(name: str, estimator: Estimator, *, double: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*NETS[name]())
    posterior = Posterior(initial_std=(0.1, 0.4), estimator=estimator)
    random = bayes.convert(net, posterior, {"1": None} if name == "plain layers first" else {})
    return random.double() if double else random


def _seeded_gradients(
    net: nn.Module, images: Tensor, how: Callable[[nn.Module, Tensor], Tensor]
) -> list[Tensor]:
    """The answers, and the gradients of a function of them with respect to images and parameters."""
    torch.manual_seed(2)
    images = images.clone().requires_grad_()
    answers = how(net, images)
    factors = torch.linspace(-1, 1, answers.numel(), dtype=answers.dtype).view(answers.shape)
    expected = [images, *net.parameters()]
    return [answers, *torch.autograd.grad((factors * answers.sin()).sum(), expected, allow_unused=True)]


def _not_knowing_that_blocks_are_alike(net: nn.Module, images: Tensor) -> Tensor:
    with bayes.drawing(net, Drawing(3)):
        answers: Tensor = net(torch.cat([images] * 3))
    return answers.view(3, len(images), -1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", NETS)
def test_sample_logits_is_the_same_with_work_done_once_for_all_blocks(
    name: str, estimator: Estimator, training: bool
) -> None:
    net, images = _net(name, estimator).train(training), torch.rand(4, 1, 3, 3, dtype=torch.float64)
    actual = _seeded_gradients(net, images, lambda model, x: bayes.sample_logits(model, x, 3))
    expected = _seeded_gradients(net, images, _not_knowing_that_blocks_are_alike)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("training", [False, True])
def test_sample_logits_does_work_once_until_something_random_comes(
    monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    rows: list[int] = []
    apply = kinds._Matrix.apply

    def counting(self: kinds._Matrix, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows.append(len(x))
        return apply(self, x, weight, bias)

    monkeypatch.setattr(kinds._Matrix, "apply", counting)
    images = torch.rand(4, 1, 3, 3)
    bayes.sample_logits(_net("plain layers first", "local", double=False), images, 3)
    assert rows == [4, 4, 12, 12]  # a mean and a variance each
    rows.clear()
    bayes.sample_logits(_net("dropout first", "local", double=False).train(training), images, 3)
    assert rows == ([12] * 4 if training else [4, 4, 12, 12])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["plain layers first", "convolution"])
def test_sample_logits_gradients_of_images_are_those_of_finite_differences(
    name: str, estimator: Estimator
) -> None:
    net = _net(name, estimator)

    def answers(images: Tensor) -> Tensor:
        torch.manual_seed(1)
        return bayes.sample_logits(net, images, 3)

    images = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(answers, (images,))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["plain layers first", "convolution", "norms"])
def test_sample_logits_has_the_distribution_of_separate_passes(name: str, estimator: Estimator) -> None:
    net = _net(name, estimator).eval()
    example, draws = torch.rand(1, 1, 3, 3, dtype=torch.float64), 3000
    torch.manual_seed(3)
    with torch.no_grad():
        # Under estimators with independent rows many passes are one of many rows.
        together = bayes.sample_logits(net, example, draws)[:, 0]
        if estimator == "local" and name != "convolution":
            apart = net(example.expand(draws, 1, 3, 3))
        else:
            apart = torch.cat([net(example) for _ in range(draws // 3)])
    for power in (1, 2):
        one, two = together**power, apart**power
        error = (one.var(dim=0) / len(one) + two.var(dim=0) / len(two)).sqrt()
        assert ((one.mean(dim=0) - two.mean(dim=0)).abs() <= 5 * error).all()
        assert (5 * error < together.std(dim=0) ** power).all()  # tight enough to tell


def test_sample_logits_are_independent() -> None:
    net, images = _net("plain layers first", "auto"), torch.rand(1, 1, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        pairs = torch.stack([bayes.sample_logits(net, images, 2)[:, 0] for _ in range(1500)])
    centred = pairs - pairs.mean(dim=(0, 1))
    products = centred[:, 0] * centred[:, 1]
    assert (products.mean(dim=0).abs() <= 5 * products.std(dim=0) / math.sqrt(len(products))).all()


def test_sample_logits_has_these_shapes_and_refusals() -> None:
    net, images = _net("convolution", "auto", double=False), torch.rand(4, 1, 3, 3)
    for number in (1, 5):
        assert bayes.sample_logits(net, images, number).shape == (number, 4, 3)
    repeated, how = bayes.in_blocks(images, 1)
    assert repeated is images
    assert how == Drawing()
    for refused in (
        *(lambda: bayes.sample_logits(net, images, 0), lambda: Predictor(net, 0)),
        lambda: bayes.in_blocks(images, -1),
    ):
        with pytest.raises(ValueError, match="Expected num_samples of at least 1"):
            refused()
    with pytest.raises(ModelError, match="must give logits"):
        bayes.sample_logits(bayes.Conv2d(1, 1, 1), images, 2)


def test_predictor_gives_the_mean_probability_and_its_gradient() -> None:
    net, labels = _net("convolution", "auto"), torch.tensor([0, 2])
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    logs = Predictor(net, 7)(images)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logs, labels, reduction="sum"), images)
    torch.manual_seed(5)
    mean = bayes.sample_logits(net, images, 7).softmax(dim=2).mean(dim=0)
    by_hand = -mean[[0, 1], labels].log().sum()
    torch.testing.assert_close(logs.exp(), mean)
    torch.testing.assert_close(logs.softmax(dim=1), mean)
    torch.testing.assert_close(logs.exp().sum(dim=1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand, images)[0])
    assert not torch.equal(Predictor(net, 7)(images), logs)


def test_predictor_takes_few_rows_at_once_where_no_graph_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_MOST_ROWS", 10)
    net, images = _net("convolution", "auto", double=False), torch.rand(4, 1, 3, 3)
    rows: list[int] = []
    net.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    predictor = Predictor(net, 5)
    with torch.no_grad():
        logs = predictor(images)
    assert rows == [8, 8, 4]
    torch.testing.assert_close(logs.exp().sum(dim=1), torch.ones(4))
    predictor(images)
    assert rows[3:] == [20]
    with torch.no_grad():
        assert predictor(images[:0]).shape == (0, 3)
        assert predictor(images.repeat(5, 1, 1, 1)).shape == (20, 3)
    assert predictor.extra_repr() == "num_samples=5"


def test_sample_logits_takes_a_plain_network_too() -> None:
    net, images = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), torch.rand(4, 1, 3, 3)
    torch.testing.assert_close(Predictor(net, 2)(images), net(images).log_softmax(dim=1))
