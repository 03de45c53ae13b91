from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand.constraints import Constraint, SpectralBall
from withstand.core.schedules import Continuation, Linear
from withstand.operators import Place, places, weights
from withstand.types import ModelError

IMAGE = (2, 6, 6)


def _net(seed: int = 0, *, scale: float = 3.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            *[nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()],
            *[nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten()],
            *[nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)],
        )
    with torch.no_grad():
        for weight in weights(net):
            weight.value.mul_(scale)
    return net


def _copies(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _norms(net: nn.Module) -> list[float]:
    return [torch.linalg.matrix_norm(weight.matrix.double(), ord=2).item() for weight in weights(net)]


def _closed(matrix: Tensor, radius: float) -> Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    clipped: Tensor = (left * values.clamp_max(radius)) @ right
    return clipped


# The kernel form


def test_spectral_ball_projects_each_weight_and_nothing_else() -> None:
    net = _net()
    before = _copies(net)
    SpectralBall(0.7).project_(net)
    names = {f"{weight.name}.weight" for weight in weights(net)}
    for name, value in net.state_dict().items():
        if name in names:
            expected = _closed(before[name].flatten(1), 0.7).view(value.shape)
            torch.testing.assert_close(value.double(), expected, rtol=0, atol=2e-6)
            assert not value.equal(before[name])
        else:
            assert value.equal(before[name])
    assert all(norm <= 0.7 * (1 + 2e-6) for norm in _norms(net))


def test_spectral_ball_projecting_again_changes_nothing() -> None:
    net, ball = _net().double(), SpectralBall(0.7)
    ball.project_(net)
    before = _copies(net)
    ball.project_(net)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-14)


def test_spectral_ball_leaves_weights_inside_bit_for_bit_and_replaces_none() -> None:
    net, parameters = _net(), [*_net().parameters()]
    before, parameters = _copies(net), [*net.parameters()]
    SpectralBall(1.001 * max(_norms(net))).project_(net)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    SpectralBall(0.1).project_(net)
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert all(parameter.grad_fn is None and parameter.requires_grad for parameter in net.parameters())


def test_spectral_ball_writes_weights_laid_out_otherwise_too() -> None:
    net = _net()
    plain = _net()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for model in (net, plain):
        SpectralBall(0.7).project_(model)
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_spectral_ball_projects_transposed_convolutions_and_compiled_models() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(5, 2, 3))
    compiled = torch.compile(net, backend="eager")
    assert isinstance(compiled, nn.Module)
    SpectralBall(0.3).project_(compiled)
    assert _norms(net) == pytest.approx([0.3], rel=1e-5)


