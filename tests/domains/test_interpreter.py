"""How networks are read: whatever their forward looks like, as they are or not at all."""

from __future__ import annotations

import copy
import math
import re
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
    monkeypatch.setattr(registry, "_MODULES", dict(registry._MODULES))
    monkeypatch.setattr(registry, "_FUNCTIONS", dict(registry._FUNCTIONS))
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
    program = Program(model)
    with torch.no_grad():
        expected = model(images)
        for value in (Ball(images, torch.zeros(1)), BoxBall(Ball(images, torch.zeros(1)))):
            last = program.run_to_last_layer(value, _Ones())
            assert isinstance(last.weight, nn.Parameter)
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


def test_program_takes_a_last_layer_as_one_only_where_it_computes_so(exact: OperatorNorms) -> None:
    class Halved(nn.Linear):
        @override
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 2

    class Shifted(nn.Identity):
        @override
        def forward(self, input: Tensor) -> Tensor:
            return input + torch.arange(2.0)

    @register(Halved)
    def halved(site: Site, layer: Halved, value: Any) -> Any:
        return value.affine(Dense(layer.weight / 2), layer.bias / 2, site.norm)

    @register(Shifted)
    def shifted(site: Site, layer: Shifted, value: Any) -> Any:
        return value.shift(torch.arange(2.0))

    images = torch.rand(4, 3)
    for model in (Halved(3, 2), nn.Sequential(nn.Linear(3, 2), Shifted())):
        last = Program(model).run_to_last_layer(Ball(images, torch.zeros(1)), exact)
        torch.testing.assert_close(last.logits, model(images))


def test_program_computes_anew_what_depends_on_buffers_and_weights(exact: OperatorNorms) -> None:
    model = Written(
        lambda net, x: F.linear(x, net.layer.weight.abs() * (net.factor + 1)), layer=nn.Linear(3, 2)
    )
    model.register_buffer("factor", torch.ones(()))
    program, images = Program(model), torch.rand(2, 3)
    for factor in (1.0, 5.0):
        model.get_buffer("factor").fill_(factor)
        with torch.no_grad():
            model.get_parameter("layer.weight").mul_(1.5)
        result = program.run(Ball(images, torch.zeros(1)), exact)
        torch.testing.assert_close(result.midpoint, model(images))


def test_program_leaves_the_model_as_it_was() -> None:
    model = Written(lambda net, x: net.layer(x + torch.tensor([0.5])), layer=nn.Linear(3, 2))
    before = set(vars(model))
    Program(model)
    assert set(vars(model)) == before


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
    ],
)
def test_program_refuses_what_is_changed_in_place_and_read_again(compute: Any, exact: OperatorNorms) -> None:
    model, images = _model(compute), torch.rand(20, 3)
    with pytest.raises(ModelError, match=r"computes something else .* in place \(x \+= y"):
        _ball(model, images, exact)
    (message,) = unsupported(model, images)
    assert "in place" in message


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


def test_program_has_batchnorm_without_statistics_use_the_batch(exact: OperatorNorms) -> None:
    model = nn.BatchNorm1d(3, track_running_stats=False).eval()
    images = torch.rand(8, 3)
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


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
    with pytest.raises(UnsupportedOperationError, match=r"torch.nn.functional.dropout .* it is active"):
        _ball(functional.train(), images, exact)
    assert torch.equal(_ball(functional.eval(), images, exact).midpoint, images)


def test_program_fits_its_model_until_the_graph_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    program = Program(model)
    assert program.fits(model)
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    assert program.fits(model)
    assert not program.fits(copy.deepcopy(model))
    model.eval()
    assert not program.fits(model)
    assert program.fits(model.train())
    handle = model[0].register_forward_hook(lambda *_: None)
    assert not program.fits(model)
    handle.remove()
    assert program.fits(model)
    cast("Any", model[1]).p = 0.1
    assert not program.fits(model)
    model[1] = nn.ReLU()
    assert not Program(model.eval()).fits(model.train())


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
        last = Program(model.train(mode)).run_to_last_layer(value, exact)
        loss = F.cross_entropy(last.differences(torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2]))
        for gradient in torch.autograd.grad(loss, list(model.parameters())):
            assert gradient.isfinite().all()


