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
from withstand.operators import Diagonal
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


def by_class(found: KernelNormBounds, name: str) -> Tensor:
    return torch.tensor([getattr(each, name) for each in found.classes], dtype=torch.float64)


# -- closed forms ---------------------------------------------------------------------------------


def test_of_a_linear_model_all_bounds_are_the_norms_of_its_rows() -> None:
    model = linear()
    expected = model[1].weight.detach().double().norm(dim=1)  # type: ignore[operator]
    found = kernel_norm_bounds(model, pictures(), FEW)
    for name in ("gradient", "perturbation"):
        torch.testing.assert_close(by_class(found, name), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(by_class(found, "spectral"), expected, rtol=1e-12, atol=0)
    assert (by_class(found, "spectral") >= expected * (1 - 1e-15)).all()
    deformation = by_class(found, "deformation")
    assert ((deformation > 0) & (deformation <= expected)).all()
    assert found.reason is None
    assert found.num_examples == 12


def test_a_deformation_along_the_weights_reaches_their_norm() -> None:
    """One bright pixel, moved by whole pixels: the change of the logit is known."""
    images = torch.zeros(1, 1, 1, 9)
    images[..., 4] = 1.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0, 3, 0, 0, 0, 0]]))  # type: ignore[operator]
    far = Deform(translation=8.0, rotation=0, scaling=0, displacement=0)
    found = kernel_norm_bounds(model, images, dataclasses.replace(FEW, deform=far, num_deformations=40))
    (bounds,) = found.classes
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


