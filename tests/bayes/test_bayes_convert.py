"""From plain networks to random ones and back, bit for bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from withstand import bayes, models
from withstand.bayes import Posterior
from withstand.types import ModelError

PICTURE, SMALL, SIGNAL = (2, 3, 32, 32), (5, 1, 12, 12), (4, 2, 9)


def _normed() -> nn.Module:
    return nn.Sequential(
        *[nn.Conv2d(1, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.ReLU(), nn.BatchNorm2d(4)],
        *[nn.Conv2d(4, 2, 3, stride=2, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(50, 6)],
        *[nn.BatchNorm1d(6), nn.LayerNorm(6), nn.Dropout(0.3), nn.Linear(6, 3)],
    )


def _signals() -> nn.Module:
    return nn.Sequential(
        *[nn.Conv1d(2, 4, 3, groups=2, dilation=2), nn.BatchNorm1d(4), nn.LayerNorm([4, 5]), nn.Flatten()],
        *[nn.Linear(20, 3)],
    )


NETS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: models.create("mlp", dataset="digits", hidden=[20, 20]), (5, 1, 8, 8)),
    "lenet": (lambda: models.create("lenet", dataset="mnist", batch_norm=True), (2, 1, 28, 28)),
    "vgg11": (lambda: models.create("vgg11", dataset="cifar10"), PICTURE),
    "resnet18": (lambda: models.create("resnet18", dataset="cifar10", batch_norm=True), PICTURE),
    "all norms": (_normed, SMALL),
    "signals": (_signals, SIGNAL),
    "a layer": (lambda: nn.Linear(4, 2), (3, 4)),
}


def _answers(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(7)  # dropout
    with torch.no_grad():
        answers: Tensor = model(images)
    return answers


@pytest.mark.parametrize("name", NETS)
def test_convert_and_mean_network_give_the_same_answers_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, images = make(), torch.rand(shape)
    _answers(net, images)  # running statistics are not those of the beginning
    random = bayes.convert(net)
    assert bayes.is_stochastic(random)
    assert not bayes.is_stochastic(net)
    back = bayes.mean_network(random)
    kinds = [type(module) for module in net.modules()]
    assert [type(module) for module in back.modules()] == kinds
    for training in (False, True):  # train mode last: it moves running statistics
        expected = _answers(net.train(training), images)
        assert torch.equal(_answers(back.train(training), images), expected)
        with bayes.at_posterior_mean(random):
            assert torch.equal(_answers(random.train(training), images), expected)
        assert not torch.equal(_answers(copy.deepcopy(random), images), expected)
    for other in (back.state_dict(), random.state_dict()):  # so the keys of the means are those of the net
        for key, value in net.state_dict().items():
            assert torch.equal(other[key], value), key
    assert list(back.state_dict()) == list(net.state_dict())
    assert {key.removesuffix("_rho") for key in random.state_dict()} == set(net.state_dict())


def test_convert_names_parameters_that_it_cannot_draw_until_they_are_left_out() -> None:
    class Own(nn.Linear):
        pass

    net = nn.Sequential(
        *[nn.Linear(3, 3), Own(3, 3), nn.BatchNorm1d(3, affine=False), nn.LayerNorm(3, bias=False)],
        *[nn.InstanceNorm1d(3, affine=True), nn.ReLU(), nn.Embedding(2, 2)],
    )
    with pytest.raises(
        ModelError, match=r"'1.weight' of Own, '1.bias' of Own, '4.weight'.*'6.weight' of Emb"
    ):
        bayes.convert(net)
    with pytest.raises(ModelError, match=r"'4\.weight'.*layers=\{'4': None, '6': None\}"):
        bayes.convert(net, layers={"1": None})
    random = bayes.convert(net, layers={"1": None, "4": None, "6": None})
    assert [path for path, _ in bayes.variational_layers(random)] == ["0", "3"]
    assert bayes.variational_layers(net) == []
    assert bayes.is_stochastic(random.train()) is True


class _Tokens(nn.Module):
    """Parameters of its own beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.scale = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer((x + self.token) * self.scale)
        return result


