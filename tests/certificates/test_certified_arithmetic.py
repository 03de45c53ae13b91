"""A certificate speaks of the model that was given: its steps, its arithmetic, its masked classes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import Certifier, certified_radius, certify
from withstand.certificates import METHODS, Method
from withstand.core.float64_copy import float64_copy
from withstand.types import DataError, ModelError


class PreActivation(nn.Module):
    """A residual net whose in-place ReLU changes what the sum reads, with a mask for its last class."""

    mask: Tensor

    def __init__(self, mask: float, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu = nn.ReLU(inplace=in_place)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, mask]))

    @override
    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        hidden = hidden + self.second(self.relu(hidden))
        logits: Tensor = self.last(hidden)
        return logits + self.mask


class PlainAttributes(nn.Module):
    """A normalisation by float32 tensors that are neither parameters nor buffers."""

    def __init__(self, held: Callable[[Tensor], object], read: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.held, self.read, self.linear = held(torch.tensor([0.3081])), read, nn.Linear(20, 2)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images / self.read(self.held))
        return logits


@pytest.mark.parametrize("mask", [0.0, -1e3, -1e9])
@pytest.mark.parametrize("in_place", [False, True])
def test_certify_takes_what_is_changed_in_place_as_the_model_does(mask: float, in_place: bool) -> None:
    images, model = torch.rand(50, 6), PreActivation(mask, in_place=in_place).eval()
    logits = model(images).double()
    labels = logits.argmax(dim=1)
    proof = certify(model, images, labels, norm=2, epsilon=0.0)
    assert proof.certified.all()
    others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
    expected = logits.gather(1, labels[:, None]).squeeze(1) - others
    torch.testing.assert_close(proof.margin, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mask", [0.0, -1e3, -1e9])
def test_certify_refuses_a_graph_that_is_the_model_no_longer_masked_or_not(
    mask: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steered(PreActivation):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if STEERING["is_plain"] else images.flip(1))

    images, model = torch.rand(50, 6), Steered(mask, in_place=False).eval()
    labels, certifier = model(images).argmax(dim=1), Certifier(model)
    assert certifier.certify(images, labels, norm=2, epsilon=0.0).certified.all()
    monkeypatch.setitem(STEERING, "is_plain", False)
    with pytest.raises(ModelError, match="something else than the graph"):
        certifier.certify(images, labels, norm=2, epsilon=0.0)


STEERING = {"is_plain": True}  # of which no attribute of a model tells


class Pair(NamedTuple):
    """A named tuple that holds a tensor, and a torch.Size, which must stay one."""

    tensor: Tensor
    size: torch.Size = torch.Size([1, 2])


@dataclass(frozen=True)
class Held:
    """A dataclass that does."""

    tensor: Tensor


@pytest.mark.parametrize(
    ("held", "read"),
    [
        (lambda x: x, lambda x: x),
        (lambda x: [x], lambda x: x[0]),
        (lambda x: {"a": (1, x)}, lambda x: x["a"][1]),
        (lambda x: OrderedDict(a=x), lambda x: x["a"]),
        (Pair, lambda x: x.tensor),
        (Held, lambda x: x.tensor),
    ],
    ids=["tensor", "list", "dict", "ordered", "named tuple", "dataclass"],
)
def test_certified_radius_of_plain_tensors_ends_at_the_boundary(
    held: Callable[[Tensor], object], read: Callable[[object], Tensor]
) -> None:
    model = PlainAttributes(held, read).eval()
    images = torch.rand(30, 20)
    weight, bias = model.linear.weight.double(), model.linear.bias.double()
    logits = images.double() / torch.tensor(0.3081).double() @ weight.T + bias
    labels = logits.argmax(dim=1)
    steepness = (weight[0] - weight[1]).norm() / torch.tensor(0.3081).double()
    distance = (logits[:, 0] - logits[:, 1]).abs() / steepness
    beyond, within = distance * (1 + 1e-9), distance * (1 - 1e-9)
    assert not certify(model, images, labels, norm=2, epsilon=beyond.detach(), clip=False).certified.any()
    assert certify(model, images, labels, norm=2, epsilon=within.detach(), clip=False).certified.all()


def test_float64_copy_of_a_list_that_holds_itself_ends() -> None:
    model = PlainAttributes(lambda x: x, lambda x: x)  # type: ignore[arg-type, return-value]
    itself: list[object] = [torch.ones(1)]
    itself.append(itself)
    model.held = itself
    copied = float64_copy(model)
    assert copied.held[0].dtype == torch.float64  # type: ignore[index]
    assert itself[0].dtype == torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 50])
def test_certifier_of_any_batch_size_refuses_what_depends_on_the_batch(batch_size: int) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(16, 3)).eval()
    images, labels = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ModelError, match="not its own"):
        Certifier(model, batch_size=batch_size).certify(images, labels, norm=2, epsilon=0.1)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("bias", [300.0, math.inf])
def test_certify_leaves_out_ties_and_infinity_of_the_given_precision(label: int, bias: float) -> None:
    linear = nn.Linear(16, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[label, 0] = 1e-3
        linear.bias.fill_(300.0)
        if bias == math.inf:  # in float16, not in float64
            linear.weight.fill_(6e4)
            linear.weight[label] = 6.1e4
            linear.bias.zero_()
    dtype = torch.bfloat16 if bias == 300 else torch.float16
    model = nn.Sequential(nn.Flatten(), linear).to(dtype).eval()
    images, labels = torch.ones(1, 1, 4, 4), torch.tensor([label])
    assert Certifier(model).predict(images).argmax() == label
    assert not certify(model, images, labels, norm=2, epsilon=1e-3).certified.any()
    assert certified_radius(model, images, labels, norm=2) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_certify_of_weights_in_buffers_asks_the_model_in_their_precision(dtype: torch.dtype) -> None:
    class OfBuffers(nn.Module):
        weight: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randn(3, 16).to(dtype))

        @override
        def forward(self, images: Tensor) -> Tensor:
            return F.linear(images.flatten(1), self.weight)

    model, images = OfBuffers().eval(), torch.rand(6, 1, 4, 4)
    labels = model(images.to(dtype)).argmax(dim=1)
    assert certify(model, images, labels, norm=2, epsilon=0.0).certified.any()


def test_certify_of_logits_that_cancel_is_not_refused() -> None:
    """Two of three logits are rounding alone where an image is even."""
    linear = nn.Linear(9, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0] * 9, [1, 1, -2] * 3, [1, -1, 0, 2, -2, 0, 0, 0, 0]]))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), linear).eval()
    for grey in torch.rand(100):
        images = grey.expand(1, 1, 5, 5).contiguous()
        assert certify(model, images, torch.tensor([0]), norm=2, epsilon=0.0).certified.all()


def test_certify_leaves_out_what_the_given_precision_gets_wrong() -> None:
    """A BatchNorm of a large mean: in float64 it works, in float32 nothing is left of the image."""
    torch.manual_seed(1)
    linear, norm = nn.Linear(784, 32), nn.BatchNorm1d(32)
    model = nn.Sequential(nn.Flatten(), linear, norm, nn.ReLU(), nn.Linear(32, 10)).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        linear.bias.fill_(3e8)  # so large that in whatever order float32 adds up, it is what is left
        norm.running_mean.fill_(3e8)
        norm.running_var.fill_(1e-2)
    images = torch.rand(60, 1, 28, 28)
    labels = Certifier(model).predict(images).argmax(dim=1)
    is_correct = model(images).argmax(dim=1) == labels
    assert not is_correct.all()
    proof = certify(model, images, labels, norm=2, epsilon=1e-3)
    assert (proof.margin > 0).all()
    assert torch.equal(proof.certified, is_correct)
    radii = certified_radius(model, images, labels, norm=2)
    assert torch.equal(radii > 0, is_correct)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_certify_asks_a_half_precision_model_in_its_own_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval().to(dtype)
    images = torch.rand(200, 1, 4, 4)
    labels = Certifier(model).predict(images).argmax(dim=1)
    proof = certify(model, images, labels, norm=2, epsilon=0.0)
    given = model(images.to(dtype))
    assert torch.equal(proof.certified, (proof.margin > 0) & (given.argmax(dim=1) == labels))


@pytest.mark.parametrize("mask", [0.0, -1e3, -1e9, -1e12, -1e30, -math.inf])
@pytest.mark.parametrize("method", ["best", "box", "ball"])
def test_certify_proves_as_much_with_a_masked_class(mask: float, method: str) -> None:
    images = torch.rand(40, 1, 4, 4)
    linear = nn.Linear(16, 4)
    model = nn.Sequential(nn.Flatten(), linear).eval()
    with torch.no_grad():
        linear.bias[3] = -1e3
        labels = model(images).argmax(dim=1)
        expected = certify(model, images, labels, norm=2, epsilon=0.05, method=method)  # type: ignore[arg-type]
        linear.bias[3] = mask if mask else -1e3
        proof = certify(model, images, labels, norm=2, epsilon=0.05, method=method)  # type: ignore[arg-type]
    assert torch.equal(proof.certified, expected.certified)
    assert expected.certified.any()
    torch.testing.assert_close(proof.margin, expected.margin, rtol=0, atol=1e-9)


def test_certify_of_a_masked_label_proves_nothing() -> None:
    linear = nn.Linear(16, 3)
    with torch.no_grad():
        linear.bias[2] = -math.inf
    model = nn.Sequential(nn.Flatten(), linear).eval()
    images, labels = torch.rand(5, 1, 4, 4), torch.full((5,), 2)
    assert not certify(model, images, labels, norm=2, epsilon=0.0).certified.any()
    assert (certified_radius(model, images, labels, norm=2) == 0).all()


class Of(nn.Module):
    """A function before a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(16, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.function(images.flatten(1)))
        return logits


