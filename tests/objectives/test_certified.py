from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from tests.training.stop_after import StopAfter
from withstand.attacks import PGD
from withstand.core.schedules import Linear
from withstand.data import Dataset
from withstand.domains import DomainName, UnsupportedOperationError
from withstand.models import MinMax, load_weights
from withstand.objectives import (
    Adversarial,
    BoostedCrossEntropy,
    CappedCrossEntropy,
    Certified,
    CrossEntropy,
    SymmetricCrossEntropy,
    WorstLoss,
)
from withstand.training import TrainingSettings, fit
from withstand.types import Batch, CheckpointError, DataError

NORMS = (2.0, math.inf)
DOMAINS: tuple[DomainName, ...] = get_args(DomainName)
EVERY = list(product(NORMS, DOMAINS))
EPSILON = {1.0: 0.5, 2.0: 0.3, math.inf: 0.05}


def _net(num_classes: int = 4, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 2, 3, padding=1), activation(), nn.Flatten()),
            *(nn.Linear(32, 6), activation(), nn.Linear(6, num_classes)),
        )


def _norm_net() -> nn.Sequential:
    """With layers that act otherwise in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)),
        )


def _batch(num: int = 10, num_classes: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num, 1, 4, 4, generator=generator)
    return Batch(images, torch.randint(num_classes, (num,), generator=generator))


def _gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# What it computes


@pytest.mark.parametrize(("norm", "domain"), EVERY)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("make", [_net, partial(_net, activation=MinMax), _norm_net])
def test_certified_gives_every_weight_a_finite_gradient(
    norm: float, domain: DomainName, clip: bool, make: Callable[[], nn.Module]
) -> None:
    model = make().train()
    objective = Certified(norm, EPSILON[norm], domain=domain, clip=clip)
    loss, terms = objective(model, *_batch())
    gradients = _gradients(loss, model)
    assert loss.shape == ()
    assert loss.isfinite()
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert name.endswith("bias") or (gradient != 0).any(), name
    of_bounds = {"worst", "worst_accuracy", "kappa", "epsilon"} | ({"mix"} if domain == "linear" else set())
    assert set(terms) == {"clean", "clean_accuracy"} | of_bounds
    assert all(value.shape == () and not value.requires_grad for value in terms.values())
    assert torch.equal(terms["worst"], loss.detach())
    assert terms["worst"] > terms["clean"]
    assert terms["worst_accuracy"] <= terms["clean_accuracy"]
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("norm", "domain"), EVERY)
def test_certified_without_a_budget_is_cross_entropy(norm: float, domain: DomainName) -> None:
    model, batch = _net().double(), _batch()
    images = batch.images.double()
    ours = Certified(norm, 0.0, domain=domain)(model, images, batch.labels)
    expected = F.cross_entropy(model(images), batch.labels)
    torch.testing.assert_close(ours.loss, expected, rtol=1e-9, atol=0)
    actual, expected_gradients = _gradients(ours.loss, model), _gradients(expected, model)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-6, atol=1e-9)
    assert ours.terms["worst_accuracy"] == ours.terms["clean_accuracy"]


def test_certified_with_kappa_1_is_cross_entropy_bit_for_bit_and_bounds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a bound was computed")

    monkeypatch.setattr("withstand.objectives.certified.input_set", refuse)
    monkeypatch.setattr("withstand.graph.program_cache.Program", refuse)
    model, twin = _norm_net(), _norm_net()
    objective = Certified(2, 0.3, kappa=Linear(start=1, end=0, epochs=2, begin=1))
    for progress in (0.0, 0.5, 1.0):
        ours = objective(model, *_batch(), progress=progress)
        theirs = CrossEntropy()(twin, *_batch())
        assert torch.equal(ours.loss, theirs.loss)
        assert torch.equal(ours.terms["clean_accuracy"], theirs.terms["accuracy"])
        assert set(ours.terms) == {"clean", "clean_accuracy", "kappa", "epsilon"}
        actual, expected = _gradients(ours.loss, model), _gradients(theirs.loss, twin)
        assert all(torch.equal(actual[name], gradient) for name, gradient in expected.items())
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    with pytest.raises(AssertionError, match="a bound was computed"):
        objective(model, *_batch(), progress=1.01)


def test_certified_mixes_by_kappa_and_ends_at_its_targets() -> None:
    model, batch = _net().eval(), _batch()
    objective = Certified(
        2, Linear(0.1, 0.3, epochs=3, begin=1), kappa=Linear(0.9, 0.25, epochs=3, begin=1), clip=True
    )
    middle = 1 + 3 / 2
    for progress, epsilon, kappa in (
        (0.0, 0.1, 0.9),
        (1.0, 0.1, 0.9),
        (middle, 0.2, 0.575),
        (4.0, 0.3, 0.25),
        (4.7, 0.3, 0.25),
        (60.0, 0.3, 0.25),
        (math.inf, 0.3, 0.25),
    ):
        loss, terms = objective(model, *batch, progress=progress)
        alone = Certified(2, epsilon, clip=True)
        alone.load_state_dict(objective.state_dict())
        torch.testing.assert_close(loss.detach(), kappa * terms["clean"] + (1 - kappa) * terms["worst"])
        torch.testing.assert_close(terms["worst"], alone(model, *batch).loss.detach(), rtol=1e-4, atol=0)
        assert float(terms["epsilon"]) == pytest.approx(epsilon)
        assert float(terms["kappa"]) == pytest.approx(kappa)
        if progress >= 4:
            assert torch.equal(terms["epsilon"], torch.tensor(0.3))
            assert torch.equal(terms["kappa"], torch.tensor(0.25))
    assert torch.equal(objective(model, *batch).loss, objective(model, *batch, progress=4.0).loss)


class Textbook:
    """The bounds as the papers write them, with every matrix and every pair of classes written out."""

    def __init__(self, model: nn.Sequential, images: Tensor, norm: float, epsilon: float) -> None:
        self.center = images
        self.radius = epsilon * (math.sqrt(images[0].numel()) if norm == math.inf else 1.0)
        self.lower, self.upper = images - epsilon, images + epsilon
        for layer in list(model)[:-1]:
            self._affine(layer) if isinstance(layer, nn.Conv2d | nn.Linear) else self._other(layer)
        self.head = cast(nn.Linear, model[-1])

    def _affine(self, layer: nn.Module) -> None:
        shape = self.center.shape[1:]
        basis = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
        matrix = (layer(basis) - zero).flatten(1).T
        midpoint = (self.lower + self.upper).flatten(1) / 2 @ matrix.T
        reach = (self.upper - self.lower).flatten(1) / 2 @ matrix.abs().T
        self.center = layer(self.center)
        around = (self.radius * matrix.square().sum(1).sqrt()).reshape(zero.shape)
        self.lower = torch.maximum((midpoint - reach).reshape_as(self.center) + zero, self.center - around)
        self.upper = torch.minimum((midpoint + reach).reshape_as(self.center) + zero, self.center + around)
        self.radius = self.radius * torch.linalg.svdvals(matrix)[0]

    def _other(self, layer: nn.Module) -> None:
        around = layer(self.center - self.radius), layer(self.center + self.radius)
        self.lower = torch.maximum(layer(self.lower), around[0])
        self.upper = torch.minimum(layer(self.upper), around[1])
        self.center = layer(self.center)

    def loss(self, labels: Tensor) -> Tensor:
        directions = self.head.weight[:, None] - self.head.weight[None]  # (class, class, hidden)
        below, above = (part[:, None, None] - self.center[:, None, None] for part in (self.lower, self.upper))
        every = directions.expand(len(labels), *directions.shape)
        gains = self._farthest(every, below.expand_as(every), above.expand_as(every))
        rows = torch.arange(len(labels))
        return F.cross_entropy(self.head(self.center) + gains[rows, :, labels], labels)

    def _farthest(self, directions: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """The maximum over ball and box, by halving the interval of the multiplier."""
        small, large = (
            torch.zeros(directions.shape[:3]).double(),
            torch.full(directions.shape[:3], 1e9).double(),
        )
        for _ in range(200):
            middle = (small + large) / 2
            step = (directions * middle[..., None]).clamp(below, above)
            is_inside = step.square().sum(3) <= self.radius**2
            small, large = torch.where(is_inside, middle, small), torch.where(is_inside, large, middle)
        return (directions * (directions * small[..., None].detach()).clamp(below, above)).sum(3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_certified_is_the_textbook_loss(norm: float, num_classes: int, epsilon: float) -> None:
    model = _net(num_classes).double()
    batch = _batch(6, num_classes)
    images = batch.images.double()
    expected = Textbook(model, images, norm, epsilon).loss(batch.labels)
    objective = Certified(norm, epsilon, num_power_iterations=500)
    torch.testing.assert_close(
        objective(model, images, batch.labels).loss, expected, rtol=1e-6, atol=0, check_dtype=True
    )


@pytest.mark.parametrize(
    ("norm", "domain", "clip"),
    [
        *((*part, False) for part in EVERY),
        (2.0, "box_ball", True),
        *((norm, "linear", True) for norm in (1.0, 2.0, math.inf)),
    ],
)
@pytest.mark.parametrize("loss", [None, BoostedCrossEntropy(), SymmetricCrossEntropy(0.5)])
def test_certified_gradients_are_those_of_finite_differences(
    norm: float, domain: DomainName, clip: bool, loss: WorstLoss | None
) -> None:
    model = _net().double()
    objective = Certified(
        *(norm, EPSILON[norm]), domain=domain, clip=clip, loss=loss, kappa=0.3, num_power_iterations=300
    )
    _assert_finite_differences(model, objective)


@pytest.mark.parametrize(("norm", "domain"), EVERY)
def test_certified_differentiates_batch_statistics_too(norm: float, domain: DomainName) -> None:
    model = _norm_net().double().train()
    objective = Certified(norm, EPSILON[norm], domain=domain, num_power_iterations=300, batch_statistics=True)
    _assert_finite_differences(model, objective)


def _assert_finite_differences(model: nn.Module, objective: Certified) -> None:
    images, labels = _batch(6)
    images = images.double()
    objective(model, images, labels)
    objective.operator_norms.num_iterations = 10  # enough from here on
    gradients = _gradients(objective(model, images, labels).loss, model)
    generator = torch.Generator().manual_seed(0)
    step = 1e-5
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                ends.append(objective(model, images, labels).loss.item())
                parameter.sub_(sign * step * direction)
        expected = (ends[0] - ends[1]) / (2 * step)
        actual = float((gradients[name] * direction).sum())
        assert actual == pytest.approx(expected, rel=2e-4, abs=2e-5), name


def test_certified_bounds_use_the_running_statistics_unless_set_otherwise() -> None:
    model, (images, labels) = _norm_net().train(), _batch()
    objective = Certified(2, 0.3)
    first = objective(model, images, labels)
    in_eval = Certified(2, 0.3)(_norm_net().eval(), images, labels)
    assert torch.equal(first.terms["worst"], in_eval.terms["worst"])
    assert int(model.get_buffer("1.num_batches_tracked")) == 1  # the clean pass, and no other
    clean = F.cross_entropy(_norm_net().train()(images), labels)
    assert torch.equal(first.terms["clean"], clean.detach())

    by_batch = Certified(2, 0.3, batch_statistics=True)(_norm_net().train(), images, labels)
    twin = _norm_net().train()
    for layer in (twin[1], twin[5]):
        cast(nn.BatchNorm2d, layer).momentum = 1.0
    twin(images)
    for layer, size in ((twin[1], images.numel()), (twin[5], len(images))):
        cast(nn.BatchNorm2d, layer).get_buffer("running_var").mul_(1 - 1 / size)  # biased, as in training
    frozen = Certified(2, 0.3)(twin.eval(), images, labels)
    torch.testing.assert_close(by_batch.loss, frozen.loss, rtol=1e-4, atol=0)
    assert not torch.allclose(by_batch.loss, first.loss, rtol=1e-2)


def test_certified_leaves_dropout_out_of_bounds_and_active_in_the_clean_pass() -> None:
    model, batch = _net().insert(5, nn.Dropout(0.5)).train(), _batch()
    objective = Certified(2, 0.3)
    first, second = (objective(model, *batch).terms for _ in range(2))
    torch.testing.assert_close(first["worst"], second["worst"], rtol=1e-3, atol=0)
    assert first["clean"] != second["clean"]
    with pytest.raises(UnsupportedOperationError, match="dropout"):
        Certified(2, 0.3, batch_statistics=True)(model, *batch)


@pytest.mark.parametrize(("norm", "domain"), [part for part in EVERY if part != (2.0, "ball")])
def test_certified_clipping_tightens(norm: float, domain: DomainName) -> None:
    batch = _batch()
    losses = [
        Certified(norm, 0.4, domain=domain, clip=clip)(_net(), *batch).loss.item() for clip in (True, False)
    ]
    assert losses[0] < losses[1] - 1e-4


def test_certified_gives_its_loss_the_differences_of_worst_logits() -> None:
    model, batch = _net(), _batch()
    given: list[Tensor] = []

    class Spy(WorstLoss):
        @override
        def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
            assert torch.equal(labels, batch.labels)
            assert (clean.gather(1, labels[:, None]) == 0).all()
            assert (clean <= differences).all()
            given.append(differences)
            return differences.square().sum()

    loss, terms = Certified(math.inf, 0.01, domain="box", loss=Spy())(model, *batch)
    (differences,) = given
    assert torch.equal(loss, differences.square().sum())
    assert (differences.gather(1, batch.labels[:, None]) == 0).all()
    corners = batch.images + 0.01 * torch.sign(torch.randn(300, *batch.images.shape))
    logits = model(corners.flatten(0, 1)).unflatten(0, corners.shape[:2])
    true = logits.gather(2, batch.labels.expand(300, -1)[..., None])
    assert (logits - true <= differences + 1e-5).all()
    wrong = differences.detach().scatter(1, batch.labels[:, None], -math.inf)
    assert terms["worst_accuracy"] == (wrong.amax(dim=1) < 0).float().mean()


@pytest.mark.parametrize("domain", ["ball", "box_ball", "linear"])
def test_certified_gives_its_loss_the_differences_of_clean_logits(domain: DomainName) -> None:
    model, batch = _net(), _batch()
    given: list[Tensor] = []

    class Spy(WorstLoss):
        @override
        def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
            given.append(clean)
            return differences.sum()

    Certified(2, 0.1, domain=domain, loss=Spy())(model, *batch)
    logits = model(batch.images)
    torch.testing.assert_close(given[0], logits - logits.gather(1, batch.labels[:, None]))


def test_certified_objectives_add_up() -> None:
    model, batch = _net().eval(), _batch()
    certified = Certified(math.inf, 0.05)
    certified(model, *batch)  # so that its vectors are settled for both
    attack = PGD(epsilon=0.05, num_steps=2, random_start=False)
    both = 0.5 * certified + 0.25 * Adversarial(attack)
    loss, terms = both(model, *batch)
    torch.testing.assert_close(loss.detach(), 0.5 * terms["worst"] + 0.25 * terms["adversarial"])
    assert terms["worst"] >= terms["adversarial"]
    assert {"epsilon", "epsilon_2"} <= terms.keys()


# What it costs


class Counted(nn.Module):
    """A net that notes each pass; a hook would be seen by the bounds."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.passes: list[int] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.passes.append(1)
        return cast(Tensor, self.net(images))


