"""Kernel norms: closed forms, soundness on nets of every kind, and what cannot be bounded."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand import domains
from withstand.core.float64_copy import float64_copy, require_independence
from withstand.data import Deform
from withstand.domains import Domain, Site
from withstand.evaluation.kernel_norms import KernelNormBounds, KernelNormSettings, kernel_norm_bounds
from withstand.evaluation.kernel_norms.all_bounds import require_bounded
from withstand.models import Normalize
from withstand.results.analytic import KernelNormsOf, KernelNormsOfLayer
from withstand.types import CertificateError, DataError, ModelError

FEW = KernelNormSettings(num_examples=12, num_perturbed=4, num_deformations=3)
CLASSES = 3


def pictures(num: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(num, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def linear(features: int = 72, classes: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


class Residual(nn.Module):
    """A convolution with a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images + torch.relu(self.inner(images))


def net(kind: str) -> nn.Sequential:
    torch.manual_seed(2)
    head = (nn.Flatten(), nn.LazyLinear(CLASSES))
    parts: dict[str, list[nn.Module]] = {
        "convolutions": [nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(4, 5, 2), nn.ReLU()],
        "pooled": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2, stride=1), nn.AvgPool2d(2), nn.Softplus()],
        "residual": [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), Residual(), Residual()],
        "normalised": [Normalize([0.4, 0.5], [0.2, 0.3]), nn.Conv2d(2, 4, 3, groups=2), nn.Tanh()],
    }
    model = nn.Sequential(*parts[kind], *head)
    model.eval()(pictures(2))  # makes the lazy layer
    return model


KINDS = ("convolutions", "pooled", "residual", "normalised")


def by_class(bounds: KernelNormBounds, name: str) -> Tensor:
    return torch.tensor([getattr(of_class, name) for of_class in bounds.classes], dtype=torch.float64)


# -- closed forms ---------------------------------------------------------------------------------


def test_bounds_of_a_linear_model_are_the_norms_of_its_rows() -> None:
    model = linear()
    expected = model[1].weight.detach().double().norm(dim=1)  # type: ignore[operator]
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    for name in ("gradient", "perturbation"):
        torch.testing.assert_close(by_class(bounds, name), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(by_class(bounds, "spectral"), expected, rtol=1e-12, atol=0)
    assert (by_class(bounds, "spectral") >= expected * (1 - 1e-15)).all()
    deformation = by_class(bounds, "deformation")
    assert ((deformation > 0) & (deformation <= expected)).all()
    assert bounds.reason is None
    assert bounds.num_examples == 12


def test_deformation_along_the_weights_reaches_their_norm() -> None:
    """One bright pixel, moved by whole pixels: the change of the logit is known."""
    images = torch.zeros(1, 1, 1, 9)
    images[..., 4] = 1.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0, 3, 0, 0, 0, 0]]))  # type: ignore[operator]
    far = Deform(translation=8.0, rotation=0, scaling=0, displacement=0)
    all_bounds = kernel_norm_bounds(model, images, dataclasses.replace(FEW, deform=far, num_deformations=40))
    zero, bounds = all_bounds.classes  # one logit is that of class 1, against 0
    assert zero.deformation == zero.deformation_change == zero.spectral == 0
    assert bounds.deformation_change == pytest.approx(3.0)  # the pixel is moved away
    assert bounds.deformation == pytest.approx(3.0)  # and out of the picture in one of them
    assert bounds.spectral == pytest.approx(3.0)


@pytest.mark.parametrize("factor", [0.0, 1e-6, 0.5, 1e3])
def test_bounds_scale_with_the_last_layer(factor: float) -> None:
    model = net("convolutions")
    before = kernel_norm_bounds(model, pictures(), FEW)
    with torch.no_grad():
        model[-1].weight.mul_(factor)  # type: ignore[operator]
        model[-1].bias.mul_(factor)  # type: ignore[operator]
    after = kernel_norm_bounds(model, pictures(), FEW)
    for name in ("gradient", "perturbation", "deformation", "deformation_change", "spectral"):
        torch.testing.assert_close(by_class(after, name), factor * by_class(before, name), rtol=1e-6, atol=0)


