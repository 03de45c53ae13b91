"""The interface of layers with random weights, and how a model is told what to draw."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.bayes.posterior import Normal, Posterior, divergence
from withstand.bayes.priors import Prior, a_prior
from withstand.core.devices import random_state
from withstand.core.wrappers import unwrapped
from withstand.operators import DEVIATION
from withstand.types import ModelError

_DeviationCache = dict[tuple[str, bool], Tensor]


class Copies:
    """A batch that was repeated, until something random makes its copies differ.

    What draws from another generator than torch's global one, or puts that one's state back, goes unnoticed.

    Args:
        device: Of the batch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = random_state(device)

    def are_alike(self) -> bool:
        """Whether nothing has been drawn since; without waiting for the device."""
        return torch.equal(random_state(self._device), self._before)


@dataclass(frozen=True)
class Drawing:
    """What the layers of a model draw.

    Args:
        num_samples: Weight samples in the batch: that many blocks of rows, one after the other.
        num_rows: Of the whole batch, where it holds several samples.
        copies: Tells whether the blocks are still alike; None where they are not known to be.
        is_random: Whether anything is drawn; else the means are taken.
    """

    num_samples: int = 1
    num_rows: int = 1
    copies: Copies | None = None
    is_random: bool = True

    def of_rows(self, num_rows: int) -> Drawing:
        """The same where so many rows meet a layer.

        Where an attack has taken some out of the batch, its blocks are no more, and one draw serves the rest.
        """
        return Drawing() if num_rows % max(1, self.num_rows) else self

    def are_alike(self) -> bool:
        """Whether the blocks are copies of each other up to here."""
        return self.num_samples > 1 and self.copies is not None and self.copies.are_alike()


class VariationalLayer(nn.Module, ABC):
    """The interface of a layer whose parameters are the means of independent normal variables.

    Beside ``weight``, ``bias`` and whatever others torch's layer has are the parameters ``weight_rho``,
    ``bias_rho`` and so on, from which the standard deviations are made as the posterior says. The layer draws
    in train and in eval mode, from torch's global generator.

    Args:
        *sizes: Those of torch's layer of that name.
        posterior: Of all its parameters.
        **options: Those of torch's layer.

    Attributes:
        posterior: How standard deviations are stored, and how draws are made.
        redraws_means: Whether ``Posterior.mean_range`` is meant for layers of this kind.
        has_drawn: Whether it has ever drawn; a layer that is never called does not.
    """

    posterior: Posterior
    has_drawn: bool
    redraws_means: ClassVar[bool] = True

    def __init__(self, *sizes: Any, posterior: Posterior = Posterior(), **options: Any) -> None:
        super().__init__(*sizes, **options)  # of the plain layer
        self.make_random(posterior)

    @abstractmethod
    def draw(self, how: Drawing, *inputs: Any, **options: Any) -> Any:
        """The layer's output under random weights.

        Args:
            how: How many samples the whole batch holds.
            *inputs: Those of torch's layer, the first one of (rows, …), the rows sample by sample.
            **options: Those of torch's layer.
        """

    def make_random(self, posterior: Posterior) -> None:
        """Gives each parameter its standard deviation; called once, when the layer is made."""
        self.posterior = posterior
        self._drawing = Drawing()
        self._deviations: _DeviationCache | None = None
        self._names = tuple(self._parameters)
        self.has_drawn = False
        for name in self._names:
            mean = self._parameters[name]
            if mean is None:
                self.register_parameter(name + DEVIATION, None)
                continue
            if self.redraws_means and posterior.mean_range is not None:
                with torch.no_grad():
                    mean.uniform_(-posterior.mean_range, posterior.mean_range)
            rho = nn.Parameter(posterior.initial_rho(mean.detach()), requires_grad=mean.requires_grad)
            self.register_parameter(name + DEVIATION, rho)

    def make_plain(self) -> None:
        """Takes away what ``make_random`` gave."""
        for name in self._names:
            del self._parameters[name + DEVIATION]
        del self.posterior, self._drawing, self._deviations, self._names, self.has_drawn

    def std(self, name: str) -> Tensor:
        """The standard deviations of a parameter, such as ``weight``, with gradient."""
        if self._deviations is None:
            return self.posterior.std(self._parameter(name + DEVIATION))
        key = name, torch.is_grad_enabled()  # one made without gradient is of no use to a loss
        if key not in self._deviations:
            self._deviations[key] = self.posterior.std(self._parameter(name + DEVIATION))
        return self._deviations[key]

    def normals(self) -> dict[str, Normal]:
        """The random parameters by name, such as ``weight`` and, where there is one, ``bias``."""
        prior_std = self.posterior.prior_std
        return {
            name: Normal(self._parameter(name), self.std(name), prior_std)
            for name in self._names
            if self._parameters[name] is not None
        }

    def _parameter(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if parameter is None:
            raise AttributeError(f"{type(self).__name__} has no {name}.")
        return parameter

    @override
    def forward(self, *inputs: Any, **options: Any) -> Any:
        if self._drawing.is_random:
            self.has_drawn = True
            return self.draw(self._drawing, *inputs, **options)
        return super().forward(*inputs, **options)  # of the plain layer

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.posterior}"


