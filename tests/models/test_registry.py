from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.models import MODEL_NAMES, Normalize, create
from withstand.types import ModelError

MINE = DatasetInfo("mine", (2, 6, 5), ("a", "b", "c"), (0.1, 0.2), (0.3, 0.4))


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][key]) for key, value in states[0].items()
    )


@pytest.mark.parametrize("info", KNOWN_DATASETS.values(), ids=KNOWN_DATASETS)
def test_create_takes_shape_classes_and_normalisation_from_a_data_set(info: DatasetInfo) -> None:
    model = create("cnn-small", dataset=info.name)
    normalize = model.get_submodule("normalize")
    assert isinstance(normalize, Normalize)
    assert next(model.children()) is normalize
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor(info.mean))
    torch.testing.assert_close(normalize.std.flatten(), torch.tensor(info.std))
    assert model(torch.rand(2, *info.shape)).shape == (2, info.num_classes)


def test_create_shows_the_network_normalised_images() -> None:
    torch.manual_seed(0)
    model = create("mlp", dataset=MINE, hidden=[4])
    images = torch.rand(3, 2, 6, 5)
    mean, std = torch.tensor([0.1, 0.2]).view(2, 1, 1), torch.tensor([0.3, 0.4]).view(2, 1, 1)
    torch.testing.assert_close(model(images), model.get_submodule("network")((images - mean) / std))


def test_create_without_normalisation_gives_the_same_weights() -> None:
    torch.manual_seed(0)
    plain = create("mlp", dataset=MINE, normalize=False, hidden=[4])
    torch.manual_seed(0)
    normalised = create("mlp", dataset=MINE, hidden=[4])
    assert not any(isinstance(module, Normalize) for module in plain.modules())
    assert same(plain, normalised.get_submodule("network"))


def test_create_without_a_data_set_normalises_nothing() -> None:
    model = create("mlp", input_shape=(1, 3, 3), num_classes=4, hidden=[5])
    assert [type(layer) for layer in model.children()] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


def test_create_takes_shape_and_classes_that_differ_from_the_data_set() -> None:
    model = create("cnn-small", dataset="cifar10", input_shape=(3, 16, 20), num_classes=4)
    assert model(torch.rand(2, 3, 16, 20)).shape == (2, 4)


@pytest.mark.parametrize("name", ["mlp", "cnn-4c3f", "vgg11", "resnet18"])
def test_create_fixes_the_weights_by_the_seed(name: str) -> None:
    models = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        models.append(create(name, input_shape=(3, 16, 16), num_classes=3))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_create_gives_models_in_train_mode_without_gradients(name: str) -> None:
    with torch.device("meta"):
        model = create(name, dataset="cifar10")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg-11", {"dataset": "cifar10"}, "no model 'vgg-11'; did you mean 'vgg11'.*lenet.*resnet50"),
        ("mlp", {"dataset": "minst"}, "no data set 'minst'; did you mean 'mnist'.*cifar100"),
        (
            "mlp",
            {"dataset": "mnist", "hiden": [3]},
            r"'mlp' has no option 'hiden'; did you mean 'hidden'\? There are: hidden, activation\.$",
        ),
        ("lenet", {"dataset": "mnist", "hidden": [3]}, "'lenet' has no option 'hidden'.*batch_norm"),
        ("mlp", {}, "a data set, or both input_shape and num_classes, but got .* None and num_classes None"),
        ("mlp", {"input_shape": (1, 4, 4)}, "both input_shape and num_classes"),
        ("mlp", {"num_classes": 4}, "both input_shape and num_classes"),
        ("mlp", {"input_shape": (), "num_classes": 4}, r"\(channels, height, width\), but got \(\)"),
        ("mlp", {"input_shape": (1, 0, 4), "num_classes": 4}, "must be positive"),
        ("mlp", {"input_shape": (1, 4, 4), "num_classes": 1}, "at least 2 classes, but got num_classes 1"),
        (
            "mlp",
            {"dataset": "mnist", "hidden": [0]},
            r"'mlp' could not be built .*\[0\].*positive whole",
        ),
        ("mlp", {"dataset": "mnist", "hidden": [2.5]}, "positive whole numbers, but got 2.5"),
        ("mlp", {"dataset": "mnist", "hidden": 5}, "'mlp' could not be built with options"),
        ("cnn-4c3f", {"dataset": "mnist", "init": "hee"}, "no initialisation 'hee'; did you mean 'he'"),
        ("alexnet", {"dataset": "mnist"}, "'alexnet' could not be built: .* at least 29×29, but got 28×28"),
        (
            "mlp",
            {"dataset": "cifar10", "input_shape": (1, 4, 4)},
            "'cifar10' has mean .* for 3 channels",
        ),
    ],
)
def test_create_says_why_something_cannot_be_built(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        create(name, **arguments)
