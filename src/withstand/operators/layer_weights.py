"""The weights of a model: the matrices that its layers apply, and which of its parameters are none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNCellBase
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from withstand.core.wrappers import unwrapped
from withstand.types import ModelError

DEVIATION = "_rho"
"""Ends the name of the parameter that a random weight has beside its mean."""

_OF_HOOKS = ("_orig", "_g", "_v")  # end the names of what torch's hooks compute a weight from


@dataclass(frozen=True, eq=False)
class Weight:
    """A matrix or kernel that a layer applies to what it is given.

    Args:
        name: One of its own in the model: the layer's path, or for a layer of several weights this and
            the weight's; that of the first one where several layers share it.
        layer: The layer.
        parameter: Which of the layer's parameters it is.
        rows: Those of the parameter that are its own, where several weights lie in one; all where None.
    """

    name: str
    layer: nn.Module
    parameter: str = "weight"
    rows: slice | None = None

    @property
    def tensor(self) -> Tensor:
        """The whole parameter as it is now, with its gradient; computed anew where it is parametrised.

        Raises:
            ModelError: a hook computes it that is none of torch's, or it has no size yet.
        """
        if not self._is_of_hook:
            tensor: Tensor = getattr(self.layer, self.parameter)
            if is_lazy(tensor):
                raise ModelError(
                    f"The weight {self.name!r} has no size yet; run the model on one batch first."
                )
            return tensor
        # What stands there was computed before the last forward, and its graph may be gone.
        for hook in self.layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == self.parameter:
                normalised: Tensor = hook.compute_weight(self.layer)
                return normalised
            if isinstance(hook, SpectralNorm) and hook.name == self.parameter:
                return _divided_by_its_norm(self.layer, hook)
        raise ModelError(
            f"The weight of {self.name!r} is no parameter, and what computes it is unknown. Compute it by "
            "torch.nn.utils.parametrize.register_parametrization."
        )

    @property
    def value(self) -> Tensor:
        """The weight as it is now, with its gradient: ``tensor``, or its own rows of it, not a copy."""
        return self.of(self.tensor)

    def of(self, tensor: Tensor) -> Tensor:
        """Its own rows of a tensor of the parameter's shape, such as standard deviations."""
        return tensor if self.rows is None else tensor[self.rows]

    @property
    def matrix(self) -> Tensor:
        """The kernel form, tensor (out, in · taps), as arXiv 1810.00363 takes it.

        That of a transposed convolution is (in, out · taps): the matrix of the convolution which
        it is the adjoint of. That of ``torch.nn.Bilinear`` is (out, in1 · in2): the layer's output is
        at most its norm times the lengths of both inputs.
        """
        return self.value.flatten(1)

    @property
    def parametrised(self) -> bool:
        """Whether the weight is computed from other parameters, so that it cannot be written to."""
        return parametrize.is_parametrized(self.layer, self.parameter) or self._is_of_hook

    @property
    def identity(self) -> tuple[int, str]:
        """Tells one weight from another; a parametrised one, a new tensor each time, by its layer."""
        if self.parametrised:
            return id(self.layer), f"{self.parameter}{self.rows}"
        return id(getattr(self.layer, self.parameter)), str(self.rows)

    @property
    def _is_of_hook(self) -> bool:
        """Whether a hook computes it before each forward, as the older forms of weight normalisation do."""
        return self.parameter not in self.layer._parameters and not parametrize.is_parametrized(
            self.layer, self.parameter
        )