def variational_layers(model: nn.Module) -> list[tuple[str, VariationalLayer]]:
    """The random layers of a model with their paths, each once.

    Args:
        model: Any module, also one that went through ``torch.compile``.
    """
    modules = unwrapped(model).named_modules()
    return [(path, layer) for path, layer in modules if isinstance(layer, VariationalLayer)]


def warn_of_idle_layers(model: nn.Module) -> None:
    """Names random layers that have drawn nothing though the model ran, in a warning.

    Args:
        model: One that ran with its layers told to draw; those held at their means do not count.
    """
    idle = [
        path for path, layer in variational_layers(model) if layer._drawing.is_random and not layer.has_drawn
    ]
    if idle:
        warnings.warn(
            f"The random layers {', '.join(map(repr, idle))} were not called when the model ran, so that "
            "nothing of them is drawn. Where their weights are read, as by torch.nn.functional, call the "
            "layers; where they take no part, leave them out of bayes.convert by layers={path: None}.",
            stacklevel=3,
        )


def is_variational(layer: nn.Module) -> bool:
    """Whether a layer has random weights itself."""
    return isinstance(layer, VariationalLayer)


def is_stochastic(model: nn.Module) -> bool:
    """Whether a model has a layer with random weights."""
    return any(isinstance(layer, VariationalLayer) for layer in model.modules())


def require_certain(model: nn.Module, *, to: str) -> None:
    """Accepts a model whose answer is no random one.

    Args:
        model: Any module.
        to: What it is for, as the end of "there is no way to …".

    Raises:
        ModelError: it has random weights.
    """
    if is_stochastic(model):
        raise ModelError(
            f"The model draws its weights anew for each answer, so there is no way to {to}. Do so of "
            "withstand.bayes.mean_network(model), whose weights are the means; it is another predictor "
            "than the mean of the drawn answers, and what is proven of it holds for it alone."
        )


@contextmanager
def _holding(model: nn.Module, name: str, value_of: Callable[[VariationalLayer], object]) -> Iterator[None]:
    """Gives an attribute of all random layers another value for a while."""
    layers = [layer for _, layer in variational_layers(model)]
    before = [getattr(layer, name) for layer in layers]
    for layer in layers:
        setattr(layer, name, value_of(layer))
    try:
        yield
    finally:
        for layer, former in zip(layers, before, strict=True):
            setattr(layer, name, former)


def drawing(model: nn.Module, how: Drawing) -> AbstractContextManager[None]:
    """Tells all random layers of a model what to draw; afterwards they draw as before.

    Those that are held at their means stay there.

    Args:
        model: Any module.
        how: What to draw.
    """
    return _holding(model, "_drawing", lambda layer: how if layer._drawing.is_random else layer._drawing)


def at_posterior_mean(model: nn.Module) -> AbstractContextManager[None]:
    """Holds a model at its mean weights, as the mean network; it draws nothing meanwhile.

    Args:
        model: Any module; one without random layers stays as it is.
    """
    return drawing(model, Drawing(is_random=False))


class Deviations:
    """The standard deviations of a model's layers, made once for several terms of one loss."""

    def __init__(self) -> None:
        self._of_layer: dict[int, _DeviationCache] = {}

    def of(self, layer: VariationalLayer) -> _DeviationCache:
        """By name of the parameter and whether gradients are needed; filled as the layer is asked."""
        return self._of_layer.setdefault(id(layer), {})


def sharing_deviations(model: nn.Module, deviations: Deviations) -> AbstractContextManager[None]:
    """Lets the layers of a model take their standard deviations from ``deviations``, and put them there.

    The deviations belong to one graph: it serves one backward pass to the parameters, as many as there are to
    the images, and parameters that do not change meanwhile.
    """
    return _holding(model, "_deviations", deviations.of)


def kl(model: nn.Module, prior: Prior | None = None) -> Tensor:
    """The divergence KL(posterior || prior) of all random weights of a network, in nats.

    Args:
        model: With random layers.
        prior: Of all random weights; where None, N(0, prior_std²) with ``prior_std`` of each layer's
            posterior.

    Returns:
        Scalar tensor, at least 0, with gradient; summed over all entries, not divided by anything.

    Raises:
        ModelError: the model has no random layer, or not the weights that the prior is made of.
        TypeError: the prior is none.
    """
    a_prior("prior", prior)
    layers = variational_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no random weights. Make them by withstand.bayes.convert(model), "
            "or by model.bayes={} in a recipe."
        )
    normals = {
        f"{path}.{name}" if path else name: normal
        for path, layer in layers
        for name, normal in layer.normals().items()
    }
    terms = [
        divergence(normal) if prior is None else prior.divergence(name, normal.mean, normal.std)
        for name, normal in normals.items()
    ]
    return torch.stack(terms).sum()
