"""Orthogonal weights: as the linear maps that their layers are, whatever kernel and stride."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from withstand.constraints import (
    NormalizedRows,
    Orthogonal,
    orthogonal_,
    orthogonal_free_last_,
    orthogonal_normalized_last_,
)
from withstand.constraints.orthogonal import nearest_orthonormal, orthonormal
from withstand.domains import DomainName
from withstand.models import create, load_weights, save_weights
from withstand.models.liresnet import LinearResidual
from withstand.objectives import Certified
from withstand.operators import Convolution, upper_bound, weights
from withstand.types import ModelError

SIDE = 6  # of images, which the strides divide


def _matrix(layer: nn.Module, *shape: int) -> Tensor:
    """What a linear layer without bias does to an example of a shape, as a matrix."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        images: Tensor = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    return images.flatten(1).T


def _convolution(kind: Callable[..., nn.Module], *sizes: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    layer = kind(*sizes, bias=False, dtype=torch.float64, **options)
    orthogonal_(layer)
    return layer


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_convolution_on_a_circle_has_singular_values_1(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    padding = tuple(size - 1 for size in kernel)
    layer = _convolution(
        nn.Conv2d, inputs, outputs, kernel, stride=stride, padding=0, padding_mode="circular"
    )
    # Padded on one side alone, so that it gives one output a stride.
    around = nn.Sequential(nn.CircularPad2d((0, padding[1], 0, padding[0])), layer)
    matrix = _matrix(around, inputs, SIDE, SIDE)
    values = torch.linalg.svdvals(matrix)
    num_read = inputs * math.prod(SIDE * min(1, k / step) for k, step in zip(kernel, stride, strict=True))
    expected = (torch.arange(len(values)) < min(len(matrix), round(num_read))).double()
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 2), (2, 3), (2, 2)])
def test_kernel_is_orthogonal_at_each_frequency(inputs: int, outputs: int) -> None:
    weight: Tensor = _convolution(nn.Conv2d, inputs, outputs, 3).weight.detach()
    symbols = torch.fft.fft2(weight, s=(7, 7)).permute(2, 3, 0, 1)
    values = torch.linalg.svdvals(symbols)
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-10)
    assert torch.count_nonzero(weight) == weight.numel()


@pytest.mark.parametrize(
    "layer",
    [
        _convolution(nn.Conv2d, 2, 3, 3, padding=1),
        _convolution(nn.Conv2d, 2, 5, 4, stride=2, padding=1),
        _convolution(nn.Conv2d, 2, 9, 3, stride=2, padding=1),
        _convolution(nn.Conv2d, 2, 4, 3, padding=1, groups=2),
        _convolution(nn.Conv2d, 2, 2, 3, padding=2, dilation=2),
        _convolution(nn.Conv2d, 2, 4, 3, padding=2, dilation=2, stride=2),
        _convolution(nn.Conv2d, 1, 1, 3, padding=1),
        _convolution(nn.ConvTranspose2d, 2, 3, 4, stride=2, padding=1),
        _convolution(nn.ConvTranspose2d, 2, 4, 3, stride=2, groups=2),
    ],
    ids=str,
)
def test_layer_that_pads_with_zeros_does_not_expand(layer: Any) -> None:
    assert torch.linalg.matrix_norm(_matrix(layer, layer.in_channels, SIDE, SIDE), 2) <= 1 + 1e-12


@pytest.mark.parametrize(("kind", "rank"), [(nn.Conv1d, 1), (nn.Conv3d, 3)])
def test_series_and_volumes_have_orthogonal_kernels_too(kind: Callable[..., nn.Module], rank: int) -> None:
    layer = _convolution(kind, 2, 2, 2, padding=1, padding_mode="circular")
    image = torch.randn(1, 2, *[4] * rank, dtype=torch.float64)
    around = layer(image)[(..., *[slice(4)] * rank)]
    torch.testing.assert_close(around.norm(), image.norm())


@pytest.mark.parametrize("weight", [nn.Conv2d(3, 2, 3), nn.Conv2d(2, 5, 4, 2), nn.Linear(3, 5)], ids=str)
def test_weight_has_the_gradient_of_finite_differences(weight: nn.Conv2d | nn.Linear) -> None:
    torch.manual_seed(0)
    weight.double()
    orthogonal_(weight)
    compute: Any = weight.get_submodule("parametrizations.weight.0")
    parameters = [
        (parameter + 0.1 * torch.randn_like(parameter)).detach().requires_grad_()
        for name, parameter in weight.named_parameters()
        if "original" in name
    ]
    torch.autograd.gradcheck(compute, parameters)


def test_orthonormal_is_the_cholesky_form_and_keeps_its_digits() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 3, 5, dtype=torch.float64)
    inverse = torch.linalg.inv(torch.linalg.cholesky(matrices @ matrices.mT))
    torch.testing.assert_close(orthonormal(matrices), inverse @ matrices)
    torch.testing.assert_close(orthonormal(matrices.mT), orthonormal(matrices).mT)
    skewed = torch.randn(20, 20) * torch.logspace(-5, 5, 20)
    result = orthonormal(skewed)
    torch.testing.assert_close(result @ result.T, torch.eye(20), rtol=0, atol=1e-5)