def test_spectral_ball_projects_odd_matrices() -> None:
    net = nn.Sequential(nn.Linear(5, 1), nn.Linear(1, 5), nn.Linear(1, 1), nn.Linear(3, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(-2.0)
        weights(net)[3].value.zero_()
    SpectralBall(1.5).project_(net)
    torch.testing.assert_close(weights(net)[0].value, torch.full((1, 5), -1.5 / math.sqrt(5)))
    torch.testing.assert_close(weights(net)[1].value, torch.full((5, 1), -1.5 / math.sqrt(5)))
    assert weights(net)[2].value == -1.5
    assert not weights(net)[3].value.any()


def test_spectral_ball_leaves_weights_that_are_not_finite_to_whoever_reports_them() -> None:
    net = _net()
    with torch.no_grad():
        weights(net)[0].value[0, 0, 0, 0] = math.nan
    before = weights(net)[0].value.clone()
    SpectralBall(0.5).project_(net)
    assert torch.equal(weights(net)[0].value.nan_to_num(9), before.nan_to_num(9))
    assert _norms(net[3:]) == pytest.approx([0.5] * 3, rel=1e-5)


def test_spectral_ball_clips_half_precision_weights() -> None:
    net = _net().bfloat16()
    SpectralBall(0.5).project_(net)
    assert all(weight.value.dtype == torch.bfloat16 for weight in weights(net))
    assert _norms(net) == pytest.approx([0.5] * 4, rel=0.02)


def test_spectral_ball_radius_follows_its_schedule() -> None:
    net, ball = _net(), SpectralBall(Continuation(0.2, epochs=1))
    for progress, radius in [(0.0, 1.0), (1.0, 0.2 * (1 + 4 / math.e)), (math.inf, 0.2)]:
        ball.after_step_(net, step=1, progress=progress)
        assert _norms(net) == pytest.approx([radius] * 4, rel=1e-5)
    assert "Continuation" in str(ball)  # by which a resumed training tells another constraint


@pytest.mark.parametrize("schedule", [Linear(0.0, 1.0, 2), Linear(-1.0, 1.0, 2)])
def test_spectral_ball_refuses_a_radius_that_is_not_positive(schedule: Linear) -> None:
    with pytest.raises(ValueError, match=r"must be positive and finite|all values of radius of at least 0"):
        SpectralBall(schedule).project_(_net(), progress=0.0)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_spectral_ball_needs_a_radius(radius: float) -> None:
    with pytest.raises(ValueError, match=rf"^Expected radius above 0.*, but got {radius:g}\.$"):
        SpectralBall(radius)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "kernels"}, "but got 'kernels'"),
        ({"every": 0}, "every of at least 1, but got 0"),
        ({"subspace": -1}, "subspace of at least 0, but got -1"),
        ({"subspace": 2}, "or give every > 1, but got form='kernel' and every=1"),
        ({"subspace": 2, "every": 9, "form": "operator"}, "got form='operator' and every=9"),
    ],
)
def test_spectral_ball_refuses_options_that_do_not_fit(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SpectralBall(1.0, **options)  # type: ignore[arg-type]


def test_spectral_ball_refuses_parametrised_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2), parametrizations.weight_norm(nn.Linear(2, 2)))
    before = weights(net)[0].value.clone()
    with pytest.raises(ModelError, match="'1' is parametrised, or computed by a hook"):
        SpectralBall(0.01).project_(net)
    assert weights(net)[0].value.equal(before)


def test_spectral_ball_projects_every_few_steps() -> None:
    net, ball = _net(), SpectralBall(0.5, every=3)
    before = _copies(net)
    for step in (1, 2):
        ball.after_step_(net, step=step, progress=1.0)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    ball.after_step_(net, step=3, progress=1.0)
    assert _norms(net) == pytest.approx([0.5] * 4, rel=1e-5)
    assert not ball.state_dict()


# The subspace


def _updates(net: nn.Module, seed: int, length: float) -> list[float]:
    """Moves the weights mostly along one pair of vectors, as gradients do; gives the norm of each move."""
    steady, noise = (torch.Generator().manual_seed(number) for number in (0, 1 + seed))
    lengths = []
    with torch.no_grad():
        for weight in weights(net):
            rows, columns = weight.matrix.shape
            left, right = (torch.randn(side, generator=steady) for side in (rows, columns))
            move = torch.outer(left, right) + 0.1 * torch.randn(rows, columns, generator=noise)
            move *= length / torch.linalg.matrix_norm(move, ord=2)
            weight.value.add_(move.view(weight.value.shape))
            lengths.append(torch.linalg.matrix_norm(move, ord=2).item())
    return lengths


def test_spectral_ball_between_exact_projections_keeps_its_bound_and_in_practice_the_radius() -> None:
    radius, every, length = 1.2, 10, 0.03
    net, ball = _net(scale=1.5), SpectralBall(radius, every=every, subspace=4)
    loose = _net(scale=1.5)
    since = [0.0] * 4
    for step in range(1, 41):
        lengths = _updates(net, step, length)
        _updates(loose, step, length)
        since = [sum(pair) for pair in zip(since, lengths, strict=True)]
        ball.after_step_(net, step=step, progress=1.0)
        if step == 1 or step % every == 0:
            since = [0.0] * 4
        for norm, allowed in zip(_norms(net), since, strict=True):
            assert norm <= (radius + allowed) * (1 + 1e-5)
            assert norm <= radius + 0.1 * length
    assert all(norm > 1.2 * radius for norm in _norms(loose))