@pytest.mark.parametrize(
    ("norm", "domain", "clip", "make", "passes"),
    [
        (2.0, "box_ball", False, _net, 0),
        (2.0, "box_ball", True, _net, 0),
        (2.0, "ball", True, _net, 0),
        (math.inf, "box_ball", False, _net, 0),
        (math.inf, "ball", False, _net, 0),
        (math.inf, "box_ball", True, _net, 1),  # the center is not the image
        (2.0, "linear", True, _net, 0),
        (math.inf, "linear", False, _net, 0),
        (math.inf, "linear", True, _net, 1),
        (2.0, "box", False, _net, 1),
        (2.0, "box_ball", False, _norm_net, 1),
    ],
)
def test_certified_takes_clean_logits_from_the_bound_where_it_can(
    norm: float, domain: DomainName, clip: bool, make: Callable[[], nn.Module], passes: int
) -> None:
    images, labels = _batch()
    model = Counted(make()).train()
    objective = Certified(norm, 0.1, domain=domain, clip=clip, kappa=0.5)
    objective(model, images, labels)  # traces it
    model.passes.clear()
    result = objective(model, images, labels)
    assert len(model.passes) == passes
    logits = make().train()(images)
    torch.testing.assert_close(result.terms["clean"], F.cross_entropy(logits, labels).detach())
    assert result.terms["clean_accuracy"] == (logits.argmax(1) == labels).float().mean()


