"""What is remembered of a model holds only as long as the model is the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.cli.entry import main
from withstand.core.contract import contract_of
from withstand.types import DataError, ModelError

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6) % 2


class Switched(nn.Module):
    """Answers otherwise once its flag is set."""

    def __init__(self, after: Callable[[Tensor, Tensor], Any], classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.after, self.is_other = nn.Linear(16, classes), after, False

    @override
    def forward(self, images: Tensor) -> Any:
        logits = self.linear(images.flatten(1))
        return self.after(logits, images) if self.is_other else logits


@pytest.mark.parametrize(
    "after",
    [
        lambda logits, _: (logits, "more"),
        lambda logits, _: {"logits": logits},
        lambda logits, _: logits[:, 1:] - logits[:, :1],
        lambda logits, _: (logits[:, 1:] - logits[:, :1]).squeeze(1),
    ],
    ids=["tuple", "dict", "one-logit", "squeezed"],
)
def test_a_flag_that_changes_the_answers_form_is_seen(after: Callable[[Tensor, Tensor], Any]) -> None:
    model, attack = Switched(after), ws.attacks.PGD(epsilon=0.1, num_steps=3)
    torch.manual_seed(0)
    expected = attack(model, IMAGES, LABELS)
    model.is_other = True
    torch.manual_seed(0)
    assert torch.allclose(attack(model, IMAGES, LABELS), expected, atol=1e-6)


def test_a_flag_by_which_a_model_writes_to_its_images_is_seen() -> None:
    class Writing(Switched):
        @override
        def forward(self, images: Tensor) -> Any:
            return super().forward(images.mul_(0.5) if self.is_scaled else images)

        is_scaled = False

    model, attack, images = Writing(lambda z, _: z), ws.attacks.PGD(epsilon=0.1, num_steps=1), IMAGES.clone()
    attack(model, images, LABELS)
    model.is_scaled = True
    attack(model, images, LABELS)
    assert torch.equal(images, IMAGES)


def test_a_hook_and_another_last_weight_are_seen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    assert contract_of(model, IMAGES).is_plain
    hook = model.register_forward_hook(lambda _, __, output: (output, "more"))
    assert not contract_of(model, IMAGES).is_plain
    hook.remove()
    model[1].weight, model[1].bias = nn.Parameter(torch.rand(1, 16)), None  # type: ignore[assignment]
    assert contract_of(model, IMAGES).num_outputs == 1


def test_modes_are_no_other_form() -> None:
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), list[int]()
    model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    for is_training in (True, False, True):
        contract_of(model.train(is_training), IMAGES)
    assert seen == [2]


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Dropout(inplace=True), lambda: nn.RReLU(inplace=True), lambda: _WritesInTraining()],
    ids=["dropout", "rrelu", "by-hand"],
)
@pytest.mark.parametrize(
    "objective",
    [
        ws.objectives.CrossEntropy(),
        ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.1, num_steps=1)),
        ws.objectives.CrossEntropy() + 0.1 * ws.penalties.InputGradient(),
    ],
    ids=["clean", "adversarial", "penalty"],
)
def test_images_stay_where_a_model_writes_to_them_only_in_training(
    objective: ws.objectives.Objective, make: Callable[[], nn.Module]
) -> None:
    model = nn.Sequential(make(), nn.Flatten(), nn.Linear(16, 2)).train()
    images = IMAGES - 0.5 * IMAGES  # so that what is added stays in range
    before = images.clone()
    for _ in range(2):
        objective(model, images, LABELS)
    assert torch.equal(images, before)


class _WritesInTraining(nn.Module):
    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.add_(0.1) if self.training else images


@pytest.mark.parametrize("wrong", [-100, -1, 2])
def test_labels_of_every_batch_are_checked_on_the_cpu(wrong: int) -> None:
    objective, model = ws.objectives.CrossEntropy(), nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    objective(model, IMAGES, LABELS)
    with pytest.raises(DataError, match=rf"but got {wrong}\."):
        objective(model, IMAGES, LABELS.clone().index_fill(0, torch.tensor([3]), wrong))


def test_several_tensors_of_one_shape_are_said_once_a_model(caplog: pytest.LogCaptureFixture) -> None:
    for seed in (1, 2):
        model = Switched(lambda logits, _: (logits, 2 * logits))
        model.is_other = True
        nn.init.constant_(model.linear.weight, seed)  # by their weights models are told apart
        for count in (6, 1):
            contract_of(model, IMAGES[:count])
            contract_of(model.double(), IMAGES[:count])
    assert sum("of which the first is taken" in record.message for record in caplog.records) == 2


def test_one_logit_is_said_once_a_model_also_by_certificates(caplog: pytest.LogCaptureFixture) -> None:
    for seed in (7001, 7002):  # which no other test has
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
        for _ in range(2):
            ws.certify(model, IMAGES, LABELS, norm=2, epsilon=0.1)
    assert [record.levelno for record in caplog.records if "one logit" in record.message] == [
        logging.WARNING
    ] * 2


def test_weights_without_values_or_gradients_are_refused_by_one_line() -> None:
    on_meta = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, device="meta"))
    with torch.inference_mode():
        made_inside = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ModelError, match="on the device meta"):
        ws.objectives.CrossEntropy()(on_meta, IMAGES, LABELS)
    with pytest.raises(ModelError, match=r"made in torch.inference_mode"):
        ws.objectives.CrossEntropy()(made_inside, IMAGES, LABELS)


class _OfBatch(nn.Module):
    @override
    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(dim=0)


@pytest.mark.parametrize(
    ("first", "depends"),
    [
        (nn.Identity(), False),
        (nn.BatchNorm2d(1), False),
        (nn.BatchNorm2d(1, track_running_stats=False), True),
        (_OfBatch(), True),
    ],
    ids=["none", "batchnorm", "batchnorm-of-batch", "by-hand"],
)
def test_evaluation_warns_of_answers_that_depend_on_the_batch(first: nn.Module, depends: bool) -> None:
    evaluation = ws.evaluate(nn.Sequential(first, nn.Flatten(), nn.Linear(16, 2)), _dataset())
    said = [text for text in evaluation.results.warnings if "depends on what else is in its batch" in text]
    assert len(said) == depends


def test_evaluation_takes_masked_classes_and_refuses_nan() -> None:
    class Masked(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.linear, self.value = nn.Linear(16, 2), value

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.linear(images.flatten(1))
            return logits.masked_fill(torch.tensor([False, True]), self.value)

    assert set(ws.evaluate(Masked(-torch.inf), _dataset()).rows["prediction"]) == {0}
    for value in (torch.nan, torch.inf):
        with pytest.raises(ModelError, match="NaN or infinite values"):
            ws.evaluate(Masked(value), _dataset())


def test_evaluation_under_autocast_is_that_without() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    plain = ws.evaluate(model, _dataset()).rows
    with torch.autocast("cpu", dtype=torch.bfloat16), _autocast_stays_on():
        assert ws.evaluate(model, _dataset()).rows.equals(plain)


@contextmanager
def _autocast_stays_on() -> Iterator[None]:
    yield
    assert torch.is_autocast_enabled("cpu")


def _dataset() -> ws.data.Dataset:
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    part = (images, torch.arange(20) % 2)
    return ws.data.from_arrays(part, part, validation_size=4)


@pytest.mark.parametrize("form", ["double()", "float()"])
def test_check_command_takes_the_forms_that_certificates_take(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        return {'logits': super().forward(images)}\n"
        f"def make():\n    return Net(nn.Flatten(), nn.Linear(64, 10)).{form}\n"
    )
    assert main(["check", f"{tmp_path / 'net.py'}:make", "--data.name=digits"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "certificates, l2 yes certificates, linf yes" in shown


@pytest.mark.parametrize(
    "make",
    [
        lambda: ws.objectives.Certified(float("inf"), 8),
        lambda: ws.penalties.VirtualAdversarial(100),
        lambda: ws.penalties.AdversarialPerturbation(255, num_steps=1),
    ],
    ids=["certified", "virtual", "perturbation"],
)
def test_budgets_beyond_all_images_are_warned_of(make: Callable[[], ws.objectives.Objective]) -> None:
    with pytest.warns(UserWarning, match="lets an attack turn every image into every other"):
        make()(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), IMAGES, LABELS)


def test_objective_of_another_model_goes_by_the_classes_of_that_model() -> None:
    objective = ws.objectives.CrossEntropy()
    wide, narrow = (nn.Sequential(nn.Flatten(), nn.Linear(16, classes)) for classes in (9, 3))
    labels = torch.full_like(LABELS, 5)
    objective(wide, IMAGES, labels)
    with pytest.raises(DataError, match="labels from 0 to 2, as the model has 3 outputs, but got 5"):
        objective(narrow, IMAGES, labels)
    objective(wide, IMAGES, labels)
