"""From a recipe to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from withstand.constraints import PARAMETRIZATIONS, ParametrizationName
from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.core.run_folder import RunFolder
from withstand.models import save_weights
from withstand.operators import weights
from withstand.recipes.parsing import parse_recipe
from withstand.recipes.schema import ModelSettings, Recipe
from withstand.reporting import report
from withstand.reporting.table import one, select
from withstand.results import read_results
from withstand.results.measurements import CLEAN, protocol_measure
from withstand.runs.asked import require_other_data
from withstand.runs.loading import load_run_model
from withstand.runs.run_parts import build_model, model_spec, open_run
from withstand.runs.stages import evaluate_run, train_recipe
from withstand.types import AttackError, DataError, ModelError, RunFolderError


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_parametrised_model_has_spectral_norms_of_one(name: ParametrizationName) -> None:
    info = KNOWN_DATASETS["digits"]
    recipe = Recipe(model=ModelSettings("mlp", options={"hidden": [16]}, parametrize=name))
    model = build_model(recipe, info)
    for _ in range(100):  # torch estimates by power iteration, one a forward pass
        model(torch.rand(2, *info.shape))
    first, last = (weight.matrix for weight in weights(model.eval()))
    norms = [torch.linalg.matrix_norm(first, 2).item(), torch.linalg.matrix_norm(last, 2).item()]
    if name == "orthogonal-normalized-last":
        assert norms[1] > 1.1
        norms = [norms[0], *last.norm(dim=1).tolist()]
    if name == "orthogonal-free-last":
        assert norms.pop() != pytest.approx(1.0, rel=1e-3)
    assert norms == [pytest.approx(1.0, rel=1e-3)] * len(norms)
    assert model_spec(recipe)["parametrize"] == name
    plain = build_model(replace(recipe, model=replace(recipe.model, parametrize=None)), info)
    assert not any(weight.parametrised for weight in weights(plain))


_WITH_PROTOCOL = """\
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, batch_size: 20}
evaluation:
  num_examples: 30
  batch_size: 20
  weights: last
  meters:
    - class_path: SebrProtocol
      init_args: {fgsm: [0.1], pgd: [0.1, 8/255], num_steps: 2}
published:
  - {measure: attacked, accuracy: 0.5, norm: inf, epsilon: 0.1, source: Somebody, attack: pgd}
"""


def test_published_protocols_are_measured_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(_WITH_PROTOCOL)
    parsed, out = parse_recipe(file), RunFolder(tmp_path / "run")
    train_recipe(parsed, out, command="train")
    with pytest.warns(UserWarning, match="for networks with random weights, which this one has not"):
        evaluation = evaluate_run(out, parsed, command="evaluate")
    (protocol,) = evaluation.results.protocols
    measured = select(evaluation.table, protocol_measure(protocol.name))
    assert set(measured["total"]) == {30}
    # One pass by a net without random weights: as the evaluation itself scores it.
    clean, again = (
        one(evaluation.table, CLEAN),
        one(evaluation.table, protocol_measure(protocol.name), by="clean"),
    )
    assert clean is not None
    assert again is not None
    assert (again.correct, again.lower, again.upper) == (clean.correct, clean.lower, clean.upper)
    assert list(measured["level"][measured["by"] == "pgd"]) == [0.1, pytest.approx(8 / 255)]
    assert evaluation.results.published[0].attack == "pgd"
    written = read_results(out)
    assert written is not None
    assert written[0] == evaluation.results
    assert ">Published protocol of SEBR</h2>" in report(out.path).read_text(encoding="utf-8")


_RANDOM = """\
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}, bayes: {}}
objective: {class_path: Variational}
training: {epochs: 1, batch_size: 20}
evaluation:
  num_examples: 10
  sampling: {num_samples: 2, num_repeats: 2}
  meters:
    - class_path: Uncertainty
      init_args: {num_samples: 2, out_of_distribution: [mnist]}
