"""Networks of timm, by a stand-in that is called as timm is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import withstand as ws
from withstand.models.hosted import is_hosted
from withstand.types import ModelError


def create_model(
    name: str, *, pretrained: bool, in_chans: int, num_classes: int = 5, drop_rate: float = 0.0
) -> Any:
    network: Any = nn.Sequential(nn.Dropout(drop_rate), nn.Flatten(), nn.Linear(in_chans * 64, num_classes))
    network.num_classes = num_classes
    network.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    network.is_pretrained = pretrained
    return network


@pytest.fixture
def _timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))


@pytest.mark.usefixtures("_timm")
def test_timm_network_is_behind_its_own_normalisation() -> None:
    model: Any = ws.models.create("timm:net", input_shape=(3, 8, 8), num_classes=5)
    assert model.network.is_pretrained
    torch.testing.assert_close(model.normalize.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    assert [key for key, _ in model.named_children()] == ["normalize", "network"]


@pytest.mark.usefixtures("_timm")
def test_timm_network_with_a_new_head_or_random_weights_fits_the_data() -> None:
    with pytest.raises(ModelError, match="5 classes apart, but the data have 10"):
        ws.models.create("timm:net", dataset="digits")
    for options in ({"new_head": True}, {"pretrained": False, "drop_rate": 0.5}):
        model: Any = ws.models.create("timm:net", dataset="mnist", **options)
        assert [key for key, _ in model.named_children()] == ["resize", "normalize", "network"]
        assert model.normalize.mean.tolist() == pytest.approx([0.4])
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.usefixtures("_timm")
def test_timm_name_is_no_repository() -> None:
    with pytest.raises(ModelError, match="hub:OWNER/NAME"):
        ws.models.create("timm:hf-hub:some/net", dataset="digits")


@pytest.mark.parametrize(
    ("name", "command"), [("timm", "pip install timm"), ("transformers", r"withstand\[hub\]")]
)
def test_missing_package_is_named_with_its_command(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=command):
        ws.models.create("timm:net" if name == "timm" else "hub:owner/net", dataset="digits")


def test_hosted_names_are_told_from_files_and_modules() -> None:
    assert all(map(is_hosted, ("hub:owner/net", "hub:./folder", "timm:net")))
    assert not any(map(is_hosted, ("hub", "hub.py:make", "net.py:hub", "timm.models:resnet18", "cnn-small")))
