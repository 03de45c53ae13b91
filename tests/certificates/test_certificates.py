from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import Certifier, certified_radius, certify, data
from withstand.attacks import PGD, cross_entropy, dlr, margin
from withstand.certificates import METHODS, Method
from withstand.core.schedules import Linear
from withstand.data import batches, epoch_order
from withstand.domains import UnsupportedOperationError
from withstand.models import MinMax, Normalize
from withstand.objectives import Certified
from withstand.types import Batch, DataError, ModelError

NORMS = (2.0, math.inf)
EVERY = list(product((1.0, *NORMS), METHODS))
LINEAR: tuple[Method, ...] = ("linear", "linear-optimised", "branch-and-bound")
FEW: dict[Method, int] = {"branch-and-bound": 8, "linear-optimised": 20}  # images, by methods that take long
TOLERANCE = 1e-3
EPSILON = {1.0: 0.3, 2.0: 0.3, math.inf: 0.04}  # of the digits


@pytest.fixture(scope="module")
def digits() -> Batch:
    images, labels = next(batches(data.load("digits").test, 200))
    return Batch(images, labels)


@pytest.fixture(params=[(2.0, "relu"), (2.0, "minmax"), (math.inf, "relu")], ids=str)
def trained(request: pytest.FixtureRequest) -> tuple[float, nn.Module]:
    """A net that was trained to be certified, some epochs on digits, and the norm it was trained for."""
    norm, activation = request.param
    return norm, _trained(norm, activation)


@cache  # a fixture would be made anew as often as the order of tests goes from one net to another
def _trained(norm: float, activation: str) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.ReLU if activation == "relu" else MinMax
    model = nn.Sequential(
        Normalize([0.3], [0.4]),
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), layer(), nn.Flatten()),
        *(nn.Linear(128, 32), layer(), nn.Linear(32, 10)),
    )
    objective = Certified(norm, Linear(0.0, EPSILON[norm], 4), kappa=Linear(1.0, 0.0, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    digits = data.load("digits").train
    for epoch in range(6):
        for batch in batches(digits, 64, order=epoch_order(len(digits), seed=0, epoch=epoch)):
            optimizer.zero_grad()
            objective(model, *batch, progress=float(epoch)).loss.backward()
            optimizer.step()
    return model


def _conv_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)),
    )


def _labelled(model: nn.Module, num: int = 12, seed: int = 1) -> Batch:
    """Random 4 x 4 images with the labels that the model gives them."""
    images = torch.rand(num, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Batch(images, Certifier(model).predict(images).argmax(dim=1))


def _linear_net(num_classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))


class Closed:
    """What is true of a linear net, worked out for each wrong class."""

    def __init__(self, model: nn.Sequential, batch: Batch) -> None:
        layer = model[-1]
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        logits = batch.images.double().flatten(1) @ weight.T + bias
        self.gaps = logits.gather(1, batch.labels[:, None]) - logits
        self.directions = weight - weight[batch.labels][:, None]
        self.wrong = torch.ones_like(logits, dtype=torch.bool).scatter(1, batch.labels[:, None], False)

    def margin(self, lengths: Tensor, epsilon: float) -> Tensor:
        return torch.where(self.wrong, self.gaps - epsilon * lengths, math.inf).amin(dim=1)

    def radius(self, lengths: Tensor) -> Tensor:
        return torch.where(self.wrong, self.gaps / lengths, math.inf).amin(dim=1).clamp_min(0)

    def lengths(self, norm: float, method: Method) -> Tensor:
        """How much each difference of logits can grow for each unit of epsilon."""
        euclidean: Tensor = torch.linalg.vector_norm(self.directions, dim=2)
        if norm == 1 and method in (*LINEAR, "best"):
            return self.directions.abs().amax(dim=2)
        if norm <= 2 and method != "box":  # the ball of l2 around that of l1
            return euclidean
        if norm == math.inf and method == "ball":  # the ball around the cube
            return euclidean * math.sqrt(self.directions.shape[2])
        return self.directions.abs().sum(dim=2)


# Margins


