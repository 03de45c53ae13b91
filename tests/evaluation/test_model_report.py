"""What ``check`` finds of models of all kinds, by trying."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

import withstand as ws
from withstand.cli import main
from withstand.data import Dataset
from withstand.evaluation.model_report import ModelReport, advising, trials
from withstand.evaluation.model_report.first_layer import find_normalization
from withstand.evaluation.model_report.report_parts import Verdict
from withstand.recipes.parsing import find_recipe, parse_recipe

PIXELS = 16


class Own(nn.Module):
    """A linear net whose forward is a function of the test's."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], object], outputs: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(PIXELS, outputs)
        self.register_buffer("image_mean", torch.tensor([0.3]))
        self.register_buffer("image_std", torch.tensor([0.6]))
        self._forward = forward

    @override
    def forward(self, images: Tensor) -> object:
        return self._forward(self, images)


def plain(net: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = net.get_submodule("layer")(images.flatten(1))
    return logits


def by_data(net: nn.Module, images: Tensor) -> Tensor:
    logits = plain(net, images)
    return logits * 2 if logits.sum() > 0 else logits


def works(verdicts: object) -> dict[str, bool]:
    assert isinstance(verdicts, list)
    return {verdict.name: verdict.works for verdict in verdicts}


@pytest.fixture(scope="module")
def of_plain() -> tuple[Own, dict[str, Tensor], ModelReport]:
    torch.manual_seed(0)
    model = Own(plain).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, before, ws.check(model, (1, 4, 4))


def test_everything_works_with_a_plain_net(of_plain: tuple[Own, dict[str, Tensor], ModelReport]) -> None:
    report = of_plain[2]
    assert report.problem is None
    assert (report.trainable, report.frozen, report.num_classes, report.mode) == (51, 0, 3, "eval")
    assert all(works(report.training).values())
    assert [name for name, does in works(report.measuring).items() if not does] == [
        "uncertainty, of random weights"
    ]
    assert report.training[0].cost == 1
    assert all(verdict.cost and verdict.cost > 0 for verdict in report.training)
    assert report.normalization.is_present is False
    assert report.is_random is False


def test_bounds_of_a_linear_net_are_its_norms(of_plain: tuple[Own, dict[str, Tensor], ModelReport]) -> None:
    model, _, report = of_plain
    weight = model.layer.weight.detach().double()
    (layer,) = report.layers
    assert layer.l2 == pytest.approx(torch.linalg.matrix_norm(weight, 2).item(), rel=1e-5)
    assert layer.linf == pytest.approx(weight.abs().sum(dim=1).max().item(), rel=1e-5)
    steepest = weight.norm(dim=1).max().item()
    assert report.lipschitz.l2 == pytest.approx(steepest, rel=1e-4)
    assert report.lipschitz.steepest == pytest.approx(steepest, rel=1e-5)
    assert report.lipschitz.linf == pytest.approx(4 * steepest, rel=1e-4)


def test_model_is_left_as_it_was(of_plain: tuple[Own, dict[str, Tensor], ModelReport]) -> None:
    model, before, _ = of_plain
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.training


def test_text_fits_80_columns_but_for_commands(of_plain: tuple[Own, dict[str, Tensor], ModelReport]) -> None:
    lines = str(of_plain[2]).splitlines()
    assert "Own on images 1 x 4 x 4" in lines
    assert not [line for line in lines if len(line) > 80 and "ws.fit(" not in line]
    assert any(line.split()[:2] == ["plain", "yes"] for line in lines)


def test_control_by_data_has_no_bounds_and_the_remedy_is_said() -> None:
    report = ws.check(Own(by_data), (1, 4, 4))
    assert {name for name, does in works(report.training).items() if not does} == {
        family.name for family in trials.FAMILIES if "certified" in family.name or "moments" in family.name
    }
    assert {"certificates, l2", "certificates, linf"} < {
        name for name, does in works(report.measuring).items() if not does
    }
    assert report.lipschitz.l2 is None
    assert str(report).count("torch.where") == 1  # one note, however many rows it is of
    assert [advice.goal for advice in report.advice] == ["To withstand attacks", "For a guarantee"]


def test_dropout_that_is_always_on_is_said() -> None:
    report = ws.check(Own(lambda net, images: net.layer(F.dropout(images.flatten(1), 0.5))), (1, 4, 4))  # type: ignore[operator]
    assert report.is_random
    assert works(report.training)["adversarial, PGD of 5 steps"]
    assert not works(report.measuring)["certificates, l2"]
    assert any("training=self.training" in remark for remark in report.remarks)


def test_one_logit_and_gradients_that_are_cut_off_are_said() -> None:
    report = ws.check(Own(lambda net, images: plain(net, images).detach(), outputs=1), (1, 4, 4))
    assert report.num_classes == 2
    assert not any(works(report.training).values())
    assert "No gradient reaches the model's weights" in report.training[-1].note
    assert any("one logit" in remark for remark in report.remarks)
    assert any("no gradients with respect to the images" in remark for remark in report.remarks)
    assert report.advice == []


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda net, images: plain(net, images).softmax(1), "softmax"),
        (lambda net, images: 1 / 0, "division by zero"),
        (lambda net, images: plain(net, images) * math.nan, "NaN"),
    ],
)
def test_model_that_cannot_be_used_has_a_problem(
    forward: Callable[[nn.Module, Tensor], object], expected: str
) -> None:
    report = ws.check(Own(forward), (1, 4, 4))
    assert report.problem is not None
    assert expected in report.problem
    assert report.trainable == 51
    assert not report.training
    assert expected in str(report)