def test_bounds_are_in_units_of_the_images() -> None:
    model = nn.Sequential(Normalize([0.5, 0.5], [0.1, 0.1]), linear())
    weight = model[1][1].weight.detach().double()  # type: ignore[index]
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    torch.testing.assert_close(by_class(bounds, "gradient"), 10 * weight.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(by_class(bounds, "spectral"), 10 * weight.norm(dim=1), rtol=1e-6, atol=0)


def test_gradient_bound_is_that_of_finite_differences_at_the_steepest_example() -> None:
    model = net("normalised").double()
    images = pictures().double()
    bounds = kernel_norm_bounds(model, images, FEW)
    step = 1e-5
    with torch.no_grad():
        units = torch.eye(72, dtype=torch.float64).reshape(72, 2, 6, 6) * step
        slopes = [(model(image + units) - model(image - units)) / (2 * step) for image in images]
    expected = torch.stack([slope.norm(dim=0) for slope in slopes]).amax(dim=0)
    torch.testing.assert_close(by_class(bounds, "gradient"), expected, rtol=1e-6, atol=1e-9)


class Ramp(nn.Module):
    """Flat, then steep, along the first pixel: only a perturbation finds the steep part."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        return 0.1 * first + 5 * torch.relu(first - 1.0)


def test_perturbation_bound_climbs_to_where_the_logit_is_steeper() -> None:
    images = torch.full((2, 1), 0.5)
    near, far = (
        kernel_norm_bounds(Ramp(), images, dataclasses.replace(FEW, epsilon=epsilon, num_perturbed=1))
        for epsilon in (0.25, 2.0)
    )
    assert near.classes[1].perturbation == pytest.approx(0.1)
    # From 0.5 to 2.5: 0.1 * 2 + 5 * 1.5, over 2.
    assert far.classes[1].perturbation == pytest.approx((0.2 + 7.5) / 2)
    assert far.classes[1].gradient == pytest.approx(0.1)


# -- soundness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_upper_bound_is_above_all_that_is_seen(kind: str) -> None:
    model = net(kind).double()
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    upper = by_class(bounds, "spectral")
    assert bounds.reason is None
    assert all(0 < of_class.lower <= of_class.spectral for of_class in bounds.classes if of_class.spectral)
    assert all(of_class.deformation for of_class in bounds.classes)
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(200, 2, 6, 6, generator=generator, dtype=torch.float64)
    for distance in (1e-3, 0.1, 10.0):  # far outside of [0, 1] as well, since the bound is global
        second = first + distance * torch.randn(first.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            change = (model(first) - model(second)).abs()
        assert (change <= upper * (first - second).flatten(1).norm(dim=1)[:, None] * (1 + 1e-9)).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 0.1, 5.0]), st.integers(1, 7), st.sampled_from(KINDS))
def test_lower_bounds_are_below_the_upper_ones(seed: int, epsilon: float, number: int, kind: str) -> None:
    few = dataclasses.replace(FEW, epsilon=epsilon, num_steps=number)
    bounds = kernel_norm_bounds(net(kind), pictures(number, seed), few, seed=seed)
    assert all(of_class.lower <= (of_class.spectral or 0) for of_class in bounds.classes)


def test_bounds_are_never_lowered_by_more_examples() -> None:
    model = net("residual")
    few, many = (
        kernel_norm_bounds(model, pictures(), dataclasses.replace(FEW, num_examples=number, num_perturbed=12))
        for number in (4, 12)
    )
    assert (few.num_examples, many.num_examples) == (4, 12)
    for name in ("gradient", "perturbation", "deformation"):
        assert (by_class(few, name) <= by_class(many, name) + 1e-12).all()


def test_require_bounded_refuses_contradicting_bounds() -> None:
    good = KernelNormsOf("cat", 1.0, 2.0, None, None, 2.0 * (1 - 1e-9))
    require_bounded([good, dataclasses.replace(good, spectral=None)])
    with pytest.raises(CertificateError, match=r"class dog .* 2 a unit .* upper bound is 1\.99"):
        require_bounded([good, dataclasses.replace(good, name="dog", spectral=1.99)])
    with pytest.raises(CertificateError, match="dog"):
        require_bounded([dataclasses.replace(good, name="dog", deformation=3.0)])


@torch.library.custom_op("test_kernel_norm_bounds::stretch", mutates_args=())
def stretch(x: Tensor) -> Tensor:
    return 2 * x


@torch.library.custom_op("test_kernel_norm_bounds::local_stretch", mutates_args=())
def local_stretch(x: Tensor) -> Tensor:
    return 2 * x


for operator in (stretch, local_stretch):
    operator.register_fake(torch.empty_like)
    operator.register_autograd(lambda _, gradient: 2 * gradient)


class Stretch(nn.Module):
    """Doubles; its rule below does something else."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return stretch(images)  # type: ignore[no-any-return]


class LocalStretch(nn.Module):
    """The same, with a rule that looks at the place."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return local_stretch(images)  # type: ignore[no-any-return]


@domains.register(stretch)
def _too_tight(site: Site, value: Domain) -> Domain:
    if not isinstance(value, domains.Ball):
        return value.add(value)
    return dataclasses.replace(value, midpoint=2 * value.midpoint)


@domains.register(local_stretch)
def _local(site: Site, value: Domain) -> Domain:
    if not isinstance(value, domains.Ball):
        return value.add(value)
    factor = 2 + value.midpoint.flatten(1).norm(dim=1)
    return domains.Ball(2 * value.midpoint, value.radius * factor)


def test_bounds_refute_a_rule_that_is_too_tight() -> None:
    with pytest.raises(CertificateError, match="class left"):
        kernel_norm_bounds(
            nn.Sequential(Stretch(), nn.ReLU(), linear()),
            pictures(),
            FEW,
            class_names=["left", "middle", "right"],
        )


def test_upper_bound_is_none_for_a_rule_that_knows_the_place() -> None:
    bounds = kernel_norm_bounds(nn.Sequential(LocalStretch(), nn.ReLU(), linear()), pictures(), FEW)
    assert "near an image only" in str(bounds.reason)
    assert all(of_class.spectral is None and of_class.gradient > 0 for of_class in bounds.classes)


# -- what is left out, and what is refused -----------------------------------------------------------


class Summed(nn.Module):
    """Sums up, for which there is no rule."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.cumsum(1)


def test_upper_bound_is_none_with_a_reason_without_a_rule() -> None:
    bounds = kernel_norm_bounds(nn.Sequential(Summed(), linear()), pictures(), FEW)
    assert "no rule for aten.cumsum" in str(bounds.reason)
    assert all(of_class.spectral is None and of_class.lower > 0 for of_class in bounds.classes)
    (layer,) = bounds.layers
    assert layer.operator_norm == pytest.approx(layer.kernel_norm)


def test_upper_bound_is_none_for_an_activation_that_jumps() -> None:
    steep = nn.Sequential(nn.Softplus(beta=1e-4, threshold=1e-3), linear())
    bounds = kernel_norm_bounds(steep, pictures(), FEW)
    assert "jumps" in str(bounds.reason)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_bounds_are_finite_or_none_for_weights_that_are_not_finite(wrong: float) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), linear(48))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = wrong  # type: ignore[operator]
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    assert bounds.reason is not None
    for of_class in bounds.classes:
        assert math.isfinite(of_class.lower)
        assert of_class.spectral is None
    assert bounds.layers[0] == KernelNormsOfLayer("0", None, None)


