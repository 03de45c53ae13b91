"""What of a network can be made random, and what must be said of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from withstand.bayes.kind_table import AROUND, can_be_random
from withstand.bayes.posterior import Posterior
from withstand.core.suggest import nearest
from withstand.types import ModelError

Posteriors: TypeAlias = Mapping[str, Posterior | None]
"""Path of a layer, or of a part of a network -> its posterior, None where it stays as it is."""


def posterior_of(path: str, default: Posterior, layers: Posteriors) -> Posterior | None:
    """The posterior of the longest path around another, else the default."""
    around = [name for name in layers if name in ("", path) or path.startswith(f"{name}.")]
    return layers[max(around, key=len)] if around else default


def _without_posterior(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, nn.Module]]:
    """The parameters that cannot be random: path of the module, of the parameter, and the module."""
    for path, module in modules.items():
        if not can_be_random(module):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield path, f"{path}.{name}" if path else name, module


def require_sizes(model: nn.Module) -> None:
    """Accepts a model whose parameters all have their sizes.

    Raises:
        ModelError: those of lazy modules have none yet.
    """
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ModelError(
            f"{', '.join(map(repr, lazy))} of {type(model).__name__} have no size yet; "
            "run the model on one batch first."
        )


def require_paths(modules: Mapping[str, nn.Module], layers: Posteriors) -> None:
    """Accepts paths of modules, and with None those of parameters that cannot be random.

    Raises:
        ModelError: one is neither.
    """
    parameters = {name for _, name, _ in _without_posterior(modules)}
    for path, layer_posterior in layers.items():
        if path in modules or (path in parameters and layer_posterior is None):
            continue
        if path in parameters:
            raise ModelError(
                f"The parameter {path!r} cannot be random; layers={{{path!r}: None}} leaves it so."
            )
        raise ModelError(
            f"The model has no layer {path!r}; {nearest(path, [name for name in modules if name])}"
        )


def require_all_drawn(modules: Mapping[str, nn.Module], posterior: Posterior, layers: Posteriors) -> None:
    """Accepts a model of which no parameter would stay as it is though nobody said so.

    Raises:
        ModelError: some would.
    """
    named: list[str] = []
    leaving: dict[str, None] = {}
    for path, name, module in _without_posterior(modules):
        if posterior_of(name, posterior, layers) is not None:
            named.append(f"{name!r} of {type(module).__name__}")
            leaving[path if path and not module._modules else name] = None
    if named:
        raise ModelError(
            f"No way is known to draw {', '.join(named)}: plain layers of torch can be random, but not "
            "Embedding, InstanceNorm, subclasses and modules of your own. Leave these parameters as they are "
            f"by layers={leaving}, or build the model of other layers."
        )


def require_callers(modules: Mapping[str, nn.Module], chosen: Mapping[str, Posterior]) -> None:
    """Accepts random layers where what is around them calls them, with the examples first.

    Args:
        modules: Those of the model by path.
        chosen: Path of a layer to be made random -> its posterior.

    Raises:
        ModelError: something reads the weights of a random layer, or gives it examples elsewhere.
    """
    for path, module in modules.items():
        inside = [name for name in chosen if not path or name.startswith(f"{path}.")]
        problem = _problem(module, path in chosen) if inside else None
        if problem:
            leaving = dict.fromkeys(inside) if isinstance(module, nn.MultiheadAttention) else {path: None}
            raise ModelError(
                f"The {type(module).__name__} {path!r} {problem}, or leave random weights out of it by "
                f"layers={leaving}."
            )


def _problem(module: nn.Module, is_chosen: bool) -> str | None:
    """What a module does to the random layers in it, and the remedy."""
    if isinstance(module, nn.MultiheadAttention) and not is_chosen:
        return "reads the weight of its output projection, which cannot be random alone; draw all of it"
    if isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer) and type(module) not in AROUND:
        return "hands the weights of its layers to a fused function; use torch's own class"
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        attention: nn.MultiheadAttention = module.self_attn
        if not attention.batch_first:
            return "has examples in its second dimension, layers in it draw for the first; set batch_first"
    return None


def require_own_weights(modules: Mapping[str, nn.Module], chosen: Mapping[str, Posterior]) -> None:
    """Accepts layers whose weights are parameters, each of one layer alone.

    Raises:
        ModelError: one is computed or shared.
    """
    owners: dict[int, str] = {}
    for path, layer in modules.items():
        # Old forms of torch keep a computed weight as a plain attribute.
        is_computed = parametrize.is_parametrized(layer) or any(
            isinstance(value, Tensor) for value in vars(layer).values()
        )
        if path in chosen and is_computed:
            raise ModelError(
                f"The layer {path!r} computes its weight from other parameters, which have no posterior "
                f"here. Leave it out by layers={{{path!r}: None}}, or remove its parametrisation."
            )
        for name, parameter in layer.named_parameters(recurse=False):
            other = owners.setdefault(id(parameter), path)
            if other != path and {other, path} & set(chosen):
                raise ModelError(
                    f"The layers {other!r} and {path!r} share their {name}, which would be two random "
                    f"variables. Leave both out by layers={{{other!r}: None, {path!r}: None}}."
                )