def test_normalisation_counts_in_units_of_the_images() -> None:
    model = nn.Sequential(Normalize([0.5, 0.5], [0.1, 0.1]), linear())
    weight = model[1][1].weight.detach().double()  # type: ignore[index]
    found = kernel_norm_bounds(model, pictures(), FEW)
    torch.testing.assert_close(by_class(found, "gradient"), 10 * weight.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(by_class(found, "spectral"), 10 * weight.norm(dim=1), rtol=1e-6, atol=0)


def test_the_gradient_is_that_of_finite_differences_at_the_steepest_example() -> None:
    model = net("normalised").double()
    images = pictures().double()
    found = kernel_norm_bounds(model, images, FEW)
    step = 1e-5
    with torch.no_grad():
        units = torch.eye(72, dtype=torch.float64).reshape(72, 2, 6, 6) * step
        slopes = [(model(image + units) - model(image - units)) / (2 * step) for image in images]
    expected = torch.stack([slope.norm(dim=0) for slope in slopes]).amax(dim=0)
    torch.testing.assert_close(by_class(found, "gradient"), expected, rtol=1e-6, atol=1e-9)


class Ramp(nn.Module):
    """Flat, then steep, along the first pixel: only a perturbation finds the steep part."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        return 0.1 * first + 5 * torch.relu(first - 1.0)


def test_perturbations_climb_to_where_the_logit_is_steeper() -> None:
    images = torch.full((2, 1), 0.5)
    near, far = (
        kernel_norm_bounds(Ramp(), images, dataclasses.replace(FEW, epsilon=epsilon, num_perturbed=1))
        for epsilon in (0.25, 2.0)
    )
    assert near.classes[0].perturbation == pytest.approx(0.1)
    # From 0.5 to 2.5: 0.1 * 2 + 5 * 1.5, over 2.
    assert far.classes[0].perturbation == pytest.approx((0.2 + 7.5) / 2)
    assert far.classes[0].gradient == pytest.approx(0.1)


# -- soundness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_above_the_upper_bound(kind: str) -> None:
    model = net(kind).double()
    found = kernel_norm_bounds(model, pictures(), FEW)
    upper = by_class(found, "spectral")
    assert found.reason is None
    assert all(0 < each.lower <= each.spectral for each in found.classes if each.spectral)
    assert all(each.deformation for each in found.classes)
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
    found = kernel_norm_bounds(net(kind), pictures(number, seed), few, seed=seed)
    assert all(each.lower <= (each.spectral or 0) for each in found.classes)


def test_more_examples_never_lower_a_bound() -> None:
    model = net("residual")
    few, many = (
        kernel_norm_bounds(model, pictures(), dataclasses.replace(FEW, num_examples=number, num_perturbed=12))
        for number in (4, 12)
    )
    assert (few.num_examples, many.num_examples) == (4, 12)
    for name in ("gradient", "perturbation", "deformation"):
        assert (by_class(few, name) <= by_class(many, name) + 1e-12).all()


def test_contradicting_bounds_are_refused() -> None:
    good = KernelNormsOf("cat", 1.0, 2.0, None, None, 2.0 * (1 - 1e-9))
    require_bounded([good, dataclasses.replace(good, spectral=None)])
    with pytest.raises(CertificateError, match=r"class dog .* 2 a unit .* upper bound is 1\.99"):
        require_bounded([good, dataclasses.replace(good, name="dog", spectral=1.99)])
    with pytest.raises(CertificateError, match="dog"):
        require_bounded([dataclasses.replace(good, name="dog", deformation=3.0)])


class Stretch(nn.Module):
    """Doubles; its rule below says something else."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 2 * images


class LocalStretch(Stretch):
    """The same, with a rule that looks at the place."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 2 * images


@domains.register(Stretch)
def _too_tight(site: Site, layer: Stretch, value: Domain) -> Domain:
    if not isinstance(value, domains.Ball):
        return value.affine(Diagonal(torch.full((), 2.0).to(value.center)), None, site.norm)
    return dataclasses.replace(value, midpoint=2 * value.midpoint)


@domains.register(LocalStretch)
def _local(site: Site, layer: LocalStretch, value: Domain) -> Domain:
    if not isinstance(value, domains.Ball):
        return value.affine(Diagonal(torch.full((), 2.0).to(value.center)), None, site.norm)
    factor = 2 + value.midpoint.flatten(1).norm(dim=1)
    return domains.Ball(2 * value.midpoint, value.radius * factor)


def test_a_rule_that_is_too_tight_refutes_itself() -> None:
    with pytest.raises(CertificateError, match="class left"):
        kernel_norm_bounds(
            nn.Sequential(Stretch(), linear()), pictures(), FEW, class_names=["left", "middle", "right"]
        )


def test_a_rule_that_knows_the_place_gives_no_bound() -> None:
    found = kernel_norm_bounds(nn.Sequential(LocalStretch(), linear()), pictures(), FEW)
    assert "near an image only" in str(found.reason)
    assert all(each.spectral is None and each.gradient > 0 for each in found.classes)


# -- what is left out, and what is refused -----------------------------------------------------------


class Squares(nn.Module):
    """Multiplies its input by itself, for which there is no rule."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images * images


def test_without_a_rule_there_is_no_upper_bound_but_a_reason() -> None:
    found = kernel_norm_bounds(nn.Sequential(Squares(), linear()), pictures(), FEW)
    assert "both factors depend on the input" in str(found.reason)
    assert all(each.spectral is None and each.lower > 0 for each in found.classes)
    (layer,) = found.layers
    assert layer.operator_norm == pytest.approx(layer.kernel_norm)


def test_an_activation_that_jumps_has_no_upper_bound() -> None:
    steep = nn.Sequential(nn.Softplus(beta=1e-4, threshold=1e-3), linear())
    found = kernel_norm_bounds(steep, pictures(), FEW)
    assert "jumps" in str(found.reason)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_not_finite_bound_nothing_and_harm_nothing(wrong: float) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), linear(48))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = wrong  # type: ignore[operator]
    found = kernel_norm_bounds(model, pictures(), FEW)
    assert found.reason is not None
    for each in found.classes:
        assert math.isfinite(each.lower)
        assert each.spectral is None
    assert found.layers[0] == KernelNormsOfLayer("0", None, None)


@pytest.mark.parametrize(
    "model", [linear(), net("convolutions"), net("pooled")], ids=["linear", "cnn", "pool"]
)
def test_dead_nets_give_zeros(model: nn.Sequential) -> None:
    with torch.no_grad():
        for parameter in model[:-1].parameters() if len(model) > 2 else model.parameters():
            parameter.zero_()
    found = kernel_norm_bounds(model, pictures(), FEW)
    for each in found.classes:
        assert dataclasses.astuple(each)[1:5] == (0.0, 0.0, 0.0, 0.0)
        assert each.spectral == pytest.approx(0.0, abs=1e-18)  # a Softplus jumps by a little


