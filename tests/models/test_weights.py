from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from withstand.models import create, load_weights, save_weights
from withstand.types import ModelError, RunFolderError


def small(seed: int, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    inner = nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, 2)
    )
    return inner.train()


def changed(seed: int) -> nn.Module:
    """A model whose BatchNorm statistics are no longer the first ones."""
    model = small(seed)
    model(torch.rand(4, 1, 8, 8))
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][key]) for key, value in states[0].items()
    )


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = changed(0), small(1)
    save_weights(model, tmp_path / "model.safetensors")
    assert not same(model, other)
    load_weights(other, tmp_path / "model.safetensors")
    assert same(model, other)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["state.pt", "state.pth"])
def test_load_weights_reads_state_dicts_of_torch(tmp_path: Path, name: str) -> None:
    model, other = changed(0), small(1)
    torch.save(model.state_dict(), tmp_path / name)
    load_weights(other, tmp_path / name)
    assert same(model, other)


def test_weights_of_the_normalisation_are_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(create("mlp", dataset="digits", hidden=[2]), path)
    saved = safetensors.torch.load_file(path)
    assert saved["normalize.mean"].item() == pytest.approx(0.3052)
    assert saved["normalize.std"].item() == pytest.approx(0.3759)


def test_save_weights_takes_tied_and_strided_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.data = torch.arange(6.0)[::2]
    save_weights(model, tmp_path / "tied.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, tmp_path / "tied.safetensors")
    assert same(model, other)


def test_save_weights_replaces_a_former_file_and_leaves_it_if_saving_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(changed(0), path)
    save_weights(changed(1), path)
    second = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        save_weights(changed(2), path)
    assert path.read_bytes() == second
    assert list(tmp_path.iterdir()) == [path]
    other = small(3)
    load_weights(other, path)
    assert same(other, changed(1))


def test_save_weights_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"saved as .safetensors, but got .*model.pt"):
        save_weights(small(0), tmp_path / "model.pt")
    with pytest.raises(RunFolderError, match="Cannot write"):
        save_weights(small(0), tmp_path / "no" / "such" / "model.safetensors")

    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(ModelError, match=r"Only tensors can be saved .* 0._extra_state is a dict"):
        save_weights(nn.Sequential(Extra()), tmp_path / "model.safetensors")


def test_load_weights_names_other_shapes_and_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(small(0, width=4), path)
    model = small(1)
    with pytest.raises(ModelError, match=r"0.weight has shape \(4, 1, 3, 3\) instead of \(3, 1, 3, 3\)"):
        load_weights(model, path)
    assert same(model, small(1))


def test_load_weights_names_at_most_five_differences(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(
        ModelError, match=r"do not fit the model: 0.weight is missing; .*; and 6 more\."
    ) as caught:
        load_weights(small(0), path)
    assert str(caught.value).count(";") == 5
    save_weights(small(0), path)
    with pytest.raises(ModelError, match=r"weight is missing; bias is missing; 0.bias is not in the model"):
        load_weights(nn.Linear(2, 2), path)


def test_load_weights_names_exactly_five_differences_as_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(nn.BatchNorm1d(2), path)
    with pytest.raises(ModelError, match=r"model; weight is not in the model\. Build"):
        load_weights(nn.Sequential(), path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pth"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x80\x02"])
def test_load_weights_refuses_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} is damaged or holds more than weights"):
        load_weights(small(0), tmp_path / name)


def test_load_weights_refuses_a_truncated_file_and_loads_nothing(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", small(1)
    save_weights(small(0), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(model, path)
    assert same(model, small(1))


class Malicious:
    """Would make a file if unpickling ran code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.path),)


@pytest.mark.parametrize("by_torch", [True, False])
def test_load_weights_runs_no_code(tmp_path: Path, by_torch: bool) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "mark"
    if by_torch:
        torch.save({"weight": Malicious(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Malicious(mark)}))
    with pytest.raises(ModelError, match="holds more than weights") as refused:
        load_weights(small(0), path)
    assert not mark.exists()
    assert "weights_only" not in str(refused.value)  # torch advises to read the file unsafely
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2)])
def test_load_weights_refuses_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"no state dict of tensors; save model.state_dict\(\) alone"):
        load_weights(small(0), tmp_path / "model.pt")


def test_load_weights_names_missing_files_and_unknown_endings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no weights file .*model.safetensors; check the path"):
        load_weights(small(0), tmp_path / "model.safetensors")
    (tmp_path / "model.npz").touch()
    with pytest.raises(
        ModelError, match=r"end in .safetensors, .pt, .*ckpt or .index.json, but got .*model.npz"
    ):
        load_weights(small(0), tmp_path / "model.npz")