@pytest.mark.parametrize(("norm", "method"), EVERY)
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3])
def test_certify_has_the_closed_form_of_a_linear_net(norm: float, method: Method, epsilon: float) -> None:
    model = _linear_net()
    batch = _labelled(model)
    result = certify(model, *batch, norm=norm, epsilon=epsilon, method=method, clip=False)
    closed = Closed(model, batch)
    expected = closed.margin(closed.lengths(norm, method), epsilon)
    if (norm, method) == (1.0, "best"):  # what balls prove is not bounded again
        by_balls = closed.margin(closed.lengths(norm, "box_ball"), epsilon)
        expected = torch.where(by_balls > 0, by_balls, expected)
    torch.testing.assert_close(result.margin, expected, rtol=1e-6, atol=1e-9)
    assert result.margin.dtype == torch.float64
    assert torch.equal(result.certified, result.margin > 0)


def test_certify_has_the_closed_form_in_a_clipped_cube() -> None:
    model = _linear_net()
    batch = _labelled(model)
    closed = Closed(model, batch)
    center = batch.images.double().flatten(1)[:, None]
    lower, upper = (center - 0.4).clamp_min(0) - center, (center + 0.4).clamp_max(1) - center
    gains = torch.where(closed.directions > 0, closed.directions * upper, closed.directions * lower).sum(2)
    expected = torch.where(closed.wrong, closed.gaps - gains, math.inf).amin(1)
    for method in ("best", "box_ball", "box"):
        margin = certify(model, *batch, norm=math.inf, epsilon=0.4, method=method).margin
        torch.testing.assert_close(margin, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("norm", "method"), EVERY)
def test_certify_with_clip_only_tightens(norm: float, method: Method) -> None:
    model = _conv_net()
    batch = _labelled(model)
    for epsilon in (0.0, 0.05, 0.5):
        clipped, whole = (
            certify(model, *batch, norm=norm, epsilon=epsilon, method=method, clip=clip, timeout=0.2).margin
            for clip in (True, False)
        )
        if method not in (*LINEAR, "best"):  # their slopes change with the set
            assert (clipped >= whole - 1e-9).all()
    if norm > 2 or method != "ball":  # a ball alone cannot be cut
        assert (clipped > whole + 1e-3).any()


@pytest.mark.parametrize("norm", NORMS)
def test_certify_methods_prove_all_that_those_inside_them_do(norm: float) -> None:
    model = _conv_net()
    batch = _labelled(model)
    inside: list[tuple[Method, Method]] = [
        *(("best", method) for method in ("box_ball", "box", "ball", "linear")),
        ("linear-optimised", "linear"),
        ("branch-and-bound", "linear-optimised"),
    ]
    for epsilon in (0.01, 0.2):
        margins = {
            method: certify(
                model, *batch, norm=norm, epsilon=epsilon, method=method, clip=False, timeout=0.2
            ).margin
            for method in METHODS
        }
        for tighter, looser in inside:  # what is proven already is not bounded again
            assert ((margins[tighter] > 0) | (margins[tighter] >= margins[looser] - 1e-9)).all()


def test_certify_takes_an_epsilon_for_each_example() -> None:
    model = _conv_net()
    batch = _labelled(model)
    epsilons = torch.linspace(0.0, 0.4, len(batch.labels))
    for norm in NORMS:
        together = certify(model, *batch, norm=norm, epsilon=epsilons).margin
        for row, epsilon in enumerate(epsilons.tolist()):
            alone = certify(
                model, batch.images[row : row + 1], batch.labels[row : row + 1], norm=norm, epsilon=epsilon
            )
            torch.testing.assert_close(together[row : row + 1], alone.margin, rtol=1e-9, atol=1e-9)


def test_certifier_batch_size_changes_nothing() -> None:
    model = _conv_net()
    batch = _labelled(model, 11)
    epsilons = torch.rand(11) / 10
    whole, parts = (Certifier(model, batch_size=size) for size in (500, 3))
    for norm in NORMS:
        torch.testing.assert_close(
            whole.certify(*batch, norm=norm, epsilon=epsilons).margin,
            parts.certify(*batch, norm=norm, epsilon=epsilons).margin,
        )
        torch.testing.assert_close(whole.radius(*batch, norm=norm), parts.radius(*batch, norm=norm))
    torch.testing.assert_close(whole.predict(batch.images), parts.predict(batch.images))