@pytest.mark.parametrize(
    "model", [linear(), net("convolutions"), net("pooled")], ids=["linear", "cnn", "pool"]
)
def test_lower_bounds_of_dead_nets_are_zero(model: nn.Sequential) -> None:
    with torch.no_grad():
        for parameter in model[:-1].parameters() if len(model) > 2 else model.parameters():
            parameter.zero_()
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    for of_class in bounds.classes:
        assert dataclasses.astuple(of_class)[1:5] == (0.0, 0.0, 0.0, 0.0)
        assert of_class.spectral == pytest.approx(0.0, abs=1e-18)  # a Softplus jumps by a little


class Constant(nn.Module):
    """Answers the same for every image, without looking at it."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.new_ones(len(images), 2)


def test_lower_bounds_of_a_constant_model_are_zero() -> None:
    bounds = kernel_norm_bounds(Constant(), pictures(), FEW)
    assert [of_class.lower for of_class in bounds.classes] == [0.0, 0.0]
    assert bounds.layers == []
    assert bounds.reason is not None


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 7), (1, 7)])
def test_deformation_bound_is_none_of_what_is_no_picture(shape: tuple[int, ...]) -> None:
    model = linear(math.prod(shape[1:]), classes=2)
    for bounds in kernel_norm_bounds(model, torch.rand(shape), FEW).classes:
        assert bounds.deformation is None
        assert bounds.deformation_change is None
        assert bounds.lower == pytest.approx(bounds.spectral)


def test_deformation_bound_can_be_left_out() -> None:
    bounds = kernel_norm_bounds(linear(), pictures(), dataclasses.replace(FEW, num_deformations=0))
    assert all(of_class.deformation is None for of_class in bounds.classes)


def test_bounds_leave_the_model_as_it_was() -> None:
    model = net("residual").train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = pictures()
    with torch.inference_mode():
        inside = kernel_norm_bounds(model, images.clone(), FEW)
    assert inside == kernel_norm_bounds(model, images, FEW)
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not images.requires_grad


def test_deformation_bound_is_decided_by_the_seed() -> None:
    model = linear()
    before = torch.get_rng_state()
    one, same, other = (kernel_norm_bounds(model, pictures(), FEW, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert (by_class(one, "deformation") != by_class(other, "deformation")).any()


def test_bounds_do_not_depend_on_how_a_batch_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dataclasses.replace(FEW, num_deformations=0)
    whole = kernel_norm_bounds(net("convolutions"), pictures(), plain)
    monkeypatch.setattr("withstand.core.float64_copy._CACHE_SIZED", 1)
    single = kernel_norm_bounds(net("convolutions"), pictures(), plain)
    for name in ("gradient", "perturbation"):
        torch.testing.assert_close(by_class(whole, name), by_class(single, name), rtol=1e-9, atol=0)


def test_bounds_refuse_batches_that_are_none() -> None:
    with pytest.raises(DataError, match="at least one image"):
        kernel_norm_bounds(linear(), pictures(0), FEW)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        kernel_norm_bounds(linear(), 255 * pictures(), FEW)


def test_bounds_refuse_a_model_whose_answers_depend_on_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), linear())
    with pytest.raises(ModelError, match="not its own"):
        kernel_norm_bounds(model, pictures(), FEW)


def test_bounds_name_the_error_of_a_model_that_fails() -> None:
    class OfTwo(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 2:
                raise RuntimeError("two at most")
            return images.flatten(2).sum(2)

    with pytest.raises(ModelError, match=r"fails on images \(2, 2, 6, 6\): mat1 and mat2 shapes"):
        kernel_norm_bounds(linear(5), pictures(), FEW)
    with pytest.raises(ModelError, match=r"fails in eval mode and float64.*two at most"):
        kernel_norm_bounds(OfTwo(), pictures(), FEW)


class Uncopyable(nn.Linear):
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, object]) -> Uncopyable:
        raise RuntimeError("no copy")


def test_bounds_refuse_a_model_that_cannot_be_copied() -> None:
    with pytest.raises(ModelError, match="no copy"):
        float64_copy(Uncopyable(2, 2))


def test_float64_copy_is_apart_from_the_model() -> None:
    model = linear().train()
    copied = float64_copy(model)
    assert not copied.training
    assert all(
        parameter.dtype == torch.float64 and not parameter.requires_grad for parameter in copied.parameters()
    )
    require_independence(copied, pictures(1).double())
    assert model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_examples": 0}, "num_examples .* got 0"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_perturbed": -1}, "num_perturbed"),
        ({"num_deformations": -1}, "num_deformations"),
        ({"epsilon": 1e-4}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FEW, **change)  # type: ignore[arg-type]


def test_settings_are_described() -> None:
    assert "l2 1 from the 4 examples" in FEW.describe()
    assert "3 random deformations" in FEW.describe()
    assert "deformations" not in dataclasses.replace(FEW, num_deformations=0).describe()


# -- layers ---------------------------------------------------------------------------------------


def test_layer_norms_are_those_of_the_kernel_and_of_the_operator() -> None:
    model = net("convolutions")
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    assert [layer.name for layer in bounds.layers] == ["0", "2", "5"]
    first = model[0].double()
    units = torch.eye(72, dtype=torch.float64).reshape(72, 2, 6, 6)
    bias = first(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    matrix = (first(units) - bias).flatten(1).detach()
    operator = float(torch.linalg.matrix_norm(matrix, ord=2))
    kernel = float(torch.linalg.matrix_norm(first.weight.flatten(1).detach(), ord=2))  # type: ignore[operator]
    assert bounds.layers[0].kernel_norm == pytest.approx(kernel, rel=1e-5)
    assert bounds.layers[0].operator_norm == pytest.approx(operator, rel=1e-5)
    assert float(bounds.layers[0].operator_norm or 0) >= operator
    assert bounds.layers[2].kernel_norm == pytest.approx(bounds.layers[2].operator_norm, rel=1e-5)


def test_layer_norms_of_parametrised_layers_are_of_the_weights_in_use() -> None:
    model = linear()
    parametrizations.spectral_norm(model[1], n_power_iterations=30)
    (layer,) = kernel_norm_bounds(model.eval(), pictures(), FEW).layers
    assert layer.kernel_norm == pytest.approx(1.0, rel=1e-2)


def test_layer_norms_hold_kernels_where_an_operator_is_not_known() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), Summed(), nn.ReLU(), linear(108)
    )
    bounds = kernel_norm_bounds(model, pictures(), FEW)
    assert "aten.cumsum" in str(bounds.reason)
    assert [layer.operator_norm for layer in bounds.layers] == [None, None]
    assert all(layer.kernel_norm for layer in bounds.layers)
