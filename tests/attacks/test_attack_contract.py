"""What every attack keeps to. A new attack adds its lines to ``ATTACKS`` and inherits every check."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from withstand import norms
from withstand.attacks import PGD, Attack, Noise, cross_entropy, dlr, fgsm, margin
from withstand.schedules import Linear, PerEpoch, Stages
from withstand.types import DataError

NORMS = (1.0, 2.0, math.inf)
EPSILON = 0.1

PGDS: dict[str, PGD] = {
    **{
        f"pgd-{loss.__name__}-{norms.label(p)}": PGD(norm=p, epsilon=EPSILON, num_steps=3, loss=loss)
        for p in NORMS
        for loss in (cross_entropy, margin, dlr)
    },
    **{f"fgsm-{norms.label(p)}": fgsm(EPSILON, p) for p in NORMS},
    **{f"best-{norms.label(p)}": PGD(norm=p, epsilon=EPSILON, num_steps=3, keep_best=True) for p in NORMS},
    "ten-steps": PGD(epsilon=EPSILON),
    "auto-steps": PGD(epsilon=EPSILON, step_size=0.08),
    "restarts": PGD(epsilon=EPSILON, num_steps=3, num_restarts=3),
    "restarts-l1": PGD(norm=1.0, epsilon=EPSILON, num_steps=3, num_restarts=2, keep_best=True),
    "stop": PGD(epsilon=EPSILON, num_steps=3, stop_when_fooled=True),
    "stop-restarts-l2": PGD(norm=2.0, epsilon=EPSILON, num_steps=3, num_restarts=3, stop_when_fooled=True),
    "decay": PGD(epsilon=EPSILON, num_steps=3, step_decay=Linear(1.0, 0.1, 1)),
    "iat": PGD(epsilon=PerEpoch(Linear(0.0, EPSILON, 4)), step_size=0.05),
    "extended": PGD(
        epsilon=Stages([0.05, EPSILON], [2, 1]),
        num_steps=Stages([2, 3], [2, 1]),
        step_size=Stages([0.02, 0.03], [2, 1]),
    ),
}
ATTACKS: dict[str, Attack] = {
    **PGDS,
    **{f"noise-{n}-{norms.label(p)}": Noise(p, EPSILON, n) for p in NORMS for n in (1, 3)},
}
QUERYING = {name: attack for name, attack in ATTACKS.items() if not name.startswith("noise-1")}
# Those that may ask the device how it went, since they only evaluate.
WAITING = {"stop", "stop-restarts-l2"}

every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_querying_attack = pytest.mark.parametrize("attack", QUERYING.values(), ids=QUERYING)
every_pgd = pytest.mark.parametrize("attack", PGDS.values(), ids=PGDS)


def _model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A net that mode and randomness matter to, in train mode with one part in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
        )
        model.append(nn.Sequential(nn.Linear(48, 4), nn.Dropout(0.5)))
        model(torch.rand(16, 1, 4, 4))
    model.get_submodule("5.1").eval()
    return model.to(dtype)


def _batch(dtype: torch.dtype = torch.float32, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, 1, 4, 4, generator=generator, dtype=dtype)
    images[: size // 2] = images[: size // 2].round()  # pixels at 0 and 1
    return images, torch.randint(0, 4, (size,), generator=generator)


def _predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


def _assert_inside(attack: Attack, images: Tensor, found: Tensor, epsilon: float) -> None:
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert found.device == images.device
    assert not found.requires_grad
    assert found.isfinite().all()
    if not found.numel():
        return
    assert found.min() >= 0
    assert found.max() <= 1
    assert attack.ball_norm is not None
    assert norms.norm(found - images, attack.ball_norm).max() <= epsilon * (1 + 1e-5) + 1e-6


class Trace:
    """All that an attack must leave as it found it."""

    def __init__(self, model: nn.Module, *given: Tensor) -> None:
        self._model = model
        self._modes = [module.training for module in model.modules()]
        self._parameters = [(p, p.requires_grad, p.grad, _copy(p.grad)) for p in model.parameters()]
        self._state = {key: value.clone() for key, value in model.state_dict().items()}
        self._given = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in given]

    def assert_untouched(self) -> None:
        assert [module.training for module in self._model.modules()] == self._modes
        for parameter, requires_grad, gradient, values in self._parameters:
            assert parameter.requires_grad is requires_grad
            assert parameter.grad is gradient
            assert values is None or (gradient is not None and torch.equal(gradient, values))
        for key, value in self._model.state_dict().items():
            assert torch.equal(value, self._state[key]), key
        for tensor, values, requires_grad in self._given:
            assert torch.equal(tensor, values)
            assert tensor.requires_grad is requires_grad
            assert not tensor.is_leaf or tensor.grad is None


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


# What comes out


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("progress", [0.0, 1.0, 2.5, math.inf])
def test_the_result_is_near_in_range_and_detached(
    attack: Attack, dtype: torch.dtype, progress: float
) -> None:
    images, labels = _batch(dtype)
    found = attack(_model(dtype), images, labels, progress=progress)
    _assert_inside(attack, images, found, attack.epsilon_at(progress))
    assert attack.epsilon_at(progress) <= attack.epsilon_at() == EPSILON


@given(
    name=st.sampled_from(sorted(ATTACKS)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    epsilon=st.floats(0, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_whatever_the_shape_and_budget(name: str, shape: list[int], epsilon: float, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = torch.rand(3, *shape).mul_(1.5).clamp_(max=1.0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
        attack = ATTACKS[name].at(epsilon)
        found = attack(model, images, torch.tensor([0, 1, 2]))
    _assert_inside(attack, images, found, epsilon)


@every_attack
def test_without_a_budget_the_images_come_back_exactly(attack: Attack) -> None:
    images, labels = _batch()
    found = attack.at(0.0)(_model(), images, labels)
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


@every_attack
def test_an_empty_batch_comes_back_empty(attack: Attack) -> None:
    images, labels = _batch(size=0)
    _assert_inside(attack, images, attack(_model(), images, labels), EPSILON)


@every_attack
def test_one_seed_fixes_the_result(attack: Attack) -> None:
    images, labels = _batch()
    model = _model()
    results = []
    for seed in (3, 3):
        torch.manual_seed(seed)
        results.append(attack(model, images, labels))
    assert torch.equal(*results)


@every_pgd
def test_each_example_is_attacked_on_its_own(attack: PGD) -> None:
    images, labels = _batch(torch.float64)
    model = _model(torch.float64)
    steady = replace(attack, random_start=False)
    together = steady(model, images, labels)
    alone = torch.cat([steady(model, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))])
    torch.testing.assert_close(together, alone)


@every_querying_attack
def test_in_evaluation_what_is_wrong_comes_back_wrong(attack: Attack) -> None:
    images, labels = _batch()
    model = _model().eval()
    wrong = _predictions(model, images) != labels
    assert wrong.any()
    assert not wrong.all()
    attack = attack.for_evaluation()
    assert (_predictions(model, attack(model, images, labels)) != labels)[wrong].all()


# What stays as it was


@every_attack
@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("grad_enabled", [False, True])
def test_nothing_is_touched(attack: Attack, has_gradients: bool, grad_enabled: bool) -> None:
    model, (images, labels) = _model(), _batch()
    images.requires_grad_()
    first = next(model.parameters())
    first.requires_grad_(False)
    if has_gradients:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    trace = Trace(model, images, labels)
    with torch.set_grad_enabled(grad_enabled):
        found = attack(model, images, labels)
        assert torch.is_grad_enabled() is grad_enabled
    trace.assert_untouched()
    _assert_inside(attack, images.detach(), found, EPSILON)


@every_attack
def test_a_model_without_trainable_parameters_is_attacked_alike(attack: Attack) -> None:
    images, labels = _batch()
    results = []
    for is_frozen in (False, True):
        model = _model().requires_grad_(not is_frozen)
        trace = Trace(model)
        torch.manual_seed(0)
        results.append(attack(model, images, labels))
        trace.assert_untouched()
    assert torch.equal(*results)


@every_querying_attack
def test_the_model_is_in_eval_mode_meanwhile(attack: Attack) -> None:
    model, (images, labels) = _model(), _batch()
    modes: list[bool] = []

    def record(module: nn.Module, _: Any) -> None:
        modes.extend(part.training for part in module.modules())

    model.register_forward_pre_hook(record)
    attack(model, images, labels)
    assert modes
    assert not any(modes)


@every_querying_attack
def test_nothing_is_touched_when_the_model_fails(attack: Attack) -> None:
    model, (images, labels) = _model(), _batch()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model.get_submodule("5").register_forward_hook(fail)
    trace = Trace(model, images, labels)
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(model, images, labels)
    trace.assert_untouched()
    assert torch.is_grad_enabled()


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator: values read back, sizes that depend on data,
    and numbers that are copied over."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in self.NAMES or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - WAITING))
def test_in_training_the_host_never_waits_for_the_device(name: str) -> None:
    model, (images, labels) = _model(), _batch()
    with Waits() as waits:
        ATTACKS[name].perturb(model, images, labels, progress=1.0)
    assert waits.found == []


def test_a_wait_would_be_seen() -> None:
    x = torch.rand(3)
    with Waits() as waits:
        float(x.sum())
        x.nonzero()
        x[x > 2]
        x.new_tensor(3.0)
    assert set(waits.found) >= {"_local_scalar_dense", "nonzero", "index", "lift_fresh"}


# What it says of itself


@every_attack
def test_another_budget_is_another_attack(attack: Attack) -> None:
    larger = attack.at(0.3)
    assert type(larger) is type(attack)
    assert larger.epsilon_at() == larger.epsilon_at(0.0) == 0.3
    assert attack.epsilon_at() == EPSILON
    assert larger.ball_norm == attack.ball_norm
    assert larger.name == attack.name


@every_attack
def test_it_has_words_for_itself(attack: Attack) -> None:
    assert set(attack.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert norms.label(attack.ball_norm or 0.0) in attack.name
    assert norms.label(attack.ball_norm or 0.0) in attack.describe()
    assert attack.for_evaluation().name == attack.name


@every_attack
def test_easing_lowers_the_budget_for_one_epoch_only(attack: Attack) -> None:
    eased = attack.eased(0.0)
    assert eased.epsilon_at(0.5) == pytest.approx(attack.epsilon_at(0.0) / 2)
    for progress in (1.0, 2.0, 3.0, 9.0):
        assert eased.epsilon_at(progress) == pytest.approx(attack.epsilon_at(progress - 1))
    assert eased.epsilon_at() == EPSILON


@every_attack
def test_it_cannot_be_changed(attack: Attack) -> None:
    with pytest.raises(FrozenInstanceError):
        attack.epsilon = 1.0  # type: ignore[attr-defined]


# What it refuses


@every_attack
def test_images_outside_the_unit_interval_are_refused(attack: Attack) -> None:
    images, labels = _batch()
    with pytest.raises(DataError, match=r"Expected images in \[0, 1\], but they span"):
        attack(_model(), images * 255, labels)


@every_attack
def test_labels_that_do_not_fit_are_refused(attack: Attack) -> None:
    images, labels = _batch()
    with pytest.raises(DataError, match=r"one int64 label an image, shape \(12,\), but got shape \(11,\)"):
        attack(_model(), images, labels[:-1])


@pytest.mark.parametrize("kind", [PGD, Noise])
@pytest.mark.parametrize("epsilon", [-0.1, math.inf, math.nan])
def test_budgets_that_are_none_are_refused(kind: type[PGD | Noise], epsilon: float) -> None:
    with pytest.raises(ValueError, match=rf"Expected epsilon of at least 0, but got {epsilon}"):
        kind(epsilon=epsilon)


@pytest.mark.parametrize("kind", [PGD, Noise])
def test_other_norms_are_refused(kind: type[PGD | Noise]) -> None:
    with pytest.raises(ValueError, match=r"Expected a norm of 1, 2 or inf, but got 3"):
        kind(norm=3.0)