def test_convert_leaves_single_parameters_out_by_their_paths() -> None:
    net, inner = nn.Sequential(_Tokens()), _Tokens()
    with pytest.raises(ModelError, match=r"layers=\{'0\.token': None, '0\.scale': None\}"):
        bayes.convert(net)
    with pytest.raises(ModelError, match=r"layers=\{'scale': None\}"):
        bayes.convert(inner, layers={"token": None})
    random = bayes.convert(inner, layers={"token": None, "scale": None})
    assert [path for path, _ in bayes.variational_layers(random)] == ["layer"]
    with pytest.raises(ModelError, match="'token' cannot be random"):
        bayes.convert(inner, layers={"token": Posterior()})
    with pytest.raises(ModelError, match=r"no layer 'layer\.bias'"):
        bayes.convert(inner, layers={"layer.bias": None})


def test_convert_goes_by_the_longest_path() -> None:
    def block() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))

    net = nn.Sequential(block(), nn.Sequential(*[block() for _ in range(11)]))
    one, two, rest = (Posterior(prior_std=std) for std in (1.0, 2.0, 3.0))
    random = bayes.convert(net, rest, {"1": None, "1.1": one, "1.1.1": two, "1.10.0": rest})
    result = {path: layer.posterior.prior_std for path, layer in bayes.variational_layers(random)}
    assert result == {"0.0": 3.0, "0.1": 3.0, "1.1.0": 1.0, "1.1.1": 2.0, "1.10.0": 3.0}
    all_but = bayes.convert(net, layers={"": None, "0.0": one})
    assert [path for path, _ in bayes.variational_layers(all_but)] == ["0.0"]


@pytest.mark.parametrize("parametrization", ["softplus", "log"])
def test_convert_starts_layers_at_their_weights_and_initial_stds(
    parametrization: bayes.posterior.Parametrization,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50))
    before = torch.get_rng_state()
    random = bayes.convert(net, Posterior(initial_std=0.03, parametrization=parametrization))
    assert torch.equal(before, torch.get_rng_state())
    for _, layer in bayes.variational_layers(random):
        for normal in layer.normals().values():
            torch.testing.assert_close(normal.std, torch.full_like(normal.mean, 0.03))
            assert normal.prior_std == 0.1
    posterior = Posterior(initial_std=(0.2, 0.1), parametrization=parametrization, mean_range=0.5)
    random = bayes.convert(net, posterior)
    (_, linear), (_, norm) = bayes.variational_layers(random)
    for normal in linear.normals().values():
        assert 0.1 <= normal.std.min() < 0.12 < 0.18 < normal.std.max() <= 0.2
        assert -0.5 <= normal.mean.min() < -0.45 < 0.45 < normal.mean.max() <= 0.5
    assert norm.normals()["weight"].mean.eq(1).all()  # norm layers keep their means


def test_convert_gives_a_copy_that_shares_nothing_and_keeps_what_hung_on_the_net() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    net[0].weight.requires_grad_(False)
    seen: list[int] = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    random = bayes.convert(net)
    random(torch.rand(2, 3))
    assert seen == [1]
    assert not any(module.training for module in random.modules())
    assert not random.get_parameter("0.weight_rho").requires_grad
    assert random.get_parameter("0.bias_rho").requires_grad
    with torch.no_grad():
        for parameter in [*random.parameters(), *bayes.mean_network(random).parameters()]:
            parameter.fill_(9)
    assert net.get_parameter("1.weight").abs().max() < 9
    assert bayes.mean_network(net) is not net


def test_random_weights_go_through_files_and_deep_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    posterior = Posterior(initial_std=(0.01, 0.2))
    first, second = (bayes.convert(_normed(), posterior) for _ in range(2))
    images = torch.rand(SMALL)
    models.save_weights(first, tmp_path / "random.safetensors")
    torch.save(first.state_dict(), tmp_path / "random.pt")
    expected = _answers(first.eval(), images)
    assert not torch.equal(_answers(second.eval(), images), expected)
    for name in ("random.safetensors", "random.pt"):
        fresh = copy.deepcopy(second)
        models.load_weights(fresh, tmp_path / name)
        assert torch.equal(_answers(fresh, images), expected)
        assert torch.equal(_answers(copy.deepcopy(fresh), images), expected)
    # A plain net's weights are means.
    plain = _normed()
    lacking, surplus = second.load_state_dict(plain.state_dict(), strict=False)
    assert surplus == []
    assert all(key.endswith("_rho") for key in lacking)
    with bayes.at_posterior_mean(second):
        assert torch.equal(_answers(second, images), _answers(plain.eval(), images))


