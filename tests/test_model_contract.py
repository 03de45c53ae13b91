"""Odd models at every entry point: each is right, or refused by one line; images stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.core.contract import Adapted, adapted, contract_of
from withstand.core.wrappers import unwrapped
from withstand.data import Dataset, batches, from_arrays
from withstand.evaluation.moment_check import MomentSettings, check_moments
from withstand.types import Batch, DataError, ModelError

SHAPE, CLASSES = (1, 4, 4), 3
PGD = ws.attacks.PGD(epsilon=0.1, num_steps=2)


def net(classes: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))


class Answering(nn.Module):
    """A net whose images and logits are changed by functions."""

    def __init__(self, after: Callable[[Tensor], Any], before: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.net, self.after, self.before = net(), after, before

    @override
    def forward(self, images: Tensor) -> Any:
        return self.after(self.net(self.before(images)))


class Output(NamedTuple):
    aux: Tensor
    logits: Tensor


class Named:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def normalise_(images: Tensor) -> Tensor:
    return images.sub_(0.5).div_(0.25)


# What each odd model is the same as, in float32.
ODD: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "double": (lambda: net().double(), net),
    "bfloat16": (lambda: net().bfloat16(), net),
    "half": (lambda: net().half(), net),
    "in-place": (
        lambda: Answering(lambda logits: logits, normalise_),
        lambda: Answering(lambda logits: logits, lambda x: (x - 0.5) / 0.25),
    ),
    "in-place-relu": (
        lambda: nn.Sequential(nn.ReLU(inplace=True), *net()),
        lambda: nn.Sequential(nn.ReLU(), *net()),
    ),
    "tuple": (lambda: Answering(lambda logits: (logits, {"features": 1})), net),
    "list": (lambda: Answering(lambda logits: [logits, logits]), net),
    "named-tuple": (lambda: Answering(lambda logits: Output(logits[:, :2], logits)), net),
    "dict": (lambda: Answering(lambda logits: {"loss": logits.sum(), "logits": logits}), net),
    "dict-of-one": (lambda: Answering(lambda logits: {"scores": logits}), net),
    "dict-out": (lambda: Answering(lambda logits: {"out": logits, "aux": logits}), net),
    "object": (lambda: Answering(Named), net),
}
KINDS = ["double", "bfloat16", "half", "in-place", "in-place-relu", "tuple", "dict"]  # for what takes long


@pytest.fixture(params=list(ODD))
def any_pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    odd, plain = (make().eval() for make in ODD[request.param])
    return odd, plain


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    odd, plain = (make().eval() for make in ODD[request.param])
    return odd, plain


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(6) % CLASSES)


def dataset(num: int = 24, classes: int = CLASSES) -> Dataset:
    images = torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(num) % classes
    return from_arrays((images, labels), (images, labels), validation_size=6)


def close(odd: nn.Module) -> float:
    low = any(parameter.dtype.itemsize < 4 for parameter in odd.parameters())
    return 0.05 if low else 1e-5


def test_odd_models_answer_as_their_plain_twins_and_leave_the_images(
    any_pair: tuple[nn.Module, nn.Module], batch: Batch
) -> None:
    odd, plain = any_pair
    before = batch.images.clone()
    with torch.no_grad():
        logits = adapted(odd, batch.images)(batch.images)
        expected = plain(batch.images.clone())
    assert logits.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(logits.float(), expected, atol=close(odd), rtol=close(odd))
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize(
    "attack",
    [
        PGD,
        ws.attacks.PGD(norm=2, epsilon=0.3, num_steps=2, num_restarts=2),
        ws.attacks.Noise(epsilon=0.1, num_samples=3),
    ],
    ids=lambda attack: attack.name,
)
def test_odd_models_are_attacked_within_the_ball(
    attack: ws.attacks.Attack, any_pair: tuple[nn.Module, nn.Module], batch: Batch
) -> None:
    odd, _ = any_pair
    before = batch.images.clone()
    adversarial = attack(odd, *batch)
    assert torch.equal(batch.images, before)
    assert attack.norm is not None
    distance = ws.norms.norm(adversarial.double() - before.double(), attack.norm).max()
    assert 0 < distance <= attack.epsilon_at() * (1 + 1e-5)
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert adversarial.dtype == before.dtype


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "cross-entropy": lambda: ws.objectives.CrossEntropy(),
    "noisy": lambda: ws.objectives.NoisyCrossEntropy(noise_std=0.1),
    "adversarial": lambda: ws.objectives.Adversarial(PGD),
    "mart": lambda: ws.objectives.WeightPerturbation(ws.objectives.MART(PGD)),
    "certified": lambda: ws.objectives.Certified(norm=2, epsilon=0.1),
    "moments": lambda: ws.objectives.GaussianExpectation(noise_std=0.1),
    "input-gradient": lambda: ws.objectives.CrossEntropy() + 0.1 * ws.penalties.InputGradient(),
    "alignment": lambda: ws.objectives.CrossEntropy() + 0.1 * ws.penalties.GradientAlignment(),
    "virtual": lambda: ws.objectives.CrossEntropy() + 0.1 * ws.penalties.VirtualAdversarial(),
    "spectral": lambda: ws.objectives.CrossEntropy() + 0.1 * ws.penalties.SpectralNorm(),
}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_odd_models_have_the_loss_of_their_plain_twins(
    name: str, pair: tuple[nn.Module, nn.Module], batch: Batch
) -> None:
    odd, plain = pair
    if next(odd.parameters()).dtype == torch.float64:  # so that the same is drawn
        batch, plain = Batch(batch.images.double(), batch.labels), plain.double()
    before = batch.images.clone()
    losses = []
    for model in (odd, plain):
        torch.manual_seed(0)
        is_short = any(parameter.dtype.itemsize < 4 for parameter in model.parameters())
        if is_short and name in ("certified", "moments"):
            with pytest.raises(ModelError, match=r"bounds need float32 or float64: call model.float\(\)"):
                OBJECTIVES[name]()(model, *batch)
            return
        loss = OBJECTIVES[name]()(model, *batch).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=close(odd) * 2, abs=close(odd))
    assert torch.equal(batch.images, before)


def test_odd_models_are_certified_and_smoothed_as_their_plain_twins(
    pair: tuple[nn.Module, nn.Module], batch: Batch
) -> None:
    odd, plain = pair
    if any(parameter.dtype.itemsize < 4 for parameter in odd.parameters()):  # of the rounded weights
        plain.load_state_dict({key: value.float() for key, value in odd.state_dict().items()})
    smoothing = ws.smoothing.Smoothing(
        noise_std=0.1, num_selection=5, num_estimation=60, failure_probability=0.05
    )

    def proven(model: nn.Module) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [
            ws.certify(model, *batch, norm=2, epsilon=0.05).margin,
            ws.certified_radius(model, *batch, norm=math.inf),
            ws.smoothing.smoothed_radius(
                model, batch.images, settings=smoothing, generator=generator
            ).prediction.double(),
        ]

    for ours, theirs in zip(proven(odd), proven(plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_odd_models_have_bounds_of_kernel_norms_and_checks_of_moments(
    pair: tuple[nn.Module, nn.Module], batch: Batch
) -> None:
    odd, _ = pair
    assert len(ws.kernel_norms.kernel_norm_bounds(odd, batch.images).classes) == CLASSES
    settings = MomentSettings(num_examples=2, num_samples=10, noise_std=[0.1])
    if any(parameter.dtype.itemsize < 4 for parameter in odd.parameters()):
        with pytest.raises(ModelError, match=r"call model.float\(\)"):
            check_moments(odd, batch.images, settings)
    else:
        assert check_moments(odd, batch.images, settings).num_examples == 2


def test_odd_models_are_evaluated_as_their_plain_twins(pair: tuple[nn.Module, nn.Module]) -> None:
    odd, plain = pair
    meters = [ws.meters.Attacks([PGD], epsilons=[0.05])]
    ours, theirs = (ws.evaluate(model, dataset(), meters, num_examples=20) for model in (odd, plain))
    assert ours.results.sampling is None  # not taken for one that draws its answers
    assert abs(ours.rows["clean"].mean() - theirs.rows["clean"].mean()) <= (0.1 if close(odd) > 0.01 else 0)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "half"])
def test_odd_models_are_trained_and_their_own_weights_saved(name: str, tmp_path: Path) -> None:
    model = ODD[name][0]()
    settings = ws.training.TrainingSettings(epochs=1, batch_size=9, accelerator="cpu")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    objective = ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.05, num_steps=2))
    ws.fit(model, dataset(), objective, settings, out=tmp_path)
    assert not torch.equal(before[0], next(model.parameters()))
    ws.models.load_weights(ODD[name][0](), tmp_path / "model.safetensors")


def test_float16_weights_are_not_trained(tmp_path: Path) -> None:
    settings = ws.training.TrainingSettings(epochs=1, accelerator="cpu")
    with pytest.raises(ModelError, match=r"weights are float16.*Call model.float\(\)"):
        ws.fit(net().half(), dataset(), ws.objectives.CrossEntropy(), settings, out=tmp_path)


# One logit


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_logit_is_that_of_class_one_against_zero(squeezed: bool, tmp_path: Path) -> None:
    model = net(1)
    odd = nn.Sequential(*model, nn.Flatten(0)) if squeezed else model
    images, labels = torch.rand(6, *SHAPE), torch.arange(6) % 2
    scores = model(images).squeeze(1)
    loss = ws.objectives.CrossEntropy()(odd, images, labels).loss
    expected = nn.functional.binary_cross_entropy_with_logits(scores, labels.float())
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    margins = ws.certify(odd, images, labels, norm=2, epsilon=0.0).margin
    torch.testing.assert_close(margins.float(), (scores * (2 * labels - 1)).detach(), atol=1e-5, rtol=1e-4)
    evaluation = ws.evaluate(odd, dataset(classes=2))
    shown = torch.tensor(evaluation.rows["prediction"].to_numpy())
    with torch.no_grad():
        truth = torch.cat(
            [model(part.images).squeeze(1) > 0 for part in batches(dataset(classes=2).test, 50)]
        )
    assert torch.equal(shown.bool(), truth)
    settings = ws.training.TrainingSettings(epochs=1, accelerator="cpu", batch_size=9)
    ws.fit(odd, dataset(classes=2), ws.objectives.CrossEntropy(), settings, out=tmp_path)


def test_one_logit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class OnlyOne(nn.Sequential):
        pass

    model, images, labels = OnlyOne(*net(1)), torch.rand(6, *SHAPE), torch.arange(6) % 2
    for _ in range(2):
        PGD(model, images, labels)
    assert [record.message.startswith("OnlyOne gives one logit") for record in caplog.records] == [True]


def test_one_logit_of_a_sigmoid_or_for_three_classes_is_refused(batch: Batch) -> None:
    for last in (nn.Sigmoid(), nn.Sequential(nn.Sigmoid(), nn.Flatten(0))):
        with pytest.raises(ModelError, match="ends in a sigmoid; remove it"):
            PGD(nn.Sequential(*net(1), last), batch.images, batch.labels % 2)
    with pytest.raises(ModelError, match=r"returns 1 logit an image, but data set .* has 3 classes"):
        ws.evaluate(net(1), dataset())
    with pytest.raises(DataError, match="labels from 0 to 1, as the model has 2 outputs, but got 2"):
        PGD(net(1), *batch)


# Constant logits and softmax


@pytest.mark.parametrize("bias", [0.0, 1 / CLASSES, [1.0, 0.0, 0.0], -math.log(CLASSES)])
def test_check_takes_constant_logits_for_logits(bias: Any) -> None:
    model: Any = net()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor(bias))
    ws.models.check(model, dataset().info)


@pytest.mark.parametrize("last", [lambda z: z.softmax(1), lambda z: z.log_softmax(1).reshape(-1, CLASSES)])
def test_check_refuses_a_softmax_of_constant_logits(last: Callable[[Tensor], Tensor]) -> None:
    model = Answering(lambda logits: last(0 * logits))
    with pytest.raises(ModelError, match="ends in softmax"):
        ws.models.check(model, dataset().info)


# What is refused, everywhere by the same words


def raises(_: Tensor) -> Any:
    raise KeyError("missing")


def leaves(_: Tensor) -> Any:
    raise SystemExit(3)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "torch.nn.Module, but got None"),
    "string": (lambda: "resnet18", "torch.nn.Module, but got 'resnet18'"),
    "function": (lambda: lambda images: images, "put a function in a module's forward"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "lazy layers.*Run it once"),
    "raises": (lambda: Answering(raises), "model fails on images .*missing"),
    "exits": (lambda: Answering(leaves), "calls sys.exit"),
    "ambiguous tuple": (lambda: Answering(lambda z: (torch.zeros(len(z), 8), z)), "returns a tuple of"),
    "dict of several": (lambda: Answering(lambda z: {"a": z, "b": z}), "returns a dict of"),
    "nothing": (lambda: Answering(lambda z: None), "returns a NoneType"),
    "whole numbers": (lambda: Answering(lambda z: z.argmax(1)), "int64 values, but logits are floats"),
    "three dimensions": (lambda: Answering(lambda z: z[:, :, None]), "flatten or pool before its last layer"),
    "batch lost": (lambda: Answering(lambda z: z.mean(0)), r"returns shape \(3,\) for 2 images"),
    "other size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), "model fails on images"),
}


def entry_points(batch: Batch, out: Path) -> dict[str, Callable[[Any], Any]]:
    smoothing = ws.smoothing.Smoothing(noise_std=0.1, num_estimation=20, failure_probability=0.1)
    settings = ws.training.TrainingSettings(epochs=1, accelerator="cpu", batch_size=9)
    generator = torch.Generator()
    objective = ws.objectives.CrossEntropy()
    return {
        "attack": lambda model: PGD(model, *batch),
        "noise": lambda model: ws.attacks.Noise()(model, *batch),
        "objective": lambda model: objective(model, *batch),
        "penalty": lambda model: ws.penalties.InputGradient()(model, *batch),
        "smoothing": lambda model: ws.smoothing.smoothed_radius(
            model, batch.images, settings=smoothing, generator=generator
        ),
        "evaluate": lambda model: ws.evaluate(model, dataset()),
        "moments": lambda model: check_moments(model, batch.images),
        "fit": lambda model: ws.fit(model, dataset(), objective, settings, out=out),
        "check": lambda model: ws.models.check(model, dataset().info),
        "certify": lambda model: ws.certify(model, *batch, norm=2, epsilon=0.1),
        "radius": lambda model: ws.certified_radius(model, *batch, norm=2),
        "kernel norms": lambda model: ws.kernel_norms.kernel_norm_bounds(model, batch.images),
    }


@pytest.mark.parametrize("name", list(REFUSED))
def test_models_that_do_not_fit_are_refused_everywhere_by_one_line(
    name: str, batch: Batch, tmp_path: Path
) -> None:
    make, message = REFUSED[name]
    for run in entry_points(batch, tmp_path).values():
        with pytest.raises(ModelError, match=message) as caught:
            run(make())
        assert "\n" not in str(caught.value)


def test_attack_says_that_a_model_has_no_gradient(batch: Batch) -> None:
    for after in (torch.Tensor.detach, lambda logits: (logits * 9).round().detach()):
        with pytest.raises(ModelError, match=r"no gradient with respect to its images.*attacks.Noise"):
            PGD(Answering(after), *batch)
    ws.attacks.Noise(num_samples=2)(Answering(torch.Tensor.detach), *batch)


# What the adapter must not cost, and must keep


def test_plain_models_are_used_as_they_are_and_looked_at_once(batch: Batch) -> None:
    model, seen = net(), list[int]()
    model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    assert adapted(model, batch.images) is model
    assert adapted(model, batch.images[:1]) is model
    assert seen == [2]


def test_images_are_not_changed_by_a_model_that_writes_past_torchs_count_of_versions(batch: Batch) -> None:
    def halve(images: Tensor) -> Tensor:
        images.data.mul_(0.5)
        return images

    before = batch.images.clone()
    PGD(Answering(lambda logits: logits, halve), *batch)
    assert torch.equal(batch.images, before)


def test_adapter_leaves_modes_gradients_and_the_random_state(batch: Batch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)).double().train()
    model[2].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    contract_of(model, batch.images)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adapter_is_the_same_each_time_and_sees_replaced_layers(batch: Batch) -> None:
    model = Answering(lambda logits: (logits,))
    first = adapted(model, batch.images)
    assert isinstance(first, Adapted)
    assert adapted(model, batch.images) is first
    assert adapted(first, batch.images) is first
    plain = net()
    assert adapted(plain, batch.images) is plain
    plain[0] = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten())
    assert isinstance(adapted(plain, batch.images), Adapted)
    plain[-1] = nn.Linear(8, 7)
    assert contract_of(plain, batch.images).num_classes == 7


def test_adapter_of_a_compiled_model_is_around_the_original_where_that_is_asked(batch: Batch) -> None:
    model = net().double()
    compiled: Any = torch.compile(model, backend="eager")
    odd = adapted(compiled, batch.images)
    original = unwrapped(odd)
    assert isinstance(original, Adapted)
    assert original.model is model
    torch.testing.assert_close(odd(batch.images), original(batch.images))


# Inference mode


@pytest.mark.parametrize("made_inside", [False, True])
def test_entry_points_work_in_inference_mode(made_inside: bool, batch: Batch, tmp_path: Path) -> None:
    model = net()
    expected = ws.attacks.PGD(epsilon=0.1, num_steps=2, random_start=False)(model, *batch)
    with torch.inference_mode():
        given = Batch(batch.images.clone(), batch.labels.clone()) if made_inside else batch
        attack = ws.attacks.PGD(epsilon=0.1, num_steps=2, random_start=False)
        adversarial = attack(model, *given)
        for run in entry_points(given, tmp_path).values():
            run(model)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(adversarial, expected)
    assert not adversarial.is_inference()


def test_weights_made_in_inference_mode_are_refused_by_attacks(batch: Batch) -> None:
    with torch.inference_mode():
        model = net()
        with pytest.raises(ModelError, match=r"weights were made in torch.inference_mode"):
            PGD(model, *batch)


# Images and labels


def convertible(labels: Tensor) -> list[Tensor]:
    return [labels.int(), labels.to(torch.uint8), labels[:, None], labels[:, None].short()]


def test_labels_of_other_forms_give_the_same_everywhere(batch: Batch) -> None:
    model, objective = net(), ws.objectives.CrossEntropy()
    attack = ws.attacks.PGD(epsilon=0.1, num_steps=2, random_start=False)
    for labels in convertible(batch.labels):
        assert torch.equal(attack(model, batch.images, labels), attack(model, *batch))
        assert objective(model, batch.images, labels).loss == objective(model, *batch).loss
        ours = ws.certify(model, batch.images, labels, norm=2, epsilon=0.1).margin
        assert torch.equal(ours, ws.certify(model, *batch, norm=2, epsilon=0.1).margin)


BAD: dict[str, tuple[Callable[[Batch], tuple[Any, Any]], str]] = {
    "images of 0 to 255": (lambda b: (b.images * 255, b.labels), r"images in \[0, 1\], but they span"),
    "NumPy images": (lambda b: (b.images.numpy(), b.labels), r"ndarray.*torch.as_tensor\(images\)"),
    "a list of images": (lambda b: (b.images.tolist(), b.labels), "images as a torch tensor, but got a list"),
    "no images": (lambda b: (None, b.labels), "images as a torch tensor, but got None"),
    "uint8 images": (lambda b: ((b.images * 255).byte(), b.labels), "Divide uint8 images by 255"),
    "a list of labels": (lambda b: (b.images, b.labels.tolist()), "labels as a torch tensor, but got a list"),
    "one-hot labels": (lambda b: (b.images, torch.eye(3)[b.labels]), r"take labels.argmax\(dim=1\)"),
    "float labels": (lambda b: (b.images, b.labels.float()), "of torch.float32"),
    "too few labels": (lambda b: (b.images, b.labels[1:]), r"shape \(6,\), but got shape \(5,\)"),
    "labels from 1": (lambda b: (b.images, b.labels + 1), "labels from 0 to 2, .* but got 3|labels below 3"),
    "label 99": (lambda b: (b.images, b.labels * 0 + 99), "labels from 0 to 2, .* but got 99|labels below 3"),
    "label -1": (lambda b: (b.images, b.labels - 1), "labels of at least 0, but got -1"),
    "an image alone": (lambda b: (b.images[0], b.labels[:1]), "images"),
    "channels last": (
        lambda b: (torch.rand(6, 8, 8, 3), b.labels),
        r"channels seem to come last; put them first by images.permute\(0, 3, 1, 2\)",
    ),
    "another size": (lambda b: (torch.rand(6, 1, 9, 9), b.labels), r"model fails on images \(2, 1, 9, 9\)"),
}


@pytest.mark.parametrize("name", list(BAD))
@pytest.mark.parametrize("entry", ["attack", "noise", "objective", "penalty", "certify", "radius"])
def test_batches_that_do_not_fit_are_refused_by_one_line(
    name: str, entry: str, batch: Batch, tmp_path: Path
) -> None:
    make, message = BAD[name]
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises((DataError, ModelError), match=message) as caught:
        entry_points(Batch(*make(batch)), tmp_path)[entry](model)
    assert "\n" not in str(caught.value)


def test_images_of_other_precisions_are_converted(batch: Batch) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        images = batch.images.to(dtype)
        assert PGD(net(), images, batch.labels).dtype == dtype
        assert ws.objectives.CrossEntropy()(net(), images, batch.labels).loss.dtype in (
            torch.float32,
            torch.float64,
        )
        assert ws.certify(net(), images, batch.labels, norm=2, epsilon=0.1).margin.isfinite().all()
