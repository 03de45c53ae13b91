"""Of a network that is not the one which was trained in the folder, an evaluation says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from withstand import bayes
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.run_files import warnings_of_other_weights, weights_in
from withstand.models import save_weights
from withstand.results import read_results


def _others(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1e-3
    return model


def _saved(model: nn.Module, folder: Path) -> RunFolder:
    run = RunFolder(folder / "run").create()
    save_weights(model, run.last_weights)
    save_weights(_others(_others(model)), run.best_weights)
    return run


def test_evaluate_says_that_the_network_is_not_the_one_of_the_folder(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = _saved(tiny_model, tmp_path)
    evaluate(tiny_model, tiny_dataset, out=run.path)
    known = read_results(run)
    assert known is not None
    assert not any("Other weights" in text for text in [*known[0].warnings, *caplog.messages])
    evaluate(_others(tiny_model), tiny_dataset, out=run.path)
    known = read_results(run)
    assert known is not None
    assert any("Other weights: the network measured is not" in text for text in known[0].warnings)
    assert "Other weights" in caplog.text


@pytest.mark.parametrize(
    "form",
    [
        lambda model: model.half(),
        lambda model: model.double(),
        lambda model: nn.ModuleDict({"module": model}),
        lambda model: model.requires_grad_(False),
    ],
)
def test_weights_in_another_form_are_those_of_the_folder(
    tiny_model: nn.Module, tmp_path: Path, form: Callable[[nn.Module], nn.Module]
) -> None:
    run = _saved(tiny_model, tmp_path)
    assert not warnings_of_other_weights(run, weights_in(run, form(copy.deepcopy(tiny_model))))
    assert warnings_of_other_weights(
        run, weights_in(run, form(_others(_others(_others(tiny_model.float())))))
    )


def test_random_weights_are_those_of_the_folder_and_their_means_alone_are_not(
    tiny_model: nn.Module, tmp_path: Path
) -> None:
    plain = copy.deepcopy(tiny_model)
    model = bayes.convert(tiny_model)
    run = _saved(model, tmp_path)
    assert not warnings_of_other_weights(run, weights_in(run, model))
    assert warnings_of_other_weights(run, weights_in(run, plain))


def test_damaged_weights_are_those_of_no_network(tiny_model: nn.Module, tmp_path: Path) -> None:
    run = _saved(tiny_model, tmp_path)
    run.last_weights.write_bytes(run.last_weights.read_bytes()[:-3])
    assert warnings_of_other_weights(run, weights_in(run, tiny_model))
    assert not warnings_of_other_weights(None, weights_in(None, tiny_model))
