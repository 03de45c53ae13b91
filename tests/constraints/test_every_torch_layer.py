"""No weight of any layer of torch.nn is passed over: constraints and conversion treat it, or name it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from withstand import bayes
from withstand.constraints import SpectralBall
from withstand.operators import weights
from withstand.types import ModelError

BUILT: Mapping[str, Callable[[], nn.Module]] = {
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2]),
    "LayerNorm": lambda: nn.LayerNorm([2, 3]),
    "RMSNorm": lambda: nn.RMSNorm([2, 3]),
    "RNNBase": lambda: nn.RNNBase("GRU", 2, 2),
    "RNNCellBase": lambda: nn.RNNCellBase(2, 2, True, 3),
    "Transformer": lambda: nn.Transformer(4, 2, 1, 1, 4, batch_first=True),
    "TransformerDecoder": lambda: nn.TransformerDecoder(_decoder(), 1),
    "TransformerDecoderLayer": lambda: _decoder(),
    "TransformerEncoder": lambda: nn.TransformerEncoder(_encoder(), 1),
    "TransformerEncoderLayer": lambda: _encoder(),
    "Unflatten": lambda: nn.Unflatten(1, (1, 1)),
}


def _encoder() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)


def _decoder() -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(4, 2, 4, batch_first=True)


def _built(name: str) -> nn.Module:
    """A small layer of a class of torch.nn."""
    if name in BUILT:
        return BUILT[name]()
    for sizes in ((), (2,), (2, 2), (2, 2, 2)):
        try:
            layer: nn.Module = vars(nn)[name](*sizes)
        except (TypeError, ValueError, AttributeError):
            continue
        return layer
    raise AssertionError(f"Say in BUILT how torch.nn.{name} is built.")


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.dim() > 1:
            yield name, parameter


def _names() -> list[str]:
    """Of all module classes of torch.nn that have a parameter of two or more dimensions."""
    kinds = (
        name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of lazy modules
        return [name for name in sorted(kinds) if any(_matrices(_built(name)))]


NAMES = _names()
# Of scales and of what is looked up there is no operator norm.
SCALES = {"LayerNorm", "RMSNorm"}
TABLES = {"Embedding", "EmbeddingBag"}
LAZY = {name for name in NAMES if name.startswith("Lazy")}
ABSTRACT = {"RNNBase", "RNNCellBase"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Lazy modules"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
]


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), _built(name))
    if name not in LAZY:
        model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if not is_lazy(parameter):
                parameter.normal_(std=3)
    return model


@pytest.mark.parametrize("name", sorted({*NAMES} - LAZY - SCALES - TABLES))
def test_spectral_ball_projects_every_weight_of_the_layer(name: str) -> None:
    model = _model(name)
    SpectralBall(0.5).project_(model)
    for path, parameter in _matrices(model):
        # The three projections of attention lie in one parameter.
        for matrix in parameter.chunk(3 if "in_proj" in path else 1):
            norm = torch.linalg.matrix_norm(matrix.flatten(1), ord=2).item()
            assert norm == pytest.approx(0.5, rel=1e-12), path


@pytest.mark.parametrize("name", sorted(TABLES | SCALES))
def test_spectral_ball_names_tables_and_leaves_scales(name: str) -> None:
    model = _model(name)
    before = {path: value.clone() for path, value in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SpectralBall(0.5).project_(model)
    assert ["'1.weight'" in str(warning.message) for warning in caught] == [True] * (name in TABLES)
    assert all(value.equal(before[path]) for path, value in model.state_dict().items() if path[0] == "1")


@pytest.mark.parametrize("name", sorted(LAZY))
@pytest.mark.filterwarnings("ignore:The weights of torch's own layers")
def test_spectral_ball_refuses_or_leaves_layers_without_size(name: str) -> None:
    model = _model(name)
    if "Norm" in name:
        SpectralBall(0.5).project_(model)
        assert [weight.name for weight in weights(model)] == ["0"]
    else:
        with pytest.raises(ModelError, match="'1' has no size yet; run the model"):
            SpectralBall(0.5).project_(model)


@pytest.mark.parametrize("name", NAMES)
def test_convert_makes_every_weight_of_the_layer_random_or_names_it(name: str) -> None:
    model = _model(name)
    if name in LAZY:
        with pytest.raises(ModelError, match=r"'1\.weight', .*no size yet"):
            bayes.convert(model)
        return
    if name in TABLES | ABSTRACT:
        with pytest.raises(ModelError, match=r"'1\.weight.*layers=\{'1': None\}"):
            bayes.convert(model)
        return
    random = bayes.convert(model)
    twins = dict(random.named_parameters())
    for path, _ in model.named_parameters():  # biases and scales as well
        assert f"{path}_rho" in twins
    assert bayes.kl(random).item() > 0
    plain = bayes.mean_network(random)
    assert [type(module) for module in plain.modules()] == [type(module) for module in model.modules()]
    assert plain.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", sorted({*NAMES} - LAZY - TABLES - ABSTRACT))
def test_spectral_ball_projects_the_means_of_random_layers(name: str) -> None:
    random = bayes.convert(_model(name))
    plain = bayes.mean_network(random)
    SpectralBall(0.5).project_(random)
    SpectralBall(0.5).project_(plain)
    for path, value in plain.state_dict().items():
        assert random.state_dict()[path].equal(value)