def weights(model: nn.Module) -> list[Weight]:
    """The weights of all layers of torch that apply matrices or kernels; shared ones once.

    Of linear and bilinear layers and convolutions, transposed ones included, it is ``weight``. Attention has
    ``q_proj_weight``, ``k_proj_weight`` and ``v_proj_weight``, also where they lie in one parameter, as they
    apply to different inputs; its output projection is a linear layer. Recurrent layers and cells have
    ``weight_ih…``, ``weight_hh…`` and ``weight_hr…`` whole, with the gates on top of each other: that is the
    matrix that they apply, and its norm is at least that of any gate.

    Biases, and the scales of normalisation layers, act coordinate by coordinate: they are no weights. All
    other parameters of two or more dimensions, such as tables of ``torch.nn.Embedding`` or a matrix of a
    module of your own, are named in a warning, for what they do is not known.

    Args:
        model: Any module, also one that went through ``torch.compile``.

    Returns:
        The weights in the order of the modules, at least one.

    Raises:
        ModelError: there is none.
    """
    by_identity: dict[tuple[int, str], Weight] = {}
    others: list[str] = []
    for path, layer in unwrapped(model).named_modules():
        own = list(_weights_of(path, layer))
        for weight in own:
            by_identity.setdefault(weight.identity, weight)
        others.extend(_joined(path, name) for name in _unknown(layer, {weight.parameter for weight in own}))
    if not by_identity:
        unknown = f"; what {_listed(others)} do is not known" if others else ""
        raise ModelError(
            f"{type(model).__name__} has no linear layer and no convolution; their weights are meant "
            f"here{unknown}."
        )
    if others:
        warnings.warn(
            "The weights of torch's own layers are seen here alone, and these parameters are left as they "
            f"are: {_listed(others)}. Put a matrix that is applied to features into a torch.nn.Linear; "
            "what is looked up, or added or multiplied entry by entry, may stay so.",
            stacklevel=1,  # as of one place, for python shows it once a place
        )
    return list(by_identity.values())


def _weights_of(path: str, layer: nn.Module) -> Iterator[Weight]:
    """The weights of one layer itself, none where it is of no kind that is known."""
    if isinstance(layer, nn.Linear | nn.Bilinear | _ConvNd):
        yield Weight(path, layer)
    elif isinstance(layer, nn.MultiheadAttention):
        for number, name in enumerate(["q_proj_weight", "k_proj_weight", "v_proj_weight"]):
            if layer._qkv_same_embed_dim:
                rows = slice(number * layer.embed_dim, (number + 1) * layer.embed_dim)
                yield Weight(_joined(path, name), layer, "in_proj_weight", rows)
            else:
                yield Weight(_joined(path, name), layer, name)
    elif isinstance(layer, nn.RNNBase):
        for name in layer._flat_weights_names:
            if name.startswith("weight"):
                yield Weight(_joined(path, name), layer, name)
    elif isinstance(layer, RNNCellBase):
        for name in ("weight_ih", "weight_hh"):
            yield Weight(_joined(path, name), layer, name)


def _unknown(layer: nn.Module, known: set[str]) -> Iterator[str]:
    """The names of a layer's own parameters that might be weights, and are not known to be."""
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):  # whose scales may have several dimensions
        known = {*known, "weight"}
    if isinstance(layer, parametrize.ParametrizationList):  # named by the parameter that is computed
        return
    known = {*known, *(name + end for name in known if name not in layer._parameters for end in _OF_HOOKS)}
    for name, parameter in layer._parameters.items():
        if parameter is None or name.startswith("bias") or not (is_lazy(parameter) or parameter.dim() > 1):
            continue
        if name.removesuffix(DEVIATION) not in known:
            yield name
    if parametrize.is_parametrized(layer):
        for name, computed in layer.get_submodule("parametrizations").named_children():
            is_vector = all(parameter.dim() < 2 for parameter in computed.parameters(recurse=False))
            if name not in known and not is_vector:
                yield name


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _divided_by_its_norm(layer: nn.Module, hook: SpectralNorm) -> Tensor:
    """What the hook makes of its weight, with vectors that its next forward does not overwrite."""
    weight, left, right = (getattr(layer, f"{hook.name}_{part}") for part in ("orig", "u", "v"))
    norm = left.clone() @ (hook.reshape_weight_to_matrix(weight) @ right.clone())
    divided: Tensor = weight / norm
    return divided
