"""Wrappers of a network: what is inside, its names, and everything that goes by them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override

import withstand as ws
from withstand.core.wrappers import own_state, unwrapped, unwrapped_copy
from withstand.types import ModelError

IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def compiled(model: nn.Module, backend: str = "eager") -> Any:
    return torch.compile(model, backend=backend)


def with_compiled_part(model: nn.Module, backend: str = "eager") -> nn.Module:
    return nn.Sequential(
        OrderedDict(normalize=ws.models.Normalize([0.5], [0.5]), network=compiled(model, backend))
    )


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


@pytest.fixture(scope="module")
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = f"file://{tmp_path_factory.mktemp('group') / 'store'}"
    distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


AROUND: list[Callable[[nn.Module], Any]] = [
    compiled,
    nn.DataParallel,
    DistributedDataParallel,
    AveragedModel,
    lambda model: compiled(nn.DataParallel(model)),
]
PARTLY: list[Callable[[nn.Module], nn.Module]] = [
    partial(with_compiled_part, backend="aot_eager"),  # whose graphs have no second derivative
    compiled_in_place,
]


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("wrap", AROUND)
def test_unwrapped_is_the_network_inside(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    model = net()
    wrapper = wrap(model)
    inside = unwrapped(wrapper)
    assert type(inside) is nn.Sequential
    assert [*own_state(wrapper)] == [*model.state_dict()]
    file = tmp_path / "weights.safetensors"
    ws.models.save_weights(wrapper, file)
    with safe_open(file, "pt") as saved:
        assert {*saved.keys()} == {*model.state_dict()}
    for weight in wrapper.parameters():
        weight.data.zero_()
    ws.models.load_weights(wrapper, file)
    torch.testing.assert_close(inside.state_dict(), net().state_dict())


def test_unwrapped_of_another_model_is_that_model() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 2)))
    assert unwrapped(model) is model


def test_unwrapped_refuses_what_is_no_module() -> None:
    program = torch.export.export(nn.Linear(4, 3), (torch.rand(2, 4),))
    with pytest.raises(ModelError, match=r"module\(\) returns"):
        unwrapped(program)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, *PARTLY])
def test_wrapped_model_gives_what_the_network_gives(wrap: Callable[[nn.Module], nn.Module]) -> None:
    def losses(model: nn.Module) -> list[float]:
        box = ws.objectives.Certified(norm=float("inf"), epsilon=0.05, domain="box")
        values = []
        for objective in (box, ws.penalties.InputGradient()):
            loss = objective(model, IMAGES, LABELS).loss
            loss.backward()
            values.append(loss.item())
        ws.constraints.SpectralBall(0.1).project_(model)
        certification = ws.certify(model, IMAGES, LABELS, norm=2, epsilon=0.01)
        return [*values, *certification.margin.tolist()]

    plain = unwrapped_copy(wrap(net()))
    assert losses(wrap(net())) == pytest.approx(losses(plain), rel=1e-4)


def test_unwrapped_copy_has_no_wrapped_part() -> None:
    model = with_compiled_part(nn.Sequential(OrderedDict(inner=nn.DataParallel(net()))))
    copied = unwrapped_copy(model)
    assert [*copied.state_dict()] == [*own_state(model)]
    assert "_orig_mod" not in repr(copied)
    torch.testing.assert_close(copied.eval()(IMAGES), model.eval()(IMAGES))


def test_weights_of_a_model_with_a_wrapped_part_have_its_own_names(tmp_path: Path) -> None:
    model, plain = (
        with_compiled_part(net()),
        nn.Sequential(OrderedDict(normalize=nn.Identity(), network=net())),
    )
    assert {name for name in own_state(model) if "normalize" not in name} == {*plain.state_dict()}
    ws.models.save_weights(model, tmp_path / "weights.safetensors")
    ws.models.load_weights(model, tmp_path / "weights.safetensors")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_model_trains_and_is_attacked_but_is_not_captured() -> None:
    model: Any = torch.jit.script(net())
    objective = (
        ws.objectives.Adversarial(ws.attacks.PGD(epsilon=0.1, num_steps=1)) + ws.penalties.LossGradient()
    )
    objective(model, IMAGES, LABELS).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    with pytest.raises(ModelError, match="Python module that it was made of"):
        ws.objectives.Certified(norm=2, epsilon=0.1)(model, IMAGES, LABELS)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch, of itself
def test_exported_model_is_proven_but_not_trained(tmp_path: Path) -> None:
    plain = net().eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    model = torch.export.export(plain, (IMAGES,), dynamic_shapes=shapes).module()
    proven, expected = (ws.certify(part, IMAGES, LABELS, norm=2, epsilon=0.01) for part in (model, plain))
    torch.testing.assert_close(proven.margin, expected.margin)
    dataset = ws.data.from_arrays((IMAGES, LABELS), (1 - IMAGES, LABELS), name="tiny")
    settings = ws.training.TrainingSettings(epochs=1, batch_size=2)
    with pytest.raises(ModelError, match="Train the module that it was exported of"):
        ws.fit(model, dataset, ws.objectives.CrossEntropy(), settings, out=tmp_path)


class Finetuned(nn.Module):
    """As adapters of low rank are: around a model, with layers beside its layers."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_model = base.requires_grad_(False)
        self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 3, bias=False)

    @override
    def forward(self, *args: Any, **options: Any) -> Tensor:
        return self.base_model(*args, **options) + self.up(self.down(args[0].flatten(1)))  # type: ignore[no-any-return]


def test_model_with_adapters_of_low_rank_is_trained_and_proven() -> None:
    model = Finetuned(net())
    objective = ws.objectives.Certified(norm=2, epsilon=0.1) + ws.penalties.InputGradient()
    objective(model, IMAGES, LABELS).loss.backward()
    assert model.up.weight.grad is not None
    assert model.base_model[1].weight.grad is None  # type: ignore[index]
    assert ws.certify(model, IMAGES, LABELS, norm=2, epsilon=0.0).margin.shape == (4,)


class WithHeads(nn.Module):
    """As Inception and GoogLeNet are: more than one head while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.beside = net(), nn.Linear(16, 3)

    @override
    def forward(self, images: Tensor) -> Any:
        logits = self.network(images)
        return (logits, self.beside(images.flatten(1))) if self.training else logits


def test_auxiliary_heads_are_said_not_to_be_trained(caplog: pytest.LogCaptureFixture) -> None:
    model = WithHeads()
    for _ in range(2):
        ws.objectives.CrossEntropy()(model, IMAGES, LABELS).loss.backward()
    assert model.beside.weight.grad is None
    assert sum("auxiliary" in record.message for record in caplog.records) == 1
