"""Activations that sort: what they do to values, lengths and gradients, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from withstand.models import GroupSort, MinMax
from withstand.models.layers import activation_named
from withstand.types import ModelError

SORTING: Mapping[str, nn.Module] = {
    "minmax": MinMax(),
    "groupsort-2": GroupSort(2),
    "groupsort-3": GroupSort(3),
    "groupsort-all": GroupSort(6),
}


@pytest.fixture(params=SORTING.values(), ids=list(SORTING))
def sorting(request: pytest.FixtureRequest) -> nn.Module:
    layer: nn.Module = request.param
    return layer


@pytest.fixture(params=[(5, 6), (5, 6, 4), (5, 6, 2, 3)], ids=["2d", "3d", "4d"])
def images(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0))


def test_sorting_activations_move_values_between_channels_only(sorting: nn.Module, images: Tensor) -> None:
    outputs = sorting(images)
    assert outputs.shape == images.shape
    assert torch.equal(outputs.sort(dim=1).values, images.sort(dim=1).values)
    assert not torch.equal(outputs, images)


def test_group_sort_sorts_groups_of_neighbours() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 0.0, 5.0, 4.0]])
    assert GroupSort(2)(x).tolist() == [[1.0, 3.0, 0.0, 2.0, 4.0, 5.0]]
    assert GroupSort(3)(x).tolist() == [[1.0, 2.0, 3.0, 0.0, 4.0, 5.0]]
    assert GroupSort(6)(x).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    image = x.reshape(1, 6, 1, 1).expand(1, 6, 2, 2)
    assert GroupSort(3)(image)[0, :, 1, 0].tolist() == [1.0, 2.0, 3.0, 0.0, 4.0, 5.0]


def test_minmax_sorts_pairs_of_halves() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 0.0, 5.0, 4.0]])
    assert MinMax()(x).tolist() == [[0.0, 1.0, 2.0, 3.0, 5.0, 4.0]]
    assert MinMax()(x.reshape(1, 6, 1, 1)).flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 5.0, 4.0]


def test_sorting_activations_keep_the_length_of_gradients(sorting: nn.Module, images: Tensor) -> None:
    images.requires_grad_()
    upstream = torch.randn_like(images)
    (gradient,) = torch.autograd.grad((sorting(images) * upstream).sum(), images)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), upstream.flatten(1).norm(dim=1))


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6), norm=st.sampled_from([1.0, 2.0, float("inf")]))
@settings(max_examples=50, deadline=None)
def test_sorting_activations_let_no_distance_grow(seed: int, scale: float, norm: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    other = one + scale * torch.randn(8, 6, generator=generator, dtype=torch.float64)
    for layer in SORTING.values():
        away = (layer(one) - layer(other)).norm(norm, dim=1)
        assert (away <= (one - other).norm(norm, dim=1) * (1 + 1e-12)).all()


def test_sorting_activations_leave_an_empty_batch_empty(sorting: nn.Module) -> None:
    assert sorting(torch.zeros(0, 6, 2)).shape == (0, 6, 2)


def test_sorting_activations_are_leaves_for_a_tracer_that_takes_them_so(
    sorting: nn.Module, images: Tensor
) -> None:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, MinMax | GroupSort)

    model = nn.Sequential(sorting)
    traced = fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(images), sorting(images))


def test_sorting_activations_describe_themselves() -> None:
    assert str(GroupSort(4)) == "GroupSort(group_size=4)"
    assert str(MinMax()) == "MinMax()"


# What they refuse


def test_sorting_activations_refuse_widths_that_do_not_divide() -> None:
    with pytest.raises(ModelError, match=r"MinMax pairs channels, but got 5 of them; choose an even width"):
        MinMax()(torch.zeros(2, 5))
    with pytest.raises(ModelError, match=r"cannot split 6 channels into groups of 4; choose a width"):
        GroupSort(4)(torch.zeros(2, 6, 3, 3))


@pytest.mark.parametrize("size", [1, 0, -2])
def test_group_sort_refuses_groups_below_two(size: int) -> None:
    with pytest.raises(ModelError, match=rf"at least 2 channels, but got group_size={size}"):
        GroupSort(size)


# By name


def test_activations_have_names() -> None:
    assert isinstance(activation_named("minmax")(), MinMax)
    assert isinstance(activation_named("leaky-relu")(), nn.LeakyReLU)
    with pytest.raises(ModelError, match=r"no activation 'relu6'; .*relu"):
        activation_named("relu6")
