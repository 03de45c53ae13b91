"""How networks are read: whatever their forward looks like, as they are or not at all."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import models
from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.domains import (
    Ball,
    Box,
    BoxBall,
    Program,
    Site,
    UnsupportedOperationError,
    input_set,
    propagate,
    register,
    unsupported,
)
from withstand.graph import rule_registry as registry
from withstand.operators import Convolution, Dense, Diagonal, OperatorNorms
from withstand.types import ModelError

if TYPE_CHECKING:
    from tests.domains.conftest import Net

COLOUR = ("cnn-6c2f", "cnn-8c2f", "alexnet", "vgg11", "vgg16", "resnet18", "resnet50")


class Written(nn.Module):
    """A model whose forward is a function of itself and its input."""

    def __init__(self, compute: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    @override
    def forward(self, x: Tensor, scale: float | None = None) -> Any:
        x = x if scale is None else x * scale
        return self.compute(self, x)


@pytest.fixture(autouse=True)
def _untouched_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _ball(model: nn.Module, images: Tensor, norms_of: OperatorNorms) -> Ball:
    with torch.no_grad():
        return propagate(model, Ball(images, torch.full((len(images),), 0.1)), norms=norms_of)


# The built-in networks


@pytest.mark.parametrize("name", models.MODEL_NAMES)
def test_program_centers_are_what_the_model_gives(name: str) -> None:
    info = KNOWN_DATASETS["cifar10" if name in COLOUR else "mnist"]
    options: dict[str, Any] = {"hidden": (32, 32)} if name in ("mlp", "vgg16") else {}
    model = models.create(name, dataset=info, **options).eval()
    images = torch.rand(2, *info.shape)
    program = Program(model, images)
    with torch.no_grad():
        expected = model(images)
        for value in (Ball(images, torch.zeros(1)), BoxBall(Ball(images, torch.zeros(1)))):
            last = program.run_to_last_layer(value, _Ones())
            torch.testing.assert_close(last.logits, expected, rtol=1e-3, atol=1e-4)
            if name in COLOUR:  # the large ones need not go through twice
                break


class _Ones(OperatorNorms):
    @override
    def of(self, operator: Any, input_shape: Any, key: str) -> Tensor:
        return torch.ones(())


# Forwards


def test_program_takes_a_default_argument_as_a_constant(exact: OperatorNorms) -> None:
    model = Written(lambda net, x: net.layer(x), layer=nn.Linear(3, 2))
    images = torch.rand(2, 3)
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_program_runs_hooks_of_containers_and_of_the_model(exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    images = torch.rand(2, 3)
    for module in (model[0], model):
        module.register_forward_hook(lambda _, __, output: 2 * output + 1)
        torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_program_follows_a_forward_set_on_the_object(exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    images, layer = torch.rand(2, 3), cast("Any", model[0])
    object.__setattr__(layer, "forward", lambda x: 3 * F.linear(x, layer.weight))
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))
    object.__setattr__(model, "forward", lambda x: layer(x) - 1)
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


class Doubled(nn.Linear):
    """Has a forward of its own."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        doubled: Tensor = 2 * super().forward(input)
        return doubled


class Renamed(nn.Linear):
    """Has none."""


class Standardised(nn.Conv2d):
    """Has none either, but computes something else."""

    @override
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolved: Tensor = super()._conv_forward(input, weight - weight.mean(), bias)
        return convolved


@pytest.mark.parametrize(
    ("layer", "shape"), [(Doubled(3, 2), (3,)), (Renamed(3, 2), (3,)), (Standardised(1, 2, 2), (1, 3, 3))]
)
def test_program_takes_a_subclass_for_what_it_computes(
    layer: nn.Module, shape: tuple[int, ...], exact: OperatorNorms
) -> None:
    images = torch.rand(4, *shape)
    result = propagate(layer, Ball(images, torch.ones(1)), norms=exact)
    torch.testing.assert_close(result.midpoint, layer(images))
    unit = torch.eye(math.prod(shape)).reshape(-1, *shape)
    matrix = (layer(unit) - layer(torch.zeros(1, *shape))).flatten(1)
    torch.testing.assert_close(result.radius, torch.linalg.matrix_norm(matrix, ord=2)[None])


