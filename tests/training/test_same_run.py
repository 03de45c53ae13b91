"""A training goes on only with what it was begun with; what has changed is named."""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD
from withstand.core.network import changes, describe
from withstand.core.schedules import Stages
from withstand.data import Augment, Dataset
from withstand.loss.terms import Objective
from withstand.models import load_weights
from withstand.models.registry import load_factory
from withstand.models.weight_files import read_weights
from withstand.objectives import Adversarial, CrossEntropy
from withstand.training import TrainingSettings, fit
from withstand.training.checkpoint import read_checkpoint
from withstand.types import CheckpointError, LossTerms, ModelError

SETTINGS = TrainingSettings(
    epochs=1, batch_size=32, optimizer=partial(torch.optim.SGD, lr=0.1), accelerator="cpu"
)
CODE = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from torch.nn.functional import relu as act

SCALE = 2.0
WEIGHTS = np.array([1.0, 2.0, 3.0])
CONFIG = {"slope": 0.1}


def squash(x):
    """Squashes."""
    return torch.tanh(x)  # as ever


class Net(nn.Module):
    temperature = 1.0
    table = torch.tensor([1.0])
    squeeze = staticmethod(torch.tanh)

    def __init__(self, hidden=8):
        super().__init__()
        self.flat = nn.Flatten()
        self.first = nn.Linear(16, hidden)
        self.act = nn.ReLU()
        self.last = nn.Linear(hidden, 3)
        self.function = lambda x: x + 1
        self.shift = (0, 1)
        self.offset = torch.zeros(3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.act(self.first(self.flat(x)))
        from operator import add as joined

        x = F.leaky_relu(squash(x), CONFIG["slope"]) * SCALE
        x = joined(act(x), self.squeeze(x)) * self.table * float(WEIGHTS.sum())
        return self.function(self.last(x)) / self.temperature + self.offset


def net():
    torch.manual_seed(0)
    return Net()
'''
CHANGES = {
    "kind of a layer": ("nn.ReLU()", "nn.GELU()", r"layer act: ReLU\(\) then, GELU\(.*\) now"),
    "setting of a layer": ("nn.ReLU()", "nn.ReLU(inplace=True)", r"layer act: ReLU\(\) then, ReLU\(inplace"),
    "shapes": ("hidden=8", "hidden=9", r"layer first: Linear\(.*out_features=8.*out_features=9"),
    "a layer more": ("nn.Flatten()", "nn.Sequential(nn.Flatten(), nn.Dropout())", "layer flat.1 is new"),
    "forward": ("+ self.offset", "- self.offset", "code of Net.forward has changed"),
    "helper function": ("torch.tanh(x)", "torch.sigmoid(x)", "code of squash has changed"),
    "constant": ("SCALE = 2.0", "SCALE = 3.0", "value of SCALE: .*2.* then, .*3.* now"),
    "dictionary": ('"slope": 0.1', '"slope": 0.2', "value of CONFIG"),
    "attribute of the class": ("temperature = 1.0", "temperature = 2.0", "Net.temperature"),
    "name of a function of torch": (
        "import relu as act",
        "import elu as act",
        "value of act: .*relu.* then, .*elu",
    ),
    "array": ("np.array([1.0,", "np.array([4.0,", "value of WEIGHTS"),
    "tensor of the class": ("torch.tensor([1.0])", "torch.tensor([2.0])", "Net.table"),
    "function of the class": ("staticmethod(torch.tanh)", "staticmethod(torch.sin)", "Net.squeeze"),
    "import inside": ("import add as joined", "import sub as joined", "code of Net.forward|value of"),
    "tuple": ("(0, 1)", "(1, 0)", "Net, attribute shift"),
    "tensor": ("torch.zeros(3)", "torch.ones(3)", "Net, attribute offset"),
    "lambda": ("lambda x: x + 1", "lambda x: x + 2", "lambda"),
    "initial weights": (
        "manual_seed(0)",
        "manual_seed(1)",
        "initial weights.*torch.manual_seed.*load_weights",
    ),
}
HARMLESS = {
    "comment": ("# as ever", "# otherwise"),
    "description": ('"""Squashes."""', '"""Brings into -1 to 1."""'),
    "no description": ('    """Squashes."""\n', ""),
    "formatting": (
        "x = self.act(self.first(self.flat(x)))",
        "x = self.act(\n            self.first(self.flat(x)))",
    ),
    "name of a variable": (
        'squash(x):\n    """Squashes."""\n    return torch.tanh(x)',
        "squash(y):\n    return torch.tanh(y)",
    ),
    "nothing": ("        self.calls += 1\n", "        self.calls += 1\n        pass\n"),
    "another function": ("def net():", "def other():\n    return None\n\n\ndef net():"),
}


def made(folder: Path, before: str = "", after: str = "") -> nn.Module:
    """The net of a file, with one place of its text changed."""
    assert before in CODE
    folder.mkdir(exist_ok=True)
    file = folder / "net.py"
    file.write_text(CODE.replace(before, after, 1) if before else CODE)
    # As in a new process; Python would read what it compiled within the same second.
    importlib.invalidate_caches()
    for compiled in folder.glob("__pycache__/*"):
        compiled.unlink()
    model = load_factory(f"{file}:net")()
    assert isinstance(model, nn.Module)
    return model


def go_on(model: nn.Module, dataset: Dataset, out: Path, **options: Any) -> None:
    fit(model, dataset, CrossEntropy(), replace(SETTINGS, epochs=2), out=out, **options)


@pytest.mark.parametrize("change", CHANGES)
def test_fit_refuses_a_changed_model_and_says_what_changed(
    change: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    before, after, message = CHANGES[change]
    fit(made(tmp_path / "user"), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path / "run")
    stored = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.[ps][ta]*")}
    with pytest.raises(CheckpointError, match=rf"(?s){message}.*out="):
        go_on(made(tmp_path / "user", before, after), tiny_dataset, tmp_path / "run")
    assert stored
    assert all(file.read_bytes() == content for file, content in stored.items())
    go_on(made(tmp_path / "user"), tiny_dataset, tmp_path / "run")  # what it was goes on


@pytest.mark.parametrize("change", HARMLESS)
def test_fit_goes_on_where_what_the_model_does_is_the_same(
    change: str, tiny_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(made(tmp_path / "user"), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path / "run")
    go_on(made(tmp_path / "moved", *HARMLESS[change]), tiny_dataset, tmp_path / "run")
    told = [record.getMessage() for record in caplog.records]
    assert not [text for text in told if "no better than always answering" not in text]


class SignedCrossEntropy(Objective):
    """An objective of a user's own, with a helper and a log."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = float("inf")
    ) -> LossTerms:
        LOG.append(len(images))
        return LossTerms(self.sign * CrossEntropy()(model, images, labels).loss, {})


LOG: list[int] = []


class Otherwise(SignedCrossEntropy):
    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = float("inf")
    ) -> LossTerms:
        return LossTerms(2 * CrossEntropy()(model, images, labels).loss, {})


Otherwise.__qualname__ = Otherwise.__name__ = "SignedCrossEntropy"  # as one edited in a notebook
Otherwise.forward.__qualname__ = "SignedCrossEntropy.forward"
SETTINGS_CHANGED: dict[str, Callable[[TrainingSettings], TrainingSettings]] = {
    "optimizer": lambda s: replace(s, optimizer=partial(torch.optim.SGD, lr=0.2)),
    "learning rate factor": lambda s: replace(s, lr_factor=Stages([1.0, 0.1], epochs=[1, 1])),
    "augmentation": lambda s: replace(s, augment=Augment(crop_padding=1)),
    "selection": lambda s: replace(s, selection=PGD(epsilon=0.1)),
    "precision": lambda s: replace(s, precision="bf16"),
    "drop_last": lambda s: replace(s, drop_last=True),
    "batch size": lambda s: replace(s, batch_size=16),
}


@pytest.mark.parametrize("setting", SETTINGS_CHANGED)
def test_fit_refuses_changed_settings_and_names_them(
    setting: str, tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    changed = SETTINGS_CHANGED[setting](SETTINGS)
    with pytest.raises(CheckpointError, match=rf"another run.*{setting}"):
        fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), changed, out=tmp_path)


@pytest.mark.parametrize("objective", [SignedCrossEntropy(2.0), Otherwise(), Adversarial(PGD(epsilon=0.1))])
def test_fit_refuses_another_objective_or_another_code_of_it(
    objective: Objective, tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fit(copy.deepcopy(tiny_model), tiny_dataset, SignedCrossEntropy(), SETTINGS, out=tmp_path)
    fit(
        copy.deepcopy(tiny_model), tiny_dataset, SignedCrossEntropy(), SETTINGS, out=tmp_path
    )  # its log has grown
    with pytest.raises(CheckpointError, match="objective"):
        fit(copy.deepcopy(tiny_model), tiny_dataset, objective, SETTINGS, out=tmp_path)


def test_fit_goes_on_with_the_weights_that_the_folder_holds(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path / "parts")
    fit(
        copy.deepcopy(tiny_model),
        tiny_dataset,
        CrossEntropy(),
        replace(SETTINGS, epochs=2),
        out=tmp_path / "a",
    )
    other = copy.deepcopy(tiny_model)
    for layer in other.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    with pytest.raises(CheckpointError, match="initial weights"):
        go_on(other, tiny_dataset, tmp_path / "parts")
    load_weights(other, tmp_path / "parts" / "model.safetensors")  # what the error says
    go_on(other, tiny_dataset, tmp_path / "parts")
    whole, parts = (read_weights(tmp_path / name / "last.safetensors") for name in ("a", "parts"))
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_fit_says_that_an_old_checkpoint_cannot_be_compared(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    for file in (tmp_path / "checkpoint").iterdir():
        content = read_checkpoint(file)
        old = {
            key: value for key, value in content.items() if key not in ("parts", "initial", "surroundings")
        }
        torch.save(old, file)
    go_on(copy.deepcopy(tiny_model), tiny_dataset, tmp_path)
    assert "older version" in caplog.text
    for file in (tmp_path / "checkpoint").iterdir():
        content = read_checkpoint(file)
        del content["parts"]
        torch.save(content, file)
    with pytest.raises(CheckpointError, match="does not fit"):
        go_on(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), tiny_dataset, tmp_path)


def test_fit_says_that_threads_are_others(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    go_on(copy.deepcopy(tiny_model), tiny_dataset, tmp_path)
    assert not caplog.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    go_on(copy.deepcopy(tiny_model), tiny_dataset, tmp_path)
    assert "77 now" in caplog.text


def test_descriptions_of_other_versions_compare_what_they_have_in_common(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    now = describe(made(tmp_path / "user"))
    then = now | {
        "versions": "Python 3.1 torch 0.1 withstand 0",
        "code of Net.forward": "0",
        "layer act, settings": "0",
    }
    assert changes(then, now) == []
    assert "could not be compared" in caplog.text
    assert changes(then | {"layer act": "GELU()"}, now) == ["layer act: GELU() then, ReLU() now"]


@pytest.mark.parametrize("name", ["checkpoint/last.pt", "model.safetensors"])
def test_flipped_bit_is_refused_or_without_effect(
    name: str, tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fit(tiny_model, tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()

    def values() -> dict[str, Tensor]:
        return read_checkpoint(file)["model"] if name.endswith(".pt") else read_weights(file)

    texts: list[str] = []
    expected = values()
    numbers = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[numbers.randrange(len(whole))] ^= 1 << numbers.randrange(8)
        file.write_bytes(damaged)
        try:
            read = values()
        except (CheckpointError, ModelError) as error:
            texts.append(str(error))
            continue
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], value) for key, value in expected.items())
    assert len(texts) > 50
    assert all(str(file) in text for text in texts)


CONFIGURATION = {"weight": 1.0}
TEACHER = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Configured(Objective):
    """Of a user's own: it goes by a dictionary, a teacher and weights of classes outside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))
        self.attack = PGD(epsilon=0.1, num_steps=1)

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = float("inf")
    ) -> LossTerms:
        logits = model(images)
        return LossTerms(
            CONFIGURATION["weight"] * self.loss(logits, labels) + (logits - TEACHER(images)).square().mean(),
            {},
        )


def _weigh(objective: Configured) -> None:
    CONFIGURATION["weight"] = 2.0


def _teach(objective: Configured) -> None:
    nn.init.zeros_(TEACHER[1].weight)  # type: ignore[arg-type]


def _weigh_classes(objective: Configured) -> None:
    assert isinstance(objective.loss.weight, Tensor)
    objective.loss.weight[0] = 3.0


def _attack_farther(objective: Configured) -> None:
    objective.attack = PGD(epsilon=0.3, num_steps=1)


@pytest.mark.parametrize("change", [_weigh, _teach, _weigh_classes, _attack_farther])
def test_fit_refuses_an_objective_whose_settings_outside_itself_changed(
    change: Callable[[Configured], None],
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONFIGURATION, "weight", 1.0)
    fit(copy.deepcopy(tiny_model), tiny_dataset, Configured(), SETTINGS, out=tmp_path)
    fit(copy.deepcopy(tiny_model), tiny_dataset, Configured(), SETTINGS, out=tmp_path)
    changed = Configured()
    change(changed)
    with pytest.raises(CheckpointError, match="of the objective"):
        fit(copy.deepcopy(tiny_model), tiny_dataset, changed, SETTINGS, out=tmp_path)


def test_fit_refuses_other_frozen_weights_and_groups_of_the_optimiser(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    def grouped(rate: float) -> TrainingSettings:
        return replace(
            SETTINGS,
            optimizer=lambda weights: torch.optim.SGD([{"params": list(weights), "lr": rate}], lr=0.1),
        )

    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), grouped(0.1), out=tmp_path)
    with pytest.raises(CheckpointError, match="groups of the optimizer"):
        fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), grouped(0.5), out=tmp_path)
    frozen = copy.deepcopy(tiny_model)
    next(frozen.parameters()).requires_grad_(False)
    with pytest.raises(CheckpointError, match="frozen weights"):
        fit(frozen, tiny_dataset, CrossEntropy(), grouped(0.1), out=tmp_path)