class Sizes(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, list | tuple) else [result]
        self.largest = max([self.largest, *(part.numel() for part in outputs if isinstance(part, Tensor))])
        return result


@pytest.mark.parametrize(("norm", "domain"), EVERY)
def test_certified_has_no_tensor_larger_than_it_must_be(norm: float, domain: DomainName) -> None:
    num, classes, hidden = 8, 100, 24
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    batch = _batch(num, classes)
    objective = Certified(norm, 0.1, domain=domain)
    with Sizes() as sizes:
        objective(model, *batch).loss.backward()
    assert sizes.largest <= max(num, classes) * classes * hidden // (1 if domain != "ball" else hidden)


def test_certified_checks_the_batch_on_the_first_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = _net(), _batch()
    objective = Certified(2, 0.1)
    with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
        objective(model, batch.images * 255, batch.labels)
    objective(model, *batch)
    monkeypatch.setattr("withstand.loss.terms.check_batch", None)
    objective(model, *batch)


# The model that it is given


def test_certified_bounds_each_model_by_its_own_weights() -> None:
    one, other, batch = _net(), _net(), _batch()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    objective = Certified(2, 0.1, num_power_iterations=100)
    alternating = [objective(model, *batch).loss.item() for model in (one, other, one, other)]
    assert alternating[0] == pytest.approx(alternating[2], rel=1e-4)
    fresh = Certified(2, 0.1, num_power_iterations=100)(other, *batch)
    assert alternating[1] == pytest.approx(fresh.loss.item(), rel=1e-4)
    assert alternating[3] == pytest.approx(fresh.loss.item(), rel=1e-4)