def _masked(net: Any, x: Tensor) -> Tensor:
    return net.last(x) + torch.tensor([0.0, -1e9])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: x @ net.last.weight.T + net.last.bias,
        lambda net, x: F.linear(x, net.last.weight) + net.last.bias,
        lambda net, x: torch.addmm(net.last.bias, x, net.last.weight.T),
        lambda net, x: net.last(2 * x) / 3,
        lambda net, x: net.norm(net.drop(net.last(x))),
        lambda net, x: F.conv2d(x[..., None, None], net.last.weight[..., None, None]).flatten(1),
        lambda net, x: net.last(x).reshape(x.shape[0], 2, 1).squeeze(-1).flip(1),
        lambda net, x: net.last(x) - net.last(x.flip(1)) + x[:, :2],
        lambda net, x: torch.cat([net.last(x)[:, 1:], x.mean(1, keepdim=True)], 1),
        _masked,
    ],
)
def test_program_folds_whatever_is_affine_at_the_end_into_one_layer(
    compute: Any, exact: OperatorNorms
) -> None:
    model = Written(
        lambda net, x: compute(net, torch.relu(net.first(x))),
        first=nn.Linear(3, 3),
        last=nn.Linear(3, 2),
        norm=nn.BatchNorm1d(2),
        drop=nn.Dropout(),
    ).double()
    model.get_buffer("norm.running_var").uniform_(0.5, 2)
    images = torch.rand(4, 3).double()
    value = Ball(images, torch.full((1,), 0.1).double())
    last = Program(model.eval(), images).run_to_last_layer(value, exact)
    torch.testing.assert_close(last.logits, model(images))
    hidden = torch.relu(model.get_submodule("first")(images))
    units = torch.eye(3).double()
    columns = [compute(model, hidden[:1] + unit) - compute(model, hidden[:1]) for unit in units]
    torch.testing.assert_close(last.weight, torch.cat(columns).T)
    assert last.features.center.equal(hidden)