class Constant(nn.Module):
    """Says the same of every image, without looking at it."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.new_ones(len(images), 2)


def test_a_model_that_does_not_look_has_no_slope() -> None:
    found = kernel_norm_bounds(Constant(), pictures(), FEW)
    assert [each.lower for each in found.classes] == [0.0, 0.0]
    assert found.layers == []
    assert found.reason is not None


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 7), (1, 7)])
def test_what_is_no_picture_is_not_deformed(shape: tuple[int, ...]) -> None:
    model = linear(math.prod(shape[1:]), classes=1)
    (bounds,) = kernel_norm_bounds(model, torch.rand(shape), FEW).classes
    assert bounds.deformation is None
    assert bounds.deformation_change is None
    assert bounds.lower == pytest.approx(bounds.spectral)


def test_deformations_can_be_left_out() -> None:
    found = kernel_norm_bounds(linear(), pictures(), dataclasses.replace(FEW, num_deformations=0))
    assert all(each.deformation is None for each in found.classes)


def test_the_model_stays_as_it_was() -> None:
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


def test_the_seed_decides_the_deformations() -> None:
    model = linear()
    before = torch.get_rng_state()
    one, same, other = (kernel_norm_bounds(model, pictures(), FEW, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert (by_class(one, "deformation") != by_class(other, "deformation")).any()


def test_a_batch_is_the_same_whatever_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dataclasses.replace(FEW, num_deformations=0)
    whole = kernel_norm_bounds(net("convolutions"), pictures(), plain)
    monkeypatch.setattr("withstand.core.float64_copy._CACHE_SIZED", 1)
    single = kernel_norm_bounds(net("convolutions"), pictures(), plain)
    for name in ("gradient", "perturbation"):
        torch.testing.assert_close(by_class(whole, name), by_class(single, name), rtol=1e-9, atol=0)


def test_batches_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="at least one image"):
        kernel_norm_bounds(linear(), pictures(0), FEW)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        kernel_norm_bounds(linear(), 255 * pictures(), FEW)


def test_a_model_whose_answers_depend_on_the_batch_is_refused() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), linear())
    with pytest.raises(ModelError, match="not its own"):
        kernel_norm_bounds(model, pictures(), FEW)


def test_a_model_that_fails_is_named_with_its_error() -> None:
    with pytest.raises(ModelError, match="fails in eval mode and float64"):
        kernel_norm_bounds(linear(5), pictures(), FEW)


class Uncopyable(nn.Linear):
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, object]) -> Uncopyable:
        raise RuntimeError("no copy")


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ModelError, match="no copy"):
        float64_copy(Uncopyable(2, 2))


def test_exact_copies_are_apart_from_the_model() -> None:
    model = linear().train()
    exact = float64_copy(model)
    assert not exact.training
    assert all(each.dtype == torch.float64 and not each.requires_grad for each in exact.parameters())
    require_independence(exact, pictures(1).double())
    assert model.training
    assert all(each.dtype == torch.float32 for each in model.parameters())


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


def test_layers_have_the_norm_of_the_kernel_and_of_the_operator() -> None:
    model = net("convolutions")
    found = kernel_norm_bounds(model, pictures(), FEW)
    assert [each.name for each in found.layers] == ["0", "2", "5"]
    first = model[0].double()
    units = torch.eye(72, dtype=torch.float64).reshape(72, 2, 6, 6)
    bias = first(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    matrix = (first(units) - bias).flatten(1).detach()
    operator = float(torch.linalg.matrix_norm(matrix, ord=2))
    kernel = float(torch.linalg.matrix_norm(first.weight.flatten(1).detach(), ord=2))  # type: ignore[operator]
    assert found.layers[0].kernel_norm == pytest.approx(kernel, rel=1e-5)
    assert found.layers[0].operator_norm == pytest.approx(operator, rel=1e-5)
    assert float(found.layers[0].operator_norm or 0) >= operator
    assert found.layers[2].kernel_norm == pytest.approx(found.layers[2].operator_norm, rel=1e-5)


def test_parametrised_layers_are_measured_as_they_are() -> None:
    model = linear()
    parametrizations.spectral_norm(model[1], n_power_iterations=30)
    (layer,) = kernel_norm_bounds(model.eval(), pictures(), FEW).layers
    assert layer.kernel_norm == pytest.approx(1.0, rel=1e-2)


def test_where_an_operator_is_not_known_kernels_still_are() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU(), linear(108))
    found = kernel_norm_bounds(model, pictures(), FEW)
    assert "padding" in str(found.reason)
    assert [each.operator_norm for each in found.layers] == [None, None]
    assert all(each.kernel_norm for each in found.layers)
