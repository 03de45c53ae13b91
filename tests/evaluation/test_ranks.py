"""Vectors, series, images and volumes, from training to the page."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import withstand as ws
from withstand.certificates import certified_radius
from withstand.reporting.images import gallery_of
from withstand.reporting.read import read_run
from withstand.reporting.sections import sections_of
from withstand.types import AttackError, DataError, ModelError

SHAPES = {"vectors": (6,), "series": (2, 8), "images": (1, 8, 8), "volumes": (1, 4, 4, 4)}
OTHERS = {kind: shape for kind, shape in SHAPES.items() if kind != "images"}
LOW, HIGH = -20.0, 60.0


def dataset_of(shape: tuple[int, ...]) -> ws.data.Dataset:
    """Three classes, each known by its own third of the values."""
    labels = torch.arange(90) % 3
    values = 0.3 * torch.rand(90, math.prod(shape), generator=torch.Generator().manual_seed(0))
    third = math.prod(shape) // 3
    for label in range(3):
        values[labels == label, label * third : (label + 1) * third] += 0.6
    examples = LOW + (HIGH - LOW) * values.reshape(-1, *shape)
    names = [f"sensor {number}" for number in range(shape[0])]
    return ws.data.from_arrays(
        (examples[:60], labels[:60]),
        (examples[60:], labels[60:]),
        name="toy",
        input_range=(LOW, HIGH),
        feature_names=names,
    )


@pytest.fixture(scope="module", params=SHAPES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A net trained by two families together and measured by meters of every kind."""
    kind, out = request.param, tmp_path_factory.mktemp(request.param) / "run"
    dataset = dataset_of(SHAPES[kind])
    torch.manual_seed(0)
    model = ws.models.create("mlp", dataset=dataset.info, hidden=[12])
    attack = ws.attacks.PGD(norm=math.inf, epsilon=0.05, num_steps=2)
    objective = (
        ws.objectives.Adversarial(attack)
        + 0.5 * ws.objectives.Certified(math.inf, 0.05)
        + 0.01 * ws.penalties.InputGradient()
    )
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.02)  # noqa: E731
    settings = ws.training.TrainingSettings(epochs=6, batch_size=18, optimizer=adam)
    ws.fit(model, dataset, objective, settings, out=out)
    meters = [
        ws.meters.Attacks([ws.attacks.PGD(norm=2, num_steps=3)], epsilons=[0.1]),
        ws.meters.Certificate(norm=math.inf, epsilons=[0.05], radius=True),
        ws.meters.NoiseCurve(num_levels=2),
        ws.meters.Suite("fast", epsilons=[0.05, 0.4]),
    ]
    ws.evaluate(model, dataset, meters, out=out)
    return kind, out


def test_every_shape_is_trained_attacked_and_proven(run: tuple[str, Path]) -> None:
    _, out = run
    table = pd.read_csv(out / "measurements.csv").set_index("measure").value
    assert table["clean accuracy"] > 0.9
    rows = pd.read_csv(out / "examples.csv")
    assert len(rows) == 30
    assert rows["certified-linf@0.05"].mean() > 0.8
    assert (rows["certified-linf@0.05"] <= rows["fast-linf@0.05"]).all()


def test_every_shape_has_a_page_of_its_own_kind(run: tuple[str, Path]) -> None:
    kind, out = run
    sections = {section.key: section for section in sections_of(read_run(out))}
    page = ws.report(out).read_text(encoding="utf-8") if kind in ("vectors", "volumes") else ""
    gallery, extremes, inputs = sections["gallery"], sections["extremes"], sections["inputs"]
    assert bool(gallery.pictures) == bool(extremes.pictures) == (kind in ("images", "volumes"))
    assert bool(gallery.figures) == (kind == "series")
    assert bool(gallery.tables) == (kind == "vectors")
    assert bool(extremes.tables) == (kind in ("vectors", "series"))
    assert ("the middle slice is drawn, 3 of 4" in page) == (kind == "volumes")
    first = inputs.tables[0].rows[0]
    assert [getattr(cell, "text", cell) for cell in first] == ["sensor 0", "-20", "60", "4"]
    details = sections["results"].cards[-1].details
    feature = "feature" if kind == "vectors" else "channel"
    assert f"epsilon in shares of each {feature}'s range, which About lists" in details


