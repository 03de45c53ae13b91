"""The distribution of what random layers answer, against closed forms and drawn kernels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from withstand import bayes
from withstand.bayes import Deviations, Drawing, Posterior, VariationalLayer
from withstand.bayes.posterior import Estimator

ESTIMATORS: tuple[Estimator, ...] = ("local", "flipout", "shared")
DRAWS = 3000
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "matrix": (lambda: nn.Linear(4, 3), (4,)),
    "matrix on several vectors": (lambda: nn.Linear(3, 2, bias=False), (2, 3)),
    "strided": (lambda: nn.Conv2d(2, 2, 3, stride=2, padding=(1, 0)), (2, 3, 4)),
    "groups, dilated": (lambda: nn.Conv1d(4, 2, 2, groups=2, dilation=2, bias=False), (4, 4)),
    "circular": (lambda: nn.Conv1d(1, 2, 3, padding=2, padding_mode="circular"), (1, 3)),
    "same, reflected": (lambda: nn.Conv2d(1, 1, 2, padding="same", padding_mode="reflect"), (1, 2, 3)),
}
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm": (lambda: nn.BatchNorm2d(2).eval(), (2, 2, 2)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(3).eval(), (3,)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3)),
    "layer norm": (lambda: nn.LayerNorm(3), (2, 3)),
    "layer norm, no shift": (lambda: nn.LayerNorm([2, 2], bias=False), (2, 2)),
}


def _layers(make: Callable[[], nn.Module], estimator: Estimator) -> tuple[nn.Module, VariationalLayer]:
    torch.manual_seed(1)
    plain = make().double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    random = bayes.convert(plain, Posterior(initial_std=(0.2, 1.0), estimator=estimator))
    assert isinstance(random, VariationalLayer)
    return plain, random


def _drawn(random: nn.Module, examples: Tensor, draws: int = DRAWS) -> Tensor:
    """Tensor (draws, examples, outputs): many weight samples in one pass."""
    repeated, how = bayes.in_blocks(examples, draws)
    with torch.no_grad(), bayes.drawing(random, how):
        answers: Tensor = random(repeated)
    return answers.reshape(draws, len(examples), -1)


def _moments(plain: nn.Module, random: VariationalLayer, examples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (rows · outputs,) and covariance under one draw for all rows, from the plain layer's Jacobian."""
    names = [name for name, _ in plain.named_parameters()]

    def answers(*values: Tensor) -> Tensor:
        result: Tensor = functional_call(plain, dict(zip(names, values, strict=True)), (examples,))
        return result.flatten()

    jacobians = jacrev(answers, argnums=tuple(range(len(names))))(*plain.parameters())
    mean = plain(examples).flatten()
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for name, jacobian in zip(names, jacobians, strict=True):
        scaled = jacobian.flatten(1) * random.normals()[name].std.flatten()
        covariance += scaled @ scaled.T
    return mean.detach(), covariance.detach()


