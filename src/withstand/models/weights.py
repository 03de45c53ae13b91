"""A model's weights, to a file and from one: of this package or of others, under the names that they gave."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from withstand.core.run_folder import replaced
from withstand.core.wrappers import load_own_state, own_state, unwrapped
from withstand.models.layers import Normalize
from withstand.models.weight_files import DIGEST, digest_of, read_weights, state_dicts, weights_file
from withstand.types import ModelError

_NAMED = 5
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What data parallelism, ``torch.compile`` and Lightning modules put before each name."""
_OF_AVERAGING = "n_averaged"  # a count that ``torch.optim.swa_utils.AveragedModel`` adds
_logger = logging.getLogger(__name__)


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model's parameters and buffers; the file is complete or not there at all.

    Args:
        model: What to save, on any device.
        path: Where to, ending in ``.safetensors``; a former file is replaced.

    Raises:
        ModelError: the ending differs, or the state is not made of tensors.
        RunFolderError: the file cannot be written.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise ModelError(f"Weights are saved as .safetensors, but got {file}; change the ending.")
    state = _portable(model)
    content = safetensors.torch.save(state, metadata={DIGEST: digest_of(state)})
    with replaced(file) as unfinished:
        unfinished.write_bytes(content)


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, entry: str | None = None) -> None:
    """Reads weights into a model, on the device where it is; all of them or none.

    A file may be a state dict, or a checkpoint with one among its entries, such as ``state_dict``, ``model``
    or ``ema``. Where all names fit once ``module.``, ``_orig_mod.``, ``model.`` or ``net.`` is taken from
    before each, it is. A model may be compiled, in a data-parallel wrapper, or behind a normalisation that
    the weights are not. What was taken, taken off or converted is logged in one line.

    Args:
        model: As it was when saved; weights are converted to the type of its own.
        path: A ``.safetensors`` file; a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file, read with
            ``weights_only=True``, so that it runs no code; an ``.index.json`` of several such; or a run
            folder, for its best weights.
        entry: Which of the entries of a checkpoint to take, or which part of a state dict, as ``net`` is of
            the names that begin so; the entry that fits where None.

    Raises:
        ModelError: the file is missing, damaged or of another kind, its names or shapes are not the model's,
            or several of its entries fit; the model is then unchanged.
    """
    file = weights_file(Path(path))
    entries = state_dicts(file)
    chosen = entries if entry is None else _chosen(entries, entry, file)
    candidates = [form for name, state in chosen.items() for form in _forms(name, state)]
    for place, module in _insides(model):
        fits = [fit for fit in candidates if not _differences(own_state(module), fit.state)]
        if len(fits) > 1:
            fitting = " and ".join(fit.entry for fit in fits)
            raise ModelError(
                f"Several entries of {file} fit the model: {fitting}. Say which is meant: "
                f"load_weights(…, entry={fits[0].entry!r}), or --weights_entry={fits[0].entry}."
            )
        if fits:
            said = [*fits[0].said, *place, *_conversions(own_state(module), fits[0].state)]
            load_own_state(module, fits[0].state)
            if said:
                _logger.warning("Weights of %s: %s.", file, "; ".join(said))
            return
    raise ModelError(_misfit(model, file, candidates))


def _chosen(entries: Mapping[str, dict[str, Tensor]], entry: str, file: Path) -> dict[str, dict[str, Tensor]]:
    """The state dict of an entry, or the parts of state dicts whose names begin with it."""
    parts = {
        ".".join(filter(None, (name, part))): inside
        for name, state in entries.items()
        for part, inside in _parts_of(state).items()
    }
    known = {**parts, **entries}
    if entry in known:
        return {entry: known[entry]}
    chosen = {name: inside for name, inside in parts.items() if name.endswith(f".{entry}")}
    if not chosen:
        listed = ", ".join(filter(None, (*entries, *parts)))
        raise ModelError(f"{file} has no state dict {entry!r} among its entries: it has {listed}.")
    return chosen