def test_orthogonal_matrix_starts_nearest_to_the_former_weight() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    former = layer.weight.detach().clone()
    orthogonal_(layer)
    least = (layer.weight - former).norm()
    assert all((orthonormal(torch.randn(3, 4)) - former).norm() > least for _ in range(20))
    torch.testing.assert_close(layer.weight @ former.T, (layer.weight @ former.T).T)  # as of a polar factor
    kept = layer.weight.detach().clone()
    layer.weight = kept
    torch.testing.assert_close(layer.weight, kept)


def test_matrices_on_top_of_each_other_are_orthogonal_each() -> None:
    compute = Orthogonal((6, 4), groups=2)
    parts = compute(*compute.right_inverse(torch.randn(6, 4))).chunk(2)
    for part in parts:
        torch.testing.assert_close(part @ part.T, torch.eye(3))


def test_last_layer_has_rows_of_length_1_and_all_others_are_orthogonal() -> None:
    last = nn.Linear(4, 3)
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 4), last)
    former = last.weight.detach().clone()
    orthogonal_normalized_last_(net)
    torch.testing.assert_close(last.weight, former / former.norm(dim=1, keepdim=True))
    for weight in weights(net)[:-1]:
        torch.testing.assert_close(weight.matrix @ weight.matrix.T, torch.eye(len(weight.matrix)))
    with pytest.raises(ModelError, match="'0', is of Conv2d, whose rows are no classes"):
        orthogonal_normalized_last_(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten()))
    assert (NormalizedRows()(torch.zeros(2, 3)) == 0).all()


def test_last_layer_is_left_free_and_all_others_are_orthogonal() -> None:
    last = nn.Linear(4, 3)
    net = nn.Sequential(nn.Linear(8, 4), last)
    former = last.weight
    orthogonal_free_last_(net)
    assert last.weight is former
    first, second = weights(net)
    assert first.parametrised
    assert not second.parametrised
    torch.testing.assert_close(first.matrix @ first.matrix.T, torch.eye(4))
    with pytest.raises(ModelError, match="whose rows are no classes"):
        orthogonal_free_last_(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten()))
    with pytest.raises(ModelError, match="The only weight, "):
        orthogonal_free_last_(nn.Linear(4, 3))


def test_kernels_of_linear_residual_blocks_are_left_free() -> None:
    net = create("liresnet", input_shape=(1, 8, 8), num_classes=3, width=4, hidden=[6])
    orthogonal_(net)
    blocks = {id(block.conv) for block in net.modules() if isinstance(block, LinearResidual)}
    assert len(blocks) == 2
    assert {id(weight.layer) for weight in weights(net) if not weight.parametrised} == blocks


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (6, 2, 4, 4)])
def test_certificates_know_that_an_orthogonal_convolution_does_not_expand(shape: tuple[int, ...]) -> None:
    stride = 2 if shape[-1] == 4 else 1
    layer = nn.Conv2d(shape[1], shape[0], shape[2], stride, padding=1)
    orthogonal_(layer)
    operator = Convolution(layer.weight.detach(), [stride] * 2, [1, 1], [1, 1], 1)
    for size in (8, 40):  # by its matrix, and on a circle
        assert upper_bound(operator, (shape[1], size, size)) <= 1 + 2e-6


def _liresnet() -> nn.Module:
    net = create("liresnet", input_shape=(1, 8, 8), num_classes=3, width=4, hidden=[6])
    orthogonal_normalized_last_(net)
    return net


def test_orthogonal_weights_are_kept_copied_and_laid_out_as_others(tmp_path: Path) -> None:
    net, other = _liresnet(), _liresnet()
    images = torch.rand(2, 1, 8, 8)
    assert not torch.equal(net(images), other(images))
    save_weights(net, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(net(images), other(images))
    assert torch.equal(net(images), copy.deepcopy(net)(images))
    other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(other(images), net(images))


class _Counted(TorchDispatchMode):
    """Counts decompositions."""

    count = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.linalg_qr.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("domain", ["ball", "box_ball"])
def test_step_of_certified_training_computes_each_weight_once(domain: DomainName) -> None:
    net, objective = _liresnet(), Certified(2.0, 0.1, domain=domain)
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    objective(net, images, labels)  # the first compares the graph with the model
    with _Counted() as counted:  # type: ignore[no-untyped-call]
        objective(net, images, labels)
    # A matrix for each of stem, neck and hidden layer, and the projectors of the first two.
    assert counted.count == 5


def test_nearest_orthonormal_of_an_orthonormal_matrix_is_itself() -> None:
    matrix = orthonormal(torch.randn(3, 5, dtype=torch.float64))
    torch.testing.assert_close(nearest_orthonormal(matrix), matrix)