def test_certified_takes_a_layer_that_changes_between_steps() -> None:
    model, batch = _net(), _batch()
    objective = Certified(2, 0.1)
    objective(model, *batch)
    model[4] = nn.Tanh()
    changed = objective(model, *batch)
    fresh = Certified(2, 0.1)(model, *batch)
    torch.testing.assert_close(changed.loss, fresh.loss, rtol=1e-4, atol=0)


def test_certified_trains_a_compiled_model_as_its_original() -> None:
    model, batch = _net(), _batch()
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    objective = Certified(2, 0.1)
    ours = objective(compiled, *batch)
    theirs = Certified(2, 0.1)(model, *batch)
    assert torch.equal(ours.loss, theirs.loss)
    assert set(_gradients(ours.loss, model)) == set(dict(model.named_parameters()))
    clipped = Certified(math.inf, 0.1, clip=True, kappa=0.5)(compiled, *batch)  # a pass of its own
    expected = Certified(math.inf, 0.1, clip=True, kappa=0.5)(model, *batch)
    torch.testing.assert_close(clipped.loss, expected.loss)


def test_certified_holds_no_model_among_its_parts() -> None:
    model, batch = _net(), _batch()
    objective = Certified(2, 0.1)
    objective(model, *batch)
    assert list(objective.parameters()) == []
    assert all("vectors." in name for name in objective.state_dict())
    assert objective.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certified_works_under_autocast(dtype: torch.dtype) -> None:
    model, batch = _net(), _batch()
    for norm, domain in EVERY:
        objective = Certified(norm, EPSILON[norm], domain=domain, kappa=0.5)
        expected = objective(model, *batch).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective(model, *batch).loss
        assert loss.isfinite()
        torch.testing.assert_close(loss.float(), expected, rtol=0.1, atol=0.1)


