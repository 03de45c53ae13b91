"""Training, resuming and evaluation on a device give what they give on the CPU."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning_fabric
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.accelerator import Accelerator
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from tests.devices.pretended import DEVICE, NAME, Device
from tests.evaluation.test_meter_contract import FEW, MAKERS, make, network
from withstand.constraints import SpectralBall
from withstand.data import Augment, Dataset
from withstand.objectives import Objective
from withstand.training import TrainingSettings, WeightAverage, fit
from withstand.training.observers import Observer
from withstand.types import LossTerms

PLACE = torch.device(NAME, 0)
# So that a step in the middle of an epoch begins from its own checkpoint.
SETTINGS = TrainingSettings(
    epochs=2,
    batch_size=12,
    augment=Augment(crop_padding=1, flip=True),
    checkpoint_seconds=0.0,
    average=WeightAverage(0.9),
)


class _Pretended(Accelerator):
    """The device as Fabric asks for one."""

    @override
    def setup_device(self, device: torch.device) -> None: ...

    @override
    def teardown(self) -> None: ...

    @staticmethod
    @override
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    @override
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [PLACE]

    @staticmethod
    @override
    def auto_device_count() -> int:
        return 1

    @staticmethod
    @override
    def is_available() -> bool:
        return True

    @staticmethod
    @override
    def name() -> str:
        return NAME


class _OnDevice(Fabric):
    """Puts everything there; Fabric itself takes the CPU for kinds of devices that it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strategy=SingleDeviceStrategy(PLACE, accelerator=_Pretended()))


class _Watched(Objective):
    """What is minimised, by steps of which none but the first may make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.1, num_steps=2))
        self.is_begun = False

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        DEVICE.is_in_step = DEVICE.is_on and self.is_begun
        self.is_begun = True
        result: LossTerms = self.inner(model, images, labels, progress=progress)
        return result


class _End(Observer):
    """Knows the end of a step, and ends a training after some."""

    def __init__(self, after: int = 1000) -> None:
        self.after, self.num_watched = after, 0

    @override
    def on_step(self, done: int, total: int) -> None:
        self.num_watched += DEVICE.is_in_step
        DEVICE.is_in_step = False
        if done == self.after:
            raise KeyboardInterrupt

    @override
    def on_epoch(self, rows: Any) -> None: ...


@pytest.fixture
def there(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device, where training takes place."""
    monkeypatch.setattr(lightning_fabric, "Fabric", _OnDevice)
    return device


def _trained(
    model: nn.Module, dataset: Dataset, out: Path, end: _End | None = None, **options: Any
) -> dict[str, Tensor]:
    """The weights of a copy of a model, trained."""
    copied = copy.deepcopy(model)
    settings = replace(SETTINGS, constraints=[SpectralBall(0.5, every=100)], **options)
    fit(copied, dataset, _Watched(), settings, out=out, seed=2, observers=[end or _End()])
    assert {weight.device for weight in copied.parameters()} == {
        PLACE if DEVICE.is_on else torch.device("cpu")
    }
    return {name: value.cpu() for name, value in copied.state_dict().items()}


@pytest.mark.parametrize("options", [{}, {"micro_batches": 3, "channels_last": True}])
def test_fit_on_a_device_trains_as_on_the_cpu_and_never_waits(
    options: dict[str, Any],
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    here = _trained(tiny_model, tiny_dataset, tmp_path / "here", **options)
    request.getfixturevalue("there")
    end = _End()
    there = _trained(tiny_model, tiny_dataset, tmp_path / "there", end, **options)
    assert end.num_watched >= 2 * 8 - 1
    for name, value in here.items():
        torch.testing.assert_close(there[name], value)
    log, other = (pd.read_csv(tmp_path / name / "train.csv") for name in ("here", "there"))
    pd.testing.assert_frame_equal(log.drop(columns="seconds"), other.drop(columns="seconds"))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("step", [3, 11])
def test_fit_resumed_on_a_device_ends_with_the_same_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, step: int
) -> None:
    whole = _trained(tiny_model, tiny_dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _trained(tiny_model, tiny_dataset, tmp_path / "cut", _End(step))
    cut = _trained(tiny_model, tiny_dataset, tmp_path / "cut")
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


@pytest.mark.filterwarnings("ignore:The protocol sebr is for networks with random weights")
@pytest.mark.parametrize("name", MAKERS)
def test_meter_on_a_device_measures_what_it_does_on_the_cpu(
    name: str, tiny_dataset: Dataset, device: Device
) -> None:
    meter = make(name)
    here, there = (
        ws.evaluate(network(meter), tiny_dataset, [meter], sampling=FEW, num_examples=12, device=place)
        for place in ("cpu", PLACE)
    )
    one, other = (each.table[~each.table["measure"].str.startswith("speed-up")] for each in (here, there))
    pd.testing.assert_frame_equal(one, other)
    assert device.faults == []