def test_program_folds_no_statistics_of_the_batch(exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    images = torch.rand(6, 3)
    last = Program(model.train(), images).run_to_last_layer(Ball(images, torch.full((1,), 0.1)), exact)
    torch.testing.assert_close(last.logits, model(images))
    assert last.weight is model.get_parameter("4.weight")


def test_program_folds_from_one_number_an_image(exact: OperatorNorms) -> None:
    model = Written(lambda net, x: torch.stack([(y := x[:, 1].sigmoid()), 2 * y - 1], 1))
    images = torch.rand(4, 3)
    last = Program(model, images).run_to_last_layer(Box(images - 0.1, images + 0.1), exact)
    torch.testing.assert_close(last.weight, torch.tensor([[1.0], [2.0]]))
    torch.testing.assert_close(last.bias, torch.tensor([0.0, -1.0]))


@pytest.mark.parametrize("training", [True, False])
def test_program_folds_with_gradients_to_all_weights(training: bool, exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    images, labels = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    last = Program(model.train(training), images).run_to_last_layer(
        Ball(images, torch.full((1,), 0.1)), exact
    )
    loss = last.differences(labels).logsumexp(1).sum()
    weights = [model.get_parameter(f"{index}.weight") for index in (0, 2, 4)]
    for gradient in torch.autograd.grad(loss, weights):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_program_folds_no_layer_that_would_be_too_large(
    monkeypatch: pytest.MonkeyPatch, exact: OperatorNorms
) -> None:
    monkeypatch.setattr("withstand.graph.affine._MOST_ENTRIES", 20)
    images = torch.rand(2, 1, 4, 4)
    model = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    last = Program(model, images).run_to_last_layer(Ball(images, torch.ones(1)), exact)
    assert last.weight is model[3].weight
    model.append(nn.Unflatten(1, (3, 1))).append(nn.Flatten())
    last = Program(model, images).run_to_last_layer(Ball(images, torch.ones(1)), exact)
    assert last.weight.equal(torch.eye(3))
    torch.testing.assert_close(last.logits, model(images))


def test_program_computes_anew_what_depends_on_buffers_and_weights(exact: OperatorNorms) -> None:
    model = Written(
        lambda net, x: F.linear(x, net.layer.weight.abs() * (net.factor + 1)), layer=nn.Linear(3, 2)
    )
    model.register_buffer("factor", torch.ones(()))
    images = torch.rand(2, 3)
    program = Program(model, images)
    for factor in (1.0, 5.0):
        model.get_buffer("factor").fill_(factor)
        with torch.no_grad():
            model.get_parameter("layer.weight").mul_(1.5)
        result = program.run(Ball(images, torch.zeros(1)), exact)
        torch.testing.assert_close(result.midpoint, model(images))


def test_program_leaves_the_model_as_it_was() -> None:
    model = Written(lambda net, x: net.layer(x + torch.tensor([0.5])), layer=nn.Linear(3, 2))
    before = set(vars(model))
    Program(model, torch.rand(2, 3))
    assert set(vars(model)) == before


def test_program_leaves_what_a_forward_keeps_as_it_was(exact: OperatorNorms) -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        net.seen = net.layer(x)
        return net.seen * 2  # type: ignore[no-any-return]

    model, images = Written(compute, layer=nn.Linear(3, 2)), torch.rand(2, 3)
    expected = model(images)
    seen = model.seen
    Program(model, images)
    assert model.seen is seen
    torch.testing.assert_close(_ball(model, images, exact).midpoint, expected)


def test_program_unpacks_pieces(exact: OperatorNorms) -> None:
    def compute(net: Any, x: Tensor) -> Any:
        first, second = x.chunk(2, dim=1)
        return torch.cat([second, -first], dim=1)

    images = torch.rand(3, 4)
    torch.testing.assert_close(_ball(Written(compute), images, exact).midpoint, compute(None, images))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_program_takes_uneven_padding_to_the_same_size(exact: OperatorNorms) -> None:
    images = torch.rand(3, 1, 4, 5)
    for layer in (
        nn.Conv2d(1, 2, (2, 3), padding="same"),
        nn.Conv2d(1, 1, (4, 2), padding="same", dilation=(1, 3)),
    ):
        ball = _ball(layer, images, exact)
        torch.testing.assert_close(ball.midpoint, layer(images))
        for _ in range(20):
            moved = layer(images + 0.1 * torch.randn(3, 1, 4, 5).sign() / 20**0.5)
            assert ((moved - ball.midpoint).flatten(1).norm(dim=1) <= ball.radius + 1e-6).all()


# In place


def test_program_leaves_sets_alone_under_layers_in_place(
    nets: Callable[[str], Net], exact: OperatorNorms
) -> None:
    net = nets("relu")
    assert any(getattr(module, "inplace", False) for module in net.model.modules())
    lower, upper = net.images(4) - 0.5, net.images(4)
    before = lower.clone(), upper.clone()
    net.program.run(Box(lower, upper), exact)
    assert torch.equal(lower, before[0])
    assert torch.equal(upper, before[1])


def _plus(x: Any, y: Any) -> Any:
    x += y
    return x


def _filled(x: Tensor) -> Tensor:
    x[:, 1] = 0.5
    x[:, 2:].mul_(2)
    return x


def _zeroed(x: Tensor) -> Tensor:
    x[:, 1:].zero_()
    return x


def _model(compute: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Written(compute, layer=nn.Linear(3, 3), activation=nn.ReLU(inplace=True))


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: net.layer(net.activation(y := net.layer(x))) + y,
        lambda net, x: net.layer((y := net.layer(x)).relu_()) + y,
        lambda net, x: net.layer(F.relu((y := net.layer(x)).view(-1, 3), inplace=True)) + y,
        lambda net, x: (y := net.layer(x)) + _plus(y, net.layer(x)),
        lambda net, x: (y := x + 0).clamp_(0, 1) + y,  # which is seen outside [0, 1] alone
        lambda net, x: (y := net.layer(x)) + (y[:, :2].relu_().sum(1, keepdim=True) + y[:, :1]).expand(-1, 3),
        lambda net, x: net.layer(_filled(net.layer(x))),
        lambda net, x: net.layer(_filled(x)),
        lambda net, x: net.layer(_zeroed(net.layer(x))),
    ],
)
def test_program_takes_what_is_changed_in_place_and_read_again(compute: Any, exact: OperatorNorms) -> None:
    model, images = _model(compute), torch.rand(20, 3)
    for points in (images, 10 * torch.randn(20, 3)):
        torch.testing.assert_close(_ball(model, points, exact).midpoint, model(points.clone()))
    assert unsupported(model, images) == []


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: net.layer(y := F.relu(net.layer(x))) + y,
        lambda net, x: net.layer(y := net.activation(net.layer(x))) + y,
        lambda net, x: net.activation(_plus(net.layer(x), x)),
    ],
)
def test_program_takes_what_is_changed_in_place_and_not_read_again(
    compute: Any, exact: OperatorNorms
) -> None:
    model, images = _model(compute), torch.rand(20, 3)
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images.clone()))
    assert unsupported(model, images) == []