def test_spectral_ball_keeps_its_bound_with_more_singular_values_than_the_subspace_holds() -> None:
    net, ball = _net(), SpectralBall(0.2, every=100, subspace=1)  # all of them stand at the radius
    total = [0.0] * 4
    for step in range(1, 11):
        lengths = _updates(net, step, 0.05)
        ball.after_step_(net, step=step, progress=1.0)
        if step > 1:
            total = [sum(pair) for pair in zip(total, lengths, strict=True)]
        assert all(norm <= 0.2 + allowed + 1e-5 for norm, allowed in zip(_norms(net), total, strict=True))


def test_spectral_ball_projects_exactly_at_the_first_step() -> None:
    net = _net()
    SpectralBall(0.5, every=100, subspace=1).after_step_(net, step=1, progress=1.0)
    assert _norms(net) == pytest.approx([0.5] * 4, rel=1e-5)


def test_spectral_ball_bases_start_from_the_exact_vectors() -> None:
    net, ball = _net(), SpectralBall(0.5, every=5, subspace=2)
    matrix = weights(net)[3].matrix.clone()
    ball.project_(net)
    basis = ball.state_dict()["bases.of_8"]
    left = torch.linalg.svd(matrix).U[:, :2]
    torch.testing.assert_close((basis.T @ left).det().abs(), torch.tensor(1.0), rtol=0, atol=1e-4)
    assert set(ball.state_dict()) == {"bases.of_0", "bases.of_3", "bases.of_6", "bases.of_8"}


def test_spectral_ball_continues_from_a_checkpoint_in_a_fresh_object() -> None:
    net, ball = _net(), SpectralBall(0.8, every=100, subspace=2)
    for step in range(1, 4):
        _updates(net, step, 0.05)
        ball.after_step_(net, step=step, progress=1.0)
    fresh, other = nn.ModuleList([SpectralBall(0.8, every=100, subspace=2)]), _net()
    fresh.load_state_dict({f"0.{name}": value.clone() for name, value in ball.state_dict().items()})
    other.load_state_dict(_copies(net))
    (resumed,) = fresh
    assert isinstance(resumed, Constraint)
    for model, constraint in ((net, ball), (other, resumed)):
        _updates(model, 4, 0.05)
        constraint.after_step_(model, step=4, progress=1.0)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert one.equal(two)
    ball.load_state_dict({})
    assert not ball.state_dict()


def test_spectral_ball_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    ball = SpectralBall(99.0, every=9, subspace=2)
    ball.project_(_net())
    assert torch.get_rng_state().equal(before)
    assert len(ball.state_dict()) == 4  # also where nothing was to clip


# The operator form


def _operator_norm(place: Place) -> float:
    size = torch.Size(place.input_shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, *place.input_shape)
    images = place.operator.entrywise(torch.Tensor.double).apply(units).flatten(1)
    norm: float = torch.linalg.matrix_norm(images, ord=2).item()
    return norm


def test_spectral_ball_brings_the_operators_of_all_layers_inside() -> None:
    torch.manual_seed(0)
    net, ball = _net(), SpectralBall(0.6, form="operator", input_shape=IMAGE)
    net.append(nn.Unflatten(1, (3, 1, 1))).append(nn.ConvTranspose2d(3, 2, 3, stride=2))
    image = torch.zeros(1, *IMAGE)
    assert min(_operator_norm(place) for place in places(net, image)) > 0.6
    ball.project_(net)
    for place in places(net, image):
        assert 0.3 < _operator_norm(place) <= 0.6 * (1 + 1e-6)
    before = _copies(net)
    ball.project_(net)
    for place in places(net, image)[:2]:
        assert place.weight.value.equal(before[f"{place.weight.name}.weight"])


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, stride=2)
        self.two.weight = self.one.weight

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.two(self.one(x))
        return result


def test_spectral_ball_holds_a_shared_weight_inside_wherever_it_is_used() -> None:
    net = _Tied()
    SpectralBall(0.2, form="operator", input_shape=(2, 9)).project_(net)
    assert all(_operator_norm(place) <= 0.2 for place in places(net, torch.zeros(1, 2, 9)))
    assert net.two.weight is net.one.weight


def test_spectral_ball_in_operator_form_needs_the_size() -> None:
    with pytest.raises(ModelError, match="give SpectralBall input_shape="):
        SpectralBall(0.6, form="operator").project_(_net())
