"""Rules of linear operators against their matrices, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.operators import Shape

FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MATRIX = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STACK = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: MATRIX @ x, (6, 3)),
        (lambda x: (MATRIX @ x.T).T, (6,)),
        (lambda x: F.linear(MATRIX, x).T, (6,)),
        (lambda x: torch.addmm(torch.ones(2, 4).double()[:1], x, MATRIX.T, beta=2, alpha=-1), (6,)),
        (lambda x: torch.baddbmm(torch.ones(()).double(), x, MATRIX.T.expand(x.shape[0], 6, 4)), (2, 6)),
        (lambda x: x @ MATRIX[0], (2, 6)),
        (lambda x: MATRIX[0] @ x, (6, 2)),
        (lambda x: x @ STACK, (2, 3, 5)),
        (lambda x: x.unsqueeze(1) @ STACK, (3, 5)),
        (lambda x: (x @ STACK).transpose(0, 1), (5,)),
        (lambda x: STACK @ x, (2, 3, 2)),
        (lambda x: STACK @ x.unsqueeze(1), (3, 2)),
        (lambda x: torch.einsum("bij,kj->bki", x, MATRIX), (2, 6)),
        (lambda x: torch.tensordot(x, MATRIX, dims=([2], [1])), (2, 6)),
    ],
)
def test_rules_of_products_with_constants_are_exact(
    function: Callable[[Tensor], Tensor], shape: Shape, exactly: Callable[..., None]
) -> None:
    exactly(function, shape)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        *(
            (lambda x, mode=mode: F.pad(x, (2, 1), mode), (2, 4))
            for mode in ("reflect", "replicate", "circular")
        ),
        (lambda x: F.pad(x, (2, 1, 0, 1), "replicate"), (1, 3, 4)),
        (lambda x: F.pad(x, (1, 1, 2, 0), "circular"), (1, 3, 4)),
        (lambda x: x.roll((1, -1), (1, 2)), (3, 2)),
        (lambda x: x.repeat(1, 2, 3), (3, 2)),
        (lambda x: x.repeat(3, 1, 1).transpose(0, 1), (2,)),
        (lambda x: torch.tile(x, (2,)), (2, 3)),
        (lambda x: x.repeat_interleave(2, dim=2), (2, 3)),
        (lambda x: x[:, [2, 0, 0, 1]], (3, 2)),
        (lambda x: x[:, torch.tensor([[0, 1], [1, 1]]), 1:], (3, 2)),
        (lambda x: x[:, torch.tensor([0, 1]), torch.tensor([1, 1])], (2, 3)),
        (lambda x: x.index_select(-1, torch.tensor([1, 1, 0])), (2, 3)),
        (lambda x: x.gather(1, torch.tensor([[0, 2, 2]]).expand(x.shape[0], 3)), (3,)),
        (lambda x: x.expand(-1, 3, -1), (1, 3)),
        (lambda x: x[:, None].expand_as(x.new_zeros(x.shape[0], 2, 3)), (3,)),
        (lambda x: x.unfold(1, 3, 2), (7,)),
        (lambda x: F.unfold(x, (2, 1), stride=(1, 2)), (2, 3, 4)),
        (lambda x: x.tril(-1) + 1, (3, 3)),
        (lambda x: x.diagonal(1, 1, 2), (3, 4)),
        (lambda x: x.mT, (3, 4)),
        (lambda x: x.triu(), (2, 3)),
        (lambda x: x.rot90(1, (1, 2)), (2, 3)),
        (lambda x: F.pixel_shuffle(x, 2), (4, 1, 2)),
        (lambda x: F.pixel_unshuffle(x, 2), (1, 2, 4)),
        (lambda x: F.channel_shuffle(x, 2), (4, 1, 2)),
        (
            lambda x: torch.cat(
                [torch.ones(1, 2).double().expand(x.shape[0], 2), x, x.new_zeros(x.shape[0], 1)], 1
            ),
            (3,),
        ),
        (lambda x: torch.stack([x, torch.ones_like(x)], -1), (3,)),
        (lambda x: torch.stack([x, x], 1), (3,)),
        (lambda x: torch.where(torch.tensor([True, False, True]), x, 2.0), (2, 3)),
        (lambda x: x.masked_fill(torch.tensor([True, False, True]), -3.0), (2, 3)),
        (lambda x: torch.lerp(x, torch.ones(3).double(), 0.3), (3,)),
    ],
)
def test_rules_of_picks_are_exact(
    function: Callable[[Tensor], Tensor], shape: Shape, exactly: Callable[..., None]
) -> None:
    exactly(function, shape)


@given(data=st.data())
@FEW
def test_rules_of_transposed_convolutions_are_exact(
    exactly: Callable[..., None], data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, 3))
    number = st.integers(1, 2 if rank == 3 else 3)
    kernel, stride, dilation = ([data.draw(number) for _ in range(rank)] for _ in range(3))
    layer: Any = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[rank]
    groups = data.draw(st.integers(1, 2))
    sides = [data.draw(st.integers(2, 3)) for _ in range(rank)]
    padding = [
        data.draw(st.integers(0, size * (taps - 1) // 2)) for size, taps in zip(dilation, kernel, strict=True)
    ]
    extra = [data.draw(st.integers(0, step - 1)) for step in stride]
    model = layer(2, 2 * groups, kernel, stride, padding, extra, groups, data.draw(st.booleans()), dilation)
    exactly(model, (2, *sides))


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data())
@FEW
def test_rules_of_interpolation_are_exact(
    rank: int, exactly: Callable[..., None], data: st.DataObject
) -> None:
    smooth = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[rank]
    mode = data.draw(st.sampled_from(["nearest", "nearest-exact", *smooth]))
    corners = data.draw(st.booleans()) if mode in smooth else None
    antialias = rank == 2 and mode in smooth and not corners and data.draw(st.booleans())
    sides = [data.draw(st.integers(1, 4)) for _ in range(rank)]
    if data.draw(st.booleans()):
        size: dict[str, Any] = {"size": [data.draw(st.integers(1, 5)) for _ in range(rank)]}
    else:
        size = {"scale_factor": [data.draw(st.sampled_from([1.0, 1.5, 2.0])) for _ in range(rank)]}
    exactly(
        lambda x: F.interpolate(x, **size, mode=mode, align_corners=corners, antialias=antialias),
        (2, *sides),
    )


@given(data=st.data())
@FEW
def test_rules_of_average_pooling_by_a_divisor_are_exact(
    exactly: Callable[..., None], data: st.DataObject
) -> None:
    kernel = [data.draw(st.integers(2, 3)) for _ in range(2)]
    stride = [data.draw(st.integers(1, 3)) for _ in range(2)]
    flags = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.sampled_from([None, 1, 5]))
    build: Any = nn.AvgPool2d
    exactly(build(kernel, stride, [data.draw(st.integers(0, 1)) for _ in range(2)], *flags), (1, 4, 5))


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_rules_of_convolutions_with_any_padding_bound_them(mode: Any, soundly: Callable[..., None]) -> None:
    soundly(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), (2, 4, 4))