def test_program_refuses_randomness(exact: OperatorNorms) -> None:
    model = Written(lambda net, x: x + torch.rand(x.shape[1]))
    with pytest.raises(ModelError, match="randomness"):
        _ball(model, torch.rand(3, 4), exact)


# Modes


def test_program_in_train_mode_has_batchnorm_use_the_batch_of_centers(exact: OperatorNorms) -> None:
    norm = nn.BatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, -2, 2)
    model = nn.Sequential(nn.Conv2d(2, 3, 2).double(), norm, nn.Flatten()).train()
    state = copy.deepcopy(model.state_dict())
    images = torch.rand(6, 2, 3, 3, dtype=torch.float64)
    result = propagate(model, Ball(images, images.new_full((6,), 0.3)), norms=exact)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    torch.testing.assert_close(result.midpoint, model(images))
    # The scale depends on the weights before it, through the statistics.
    (through,) = torch.autograd.grad(result.radius.sum(), model.get_parameter("0.weight"))
    hidden = model[0](images).detach()
    variance = hidden.var((0, 2, 3), unbiased=False)
    steepest = (norm.weight.abs() / (variance + norm.eps).sqrt()).max()
    stretch = exact.of(Convolution(model.get_parameter("0.weight"), (1, 1), (0, 0), (1, 1)), (2, 3, 3), "")
    torch.testing.assert_close(result.radius, (0.3 * steepest * stretch).expand(6))
    held = 0.3 * 6 * steepest.detach() * stretch
    (alone,) = torch.autograd.grad(held, model.get_parameter("0.weight"))
    assert (through - alone).abs().max() > 1e-3


@pytest.mark.parametrize("inplace", [False, True])
def test_program_in_train_mode_takes_what_is_written_to_in_place(inplace: bool, exact: OperatorNorms) -> None:
    model = Written(
        lambda net, x: net.last(_filled(net.activation(net.norm(net.first(x))))),
        first=nn.Linear(3, 3),
        norm=nn.BatchNorm1d(3),
        activation=nn.ReLU(inplace),
        last=nn.Linear(3, 2),
    ).train()
    state, images = copy.deepcopy(model.state_dict()), torch.rand(5, 3)
    reached = _ball(model, images, exact).midpoint
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    torch.testing.assert_close(reached, model(images.clone()))


def test_program_refuses_statistics_of_the_batch_in_eval_mode(exact: OperatorNorms) -> None:
    model = nn.BatchNorm1d(3, track_running_stats=False)
    images = torch.rand(8, 3)
    torch.testing.assert_close(_ball(model.train(), images, exact).midpoint, model(images))
    with pytest.raises(UnsupportedOperationError, match="track_running_stats=True"):
        _ball(model.eval(), images, exact)


@pytest.mark.parametrize(
    ("layer", "share"), [(nn.Dropout(0.5), 0.5), (nn.Dropout2d(), 0.5), (nn.AlphaDropout(0.1), 0.1)]
)
def test_program_refuses_active_dropout_and_takes_resting_dropout(
    layer: nn.Module, share: float, exact: OperatorNorms
) -> None:
    images = torch.rand(2, 3, 2, 2)
    with pytest.raises(UnsupportedOperationError, match=r"it is active.* call eval\(\)"):
        _ball(layer.train(), images, exact)
    assert torch.equal(_ball(layer.eval(), images, exact).midpoint, images)
    functional = Written(lambda net, x: F.dropout(x, share, net.training))
    with pytest.raises(UnsupportedOperationError, match=r"aten\.\w*dropout .* it is active"):
        _ball(functional.train(), images, exact)
    assert torch.equal(_ball(functional.eval(), images, exact).midpoint, images)


def test_program_fits_its_model_until_the_graph_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    images = torch.rand(2, 3)
    program = Program(model, images)
    assert program.fits(model, images)
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    assert program.fits(model, images)
    assert not program.fits(copy.deepcopy(model), images)
    model.eval()
    assert not program.fits(model, images)
    assert program.fits(model.train(), images)
    assert not program.fits(model, images.double())
    assert not program.fits(model, torch.rand(2, 1, 3))
    handle = model[0].register_forward_hook(lambda *_: None)
    assert not program.fits(model, images)
    handle.remove()
    assert program.fits(model, images)
    cast("Any", model[1]).p = 0.1
    assert not program.fits(model, images)
    model[1] = nn.ReLU()
    assert not Program(model.eval(), images).fits(model.train(), images)