# In training


def _objective(**options: Any) -> Certified:
    ramp = Linear(start=1.0, end=0.25, epochs=1, begin=1)
    return Certified(2, Linear(0.0, 0.2, epochs=1, begin=1), kappa=ramp, **options)


def _settings(**options: Any) -> TrainingSettings:
    settings = {"optimizer": partial(torch.optim.Adam, lr=0.01), "accelerator": "cpu", **options}
    return TrainingSettings(epochs=3, batch_size=20, **settings)


def _weights(path: Path, like: nn.Module) -> dict[str, Tensor]:
    model = copy.deepcopy(like)
    load_weights(model, path)
    return model.state_dict()


@pytest.mark.parametrize("step", [3, 5, 6, 8])  # of 5 an epoch; the first bound is at step 7
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_certified_training_resumed_ends_with_the_same_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, step: int, checkpoint_seconds: float
) -> None:
    settings = _settings(checkpoint_seconds=checkpoint_seconds)
    fit(copy.deepcopy(tiny_model), tiny_dataset, _objective(), settings, out=tmp_path / "whole")
    out = tmp_path / "cut"
    stop = [StopAfter(step)]
    with pytest.raises(KeyboardInterrupt):
        fit(copy.deepcopy(tiny_model), tiny_dataset, _objective(), settings, out=out, observers=stop)
    fit(copy.deepcopy(tiny_model), tiny_dataset, _objective(), settings, out=out)
    whole, cut = (_weights(folder / "last.safetensors", tiny_model) for folder in (tmp_path / "whole", out))
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name
    log, other = (pd.read_csv(folder / "train.csv") for folder in (tmp_path / "whole", out))
    pd.testing.assert_frame_equal(log.drop(columns="seconds"), other.drop(columns="seconds"))
    assert list(log["epsilon"].iloc[[0, 2]]) == pytest.approx([0.0, 0.2])
    assert list(log["kappa"].iloc[[0, 2]]) == pytest.approx([1.0, 0.25])