def test_tables_of_vectors_are_in_the_units_of_the_user(run: tuple[str, Path]) -> None:
    kind, out = run
    if kind not in ("vectors", "series"):
        pytest.skip("of pictures there is no such table")
    with np.load(out / "gallery.npz") as arrays:
        before, after = arrays["clean_values"], arrays["adversarial_values"]
        values = gallery_of(arrays)
        with pytest.raises(ValueError, match="must fit each other"):
            gallery_of({**arrays, "range_length": np.ones(1)})
    assert before.shape[1:] == SHAPES[kind]
    assert (before.min() < 5) & (before.max() > 20)
    largest = np.abs(after - before).max()
    assert 0 < largest <= values.epsilon * (HIGH - LOW) * (1 + 1e-5)


@pytest.mark.parametrize(("kind", "shape"), OTHERS.items())
def test_what_is_for_images_says_so_of_other_shapes(
    kind: str, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_of(shape)
    with pytest.raises(ModelError, match=f"the data are {kind} of .* Take 'mlp'"):
        ws.models.create("lenet", dataset=dataset.info)
    model = ws.models.create("mlp", dataset=dataset.info, hidden=[4])
    with pytest.raises(DataError, match=rf"these are {kind} of .*NoiseCurve, Attacks, Suite and Certificate"):
        ws.evaluate(model, dataset, [ws.meters.Corruptions()])
    images, labels = ws.data.few(dataset.test, 4)
    with pytest.raises(DataError, match=f"these are {kind} of"):
        ws.penalties.DeformationStability(num_deformations=1)(model, images, labels)
    if kind == "volumes":
        with pytest.raises(AttackError, match="leave this part out"):
            ws.attacks.AutoAttack(part="square").at(0.1)(model, images, labels)
    with caplog.at_level(logging.WARNING):
        ws.meters.Suite("standard", epsilons=[0.1]).require(dataset.info)
    assert f"leaves out AutoAttack's square, which is for images: these are {kind}" in caplog.text


def test_suites_of_other_shapes_leave_square_out_and_say_so() -> None:
    whole, without = (
        ws.attacks.suite("standard", norm=math.inf, num_classes=10, has_images=has_images)
        for has_images in (True, False)
    )
    names = [[stage.name for stage in cascade.stages] for cascade in (whole, without)]
    assert [name for name in names[0] if name != "square-linf"] == names[1]
    assert without.describe().endswith("left out: AutoAttack's square, which is for images")
    assert "left out" not in whole.describe()


NETS = {
    "vectors": [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)],
    "series": [nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 3)],
    "volumes": [nn.Conv3d(1, 3, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(3, 3)],
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_certificates_of_every_shape_hold(kind: str, norm: float) -> None:
    torch.manual_seed(0)
    shape = OTHERS[kind]
    normalize = ws.models.Normalize([0.4] * shape[0], [0.2] * shape[0])
    model = nn.Sequential(normalize, *NETS[kind]).eval()
    images = torch.rand(8, *shape)
    with torch.no_grad():
        labels = model(images).argmax(1)
    radius = certified_radius(model, images, labels, norm=norm)
    assert (radius > 0).all()
    for index in range(8):
        image, epsilon = images[index : index + 1], float(radius[index])
        moved = image + ws.norms.random_in_ball(image.expand(200, *shape), norm, epsilon)
        attack = ws.attacks.PGD(norm, num_steps=20, step_size=epsilon / 5).at(epsilon)
        attacked = attack(model, image, labels[index : index + 1])
        with torch.no_grad():
            answers = model(torch.cat([moved.clamp(0, 1), attacked])).argmax(1)
        assert (answers == labels[index]).all()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 4, 5)])
def test_normalize_takes_batches_of_any_rank(shape: tuple[int, ...]) -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    images = torch.rand(shape)
    expected = ((images.movedim(1, -1) - mean) / std).movedim(-1, 1)
    torch.testing.assert_close(ws.models.Normalize(mean.tolist(), std.tolist())(images), expected)