def _parts_of(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each module at the top, by their names in it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if rest:
            parts.setdefault(part, {})[rest] = value
    return parts


@dataclass(frozen=True)
class _Form:
    """A state dict of a file, perhaps with shorter names.

    Attributes:
        entry: Where in the file it lies; empty where that is the whole file.
        prefix: What was taken from before each name.
        state: The tensors by their names.
        left_out: Names that are no weights.
    """

    entry: str
    prefix: str
    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()

    @property
    def said(self) -> list[str]:
        """What a person should know of it."""
        return [
            *([f"taken from its entry {self.entry!r}"] if self.entry else []),
            *([f"{self.prefix!r} taken off before each name"] if self.prefix else []),
            *([f"without {', '.join(self.left_out)}"] if self.left_out else []),
        ]


def _forms(entry: str, state: dict[str, Tensor]) -> Iterator[_Form]:
    """A state dict as it is, and with each wrapper's prefix that all its names have taken off."""
    yield _Form(entry, "", state)
    left_out = tuple(name for name in state if name == _OF_AVERAGING)
    names = [name for name in state if name not in left_out]
    prefix = ""
    while names and (one := _common(names)):
        prefix += one
        names = [name.removeprefix(one) for name in names]
        yield _Form(entry, prefix, {name: state[prefix + name] for name in names}, left_out)


def _common(names: Sequence[str]) -> str:
    """The prefix of a wrapper that all names have; empty where there is none."""
    return next((one for one in _WRAPPERS if all(name.startswith(one) for name in names)), "")


def _insides(model: nn.Module) -> Iterator[tuple[list[str], nn.Module]]:
    """The model, and what it is around, as far as that is known; each with what to say of it."""
    yield [], model
    children = dict(unwrapped(model).named_children())
    if list(children) == ["normalize", "network"] and isinstance(children["normalize"], Normalize):
        yield ["read into the network behind the normalisation of the data"], children["network"]


def _conversions(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Of which type weights were, where the model's have another."""
    kinds = dict.fromkeys(
        (str(value.dtype).removeprefix("torch."), str(expected[name].dtype).removeprefix("torch."))
        for name, value in state.items()
        if value.dtype != expected[name].dtype
    )
    return [f"{then} read as {now}" for then, now in kinds]


def _misfit(model: nn.Module, file: Path, candidates: Sequence[_Form]) -> str:
    """In what the state dict that comes nearest differs from the model."""
    pairs = [(form, own_state(inside)) for _, inside in _insides(model) for form in candidates]
    nearest, expected = min(pairs, key=lambda pair: len(_differences(pair[1], pair[0].state)))
    differences = _differences(expected, nearest.state)
    more = len(differences) - _NAMED
    shown = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
    about = f" ({', '.join(nearest.said)})" if nearest.said else ""
    fitting = [
        part
        for form in candidates
        for part, state in _parts_of(form.state).items()
        if any(not _differences(own_state(inside), state) for _, inside in _insides(model))
    ]
    remedy = "Build the model as it was when they were saved."
    if (file.parent / "config.json").is_file():
        remedy = (
            "They lie beside a config.json, as those of Hugging Face: name the model "
            f"hub:{file.parent.resolve()}."
        )
    elif "normalize.mean" in nearest.state and "normalize.mean" not in own_state(model):
        remedy = (
            "They are of a model behind the normalisation of its data: build it so, by normalize=True or "
            "--model.normalize=true."
        )
    elif fitting:
        remedy = (
            f"Those behind '{fitting[0]}.' do: to read them alone, say entry={fitting[0]!r} or "
            f"--weights_entry={fitting[0]}."
        )
    return f"Weights of {file} do not fit the model{about}: {shown}. {remedy}"


def is_saved_in(model: nn.Module, path: str | os.PathLike[str]) -> bool:
    """Whether a file holds the weights of a model, in whatever dtype and on whatever device these are now.

    Names are not compared, so that a model may have been put into another.

    Args:
        model: Any module.
        path: As ``save_weights`` wrote it; a damaged file holds nothing.
    """
    try:
        saved = read_weights(Path(path))
    except ModelError:
        return False
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    pairs = zip(sorted(saved.items()), sorted(state.items()), strict=False)
    return len(saved) == len(state) and all(_are_same(then, now) for (_, then), (_, now) in pairs)


def _are_same(then: Tensor, now: Tensor) -> bool:
    """Whether two tensors hold the same values, but for the rounding of the coarser dtype."""
    now = now.detach().cpu()
    if then.shape != now.shape:
        return False
    rounded = ((then, now.to(then.dtype)), (then.to(now.dtype), now))
    return any(torch.allclose(*pair, rtol=0.0, atol=0.0, equal_nan=True) for pair in rounded)


def _portable(model: nn.Module) -> dict[str, Tensor]:
    state = own_state(model)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"Only tensors can be saved as weights, but {name} is a {type(value).__name__}.")
    # Copies, because the format refuses tensors that share their memory (tied weights).
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in actual]
    surplus = [f"{name} is not in the model" for name in sorted(actual) if name not in expected]
    both = [(name, value, actual[name]) for name, value in expected.items() if name in actual]
    shapes = [
        f"{name} has shape {tuple(other.shape)} instead of {tuple(value.shape)}"
        for name, value, other in both
        if other.shape != value.shape
    ]
    kinds = [
        f"{name} holds {str(other.dtype).removeprefix('torch.')} instead of floats"
        for name, value, other in both
        if value.is_floating_point() and not other.is_floating_point()
    ]
    return missing + surplus + shapes + kinds