def test_convert_refuses_what_cannot_become_random() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    with pytest.raises(ModelError, match=r"has random weights already; start from bayes\.mean_network"):
        bayes.convert(bayes.convert(net))
    with pytest.raises(ModelError, match=r"no layer '3'; did you mean"):
        bayes.convert(net, layers={"3": None})
    for nothing in (nn.Flatten(), nn.BatchNorm1d(3, affine=False)):
        with pytest.raises(ModelError, match="no layer that can be made random"):
            bayes.convert(nothing)
    with pytest.raises(ModelError, match="no layer that can be made random"):
        bayes.convert(net, layers={"": None})


def test_convert_refuses_shared_weights_however_they_are_shared() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    tied, twice = copy.deepcopy(net), copy.deepcopy(net)
    tied[2].weight = tied[0].weight
    twice[2] = twice[0]
    for shared in (tied, twice):
        with pytest.raises(ModelError, match=r"'0' and '2' share their weight.*\{'0': None, '2': None\}"):
            bayes.convert(shared)
        with pytest.raises(ModelError, match="share their weight"):
            bayes.convert(shared, layers={"0": None})
        random = bayes.convert(shared, layers={"0": None, "2": None})
        assert [path for path, _ in bayes.variational_layers(random)] == ["1"]


def test_mean_network_makes_one_plain_layer_of_a_random_layer_used_twice() -> None:
    layer = bayes.Linear(3, 3)
    back = bayes.mean_network(nn.Sequential(layer, nn.ReLU(), layer))
    assert isinstance(back, nn.Sequential)
    assert back[0] is back[2]
    assert type(back[0]) is nn.Linear
    assert len(back.state_dict()) == 4


def test_convert_refuses_parametrised_layers_unless_left_out() -> None:
    net = nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 3))
    with pytest.raises(ModelError, match=r"'0' computes its weight.*layers=\{'0': None\}"):
        bayes.convert(net)
    assert [path for path, _ in bayes.variational_layers(bayes.convert(net, layers={"0": None}))] == ["1"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"prior_std": 0.0}, {"prior_std": -1.0}, {"prior_std": math.inf}, {"initial_std": 0.0}),
        *({"initial_std": (0.1, -0.1)}, {"initial_std": math.nan}, {"mean_range": -0.1}),
    ],
)
def test_posterior_refuses_numbers_that_are_no_deviations(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"Expected (every one of )?{name}"):
        Posterior(**wrong)  # type: ignore[arg-type]


class _Ordered(nn.Module):
    """Keeps its layers twice, once in a plain list that no module knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.order = [self.first, self.second]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x


def test_convert_keeps_layer_objects_for_whoever_holds_them() -> None:
    torch.manual_seed(0)
    plain, x = _Ordered(), torch.rand(2, 4)
    model = bayes.convert(plain)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(bayes.mean_network(model)(x), plain(x))


@pytest.mark.parametrize("wrap", [torch.nn.utils.spectral_norm, torch.nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_convert_refuses_weights_computed_in_torchs_old_ways(wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ModelError, match=r"Leave it out|Remove what computes its weights"):
        bayes.convert(nn.Sequential(wrap(nn.Linear(4, 3)), nn.Linear(3, 2)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(bayes.Linear(4, 3), (4,)), (bayes.Conv2d(1, 2, 3), (1, 5, 5)), (bayes.LayerNorm(4), (4,))],
)
def test_random_layer_refuses_an_input_without_a_batch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="Put the batch first"):
        layer(torch.rand(shape))


@pytest.mark.parametrize("name", ["parametrization", "estimator"])
def test_posterior_refuses_unknown_words(name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {name} to be one of .*, but got 'sigmoid'"):
        Posterior(**{name: "sigmoid"})  # type: ignore[arg-type]