def _traced() -> nn.Module:
    traced: nn.Module = torch.jit.trace(Of(F.relu).eval(), torch.rand(2, 16))
    return traced


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: _traced(), ModelError, "not a scripted one"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), ModelError, "lazy"),
        (lambda: Of(lambda x: x / 0.0), ModelError, "constant other than 0"),
        (lambda: Of(lambda x: x[:, None].squeeze()), ModelError, "name the dimension"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_certify_of_an_unsuitable_model_says_what_to_do(
    model: Callable[[], nn.Module], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        certify(
            model().eval(), torch.rand(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), norm=2, epsilon=0.1
        )


def test_certify_of_wrong_arguments_says_what_to_do() -> None:
    model, images = Of(F.relu).eval(), torch.rand(2, 1, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match="labels below 3, one a logit, but got 3"):
        certify(model, images, labels + 3, norm=2, epsilon=0.1)
    with pytest.raises(DataError, match="labels below 3"):
        certified_radius(model, images, labels + 3, norm=2)
    with pytest.raises(ValueError, match=r"norms l1, l2 and linf, but got norm 'l3'"):
        certify(model, images, labels, norm="l3", epsilon=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"epsilon as a number, such as .*, but got 'much'"):
        certify(model, images, labels, norm=2, epsilon="much")  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "same"), [("l2", 2.0), ("2", 2.0), ("linf", math.inf), ("inf", math.inf)])
