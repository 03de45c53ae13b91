"""A folder that ``ws.fit`` made is a run folder: commands measure in it what Python measures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand import bayes
from withstand.cli.entry import main
from withstand.constraints import PARAMETRIZATIONS, SpectralBall
from withstand.core.contract import adapted
from withstand.core.run_folder import RunFolder
from withstand.core.writing import percent
from withstand.data import Dataset
from withstand.reporting.read import read_run
from withstand.results import read_results
from withstand.runs.loading import load_run
from withstand.training import TrainingResult, TrainingSettings
from withstand.types import DataError, ModelError, RecipeError, RunFolderError

NUM = 30


class Residual(nn.Module):
    """With BatchNorm and Dropout, which act otherwise in training, and a buffer that no state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.drop, self.last = nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Linear(256, 10)
        self.register_buffer("scale", torch.full((4, 1, 1), 0.5), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.second(x) * self.scale + 0.01 * torch.arange(8, device=x.device)
        return self.last(self.drop(x).flatten(1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """With tied weights too; its logits are in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.embed.weight
        self.layer, self.last = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), nn.Linear(8, 10)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last(self.layer(self.again(self.embed(x[:, 0]))).mean(1))}


class Branching(nn.Module):
    """What no graph is of."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.flatten(1))
        return logits if x.mean() > 0.5 else 2 * logits


def named() -> nn.Module:
    return ws.models.create("mlp", dataset="digits", hidden=[8])


def parametrised() -> nn.Module:
    model = named()
    PARAMETRIZATIONS["spectral-norm"](model)
    return model


def changed() -> nn.Module:
    model = named()
    model.get_submodule("network").append(nn.Identity())  # type: ignore[operator]
    return model


def double() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


# How it is made, what the folder names it by, and whether it is kept as a graph.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "by name": (named, "mlp"),
    "parametrised": (parametrised, "mlp"),
    "random": (lambda: bayes.convert(named(), layers={"network.1": None}), "mlp"),
    "changed after it was made": (changed, None),
    "residual": (Residual, None),
    "attention": (Attention, None),
    "float64": (double, None),
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return ws.data.load("digits", train_size=100, validation_size=50)


def fitted(model: nn.Module, dataset: Dataset, out: Path | None, **settings: object) -> TrainingResult:
    return ws.fit(
        model,
        dataset,
        ws.objectives.Variational() if bayes.is_stochastic(model) else None,
        TrainingSettings(epochs=1, accelerator="cpu", **settings),  # type: ignore[arg-type]
        out=out,
    )


def clean(folder: Path) -> float:
    known = read_results(RunFolder(folder))
    assert known is not None
    return float(known[1].value[0])


@pytest.mark.parametrize("kind", NETWORKS)
def test_command_measures_a_network_of_python_as_python_does(
    kind: str,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, name = NETWORKS[kind]
    model, out = make(), tmp_path / "mine"
    result = fitted(model, digits, out, constraints=[SpectralBall(2.0)] if kind == "residual" else [])
    spec = json.loads((out / "model.json").read_text())
    assert spec["name"] == name
    assert (out / "model.pt2").exists() is (name is None)
    model.load_state_dict(result.best_weights)
    expected = ws.evaluate(model, digits, num_examples=NUM).table.value[0]
    monkeypatch.chdir("/")
    caplog.clear()
    assert main(["evaluate", str(out), f"--evaluation.num_examples={NUM}"]) == 0
    assert clean(out) == expected
    assert not caplog.messages
    loaded = load_run(out)
    assert not any(module.training for module in loaded.modules())
    if kind != "random":
        images = digits.test.images[:5].float() / 255
        logits = (adapted(network.eval(), images)(images) for network in (loaded, model))
        torch.testing.assert_close(*logits)
        for training in (True, False):  # as those do who train on, or attack
            loaded.train(training)
        assert loaded.to("meta")(images.to("meta")).shape == (5, 10)  # on any device


def test_run_of_python_is_attacked_certified_sampled_checked_reported_and_compared(
    digits: Dataset, tmp_path: Path
) -> None:
    run, other = tmp_path / "one", tmp_path / "two"
    fitted(Residual(), digits, run)
    for command in (
        ["certify", "--norm=2", "--epsilons=[0.1]", "--num_examples=4"],
        ["attack", "--epsilon=0.1", "--num_steps=1"],
        ["moments", "--num_examples=2", "--num_samples=10", "--methods=[diagonal]"],
        ["check"],
        ["report"],
    ):
        assert main([command[0], str(run), *command[1:]]) == 0, command
    shutil.copytree(run, other)
    assert main(["compare", str(run), str(other), f"--out={tmp_path / 'page.html'}"]) == 0
    assert "<title>Residual on digits, CrossEntropy" in (run / "report.html").read_text()
    environment = read_run(run).environment
    assert environment is not None
    assert environment.cost.train_steps == 1
    assert environment.data_fingerprint == digits.fingerprint


def test_data_from_arrays_are_asked_for_by_name(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(split.images, split.labels) for split in (digits.train, digits.test)]
    fitted(named(), ws.data.from_arrays(*pairs, name="digits"), tmp_path / "run")
    for command in (["evaluate"], ["attack", "--epsilon=0.1"], ["certify", "--norm=2", "--epsilons=[0.1]"]):
        assert main([command[0], str(tmp_path / "run"), *command[1:]]) == 2
        assert "--data.name=" in " ".join(capsys.readouterr().err.split())
    assert main(["check", str(tmp_path / "run")]) == 0  # which needs none
    attack = ["attack", str(tmp_path / "run"), "--epsilon=0.1", "--num_steps=1", "--data.name=digits"]
    assert main(attack) == 0
    assert "are not those that" not in caplog.text  # the same test images
    others = [(split.images // 2, split.labels) for split in (digits.train, digits.test)]
    fitted(named(), ws.data.from_arrays(*others), tmp_path / "other")
    assert main([attack[0], str(tmp_path / "other"), *attack[2:]]) == 0
    assert "are not those that" in caplog.text


def test_network_without_a_graph_is_asked_for_by_name(
    digits: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, out = Branching(), tmp_path / "run"
    result = fitted(model, digits, out)
    assert "depends on the values of its input" in caplog.text
    with pytest.raises(ModelError, match="depends on the values of its input"):
        load_run(out)
    assert main(["evaluate", str(out)]) == 2
    assert "--model.name=file.py:function" in " ".join(capsys.readouterr().err.split())
    source = Path(__file__).read_text().partition("\ndef named")[0]
    (tmp_path / "net.py").write_text(source)
    own = f"--model.name={tmp_path / 'net.py'}:Branching"
    assert main(["evaluate", str(out), f"--evaluation.num_examples={NUM}", own]) == 0
    model.load_state_dict(result.best_weights)
    assert clean(out) == ws.evaluate(model, digits, num_examples=NUM).table.value[0]


def test_graph_of_a_stranger_is_not_read(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    fitted(double(), digits, out)
    other = Path(shutil.copytree(out, tmp_path / "changed"))
    (other / "model.pt2").write_bytes(b"hostile")
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(RunFolderError, match="not as it was"):
        load_run(other)
    with ws.trusting(), pytest.raises(RunFolderError, match="not as it was"):
        load_run(other)
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "another"))
    with pytest.raises(RunFolderError, match=r"graph in model\.pt2.*--trust"):
        load_run(out)
    monkeypatch.undo()
    monkeypatch.setenv("WITHSTAND_CONFIG", str(tmp_path / "another"))
    assert main(["check", str(out), "--trust"]) == 0
    assert "certificates, l2" in capsys.readouterr().out
    load_run(out)  # remembered


def test_folder_of_python_is_trained_on_in_python_alone(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "run", named()
    fitted(model, digits, out)
    recipe = str(out / "recipe.yaml")
    assert main(["train", recipe, f"--out={out}"]) == 2
    assert "same call of ws.fit" in " ".join(capsys.readouterr().err.split())
    assert main(["train", recipe, f"--out={tmp_path / 'again'}"]) == 0  # the recipe says all
    longer = TrainingSettings(
        epochs=2, accelerator="cpu", optimizer=lambda weights: torch.optim.Adam(weights, lr=0.1)
    )
    with pytest.raises(RunFolderError):
        ws.fit(model, digits, settings=longer, out=out)
    assert "epochs: 1" in Path(recipe).read_text()  # as it was
    ws.fit(model, digits, settings=TrainingSettings(epochs=2, accelerator="cpu"), out=out)
    assert "epochs: 2" in Path(recipe).read_text()
    fitted(Residual(), digits, tmp_path / "other", optimizer=longer.optimizer)
    assert main(["train", str(tmp_path / "other" / "recipe.yaml"), f"--out={tmp_path / 'third'}"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "does not say model.name, training.optimizer" in told


# -- without a folder -------------------------------------------------------------------------------


def test_fit_needs_model_and_data_alone_and_leaves_nothing(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = ws.fit(tiny_model, tiny_dataset)
    assert not list(tmp_path.iterdir())
    assert len(result.rows) == TrainingSettings().epochs
    text = repr(result)
    assert text.startswith("<TrainingResult: 10 epochs, 10 steps, ")
    assert f"best validation score {percent(result.best_score)} at epoch {result.best_epoch}" in text
    assert "\n" not in text
    tiny_model.load_state_dict(result.best_weights)
    score = ws.evaluate(tiny_model, Dataset(tiny_dataset.info, *[tiny_dataset.validation] * 3)).table.value[0]
    assert score == pytest.approx(result.best_score)
    with pytest.raises(RecipeError, match="TensorBoard"):
        ws.fit(tiny_model, tiny_dataset, settings=TrainingSettings(tensorboard=True))


def test_fit_shows_its_progress_on_a_terminal_unless_told_not_to(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = TrainingSettings(epochs=1, accelerator="cpu")
    ws.fit(tiny_model, tiny_dataset, settings=settings)
    assert not capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    ws.fit(tiny_model, tiny_dataset, settings=settings, progress=False)
    assert not capsys.readouterr().out
    ws.fit(tiny_model, tiny_dataset, settings=settings)
    assert "epoch   1" in capsys.readouterr().out


def test_data_replaced_in_part_are_no_data_of_a_name(digits: Dataset) -> None:
    assert digits.source == digits.to("cpu").source
    assert digits.source is not None
    assert ws.data.load(**digits.source).fingerprint == digits.fingerprint
    assert Dataset(digits.info, digits.train, digits.validation, digits.test).source is None
    images = np.zeros((2, 1, 2, 2), np.uint8)
    pair = (images, np.array([0, 1]))
    with pytest.raises(DataError):
        ws.data.load("arrays")
    assert ws.data.from_arrays(pair, pair).source is None


def test_data_that_fit_read_from_a_file_are_found_from_elsewhere_and_where_they_are_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.random.default_rng(0).random((40, 4)), np.arange(40) % 2
    np.savez(tmp_path / "table.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    model, settings = nn.Sequential(nn.Linear(4, 2)), TrainingSettings(epochs=1, batch_size=8)
    ws.fit(model, "table.npz", settings=settings, out="run")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    asked = ["attack", "../run", "--norm=2", "--epsilon=0.1", "--num_steps=1"]
    assert main(asked) == 0
    (tmp_path / "table.npz").rename("moved.npz")
    assert main([*asked, "--data.name=moved.npz"]) == 0
    np.savez("other.npz", images=1 - images, labels=labels)
    assert main([*asked, "--data.name=other.npz"]) == 2
    assert "have changed since" in " ".join(capsys.readouterr().err.split())