"""


def test_means_file_is_read_when_training_begins_alone(tmp_path: Path) -> None:
    file, means = tmp_path / "recipe.yaml", tmp_path / "means.safetensors"
    file.write_text(_RANDOM)
    out = RunFolder(tmp_path / "run")
    parsed = parse_recipe(
        file, [f"--model.bayes.means={means}", "--training.epochs=0", "--evaluation.meters=[]"]
    )
    with pytest.raises(ModelError, match="no weights file"):
        train_recipe(parsed, out, command="train")
    recipe, info = parsed.recipe, KNOWN_DATASETS["digits"]
    plain = build_model(replace(recipe, seed=1, model=replace(recipe.model, bayes=None)), info)
    save_weights(plain, means)
    train_recipe(parsed, out, command="train")
    means.unlink()
    run, stored = open_run(out.path)
    model = load_run_model(run, stored.recipe)
    learnt, begun = model.state_dict(), plain.state_dict()
    assert all(torch.equal(learnt[name], value) for name, value in begun.items())
    train_recipe(parsed, out, command="train")  # nothing is left to train
    sampling = evaluate_run(run, stored, command="evaluate").results.sampling
    assert sampling is not None
    assert sampling.num_repeats == 2


def test_require_other_data_reads_what_an_evaluation_will_need(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{_RANDOM.replace('name: digits,', f'name: digits, root: {tmp_path},')}")
    with pytest.raises(DataError, match="mnist"):
        require_other_data(parse_recipe(file).recipe)
    require_other_data(parse_recipe(file, ["--model.bayes=null", "--evaluation.meters=[]"]).recipe)
    require_other_data(parse_recipe(file, ["--evaluation.meters.0.out_of_distribution=[]"]).recipe)
    other = tmp_path / "other"
    for part in ("train", "test"):
        for kind in "ab":
            (other / part / kind).mkdir(parents=True)
            Image.new("L", (6, 6)).save(other / part / kind / "one.png")
    asked = f"--evaluation.meters.0.out_of_distribution=[folder:{other}]"
    with pytest.raises(DataError, match="shape"):
        require_other_data(parse_recipe(file, [asked]).recipe)


def test_require_other_data_needs_the_packages_of_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("withstand.attacks.adapters.find_spec", lambda _: None)
    file = tmp_path / "recipe.yaml"
    file.write_text(_RANDOM)
    suite = ["--model.bayes=null", "--evaluation.meters=[{class_path: Suite, init_args: {epsilons: [0.1]}}]"]
    require_other_data(parse_recipe(file, [*suite, "--evaluation.meters.level=fast"]).recipe)
    with pytest.raises(AttackError, match="pyautoattack"):
        require_other_data(parse_recipe(file, [*suite, "--evaluation.meters.level=standard"]).recipe)


def test_run_that_failed_at_once_does_not_hold_its_folder(tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", RunFolder(tmp_path / "run")
    file.write_text(_RANDOM)
    # Has no divergence to be trained with.
    failing = parse_recipe(file, ["--model.bayes=null", "--evaluation.meters=[]"])
    with pytest.raises(ModelError):
        train_recipe(failing, out, command="train")
    assert [path.name for path in out.checkpoints.iterdir()] == ["good.pt"]
    assert not out.is_begun()
    train_recipe(parse_recipe(file), out, command="train")
    assert out.is_begun()
    with pytest.raises(RunFolderError, match="another recipe"):
        train_recipe(failing, out, command="train")


def test_meters_of_images_are_left_out_for_tables_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.random.default_rng(0).random((40, 4))
    np.savez(tmp_path / "table.npz", images=values, labels=np.arange(40) % 2)
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{name: {tmp_path / 'table.npz'}}}\nmodel: {{name: mlp, options: {{hidden: [4]}}}}\n"
        "training: {epochs: 1, batch_size: 8}\n"
        "evaluation: {meters: [Corruptions, {class_path: NoiseCurve, init_args: {num_levels: 2}}]}\n"
    )
    parsed, out = parse_recipe(tmp_path / "recipe.yaml"), RunFolder(tmp_path / "run")
    require_other_data(parsed.recipe)
    train_recipe(parsed, out, command="train")
    evaluation = evaluate_run(out, parsed, command="evaluate")
    assert "The recipe's meter Corruptions is left out: it does not measure vectors of 4." in caplog.text
    assert [meter["class_path"].rpartition(".")[2] for meter in evaluation.results.settings["meters"]] == [
        "NoiseCurve"
    ]


@pytest.mark.parametrize(("weights", "is_told"), [("best", True), ("last", False)])
def test_best_weights_of_a_smaller_epsilon_are_measured_with_a_warning(
    weights: str, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, run = tmp_path / "recipe.yaml", RunFolder(tmp_path / "run")
    file.write_text("data: {name: digits, train_size: 40, validation_size: 20}\nmodel: {name: mlp}\n")
    parsed = parse_recipe(file, ["--training.epochs=1", f"--evaluation.weights={weights}"])
    train_recipe(parsed, run, command="train")
    header = "epoch,epsilon,validation_accuracy,collapsed"
    run.train_log.write_text(f"{header}\n1,0.05,0.9,0\n2,0.3,0.8,0\n")
    load_run_model(run, parsed.recipe)
    told = [record.getMessage() for record in caplog.records if "best epoch goes by" in record.getMessage()]
    run.train_log.write_text(f"{header}\n1,what,0.9,0\n2,0.3")
    load_run_model(run, parsed.recipe)  # a damaged log needs no weights
    assert len(told) == is_told
    if is_told:
        assert "--evaluation.weights=last" in told[0]