def test_certify_takes_norm_and_epsilon_as_text(norm: Any, same: float) -> None:
    model, images = Of(F.relu).eval(), torch.rand(2, 1, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    as_text = certify(model, images, labels, norm=norm, epsilon="8/255")  # type: ignore[arg-type]
    as_number = certify(model, images, labels, norm=same, epsilon=8 / 255)
    assert torch.equal(as_text.margin, as_number.margin)
    radii = [certified_radius(model, images, labels, norm=p) for p in (norm, same)]
    assert torch.equal(*radii)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8), ("l2", 4.1)])
def test_certify_warns_of_a_budget_beyond_the_range(norm: Any, epsilon: float) -> None:
    model, images = Of(F.relu).eval(), torch.rand(2, 1, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.warns(UserWarning, match=rf"epsilon {epsilon} in {norm} .* did you mean {epsilon}/255\?"):
        assert not certify(model, images, labels, norm=norm, epsilon=epsilon).certified.any()
    certify(model, images, labels, norm=2, epsilon=4.0)  # the distance of black and white
    certify(model, images, labels, norm=norm, epsilon=epsilon, clip=False)  # pixels of any value


def test_certify_of_a_steep_softplus_counts_its_jump() -> None:
    model = Of(lambda x: F.softplus(x, 1.0, -2000.0)).eval()
    images = torch.rand(4, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    assert not certify(model, images, labels, norm=2, epsilon=0.1).certified.any()


class Masked(nn.Module):
    """Three classes, of which the last is masked after the last layer."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.mask = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), mask

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.mask(self.body(images))


IS_MASKED = torch.tensor([False, False, True])


@pytest.mark.parametrize(
    "mask",
    [
        lambda logits: logits + torch.tensor([0.0, 0.0, -math.inf]),
        lambda logits: logits.masked_fill(IS_MASKED, -math.inf),
        lambda logits: torch.where(IS_MASKED, -1e12, logits),
        lambda logits: torch.cat([logits[:, :2], torch.full_like(logits[:, 2:], -math.inf)], 1),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_certify_proves_of_a_masked_model_what_it_proves_without_the_class(mask: Any, method: Method) -> None:
    model, images = Masked(mask).eval(), torch.rand(30, 4)
    labels = model(images).argmax(dim=1)
    last = nn.Linear(8, 2)
    with torch.no_grad():
        last.weight.copy_(model.get_parameter("body.2.weight")[:2])
        last.bias.copy_(model.get_parameter("body.2.bias")[:2])
    bare = nn.Sequential(*list(model.body.children())[:2], last)
    proof = certify(model, images, labels, norm=2, epsilon=0.05, method=method)
    expected = certify(bare, images, labels, norm=2, epsilon=0.05, method=method)
    assert proof.certified.any()
    torch.testing.assert_close(proof.margin, expected.margin)
    assert proof.certified.equal(expected.certified)
