"""Weights as others leave them: in checkpoints, behind wrappers' names, in parts, in halves; it is said."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from withstand.models import Normalize, create, load_weights, save_weights
from withstand.types import ModelError

State = Mapping[str, Tensor]


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def named(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


class Averaged(nn.Module):
    """As Lightning modules hold the net that they train."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner


def compiled(inner: nn.Module) -> nn.Module:
    """As ``torch.compile`` holds a model, without the time that its import takes."""
    return nn.ModuleDict({"_orig_mod": inner})


AROUND: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "centers": torch.zeros(2)},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "ema": lambda state: {"args": {"lr": 1}, "ema": state, "head": {"weight": torch.zeros(2)}},
}


@pytest.mark.parametrize("entry", AROUND)
def test_load_weights_takes_the_entry_that_fits_and_says_so(
    entry: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(AROUND[entry](net(0).state_dict()), tmp_path / "last.ckpt")
    load_weights(other := net(1), tmp_path / "last.ckpt")
    assert same(other.state_dict(), net(0).state_dict())
    assert caplog.messages == [f"Weights of {tmp_path / 'last.ckpt'}: taken from its entry {entry!r}."]


PREFIXED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "module.": nn.DataParallel,
    "_orig_mod.": lambda inner: compiled(inner),
    "model.": Averaged,
    "net.": lambda inner: nn.ModuleDict({"net": inner}),
    "module.model.": lambda inner: nn.DataParallel(Averaged(inner)),
}


@pytest.mark.parametrize("prefix", PREFIXED)
@pytest.mark.parametrize("ending", ["pth", "bin", "safetensors"])
def test_load_weights_takes_wrappers_names_off_and_says_so(
    prefix: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, state = tmp_path / f"wrapped.{ending}", PREFIXED[prefix](net(0)).state_dict()
    assert all(name.startswith(prefix) for name in state)
    (safetensors.torch.save_file if ending == "safetensors" else torch.save)(state, file)
    load_weights(other := net(1), file)
    assert same(other.state_dict(), net(0).state_dict())
    assert caplog.messages == [f"Weights of {file}: {prefix!r} taken off before each name."]


def test_load_weights_reads_the_average_of_torch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    average = torch.optim.swa_utils.AveragedModel(net(0))
    torch.save({"ema": average.state_dict()}, tmp_path / "ema.pt")
    load_weights(other := net(1), tmp_path / "ema.pt")
    assert same(other.state_dict(), net(0).state_dict())
    assert "'module.' taken off before each name; without n_averaged" in caplog.text


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (nn.DataParallel, ""),
        (lambda inner: compiled(inner), ""),
        (lambda inner: create_normalized(inner), "behind the normalisation"),
    ],
    ids=["parallel", "compiled", "normalised"],
)
def test_load_weights_reads_plain_weights_into_what_is_around_a_model(
    wrap: Callable[[nn.Module], nn.Module], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(net(0).state_dict(), tmp_path / "plain.pt")
    load_weights(wrap(inner := net(1)), tmp_path / "plain.pt")
    assert same(inner.state_dict(), net(0).state_dict())
    assert said in caplog.text
    assert bool(said) == bool(caplog.messages)


def create_normalized(inner: nn.Module) -> nn.Module:
    """As ``models.create`` puts the data's normalisation in front."""
    around = nn.Sequential()
    around.add_module("normalize", Normalize((0.5,), (0.5,)))
    around.add_module("network", inner)
    return around


def test_load_weights_never_drops_a_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(create("mlp", dataset="digits", hidden=[2]), path)
    bare = create("mlp", input_shape=(1, 8, 8), num_classes=10, hidden=[2])
    with pytest.raises(
        ModelError, match=r"network.1.bias is not in the model.*build it so, by normalize=True"
    ):
        load_weights(bare, path)


def test_load_weights_asks_which_of_several_entries_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "both.pth"
    torch.save({"model": named("module.", net(0).state_dict()), "ema": net(1).state_dict()}, file)
    other = net(2)
    with pytest.raises(ModelError, match=r"Several entries .* model and ema\. .*--weights_entry=model\."):
        load_weights(other, file)
    assert same(other.state_dict(), net(2).state_dict())
    for entry, seed in (("model", 0), ("ema", 1)):
        load_weights(other, file, entry=entry)
        assert same(other.state_dict(), net(seed).state_dict())
    with pytest.raises(ModelError, match=r"no state dict 'emma' among its entries: it has model, ema, "):
        load_weights(other, file, entry="emma")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            {"state_dict": named("model.", {**net(0).state_dict(), "loss.weight": torch.ones(2)})},
            r"\(taken from its entry 'state_dict', 'model.' taken off .*\): loss.weight is not in the model",
        ),
        (
            {**named("model.", net(0).state_dict()), "loss.weight": torch.ones(2)},
            r"0.weight is missing.* Those behind 'model.' do: .* --weights_entry=model\.",
        ),
        (named("backbone.", net(0).state_dict()), r"Those behind 'backbone.' do: .* entry='backbone'"),
        ({**net(0).state_dict(), "0.weight": torch.ones(3, 4, dtype=torch.int8)}, "0.weight holds int8"),
    ],
)
def test_load_weights_lists_what_does_not_fit_and_leaves_the_model(
    state: Any, text: str, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "model.pt")
    other = net(1)
    with pytest.raises(ModelError, match=text):
        load_weights(other, tmp_path / "model.pt")
    assert same(other.state_dict(), net(1).state_dict())