def test_certifier_takes_an_empty_batch() -> None:
    certifier = Certifier(_conv_net())
    images, labels = torch.empty(0, 1, 4, 4), torch.empty(0, dtype=torch.int64)
    result = certifier.certify(images, labels, norm=2, epsilon=0.1)
    assert result.margin.shape == result.certified.shape == (0,)
    assert certifier.radius(images, labels, norm=2).shape == (0,)


# What is never certified


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "6.weight", "8.weight", "8.bias"])
@pytest.mark.parametrize("norm", NORMS)
def test_certifier_certifies_nothing_of_weights_that_are_not_finite(
    name: str, value: float, norm: float
) -> None:
    model = _conv_net().double()
    images, labels = _labelled(model)
    with torch.no_grad():
        model.get_parameter(name).fill_(value)
    for method in METHODS:
        certifier = Certifier(model, method=method)
        result = certifier.certify(images, labels, norm=norm, epsilon=0.01)
        assert not result.certified.any()
        assert not result.margin.isnan().any()
        assert not (result.margin == math.inf).any()
        assert (certifier.radius(images, labels, norm=norm) == 0).all()


def test_certify_certifies_no_infinite_logit() -> None:
    model = _linear_net(3)
    images, labels = _labelled(model)
    with torch.no_grad():
        model.get_parameter("1.bias")[1] = math.inf
    result = certify(model, images, torch.ones_like(labels), norm=2, epsilon=0.1)
    assert not result.certified.any()
    assert (result.margin == -math.inf).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_certify_certifies_nothing_of_an_operator_norm_that_is_not_finite(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _conv_net()
    batch = _labelled(model)
    monkeypatch.setattr(
        "withstand.operators.GuaranteedNorms.of", lambda *_: torch.tensor(value, dtype=torch.float64)
    )
    result = certify(model, *batch, norm=2, epsilon=0.01, method="ball")
    assert not result.certified.any()
    assert (result.margin == -math.inf).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_certify_does_not_certify_ties(norm: float, epsilon: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 50), nn.ReLU(), nn.Linear(50, 7))
    head = model[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # three classes that are one
        head.weight[[2, 6]] = head.weight[4].clone()
        head.bias[[2, 4, 6]] = 10.0
    images = torch.rand(30, 1, 4, 4)
    for label in (2, 4, 6):
        labels = torch.full((30,), label)
        for method in METHODS:
            result = certify(model, images, labels, norm=norm, epsilon=epsilon, method=method)
            assert not result.certified.any()
        assert (certified_radius(model, images, labels, norm=norm) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_certify_does_not_certify_ties_that_rounding_breaks(norm: float) -> None:
    """Two classes that are one, of features that are the same by twos, added in another order."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 40), nn.Linear(40, 2)).double()
    with torch.no_grad():
        for parameter in (*model[1].parameters(), model.get_parameter("2.weight")[0]):
            parameter[20:] = parameter[:20].flip(0)
        model.get_parameter("2.weight")[0, 20:] *= -2
        model.get_parameter("2.weight")[1] = model.get_parameter("2.weight")[0].flip(0)
        model.get_parameter("2.bias").zero_()
    images = torch.rand(200, 1, 4, 4)
    logits = Certifier(model).predict(images)
    assert (logits[:, 0] > logits[:, 1]).any()
    assert (logits[:, 0] < logits[:, 1]).any()
    for label in (0, 1):
        labels = torch.full((200,), label)
        assert not certify(model, images, labels, norm=norm, epsilon=0.0).certified.any()
        assert (certified_radius(model, images, labels, norm=norm) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_certify_never_certifies_wrong_predictions(norm: float) -> None:
    model = _conv_net()
    images, labels = _labelled(model)
    for shift in (1, 2):
        wrong = (labels + shift) % 3
        for method in METHODS:
            result = certify(model, images, wrong, norm=norm, epsilon=0.0, method=method)
            assert (result.margin < 0).all()
            assert not result.certified.any()
        assert (certified_radius(model, images, wrong, norm=norm) == 0).all()
    correct = certify(model, images, labels, norm=norm, epsilon=0.0)
    assert correct.certified.all()


# No attack succeeds inside


@pytest.mark.parametrize("norm", NORMS)
def test_certified_radius_is_refuted_by_no_attack(
    norm: float, trained: tuple[float, nn.Module], digits: Batch
) -> None:
    own_norm, model = trained
    certifier = Certifier(model)
    twin = certifier._model
    for method in METHODS:
        batch = Batch(*(part[: FEW.get(method, 100)] for part in digits))
        radius = Certifier(model, method=method, timeout=0.1).radius(*batch, norm=norm)
        for share in (0.3, 0.8):
            epsilon = float(radius[radius > 0].quantile(share))
            images, labels = (part[radius >= epsilon] for part in batch)
            assert len(labels) > 0.1 * len(batch.labels)
            for loss in (cross_entropy, margin, dlr):
                attack = PGD(norm=norm, epsilon=epsilon * (1 - 1e-9), num_steps=15, loss=loss)
                adversarial = attack(twin, images.double(), labels)
                assert torch.equal(certifier.predict(adversarial).argmax(dim=1), labels)
    if norm == own_norm:  # and the radii are large enough that this says something
        images = digits.images.double()
        beyond = PGD(norm=norm, epsilon=4 * epsilon, num_steps=15)(twin, images, digits.labels)
        assert (certifier.predict(beyond).argmax(dim=1) != certifier.predict(images).argmax(dim=1)).any()


def test_certified_accuracy_is_reached_by_training(trained: tuple[float, nn.Module], digits: Batch) -> None:
    norm, model = trained
    result = certify(model, *digits, norm=norm, epsilon=EPSILON[norm])
    assert result.certified.float().mean() > 0.4


# Radii


@pytest.mark.parametrize(("norm", "method"), EVERY)
def test_certified_radius_has_the_closed_form_of_a_linear_net(norm: float, method: Method) -> None:
    model = _linear_net()
    images, labels = _labelled(model, 40)
    labels[:5] = (labels[:5] + 1) % 4
    closed = Closed(model, Batch(images, labels))
    expected = closed.radius(closed.lengths(norm, method))
    radii = certified_radius(model, images, labels, norm=norm, method=method, clip=False)
    assert (radii[:5] == 0).all()
    assert (radii <= expected).all()
    assert (radii >= expected * (1 - 1.01 * TOLERANCE)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_certified_radius_is_certified_and_little_more_is(
    norm: float, tolerance: float, trained: tuple[float, nn.Module], digits: Batch
) -> None:
    _, model = trained
    images, labels = digits.images[:60], digits.labels[:60]
    for method in ("box_ball", "box", "ball"):
        certifier = Certifier(model, method=method, clip=False)
        radius = certifier.radius(images, labels, norm=norm, tolerance=tolerance)
        is_correct = certifier.predict(images).argmax(1) == labels
        assert torch.equal(radius > 0, is_correct)
        assert torch.equal(certifier.certify(images, labels, norm=norm, epsilon=radius).certified, is_correct)
        beyond = radius * (1 + 2 * tolerance)
        assert not certifier.certify(images, labels, norm=norm, epsilon=beyond).certified.any()


@pytest.mark.parametrize("norm", NORMS)
def test_certified_radius_of_best_is_the_largest_of_the_forward_methods(
    norm: float, trained: tuple[float, nn.Module], digits: Batch
) -> None:
    _, model = trained
    images, labels = digits.images[:60], digits.labels[:60]
    methods: tuple[Method, ...] = ("best", "box_ball", "box", "ball")
    best, *others = (certified_radius(model, images, labels, norm=norm, method=method) for method in methods)
    for other in others:
        assert (best >= other * (1 - 1.01 * TOLERANCE)).all()


def test_certified_radius_is_at_most_the_diameter_of_the_unit_cube() -> None:
    model = _linear_net(2)
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(1e-3)
        model.get_parameter("1.bias")[:] = torch.tensor([0.0, 5.0])
    images, labels = torch.rand(4, 1, 4, 4), torch.ones(4, dtype=torch.int64)
    assert certified_radius(model, images, labels, norm=2).tolist() == [4.0] * 4
    assert certified_radius(model, images, labels, norm=math.inf).tolist() == [1.0] * 4


@pytest.mark.parametrize("norm", NORMS)
def test_certified_radius_takes_few_passes(
    norm: float, trained: tuple[float, nn.Module], digits: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = trained
    certifier = Certifier(model)
    bounded: list[int] = []
    real = certifier.certify

    def counted(images: Tensor, labels: Tensor, **options: Tensor) -> object:
        bounded.append(len(images))
        return real(images, labels, norm=norm, epsilon=options["epsilon"])

    monkeypatch.setattr(certifier, "certify", counted)
    radius = certifier.radius(*digits, norm=norm)
    assert sum(bounded) < 6 * int((radius > 0).sum())
    assert len(bounded) < 15


# The model is left alone


def test_certify_leaves_the_model_as_it_was() -> None:
    model = _conv_net().train()
    model.get_submodule("1").eval()
    batch = _labelled(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.get_parameter("0.weight").requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [parameter._version for parameter in model.parameters()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    batch.images.requires_grad_()
    torch.manual_seed(0)
    certify(model, *batch, norm=2, epsilon=0.1)
    certified_radius(model, *batch, norm=math.inf)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    assert [module.training for module in model.modules()] == modes
    assert [parameter._version for parameter in model.parameters()] == versions
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert gradient is not None
        assert (gradient == 1).all()
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name
    assert batch.images.grad is None
    assert torch.is_grad_enabled()


def test_certify_bounds_a_model_in_train_mode_as_in_eval_mode() -> None:
    model = _conv_net()
    model.get_buffer("1.running_mean").fill_(0.3)
    batch = _labelled(model.eval())
    in_eval = certify(model, *batch, norm=2, epsilon=0.1)
    in_train = certify(model.train(), *batch, norm=2, epsilon=0.1)
    assert torch.equal(in_eval.margin, in_train.margin)


def test_certifier_does_not_see_later_changes() -> None:
    model = _conv_net()
    batch = _labelled(model)
    certifier = Certifier(model)
    logits = certifier.predict(batch.images)
    before = certifier.certify(*batch, norm=2, epsilon=0.1).margin
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert torch.equal(certifier.certify(*batch, norm=2, epsilon=0.1).margin, before)
    assert logits.dtype == torch.float64
    assert torch.equal(certifier.predict(batch.images), logits)
    assert not torch.equal(certify(model, *batch, norm=2, epsilon=0.1).margin, before)


def test_certify_bounds_a_compiled_model_as_its_original() -> None:
    model = _conv_net()
    batch = _labelled(model)
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    ours = certify(compiled, *batch, norm=2, epsilon=0.1).margin
    assert torch.equal(ours, certify(model, *batch, norm=2, epsilon=0.1).margin)


# Nets of the user's own


class Residual(nn.Module):
    """A forward by hand: functional calls, a sum, a concatenation, means, slices, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.shortcut = nn.Conv2d(1, 4, 1)
        self.head = nn.Linear(16, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = images / 0.5 - 1
        hidden = F.relu(self.first(x))
        x = torch.tanh(self.second(hidden) + self.shortcut(x))
        features = [x.mean(dim=(2, 3)), hidden[:, :, 1, 2], F.max_pool2d(x, 4).flatten(1)]
        features.append(F.avg_pool2d(hidden, 2).mean([2, 3]))
        return cast(Tensor, self.head(torch.cat(features, dim=1)))


@pytest.mark.parametrize("norm", NORMS)
def test_certify_bounds_a_net_with_its_own_forward(norm: float) -> None:
    torch.manual_seed(0)
    model = Residual()
    images, labels = _labelled(model, 30)
    for method in METHODS:
        few = Batch(*(part[: FEW.get(method, 30)] for part in (images, labels)))
        certifier = Certifier(model, method=method, timeout=0.1)
        radius = certifier.radius(*few, norm=norm)
        assert (radius > 0).all()
        epsilon = float(radius.median())
        rows = radius >= epsilon
        attack = PGD(norm=norm, epsilon=epsilon * (1 - 1e-9), num_steps=20, loss=margin)
        adversarial = attack(certifier._model, few.images[rows].double(), few.labels[rows])
        assert torch.equal(certifier.predict(adversarial).argmax(1), few.labels[rows])


# What is refused


class Noisy(nn.Module):
    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] + torch.rand(3)


class Alternating(nn.Module):
    """Answers otherwise every second time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(1)
        return images.flatten(1)[:, :3] * (1 if len(self.calls) % 2 else -1)


class Branching(nn.Module):
    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] if images.mean() > 0.5 else -images.flatten(1)[:, :3]


class Relative(nn.Module):
    """Compares an image with the others beside it."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return (images - images.mean(dim=0)).flatten(1)[:, :3]


def _batch_norm_without_statistics() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Noisy, "chance"),
        (Alternating, "chance"),
        (Branching, "depends on the values of its input|are not its own"),
        (Relative, "depend on what else is in the batch"),
        (_batch_norm_without_statistics, "track_running_stats=True|Expected more than 1 value"),
    ],
)
@pytest.mark.parametrize("num", [1, 5])
def test_certify_refuses_a_model_that_mixes_images(
    make: Callable[[], nn.Module], words: str, num: int
) -> None:
    images, labels = torch.rand(num, 1, 4, 4), torch.zeros(num, dtype=torch.int64)
    with pytest.raises(ModelError, match=words):
        certify(make(), images, labels, norm=2, epsilon=0.1)
    with pytest.raises(ModelError, match=words):
        certified_radius(make(), images, labels, norm=2)


