from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.utils._paths import filter_repo_objects

import withstand as ws
from withstand.cli import main
from withstand.core.network import describe
from withstand.types import RunFolderError

_RECIPE = """
name: shared
data: {name: digits, train_size: 200}
model: {name: mlp, options: {hidden: [8]}}
objective: {class_path: CrossEntropy}
training: {epochs: 1}
evaluation:
  num_examples: 20
  meters:
  - class_path: Attacks
    init_args:
      attacks: [{class_path: PGD, init_args: {num_steps: 2}}]
      epsilons: [0.1]
  - class_path: Certificate
    init_args: {norm: 2, epsilons: [0.05]}
"""
_IMAGES = torch.linspace(0, 1, 3 * 64).view(3, 1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained and evaluated; it is only read."""
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "mine.yaml").write_text(_RECIPE)
    assert main(["run", str(folder / "mine.yaml"), f"--out={folder / 'run'}"]) == 0
    return folder / "run"


def test_a_loaded_run_predicts_in_eval_mode_and_has_its_card(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ws.load(run)
    assert not model.training
    assert model(_IMAGES).shape == (3, 10)
    card = model.card
    assert isinstance(card, ws.ModelCard)
    assert f'ws.load("{run}")' in card
    monkeypatch.chdir(run.parent)
    (run.parent / "runs").mkdir(exist_ok=True)
    (run.parent / "runs" / "mine").symlink_to(run)
    assert torch.equal(ws.load("mine")(_IMAGES), model(_IMAGES))


def test_a_card_is_no_part_of_what_a_model_is(run: Path) -> None:
    model = ws.load(run)
    with_card = describe(model)
    del model.card
    assert describe(model) == with_card


def test_a_shared_run_is_pulled_and_loaded_elsewhere_with_equal_figures(run: Path, tmp_path: Path) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    assert main(["push", str(run), f"hub:{shared}"]) == 0
    names = {path.name for path in shared.iterdir()}
    assert {"README.md", "recipe.yaml", "model.json", "model.safetensors", "measurements.csv"} <= names
    assert not names & {
        "checkpoint",
        "evaluation",
        "examples.csv",
        "gallery.npz",
        "report.html",
        "trust.json",
    }
    loaded = ws.load(f"hub:{shared}")
    assert torch.equal(loaded(_IMAGES), ws.load(run)(_IMAGES))
    assert main(["pull", f"hub:{shared}", f"--out={mine}"]) == 0
    assert main(["evaluate", str(mine)]) == 0
    assert (mine / "measurements.csv").read_text() == (run / "measurements.csv").read_text()


def test_a_shared_run_whose_data_have_no_name_is_measured_on_data_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = ws.data.load("digits", train_size=40)
    arrays = [(part.images[:40], part.labels[:40]) for part in (digits.train, digits.test)]
    data = ws.data.from_arrays(*arrays, name="three\n---\nlines")
    model = ws.models.create("mlp", dataset=data.info, hidden=[4])
    ws.fit(model, data, settings=ws.training.TrainingSettings(epochs=1), out=tmp_path / "run")
    ws.push(tmp_path / "run", tmp_path / "shared")  # which nobody here has signed
    assert torch.equal(ws.load(tmp_path / "shared")(_IMAGES), ws.load(tmp_path / "run")(_IMAGES))
    asked = ["attack", str(tmp_path / "shared"), "--norm=2", "--epsilon=0.1", "--num_steps=1"]
    assert main(asked) == 2
    assert "handed over in Python" in capsys.readouterr().err
    assert main([*asked, "--data.name=digits"]) == 0


@pytest.mark.parametrize("part", [{"kept": 3}, {"kept": {"what": "source"}}, {"info": {"shape": "abc"}}])
def test_a_damaged_record_of_a_model_is_named(part: dict[str, Any], run: Path, tmp_path: Path) -> None:
    ws.push(run, tmp_path / "shared")
    record = tmp_path / "shared" / "model.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | part))
    with pytest.raises(RunFolderError, match=r"model.json is damaged .*Restore it"):
        ws.load(tmp_path / "shared")


def test_a_card_holds_the_figures_of_the_run_in_the_metadata_of_the_hub(run: Path) -> None:
    card = ws.reporting.model_card(run, source="hub:someone/net")
    huggingface_hub.ModelCard(card)  # it reads as one
    metadata = yaml.safe_load(card.split("---\n")[1])
    figures = {
        metric["name"].replace("\N{NO-BREAK SPACE}", " "): metric["value"]
        for result in metadata["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    table = ws.reporting.read.read_run(run).table
    assert figures == {
        name: round(float(table[(table.measure == measure) & (table.level == level)].value.min()), 6)
        for name, measure, level in (
            ("Accuracy", "clean accuracy", 0),
            ("Attacked accuracy, ℓ∞ ε = 0.1", "attacked accuracy", 0.1),
            ("Attacked accuracy, ℓ₂ ε = 0.05", "attacked accuracy", 0.05),
            ("Certified accuracy, ℓ₂ ε = 0.05", "certified accuracy", 0.05),
        )
    }
    assert metadata["library_name"] == "withstand"
    assert 'ws.load("hub:someone/net")' in card
    assert "withstand run" in card
    assert "upper bound" in card


def test_push_makes_a_repository_and_uploads_what_is_shared(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, name: str, **options: Any) -> None:
            did.append((name, options))

        def upload_file(self, *, path_or_fileobj: bytes, path_in_repo: str, repo_id: str) -> None:
            did.append((path_in_repo, path_or_fileobj))

        def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: Sequence[str]) -> Any:
            kept = filter_repo_objects(
                [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()],
                allow_patterns=list(allow_patterns),
            )
            did.append((repo_id, set(kept)))
            return type("Commit", (), {"repo_url": f"https://hub/{repo_id}"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert ws.push(run, "hub:me/net", private=True) == "https://hub/me/net"
    (made, options), (card, content), (_, uploaded) = did
    assert (made, options) == ("me/net", {"private": True, "exist_ok": True})
    assert card == "README.md"
    assert b'ws.load("hub:me/net")' in content
    assert {"recipe.yaml", "model.safetensors"} <= uploaded
    assert not any(name.startswith(("evaluation", "checkpoint", "examples", "report")) for name in uploaded)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda run: ws.load("nothing"), "no run folder nothing, nor runs/nothing"),
        (lambda run: ws.load("hub:./nothing"), "There is no folder nothing"),
        (lambda run: ws.push(run.parent, "hub:me/net"), "no weights to share"),
        (lambda run: ws.push(run, run), "exists and is not empty"),
        (lambda run: ws.pull(str(run.parent), "elsewhere"), "holds no run of withstand"),
    ],
)
def test_what_cannot_be_shared_is_an_error_that_says_why(act: Any, text: str, run: Path) -> None:
    with pytest.raises(ws.WithstandError, match=text):
        act(run)


def test_a_model_that_is_named_takes_weights_of_a_file(run: Path, tmp_path: Path) -> None:
    made = ws.models.create("mlp", dataset="digits").eval()
    ws.models.save_weights(made, tmp_path / "mine.safetensors")
    loaded = ws.load("mlp", weights=tmp_path / "mine.safetensors", dataset="digits")
    assert torch.equal(loaded(_IMAGES), made(_IMAGES))
    assert not loaded.training
    with pytest.raises(ws.ModelError, match="do not fit"):
        ws.load("mlp", weights=run / "model.safetensors", dataset="digits")