def test_load_weights_reads_the_part_of_a_larger_module_that_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {**named("student.", net(0).state_dict()), **named("teacher.", net(1).state_dict())}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    for entry in ("teacher", "state_dict.teacher"):
        load_weights(other := net(2), tmp_path / "last.ckpt", entry=entry)
        assert same(other.state_dict(), net(1).state_dict())
    assert "taken from its entry 'state_dict.teacher'." in caplog.text


def test_load_weights_converts_halves_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = net(0).half().state_dict()
    torch.save(half, tmp_path / "half.pt")
    load_weights(other := net(1), tmp_path / "half.pt")
    assert {value.dtype for value in other.parameters()} == {torch.float32}
    assert torch.equal(other.state_dict()["0.weight"].half(), half["0.weight"])
    assert caplog.messages == [f"Weights of {tmp_path / 'half.pt'}: float16 read as float32."]


def in_parts(folder: Path, state: State) -> Path:
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    for part in set(places.values()):
        inside = {name: value for name, value in state.items() if places[name] == part}
        safetensors.torch.save_file(inside, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_load_weights_puts_parts_together(tmp_path: Path) -> None:
    index = in_parts(tmp_path, net(0).state_dict())
    for path in (index, tmp_path):
        load_weights(other := net(1), path)
        assert same(other.state_dict(), net(0).state_dict())
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights file .*model-1\.safetensors"):
        load_weights(net(1), index)
    places = {"0.weight": "../elsewhere.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="parts lie beside it"):
        load_weights(net(1), index)


def test_load_weights_reads_a_run_folders_best_weights(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no weights in the folder .*model\.safetensors or last\.safetensors"
    ):
        load_weights(net(1), tmp_path)
    save_weights(net(1), tmp_path / "last.safetensors")
    load_weights(other := net(2), tmp_path)
    assert same(other.state_dict(), net(1).state_dict())
    save_weights(net(0), tmp_path / "model.safetensors")
    load_weights(other, tmp_path)
    assert same(other.state_dict(), net(0).state_dict())


def test_load_weights_names_the_objects_of_a_checkpoint_and_the_remedy(tmp_path: Path) -> None:
    content = {"state_dict": net(0).state_dict(), "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "epoch=3.ckpt")
    with pytest.raises(
        ModelError, match=r"is not read: argparse\.Namespace\. .*load_from_checkpoint.*torch\.save\(model"
    ) as refused:
        load_weights(net(1), tmp_path / "epoch=3.ckpt")
    assert "weights_only" not in str(refused.value)
