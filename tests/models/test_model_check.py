from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.models import MODEL_NAMES, check, create
from withstand.types import ModelError

INFO = DatasetInfo("tiny", (1, 4, 4), ("a", "b", "c"), (0.5,), (0.5,))


class Wrapped(nn.Module):
    """A linear classifier of INFO, its logits changed by a function."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.change = change

    @override
    def forward(self, images: Tensor) -> Any:
        return self.change(self.linear(images.flatten(1)))


def linear(*last: nn.Module, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes), *last)


@pytest.mark.parametrize(
    "name", [name for name in MODEL_NAMES if name not in ("alexnet", "vgg16", "resnet50")]
)
def test_check_passes_networks_of_the_library(name: str) -> None:
    torch.manual_seed(0)
    check(create(name, dataset="cifar10"), KNOWN_DATASETS["cifar10"])


@pytest.mark.parametrize(
    "model",
    [
        linear(),
        linear().double(),
        linear(nn.Dropout(), nn.Identity()),
        linear(nn.BatchNorm1d(3)),
        linear(nn.ReLU()),
        Wrapped(lambda logits: logits.softmax(1) * 500 - 499 / 3),  # rows sum to 1, but some are negative
        linear(nn.Softmax(dim=1), nn.Linear(3, 3)),
        nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3)),
    ],
)
def test_check_passes_a_model_that_gives_logits_even_without_parameters(model: nn.Module) -> None:
    check(model, INFO)


def test_check_passes_a_softmax_inside_the_model() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.softmax = linear(), nn.Softmax(dim=1)

        @override
        def forward(self, images: Tensor) -> Tensor:
            attention: Tensor = 5 * self.softmax(self.scores(images))
            return attention

    check(Attention(), INFO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: (logits, logits[:, :2]), r"tuple of .*, but .* `return self.model\(images\)\[0\]`"),
        (lambda logits: {"a": logits, "b": logits}, "returns a dict"),
        (lambda logits: None, "returns a NoneType"),
        (lambda logits: logits.argmax(1, keepdim=True), "int64 values, but logits are floats"),
        (
            lambda logits: logits[:, :, None],
            r"shape \(2, 3, 1\) for 2 images, but must .*here \(2, classes\)",
        ),
        (lambda logits: logits[0], r"shape \(3,\)"),
        (lambda logits: logits[:1], r"shape \(1, 3\) for 2 images"),
        (lambda logits: logits / 0, "NaN or infinite"),
        (lambda logits: logits * torch.nan, "NaN or infinite"),
        (lambda logits: logits.softmax(1), "ends in softmax or log-softmax; remove it"),
        (lambda logits: logits.log_softmax(1), "ends in softmax or log-softmax"),
        (lambda logits: logits.softmax(1).clone().half(), "ends in softmax"),
        (lambda logits: logits @ torch.ones(4), "fails on images .2, 1, 4, 4. of data set 'tiny': .*size"),
    ],
)
def test_check_refuses_what_would_give_wrong_figures(change: Any, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=message):
        check(Wrapped(change), INFO)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1), nn.Softmax(dim=0)])
def test_check_refuses_softmax_layers_at_the_end_over_whatever_they_go(last: nn.Module) -> None:
    with pytest.raises(ModelError, match="ends in softmax or log-softmax"):
        check(nn.Sequential(linear(last)), INFO)


def test_check_refuses_another_number_of_classes() -> None:
    message = "returns 5 logits an image, but data set 'tiny' has 3 classes; build it with num_classes=3"
    with pytest.raises(ModelError, match=message):
        check(linear(classes=5), INFO)


def test_check_takes_images_in_the_unit_range_and_the_models_precision() -> None:
    seen: list[Tensor] = []
    model = Wrapped(lambda logits: logits).double()
    model.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    check(model, INFO)
    (images,) = seen
    assert images.dtype is torch.float64
    assert images.shape == (2, 16)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("fails", [False, True])
def test_check_leaves_the_model_and_the_random_state_as_they_were(fails: bool) -> None:
    def change(logits: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("on purpose")
        assert not torch.is_grad_enabled()
        return logits + torch.randn_like(logits)  # a stochastic model draws from the global state

    wrapped = Wrapped(change)
    softmax = nn.Softmax(dim=1)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), wrapped, nn.Sequential()).train()
    wrapped.add_module("unused", softmax)
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(ModelError, match="on purpose"):
            check(model, INFO)
    else:
        check(model, INFO)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not softmax._forward_hooks