# What is refused, and how


def test_faults_lists_all_that_is_missing_at_once() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4))
            self.memory = nn.LSTM(4, 4)

        @override
        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.memory(torch.cumsum(self.inner(x), 1) ** 2)[0].exp_()
            return outputs

    messages = unsupported(nn.Sequential(Own(), nn.Dropout(), nn.Softmax(1)), torch.rand(3, 4))
    expected = [
        ("torch.nn.GroupNorm", "model_0_inner_1", "in '0.inner.1'"),
        ("torch.cumsum", "cumsum", "in '0'"),
        ("_operator.pow", "pow_1", "in '0'"),
        ("torch.nn.LSTM", "model_0_memory", "in '0.memory'"),
        ("torch.Tensor.exp_", "exp_", "in '0'"),
        ("torch.nn.Dropout", "model_1", "in '1'"),
        ("torch.nn.Softmax", "model_2", "in '2'"),
    ]
    assert len(messages) == len(expected)
    for message, (operation, node, path) in zip(messages, expected, strict=True):
        for part in (operation.lstrip("_"), f"node {node!r}", path, "withstand.domains.register("):
            assert part in message


def test_faults_of_a_net_that_can_be_bounded_are_none(net: Net) -> None:
    assert unsupported(net.model, net.images(3)) == []


@pytest.mark.parametrize(
    ("model", "shape", "match"),
    [
        (
            nn.LayerNorm(4),
            (4,),
            r"no rule for torch.nn.LayerNorm \(node 'model', in the model's own forward\)",
        ),
        (nn.Softmax(1), (4,), r"no rule for torch.nn.Softmax .*register\(torch.nn.Softmax\)"),
        (
            nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
            (1, 4, 4),
            "knows padding by zeros, .*'reflect'",
        ),
        (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4), "knows no divisor_override"),
        (nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "not the indices"),
        (nn.Flatten(0), (4,), "needs the batch as it is"),
        (nn.ELU(-1.0), (4,), "needs a positive alpha, but got -1"),
        (Written(lambda _, x: x * x), (4,), "both factors depend on the input"),
        (Written(lambda _, x: x * torch.ones(3, 1, 4)), (4,), r"\(2, 4\), but the constant, \(3, 1, 4\)"),
        (Written(lambda _, x: x[:, :1] + torch.ones(4)), (4,), "repeat nothing"),
        (Written(lambda _, x: x[:, :1] + x), (4,), r"sums of one shape, but got \(2, 1\) and \(2, 4\)"),
        (Written(lambda _, x: 1 / x), (4,), "the divisor depends on the input"),
        (Written(lambda _, x: torch.ones(2, 2) @ x), (4,), "products x @ A by a constant matrix"),
        (Written(lambda _, x: F.linear(x, x)), (4,), "a constant weight"),
        (Written(lambda _, x: x.mean()), (4,), "the batch is averaged"),
        (
            Written(lambda _, x: x.mean(1, dtype=torch.float64)),
            (4,),
            "does not know all its arguments here: .*dtype",
        ),
        (Written(lambda _, x: x[0]), (4,), "knows `:` first"),
        (Written(lambda _, x: x[:, [0, 0]]), (4,), "knows `:` first"),
        (Written(lambda _, x: x[..., 0, 0]), (4,), "knows `:` first"),
        (Written(lambda _, x: x.view(8)), (4,), "needs the batch as it is"),
        (Written(lambda _, x: x.permute(1, 0)), (4,), "needs the batch as it is"),
        (Written(lambda _, x: x.transpose(0, 1)), (4,), "needs the batch as it is"),
        (Written(lambda _, x: x.unsqueeze(0)), (4,), "needs the batch as it is"),
        (Written(lambda _, x: x.squeeze(0)), (4,), "needs the batch as it is"),
        (Written(lambda _, x: torch.cat([x, x])), (4,), "needs the batch as it is"),
        (Written(lambda _, x: torch.cat([x, torch.ones(2, 1)], 1)), (4,), "no constants among what it joins"),
        (Written(lambda _, x: x.chunk(2)[0]), (4,), "needs the batch as it is"),
        (Written(lambda _, x: F.pad(x, (0, 0, 1, 0))), (4,), "needs the batch as it is"),
        (Written(lambda _, x: F.pad(x, (1, 0), mode="replicate")), (2, 4), "mode='replicate'"),
        (Written(lambda _, x: x.clamp(torch.zeros(4))), (4,), "bounds that are numbers"),
        (Written(lambda _, x: x.T), (4,), "knows the attributes .*'T'"),
        (
            Written(lambda _, x: x if x.sum() > 0 else -x),
            (4,),
            "cannot be traced: .* do not depend on the values",
        ),
        (Written(lambda _, x: (x, x)), (4,), "returns a tuple"),
        (Written(lambda _, x: {"logits": x}), (4,), "returns a dict"),
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
def test_program_refuses_hooks_of_layers(position: int, exact: OperatorNorms) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Identity())
    value, match = Ball(torch.rand(2, 3), torch.ones(1)), "cannot see forward hooks.*utils.parametrizations"
    used = Program(model)
    used.run_to_last_layer(value, exact)
    handle = model[position].register_forward_pre_hook(lambda _, given: (given[0] + 1,))
    for program in (used, Program(model)):
        with pytest.raises(UnsupportedOperationError, match=match):
            program.run_to_last_layer(value, exact)
    assert re.search(match, "".join(unsupported(model, value.center)))
    handle.remove()
    Program(model).run_to_last_layer(value, exact)