class Cumulative(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def test_certify_names_an_operation_without_a_rule() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), Cumulative(), nn.Linear(8, 3))
    images, labels = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UnsupportedOperationError, match=r"no rule for aten\.cumsum"):
        certify(model, images, labels, norm=2, epsilon=0.1)


def test_certify_refuses_a_model_that_cannot_be_copied() -> None:
    model = _linear_net()
    model.scaled = model.get_parameter("1.weight") * 2  # a tensor with a history
    with pytest.raises(ModelError, match="cannot be copied"):
        Certifier(model)


def test_certify_refuses_arguments_out_of_range() -> None:
    model = _linear_net()
    batch = _labelled(model, 3)
    with pytest.raises(ValueError, match=r"method of best, .* 'crown'"):
        Certifier(model, method=cast(Method, "crown"))
    with pytest.raises(ValueError, match="at least 1, but got 0"):
        Certifier(model, batch_size=0)
    certifier = Certifier(model)
    for norm in (3.0, math.nan):
        with pytest.raises(ValueError, match=f"norm {norm:g}"):
            certifier.certify(*batch, norm=norm, epsilon=0.1)
        with pytest.raises(ValueError, match=f"norm {norm:g}"):
            certifier.radius(*batch, norm=norm)
    for epsilon in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"but got {epsilon:g}"):
            certifier.certify(*batch, norm=2, epsilon=epsilon)
        with pytest.raises(ValueError, match=f"but got {epsilon:g}"):
            certifier.certify(*batch, norm=2, epsilon=torch.tensor([0.1, epsilon, 0.2]))
    with pytest.raises(ValueError, match=r"each of 3 images, but got shape \(2,\)"):
        certifier.certify(*batch, norm=2, epsilon=torch.tensor([0.1, 0.2]))
    for tolerance in (0.0, -1.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=rf"tolerance between 0 and 1, but got {tolerance:g}\."):
            certifier.radius(*batch, norm=2, tolerance=tolerance)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        certifier.certify(batch.images * 255, batch.labels, norm=2, epsilon=0.1)
    with pytest.raises(DataError, match="int64"):
        certifier.radius(batch.images, batch.labels.float(), norm=2)