def test_certified_training_resumed_refuses_another_objective(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    smooth = SymmetricCrossEntropy(0.1)
    objective = _objective(loss=smooth)
    fit(copy.deepcopy(tiny_model), tiny_dataset, objective, _settings(), out=tmp_path)
    again = _objective(loss=SymmetricCrossEntropy(0.1))
    assert str(again) == str(_objective(loss=smooth))  # though it is another object
    assert "0x" not in str(again)  # where another process would have another number
    fit(copy.deepcopy(tiny_model), tiny_dataset, again, _settings(), out=tmp_path)
    for other in (
        _objective(loss=SymmetricCrossEntropy(0.2)),
        _objective(loss=BoostedCrossEntropy()),
        _objective(loss=smooth, domain="ball"),
        _objective(loss=smooth, clip=True),
        _objective(loss=smooth, num_power_iterations=2),
        _objective(loss=smooth, batch_statistics=True),
    ):
        with pytest.raises(CheckpointError, match=r"another run.*objective"):
            fit(copy.deepcopy(tiny_model), tiny_dataset, other, _settings(), out=tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norm": 3.0}, "norm 3"),
        ({"norm": math.nan}, "norm nan"),
        ({"domain": "zonotope"}, "'zonotope'"),
        ({"epsilon": -0.1}, "epsilon of at least 0, but got -0.1"),
        ({"epsilon": math.nan}, "epsilon .* but got nan"),
        ({"epsilon": math.inf}, "epsilon .* but got inf"),
        ({"epsilon": Linear(0.0, -0.1, epochs=2)}, "epsilon .* but got -0.1"),
        ({"kappa": 1.5}, r"kappa from 0 to 1, but got 1.5"),
        ({"kappa": Linear(1.0, -0.05, epochs=2)}, "kappa .* but got -0.05"),
        ({"domain": "linear", "mix": -0.5}, "mix from 0 to 1, but got -0.5"),
        ({"mix": 0.5}, "mix needs domain='linear', but got mix 0.5 and domain 'box_ball'"),
        ({"num_power_iterations": 0}, "num_power_iterations of at least 1, but got 0"),
    ],
)
def test_certified_refuses_settings_out_of_range(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Certified(**{"norm": 2.0, "epsilon": 0.1, **arguments})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("CappedCrossEntropy", "'CappedCrossEntropy'"),
        (CappedCrossEntropy, r"the class itself: write CappedCr"),
    ],
)
def test_certified_refuses_what_is_no_loss_of_worst_logits(loss: Any, words: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Expected loss to be a loss of the worst logits, .*but got {words}"
    ):
        Certified(2, 0.1, loss=loss)
