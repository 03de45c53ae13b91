from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from withstand.operators import Convolution, Dense, Diagonal, PowerIteration, Shape, upper_bound

INPUT: Shape = (2, 5, 5)


def _kernel(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)


def _convolution(weight: Tensor) -> Convolution:
    return Convolution(weight, [1, 1], [1, 1], [1, 1])


def _exact(weight: Tensor, shape: Shape = INPUT) -> Tensor:
    size = torch.Size(shape).numel()
    images = _convolution(weight).apply(torch.eye(size, dtype=weight.dtype).view(size, *shape))
    norm: Tensor = torch.linalg.matrix_norm(images.flatten(1), ord=2)
    return norm


def _gapped(seed: int) -> Tensor:
    """A matrix with singular values 3, 1, 1/2, 1/4."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(side, 4, generator=generator, dtype=torch.float64)).Q for side in (6, 5)
    )
    matrix: Tensor = left * torch.tensor([3.0, 1.0, 0.5, 0.25], dtype=torch.float64) @ right.T
    return matrix


def test_power_iteration_converges_to_the_largest_singular_value() -> None:
    estimate = PowerIteration(200).of(_convolution(_kernel()), INPUT, "a")
    torch.testing.assert_close(estimate, _exact(_kernel()), rtol=1e-8, atol=0)


def test_power_iteration_rises_from_call_to_call_and_never_above() -> None:
    norms, operator = PowerIteration(), _convolution(_kernel())
    estimates = torch.stack([norms.of(operator, INPUT, "a") for _ in range(30)])
    assert (estimates.diff() >= -1e-12).all()
    assert (estimates <= _exact(_kernel()) * (1 + 1e-12)).all()
    assert estimates[-1] > estimates[0] * (1 + 1e-6)
    torch.testing.assert_close(estimates[-1], _exact(_kernel()), rtol=1e-3, atol=0)


def test_power_iteration_is_near_at_the_first_call() -> None:
    estimate = PowerIteration().of(Dense(_gapped(0)), (5,), "a")
    torch.testing.assert_close(estimate, torch.tensor(3.0, dtype=torch.float64), rtol=1e-10, atol=0)


def test_power_iteration_gradient_is_that_of_the_singular_value() -> None:
    weight = _gapped(1).requires_grad_()
    torch.autograd.backward(PowerIteration(50).of(Dense(weight), (5,), "a"))
    left, _, right = torch.linalg.svd(weight.detach())
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.outer(left[:, 0], right[0]), rtol=0, atol=1e-8)
    direction = torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5)
    with torch.no_grad():
        ends = [torch.linalg.matrix_norm(weight + step * direction, ord=2) for step in (1e-5, -1e-5)]
    torch.testing.assert_close((weight.grad * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=0)


def test_power_iteration_needs_no_vector_for_a_closed_form() -> None:
    norms = PowerIteration()
    assert norms.of(Diagonal(torch.tensor([1.0, -3.0])), (2,), "a") == 3
    assert not norms.state_dict()


def test_power_iteration_has_a_vector_for_each_key() -> None:
    norms = PowerIteration()
    norms.of(_convolution(_kernel(0)), INPUT, "layers.0")
    before = norms.state_dict()["vectors.of_layers/0"].clone()
    norms.of(_convolution(_kernel(1)), INPUT, "layers.1")
    assert set(norms.state_dict()) == {"vectors.of_layers/0", "vectors.of_layers/1"}
    assert norms.state_dict()["vectors.of_layers/0"].equal(before)


def test_power_iteration_continues_from_a_checkpoint_in_a_fresh_object() -> None:
    norms, operator = PowerIteration(), _convolution(_kernel())
    for _ in range(3):
        norms.of(operator, INPUT, "a.b")
    fresh = PowerIteration()
    fresh.load_state_dict({name: value.clone() for name, value in norms.state_dict().items()})
    assert fresh.of(operator, INPUT, "a.b").equal(norms.of(operator, INPUT, "a.b"))


def test_power_iteration_continues_from_a_checkpoint_inside_another_module() -> None:
    outer, fresh = torch.nn.Sequential(PowerIteration()), torch.nn.Sequential(PowerIteration())
    (norms,) = outer
    assert isinstance(norms, PowerIteration)
    norms.of(_convolution(_kernel()), INPUT, "a")
    fresh.load_state_dict(outer.state_dict())
    assert fresh.state_dict()["0.vectors.of_a"].equal(outer.state_dict()["0.vectors.of_a"])


def test_power_iteration_vectors_move_with_the_module() -> None:
    norms = PowerIteration()
    norms.of(_convolution(_kernel().float()), INPUT, "a")
    before = norms.state_dict()["vectors.of_a"]
    norms.double()
    assert norms.of(_convolution(_kernel()), INPUT, "a").dtype == torch.float64
    assert (norms.state_dict()["vectors.of_a"] * before).sum() > 0.9  # it went on from where it was


def test_power_iteration_starts_anew_for_another_input_shape() -> None:
    norms = PowerIteration()
    norms.of(_convolution(_kernel()), INPUT, "a")
    larger: Shape = (2, 9, 4)
    estimate = norms.of(_convolution(_kernel()), larger, "a")
    torch.testing.assert_close(estimate, _exact(_kernel(), larger), rtol=0.05, atol=0)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_power_iteration_vector_outlives_weights_that_give_none(bad: float) -> None:
    norms = PowerIteration()
    first = norms.of(_convolution(torch.full_like(_kernel(), bad)), INPUT, "a")
    assert first == 0 if bad == 0 else first.isnan()
    later = torch.stack([norms.of(_convolution(_kernel()), INPUT, "a") for _ in range(30)])[-1]
    torch.testing.assert_close(later, _exact(_kernel()), rtol=1e-2, atol=0)


def test_power_iteration_trains_on_after_inference_mode() -> None:
    norms, weight = PowerIteration(), _kernel().requires_grad_()
    with torch.inference_mode():
        norms.of(_convolution(weight), INPUT, "a")
    torch.autograd.backward(norms.of(_convolution(weight), INPUT, "a"))
    assert weight.grad is not None


def test_power_iteration_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    PowerIteration().of(_convolution(_kernel()), INPUT, "a")
    assert torch.get_rng_state().equal(before)


def test_power_iteration_needs_an_iteration() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PowerIteration(0)


def test_power_iteration_has_two_vectors_for_names_that_differ_by_a_dot() -> None:
    norms = PowerIteration()
    first, second = Dense(_gapped(1)), Dense(_gapped(2))
    for _ in range(2):
        norms.of(first, (5,), "block.weight")
        norms.of(second, (5,), "block_weight")
    for operator, name in ((first, "block.weight"), (second, "block_weight")):
        assert norms.of(operator, (5,), name).item() == pytest.approx(3.0, rel=1e-6)


def _grouped(*scales: float) -> nn.Parameter:
    """Kernels of a depthwise convolution, one scale a channel."""
    return nn.Parameter(torch.stack([scale * _kernel()[0, :1].float() for scale in scales]))


def _depthwise(weight: Tensor) -> Convolution:
    return Convolution(weight, [1, 1], [1, 1], [1, 1], groups=len(weight))


def test_power_iteration_follows_a_block_that_was_small_when_it_becomes_the_largest() -> None:
    norms, weight = PowerIteration(), _grouped(4.0, 2.0)
    for _ in range(200):
        norms.of(_depthwise(weight), INPUT, "a")
    with torch.no_grad():
        weight[0] *= 0.1
    estimate = norms.of(_depthwise(weight), INPUT, "a")
    true = upper_bound(_depthwise(weight), INPUT)
    torch.testing.assert_close(estimate, true.float(), rtol=1e-2, atol=0)


def test_power_iteration_gradient_reaches_the_largest_block_alone() -> None:
    weight = _grouped(1.0, 3.0, 2.0)
    torch.autograd.backward(PowerIteration(20).of(_depthwise(weight), (3, 5, 5), "a"))
    assert weight.grad is not None
    assert weight.grad.flatten(1).any(dim=1).tolist() == [False, True, False]


def test_power_iteration_finds_a_direction_that_its_vector_lacks() -> None:
    """Of a diagonal matrix, a vector on the first axis would stay there for ever."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.25]))
    norms, weight = PowerIteration(), nn.Parameter(matrix.clone())
    for _ in range(300):
        norms.of(Dense(weight), (3,), "a")
    with torch.no_grad():
        weight[1, 1] = 1.3
    for _ in range(60):
        estimate = norms.of(Dense(weight), (3,), "a")
    assert estimate > 1.3 * (1 - 1e-3)


def test_power_iteration_begins_anew_for_another_parameter() -> None:
    norms, first, second = PowerIteration(), nn.Parameter(_gapped(0)), nn.Parameter(_gapped(5))
    for _ in range(30):
        norms.of(Dense(first), (5,), "a")
    fresh = PowerIteration().of(Dense(second), (5,), "a")
    torch.testing.assert_close(norms.of(Dense(second), (5,), "a"), fresh, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e25, 1e30])
def test_power_iteration_is_right_at_any_scale_in_float32(scale: float) -> None:
    matrix = (_gapped(3) * scale).float()
    estimate = PowerIteration().of(Dense(matrix), (5,), "a")
    assert estimate.item() == pytest.approx(3 * scale, rel=1e-5)


def test_power_iteration_can_be_copied_and_pickled() -> None:
    norms, weight = PowerIteration(), nn.Parameter(_gapped(2))
    norms.of(Dense(weight), (5,), "a")
    for again in (copy.deepcopy(norms), pickle.loads(pickle.dumps(norms))):
        assert again.of(Dense(weight), (5,), "a").equal(copy.deepcopy(norms).of(Dense(weight), (5,), "a"))