# Gradients where all is dead


@pytest.mark.parametrize("domain", ["box_ball", "box", "ball"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_program_of_dead_rows_has_gradients_that_are_numbers(
    domain: Any, epsilon: float, exact: OperatorNorms
) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.ReLU(),
        nn.Linear(4, 3),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "4.bias":
                parameter[0] = 0
        model.get_parameter("6.weight")[1] = 0
    images = torch.rand(3, 1, 3, 3)
    for mode in (True, False):
        value = input_set(images, 2.0, epsilon, domain)
        last = Program(model.train(mode), images).run_to_last_layer(value, exact)
        loss = F.cross_entropy(last.differences(torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2]))
        for gradient in torch.autograd.grad(loss, list(model.parameters())):
            assert gradient.isfinite().all()


# What is refused, and how


def _scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def test_faults_lists_all_that_is_missing_at_once() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.memory = nn.LSTM(4, 4, batch_first=True)

        @override
        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.memory(torch.cumsum(self.inner(x), 1).sort(1).values[:, None])[0]
            return hidden[:, 0].erfinv_()

    messages = unsupported(nn.Sequential(Own(), nn.Dropout()), torch.rand(3, 4))
    expected = [
        ("aten.cumsum", "cumsum", "in '0'"),
        ("aten.sort", "sort", "in '0'"),
        ("aten.lstm", "lstm", "in '0.memory'"),
        ("aten.erfinv", "erfinv_", "in '0'"),
        ("aten.dropout", "dropout", "in '1'"),
    ]
    assert len(messages) == len(expected)
    for message, (operation, node, path) in zip(messages, expected, strict=True):
        for part in (operation, f"node {node!r}", path):
            assert part in message
    assert "withstand.domains.register(torch.ops.aten.cumsum)" in messages[0]


def test_faults_of_a_net_that_can_be_bounded_are_none(net: Net) -> None:
    assert unsupported(net.model, net.images(3)) == []


@pytest.mark.parametrize(
    ("model", "shape", "match"),
    [
        (
            Written(lambda _, x: x.cumsum(1)),
            (4,),
            r"no rule for aten.cumsum \(node 'cumsum', in the model's own forward\)",
        ),
        (
            Written(lambda _, x: (lambda y: y[0] + y[1])(F.max_pool2d(x, 2, return_indices=True))),
            (1, 4, 4),
            "the indices of a maximum",
        ),
        (nn.Flatten(0), (4,), "keep the batch as its first dimension"),
        (nn.ELU(-1.0), (4,), "needs a positive alpha, but got -1"),
        (Written(lambda _, x: F.linear(x, x)), (4,), "a constant weight|mixes the images"),
        (Written(lambda _, x: x.mean()), (4,), "keep the batch|one value for all images"),
        (Written(lambda _, x: x - x.mean(0)), (4,), "one value for all images"),
        (Written(lambda _, x: x.mean(1, dtype=torch.float64)), (4,), "changes the precision"),
        (Written(lambda _, x: x.double()), (4,), "changes the precision"),
        (Written(lambda _, x: x[0]), (4,), "keep the batch|one value for all images"),
        (Written(lambda _, x: x.view(8)), (4,), "holds for one batch size alone"),
        (Written(lambda _, x: x.reshape(len(x), 4)), (4,), r"len\(x\), hold for one size"),
        (Written(lambda _, x: x.reshape(2, 4)), (4,), "holds for one batch size alone"),
        (Written(lambda _, x: x.permute(1, 0)), (4,), "keep the batch as its first dimension"),
        (Written(lambda _, x: x.unsqueeze(0)), (4,), "keep the batch as its first dimension"),
        (Written(lambda _, x: torch.cat([x, x])), (4,), "needs the batch as it is|keep the batch"),
        (Written(lambda _, x: F.pad(x, (0, 0, 1, 0))), (4,), "mixes the images"),
        (Written(lambda _, x: x @ x.T), (4,), "mixes the images"),
        (Written(lambda _, x: torch.ones(x.shape[0], 2)), (4,), "must depend on the input"),
        (
            Written(lambda _, x: x if x.sum() > 0 else -x),
            (4,),
            r"depends on the values of its input \(\S*test_interpreter.py:\d+",
        ),
        (Written(lambda _, x: (x, x)), (4,), "returns a tuple"),
        (Written(lambda _, x: {"logits": x}), (4,), "returns a dict"),
        (_scripted(nn.Linear(4, 2)), (4,), "is scripted"),
        (nn.LazyLinear(2), (4,), "lazy layers"),
        (nn.Linear(3, 2), (4,), "shapes cannot be multiplied|must have same reduction dim"),
        (models.MinMax(), (3,), "choose an even width"),
    ],
)
def test_program_refuses_what_cannot_be_bounded(
    model: nn.Module, shape: tuple[int, ...], match: str, exact: OperatorNorms
) -> None:
    images = torch.rand(2, *shape)
    with pytest.raises(ModelError, match=match):
        propagate(model.eval(), Ball(images, torch.ones(2)), norms=exact)
    assert any(re.search(match, message) for message in unsupported(model, images))


def test_program_refuses_negative_learnt_slopes(exact: OperatorNorms) -> None:
    layer = nn.PReLU(init=-0.1)
    with pytest.raises(UnsupportedOperationError, match="slopes of at least 0"):
        _ball(layer, torch.rand(2, 3), exact)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_program_takes_hooks_of_layers(position: int, exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Identity())
    value = Ball(torch.rand(2, 3), torch.ones(1))
    used = Program(model, value.center)
    used.run_to_last_layer(value, exact)
    handle = model[position].register_forward_pre_hook(lambda _, given: (given[0] + 1,))
    assert not used.fits(model, value.center)
    last = Program(model, value.center).run_to_last_layer(value, exact)
    torch.testing.assert_close(last.logits, model(value.center))
    handle.remove()
    assert used.fits(model, value.center)


def test_program_needs_logits_of_one_vector_an_example(exact: OperatorNorms) -> None:
    images = torch.rand(2, 1, 3, 3)
    with pytest.raises(ModelError, match=r"Expected logits \(batch, classes\), but .* \('batch', 1, 3, 5\)"):
        Program(nn.Linear(3, 5), images).run_to_last_layer(Ball(images, torch.ones(1)), exact)


# Rules of the user's own


@torch.library.custom_op("test_interpreter::tripled", mutates_args=())
def tripled(x: Tensor) -> Tensor:
    """An operator whose steps cannot be seen."""
    return 3 * x


@tripled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("operator", [tripled, torch.ops.test_interpreter.tripled.default])
def test_registered_rule_makes_an_operator_known(operator: Any, exact: OperatorNorms) -> None:
    model, images = Written(lambda net, x: tripled(net.layer(x)), layer=nn.Linear(3, 3)), torch.rand(2, 3)
    with pytest.raises(UnsupportedOperationError, match=r"no rule for test_interpreter\.tripled"):
        _ball(model, images, exact)

    @register(operator)
    def scale(site: Site, value: Any) -> Any:
        return value.affine(Diagonal(torch.tensor(3.0)), None, site.norm)

    assert unsupported(model, images) == []
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_registered_rule_makes_torch_operators_known(exact: OperatorNorms) -> None:
    model, images = Written(lambda _, x: torch.cumsum(x, 1) + 2 * x.cumsum(1)), torch.rand(2, 3)
    assert len(unsupported(model, images)) == 2

    @register(torch.ops.aten.cumsum)
    def cumsum(site: Site, value: Any, dim: int) -> Any:
        return value.affine(Dense(torch.ones(3, 3).tril()), None, site.norm)

    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_registered_rule_for_another_function_is_refused(exact: OperatorNorms) -> None:
    @register(tripled)
    def scale(site: Site, value: Any) -> Any:
        return value.affine(Diagonal(torch.tensor(2.0)), None, site.norm)

    with pytest.raises(ModelError, match="a rule of your own for another function"):
        _ball(Written(lambda _, x: tripled(x)), torch.rand(2, 3), exact)


@pytest.mark.parametrize("thing", [nn.Linear, torch.relu, Tensor.relu, "relu"])
def test_registration_of_what_is_no_operator_says_what_to_give(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.ops\.aten\.relu.*custom_op"):
        register(thing)