def _assert_moments(answers: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within five standard errors; products of two have kurtosis at most that of squares."""
    draws = len(answers)
    centred = answers - mean
    variances = covariance.diagonal()
    assert ((centred.mean(dim=0)).abs() <= 5 * (variances / draws).sqrt() + 1e-12).all()
    result = centred.T @ centred / draws
    error = (3 * torch.outer(variances, variances) / draws).sqrt()
    error.diagonal().copy_((2 / draws) ** 0.5 * variances)
    assert ((result - covariance).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", LAYERS)
def test_estimator_mean_variance_and_covariance_are_those_of_drawn_weights(
    name: str, estimator: Estimator
) -> None:
    make, shape = LAYERS[name]
    plain, random = _layers(make, estimator)
    example = torch.rand(1, *shape, dtype=torch.float64) - 0.3
    mean, covariance = _moments(plain, random, example)
    if estimator == "local":  # outputs as if independent
        covariance = covariance.diagonal().diag()
    _assert_moments(_drawn(random, example)[:, 0], mean, covariance)


@pytest.mark.parametrize("estimator", ["auto", "shared"])
@pytest.mark.parametrize("name", NORMS)
def test_estimator_draws_scale_and_shift_of_norm_layers_from_their_distribution(
    name: str, estimator: Estimator
) -> None:
    make, shape = NORMS[name]
    plain, random = _layers(make, estimator)
    example = torch.rand(1, *shape, dtype=torch.float64)
    answers = _drawn(random, example)[:, 0]
    _assert_moments(answers, *_moments(plain, random, example))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["matrix", "strided", "circular", "group norm"])
def test_estimator_leaves_two_examples_uncorrelated_unless_the_draw_is_shared(
    name: str, estimator: Estimator
) -> None:
    make, shape = {**LAYERS, **NORMS}[name]
    plain, random = _layers(make, estimator)
    examples = torch.rand(2, *shape, dtype=torch.float64)
    mean, covariance = _moments(plain, random, examples)
    size = len(mean) // 2
    between = covariance[:size, size:].clone()
    assert between.abs().max() > 0.1
    first, second = (_drawn(random, examples) - mean.view(2, -1)).unbind(dim=1)
    actual = first.T @ second / DRAWS
    variances = covariance.diagonal()
    error = (3 * torch.outer(variances[:size], variances[size:]) / DRAWS).sqrt()
    expected = between if estimator == "shared" else torch.zeros_like(between)
    assert ((actual - expected).abs() <= 5 * error).all()
    assert (between.abs() > 5 * error).any()  # so the test can tell


def test_estimator_auto_is_the_exact_one() -> None:
    def first_draw(random: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        answers: Tensor = random(x)
        return answers

    for name, exact in (
        ("matrix", "local"),
        ("matrix on several vectors", "flipout"),
        ("strided", "flipout"),
    ):
        make, shape = LAYERS[name]
        x = torch.rand(3, *shape, dtype=torch.float64)
        _, auto = _layers(make, "auto")
        answers = {}
        for estimator in ESTIMATORS:
            other = copy.deepcopy(auto)
            other.posterior = Posterior(estimator=estimator)
            answers[estimator] = first_draw(other, x)
        assert [e for e in ESTIMATORS if torch.equal(answers[e], first_draw(auto, x))] == [exact]


@st.composite
def _convolutions(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, ...], int]:
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    sizes = [draw(st.integers(5, 7)) for _ in range(rank)]
    channels = groups * draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "padding": tuple(draw(st.integers(0, 3)) for _ in range(rank)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "groups": groups,
        "padding_mode": mode,
        "bias": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options |= {"padding": "same", "stride": (1,) * rank}
    return options, (draw(st.integers(1, 3)), channels, *sizes), draw(st.integers(1, 3))


def _plain_with(plain: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    values = {"weight": weight} | ({} if bias is None else {"bias": bias})
    answers: Tensor = functional_call(plain, values, (x,))
    return answers


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, of even kernels, once a process
@given(drawn=_convolutions(), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_estimator_passes_blocks_of_any_convolution_with_drawn_kernels(
    drawn: tuple[dict[str, Any], tuple[int, ...], int], seed: int
) -> None:
    options, shape, samples = drawn
    kind = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    torch.manual_seed(seed)
    plain = kind(**options).double()
    blocks = torch.rand(samples, *shape, dtype=torch.float64)
    for estimator in ESTIMATORS:
        random = bayes.convert(plain, Posterior(estimator=estimator))
        assert isinstance(random, VariationalLayer)
        torch.manual_seed(seed)
        with bayes.drawing(random, Drawing(samples)):
            actual = random(blocks.flatten(0, 1))
        torch.manual_seed(seed)
        expected = _BY_HAND[estimator](plain, random, blocks)
        torch.testing.assert_close(actual, expected.flatten(0, 1))


def _shared_by_hand(plain: nn.Module, random: VariationalLayer, blocks: Tensor) -> Tensor:
    normals = random.normals()
    drawn = {
        n: v.mean + v.std * torch.randn(len(blocks), *v.mean.shape, dtype=v.mean.dtype)
        for n, v in normals.items()
    }
    biases = drawn.get("bias", [None] * len(blocks))
    return torch.stack(
        [_plain_with(plain, w, b, x) for w, b, x in zip(drawn["weight"], biases, blocks, strict=True)]
    )


def _local_by_hand(plain: nn.Module, random: VariationalLayer, blocks: Tensor) -> Tensor:
    weight, bias = random.normals()["weight"], random.normals().get("bias")
    flat = blocks.flatten(0, 1)
    mean = _plain_with(plain, weight.mean, None if bias is None else bias.mean, flat)
    variance = _plain_with(plain, weight.std**2, None if bias is None else bias.std**2, flat**2)
    drawn = mean + variance.sqrt() * torch.randn_like(mean)
    return drawn.reshape(*blocks.shape[:2], *mean.shape[1:])


def _flipout_by_hand(plain: nn.Module, random: VariationalLayer, blocks: Tensor) -> Tensor:
    """An example at a time, each with a kernel of its own."""
    weight, bias = random.normals()["weight"], random.normals().get("bias")
    samples, batch, channels = blocks.shape[:3]
    none = None if bias is None else torch.zeros_like(bias.mean)
    noise = torch.randn(samples, *weight.mean.shape, dtype=torch.float64)
    signs = torch.empty(samples, batch, channels, dtype=torch.float64).bernoulli_(0.5) * 2 - 1
    outputs = len(weight.mean)
    flips = torch.empty(samples, batch, outputs, dtype=torch.float64).bernoulli_(0.5) * 2 - 1
    shifts = None if bias is None else torch.randn(samples, batch, outputs, dtype=torch.float64)
    taps = [1] * (weight.mean.dim() - 2)
    result = []
    for s in range(samples):
        for i in range(batch):
            signed = blocks[s, i] * signs[s, i].view(-1, *taps)
            moved = _plain_with(plain, noise[s] * weight.std, none, signed[None])[0]
            mean_bias = None if bias is None else bias.mean
            unmoved = _plain_with(plain, weight.mean, mean_bias, blocks[s, i][None])[0]
            answer = unmoved + moved * flips[s, i].view(-1, *taps)
            if bias is not None and shifts is not None:
                answer = answer + (shifts[s, i] * bias.std).view(-1, *taps)
            result.append(answer)
    return torch.stack(result).reshape(samples, batch, *result[0].shape)


_BY_HAND: dict[Estimator, Callable[[nn.Module, VariationalLayer, Tensor], Tensor]] = {
    "local": _local_by_hand,
    "flipout": _flipout_by_hand,
    "shared": _shared_by_hand,
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", [*LAYERS, *NORMS])
def test_estimator_gradients_are_those_of_finite_differences(name: str, estimator: Estimator) -> None:
    make, shape = {**LAYERS, **NORMS}[name]
    _, random = _layers(make, estimator)
    x = torch.rand(2, *shape, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in random.named_parameters()]

    def answers(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(5)
        repeated, how = bayes.in_blocks(x, 2)
        with bayes.drawing(random, how):
            result: Tensor = functional_call(random, dict(zip(names, values, strict=True)), (repeated,))
        return result

    assert torch.autograd.gradcheck(answers, (x, *random.parameters()))


def test_estimator_shares_deviations_and_has_gradient_zero_without_variance() -> None:
    _, random = _layers(LAYERS["matrix"][0], "local")
    with bayes.sharing_deviations(random, Deviations()):
        assert random.std("weight") is random.std("weight")
    assert random.std("weight") is not random.std("weight")
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    nn.init.constant_(random.get_parameter("bias_rho"), -math.inf)
    torch.autograd.backward(random(x).sum())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in random.parameters())
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimator_gives_no_rows_for_no_rows(estimator: Estimator) -> None:
    for make, shape in (*LAYERS.values(), *NORMS.values()):
        _, random = _layers(make, estimator)
        for samples in (1, 3):
            assert len(_drawn(random, torch.zeros(2, *shape).double(), samples)) == samples
        assert len(random(torch.zeros(0, *shape).double())) == 0
