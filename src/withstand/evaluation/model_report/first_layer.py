"""What a model does with its pixels before its first layer with weights, seen by looking at that layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from withstand.core.contract import contract_of
from withstand.core.modes import eval_mode
from withstand.core.wrappers import unwrapped
from withstand.evaluation.model_report.report_parts import Normalization

_PROBES = 8
# Where weights meet what is given, by torch's names, and which argument that is.
_PRODUCTS = {
    **dict.fromkeys(
        ("convolution", "_convolution", "linear", "mm", "bmm", "mkldnn_rnn_layer", "_cudnn_rnn"), 0
    ),
    **dict.fromkeys(("addmm", "baddbmm"), 1),
}
_SAME = 1e-3  # of the spread, by which what the layer sees may differ from a scaled image
_BYTES = 2.0  # means and deviations above it, in units of [0, 1], are those of levels of 0 … 255


class _SeenError(Exception):
    """The first layer was reached."""


class _FirstProduct(TorchDispatchMode):
    """Keeps what the first product with weights is given, and stops there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: Tensor | None = None

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = _PRODUCTS.get(func.overloadpacket.__name__)
        if self.given is None and place is not None and len(args) > place:
            self.given = args[place].detach().clone()
            raise _SeenError
        return func(*args, **(kwargs or {}))


def find_normalization(model: nn.Module, images: Tensor) -> Normalization:
    """Compares what the first layer with weights is given with the images, channel by channel.

    Args:
        model: Any that takes such images.
        images: Float tensor (batch, …): those whose shape, type and device count.
    """
    original = unwrapped(model)
    noise = torch.rand(_PROBES, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    given = noise.to(images)
    if contract_of(model, images).converts:
        like = next(chain(original.parameters(), original.buffers()), given)
        given = given.to(device=like.device, dtype=like.dtype)
    seen, steps = _first_input(original, given)
    if seen is None:
        return Normalization(is_present=None, evidence="no convolution or linear layer was reached")
    pixels = given.double().cpu()
    values = seen.double().cpu()
    if values.numel() != pixels.numel():
        low, high = values.min().item(), values.max().item()
        return Normalization(
            None,
            evidence=f"the first layer with weights is given {tuple(seen.shape[1:])}, values {low:.3g} … "
            f"{high:.3g} where pixels are 0 … 1",
        )
    fitted = _fitted(pixels, values)
    if fitted is None:
        low, high = values.min().item(), values.max().item()
        return Normalization(
            None,
            evidence="the first layer with weights sees no fixed scale and shift of the pixels, but values "
            f"{low:.3g} … {high:.3g}",
        )
    scale, shift = fitted
    by_layer = _layer_before(steps, seen)
    is_same = (scale - 1).abs().max() < _SAME and shift.abs().max() < _SAME
    if is_same and "norm" not in by_layer.lower():  # one that is not trained yet may do nothing
        return Normalization(is_present=False, evidence="the first layer sees the pixels as they are")
    mean, std = (-shift / scale).tolist(), (1 / scale).tolist()
    return Normalization(
        is_present=True,
        by=by_layer or _by_tensors(original, mean, std),
        mean=mean,
        std=std,
        evidence="the first layer sees pixels less mean, divided by std",
    )


def is_for_bytes(normalization: Normalization) -> bool:
    """Whether its mean or deviation are those of levels of 0 … 255."""
    return max(map(abs, (*normalization.mean, *normalization.std)), default=0.0) > _BYTES


def _first_input(
    model: nn.Module, given: Tensor
) -> tuple[Tensor | None, list[tuple[str, nn.Module, Tensor]]]:
    """What the first layer with weights is given, and what each layer before it gave."""
    steps: list[tuple[str, nn.Module, Tensor]] = []
    looking = _FirstProduct()
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), eval_mode(model), _outputs_noted(model, steps):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with looking:
                model(given.clone())
        except Exception:  # the one that stops it, or of a model that handles it otherwise
            pass
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    return looking.given, steps


@contextmanager
def _outputs_noted(model: nn.Module, steps: list[tuple[str, nn.Module, Tensor]]) -> Iterator[None]:
    with ExitStack() as stack:
        for path, module in model.named_modules():

            def note(module: nn.Module, given: Any, output: Any, path: str = path) -> None:
                if isinstance(output, Tensor):
                    steps.append((path, module, output.detach().clone()))

            with suppress(RuntimeError):  # scripted modules take none
                stack.callback(module.register_forward_hook(note).remove)
        yield


def _fitted(pixels: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of each channel by which the values come of the pixels; None where none do."""
    channels = pixels.shape[1]
    by_channel = pixels.transpose(0, 1).reshape(channels, -1)
    same_order = values.reshape(pixels.shape).transpose(0, 1).reshape(channels, -1)
    fitted = _affine(by_channel, same_order)
    if fitted is not None:
        return fitted
    # Cut into patches or turned otherwise: with one scale for all, the order of sizes is the same.
    return _affine(pixels.flatten().sort().values[None], values.flatten().sort().values[None])


def _affine(pixels: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
    """Least squares in each row; None where what is left is more than rounding."""
    centered = pixels - pixels.mean(dim=1, keepdim=True)
    scale = (centered * values).sum(dim=1) / centered.square().sum(dim=1)
    shift = values.mean(dim=1) - scale * pixels.mean(dim=1)
    rest = (values - scale[:, None] * pixels - shift[:, None]).abs().amax()
    is_affine = bool((scale.abs() > 0).all()) and rest <= _SAME * scale.abs().min()
    return (scale, shift) if is_affine else None


def _layer_before(steps: list[tuple[str, nn.Module, Tensor]], seen: Tensor) -> str:
    """The layer that gave what the first one with weights sees; empty where none did."""
    for path, module, output in steps:
        is_same = output.numel() == seen.numel() and torch.equal(output.flatten(), seen.flatten())
        if is_same and not isinstance(module, nn.Flatten | nn.Identity | nn.Sequential):
            return f"{type(module).__name__} at {path!r}"
    return ""


def _by_tensors(model: nn.Module, mean: list[float], std: list[float]) -> str:
    """The model's tensors that hold these values; its forward where none does."""
    named = [
        name
        for name, tensor in chain(model.named_buffers(), model.named_parameters(), _plain_tensors(model))
        if any(_is_of(tensor, values) for values in (mean, std))
    ]
    return f"its tensors {', '.join(named)}" if named else "its forward"


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}" if path else name, value


def _is_of(tensor: Tensor, values: list[float]) -> bool:
    wanted = torch.tensor(values, dtype=torch.float64)
    flat = tensor.detach().double().cpu().flatten()
    return flat.shape == wanted.shape and bool(((flat - wanted).abs() <= _SAME * (1 + wanted.abs())).all())