def test_size_that_a_model_takes_is_found() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 3))
    assert "It takes images 3 x 32 x 32." in (ws.check(net, (1, 4, 4)).problem or "")


def test_shape_that_is_none_is_refused() -> None:
    for shape in ((), (0, 3), "mnist"):
        with pytest.raises(ws.DataError, match="shape of one image"):
            ws.check(nn.Linear(1, 2), shape)  # type: ignore[arg-type]


def test_range_in_which_weights_were_trained_is_found(tiny_dataset: Dataset) -> None:
    model = Own(lambda net, images: plain(net, images * 1.0), outputs=3)
    with torch.no_grad():  # the mean of a column, less what it is of an image in [-1, 1] alone
        model.layer.weight.copy_(torch.stack([torch.eye(4)[k].repeat(4) for k in range(3)]))
        model.layer.bias.copy_(torch.tensor([0.0, 0.0, 0.0]))
    report = ws.check(model, tiny_dataset)
    assert report.accuracy == 1.0
    model._forward = lambda net, images: plain(net, (images - 127.5).clamp_min(-100))
    low = ws.check(model, tiny_dataset)
    assert low.accuracy is not None
    assert low.accuracy < 0.5
    assert any("levels of 0 … 255" in remark for remark in low.remarks)


# -- normalisation ----------------------------------------------------------------------------------

MEAN, STD = [0.2, 0.4, 0.6], [0.5, 0.25, 0.125]


class Inside(nn.Module):
    """Normalises in its forward, in place, by buffers with the names of a Hugging Face processor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.register_buffer("image_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("image_std", torch.tensor(STD).view(3, 1, 1))

    @override
    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.get_buffer("image_mean"), self.get_buffer("image_std")
        features: Tensor = self.conv(images.sub_(mean).div_(std))
        return features.mean(dim=(2, 3))


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "by"),
    [
        (behind(ws.models.Normalize(MEAN, STD)), "Normalize at '0'"),
        (Inside(), "its tensors image_mean, image_std"),
    ],
)
def test_normalisation_is_found_with_its_values(model: nn.Module, by: str) -> None:
    found = find_normalization(model, torch.rand(2, 3, 5, 5))
    assert (found.is_present, found.by) == (True, by)
    assert list(found.mean) == pytest.approx(MEAN, abs=1e-4)
    assert list(found.std) == pytest.approx(STD, abs=1e-4)


def test_no_normalisation_and_none_that_can_be_told() -> None:
    assert find_normalization(behind(), torch.rand(2, 3, 5, 5)).is_present is False
    assert find_normalization(behind(nn.Tanh()), torch.rand(2, 3, 5, 5)).is_present is None
    assert find_normalization(behind(nn.AvgPool2d(2)), torch.rand(2, 3, 8, 8)).is_present is None


# -- advice and the command -------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "passes"), [("own", True), ("own", False), ("cifar10", True)])
def test_recommended_commands_are_recipes_with_values_that_they_take(
    data: str, passes: bool, of_plain: tuple[Own, dict[str, Tensor], ModelReport]
) -> None:
    verdicts = [
        Verdict(family.name, works=passes or "certified" not in family.name, cost=2.0)
        for family in trials.FAMILIES
    ]
    report = replace(of_plain[2], data=data, training=verdicts)
    options = [f"--data.name={'digits' if data == 'own' else data}"]
    ways = advising.advised(report, advising.Advised(100, "cnn-small", options))
    assert len(ways) == 3
    for way in ways:
        _, command, recipe, *rest = shlex.split(way.how)
        parsed = parse_recipe(find_recipe(recipe), [text for text in rest if not text.startswith("--out")])
        assert command == "run"
        assert parsed.recipe.model.name == "cnn-small"


def test_command_prints_json_and_ends_with_2_where_nothing_can_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def ends():\n    return nn.Sequential(make(), nn.Softmax(1))\n"
    )
    torch.save({"1.weight": torch.zeros(10, 64), "1.bias": torch.ones(10)}, tmp_path / "w.pt")
    make = f"{tmp_path / 'net.py'}:make"
    asked = ["--data.name=digits", f"--weights={tmp_path / 'w.pt'}", "--format=json"]
    assert main(["check", make, *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layers"] == [{"name": "1", "l2": 0.0, "linf": 0.0}]
    assert told["advice"][0]["how"].startswith(f"withstand run digits-adversarial --model.name={make}")
    assert main(["check", f"{tmp_path / 'net.py'}:ends", "--data.name=digits"]) == 2
    captured = capsys.readouterr()
    assert "problem      The model ends in softmax" in captured.out
    assert captured.err.startswith("error: The model ends in softmax")
    assert main(["check", make, "--data.name=digits", "--format=xml"]) == 2
    assert "text or json" in capsys.readouterr().err