def test_program_needs_logits_of_one_vector_an_example(exact: OperatorNorms) -> None:
    images = torch.rand(2, 1, 3, 3)
    with pytest.raises(ModelError, match=r"Expected logits \(batch, classes\), but .* \(2, 1, 3, 5\)"):
        Program(nn.Linear(3, 5)).run_to_last_layer(Ball(images, torch.ones(1)), exact)


# Rules of the user's own


class Scale(nn.Module):
    """No rule knows it, and tracing cannot look into it."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x if x.sum() > -math.inf else x


def test_registered_rule_makes_a_layer_known(exact: OperatorNorms) -> None:
    model, images = nn.Sequential(nn.Linear(3, 3), Scale()), torch.rand(2, 3)
    with pytest.raises(ModelError, match="cannot be traced"):
        _ball(model, images, exact)

    @register(Scale)
    def scale(site: Site, layer: Scale, value: Any) -> Any:
        return value.affine(Diagonal(torch.tensor(3.0)), None, site.norm)

    assert unsupported(model, images) == []
    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_registered_rule_makes_functions_and_methods_known(exact: OperatorNorms) -> None:
    model, images = Written(lambda _, x: torch.cumsum(x, 1) + x.cumsum(1)), torch.rand(2, 3)
    assert len(unsupported(model, images)) == 2

    @register(torch.cumsum, Tensor.cumsum)
    def cumsum(site: Site, value: Any, dim: int) -> Any:
        return value.affine(Dense(torch.ones(3, 3).tril()), None, site.norm)

    torch.testing.assert_close(_ball(model, images, exact).midpoint, model(images))


def test_registered_rule_for_another_function_is_refused(exact: OperatorNorms) -> None:
    @register(Scale)
    def scale(site: Site, layer: Scale, value: Any) -> Any:
        return value.affine(Diagonal(torch.tensor(2.0)), None, site.norm)

    with pytest.raises(ModelError, match="a rule of your own for another function"):
        _ball(Scale(), torch.rand(2, 3), exact)
