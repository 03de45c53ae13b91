"""Training on two processes gives what one gives: every recipe's objective, every penalty, what is drawn."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import withstand as ws
from withstand.core.dataset_info import DatasetInfo
from withstand.core.processes import is_first, num_processes, rank
from withstand.data import Dataset, Split
from withstand.objectives import Objective
from withstand.objectives.adversarial import UnderAttack
from withstand.recipes.parsing import find_recipe, packaged_recipes, parse_recipe
from withstand.training import TrainingSettings, WeightAverage, fit

o, p = ws.objectives, ws.penalties
NUM, BATCH = 37, 13  # three steps, of which none can be halved, and the last is smaller
CLASSES = 4
DEFORM = ws.data.Deform(translation=1.0, displacement=0.5, smoothness=1.0)
PGD = ws.attacks.PGD(epsilon=0.1, num_steps=2)
RANDOM = (o.Variational, p.SpectralExpectation)

OWN: dict[str, Callable[[], Objective]] = {
    "input gradient": lambda: o.CrossEntropy() + 0.1 * p.InputGradient(),
    "loss gradient": lambda: o.CrossEntropy() + p.LossGradient(),
    "tangents": lambda: o.CrossEntropy() + 0.1 * p.TangentGradient(DEFORM, num_tangents=3),
    "deformations": lambda: o.CrossEntropy() + 0.1 * p.DeformationStability(DEFORM, num_deformations=2),
    "perturbations": lambda: o.CrossEntropy() + 0.1 * p.AdversarialPerturbation(0.5, num_steps=2),
    "candidates": lambda: p.AdversarialPerturbation(0.5, num_steps=2, candidates=3) + o.CrossEntropy(),
    "alignment": lambda: o.CrossEntropy() + p.GradientAlignment(0.1),
    "virtual": lambda: o.CrossEntropy() + p.VirtualAdversarial(0.5),
    "noise": lambda: o.NoisyCrossEntropy(noise_std=0.3),
    "draws": lambda: o.Variational(
        num_samples=3, likelihood=o.Adversarial(PGD), prior=ws.bayes.MixturePrior()
    ),
    "linear": lambda: o.Certified(math.inf, 0.02, domain="linear", kappa=0.5),
    "moments": lambda: o.GaussianExpectation(noise_std=0.2),
    "class weights": lambda: o.Adversarial(PGD, label_smoothing=0.1, class_weights=[1, 2, 3, 4]),
    "perturbed weights": lambda: o.WeightPerturbation(o.NoisyCrossEntropy(0.2) + p.InputGradient(), 0.05),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "dropout": {},
    "unlike start": {},
    "synchronised statistics": {"sync_batch_norm": True},
    "synchronised statistics in bounds": {"sync_batch_norm": True},
    "synchronised statistics at perturbed weights": {"sync_batch_norm": True},
    "augmented": {"augment": ws.data.Augment(crop_padding=1, flip=True)},
    "deformed": {"augment": DEFORM},
    "in parts": {"micro_batches": 2},
    "attacked validation": {"selection": PGD},
    "constrained": {"constraints": [ws.constraints.SpectralBall(1.0)]},
    "averaged": {"average": WeightAverage(0.5), "sync_batch_norm": True},
}
DIVIDED: dict[str, Callable[[], Objective]] = {
    "adversarial": lambda: o.Adversarial(PGD),
    "certified": lambda: o.Certified(math.inf, 0.02, domain="box", kappa=0.5),
    "perturbed weights": lambda: o.WeightPerturbation(o.TRADES(PGD), 0.05),
    "largest of a batch": OWN["perturbations"],
    "random weights": OWN["draws"],
}
STEPS, KEPT, STOPPED = 55, 50, 52  # with a checkpoint at 50


class Trained(NamedTuple):
    """What three steps came to: the weights, and the numbers of the log."""

    weights: dict[str, Tensor]
    row: dict[str, float]


def split(num: int, channels: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, channels, 8, 8), generator=generator).to(torch.uint8)
    return Split(pixels, torch.arange(num) % CLASSES)


def data(channels: int = 1) -> Dataset:
    info = DatasetInfo("made", (channels, 8, 8), tuple("abcd"), (0.5,) * channels, (0.3,) * channels)
    parts = [split(num, channels, seed) for seed, num in enumerate((NUM, 21, 5))]
    return Dataset(info, train=parts[0], validation=parts[1], test=parts[2])


def net(channels: int = 1, *extra: nn.Module, is_random: bool = False) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(channels, 4, 3), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, CLASSES))
    return ws.bayes.convert(model) if is_random else model


def is_random(objective: Objective) -> bool:
    return any(isinstance(part, RANDOM) for part in objective.modules())


def of_recipe(name: str, **options: Any) -> Trained:
    """A small network after three steps as a recipe makes them, well into what it schedules."""
    recipe = parse_recipe(find_recipe(name)).recipe
    objective = recipe.objective
    channels = 1 if "mnist" in name or "fashion" in name or "digits" in name else 3
    extra: list[nn.Module] = []
    for part in objective.modules():
        if isinstance(part, o.WeightPerturbation):
            part.gamma = 0.05
        elif isinstance(part, UnderAttack) and isinstance(part.attack, ws.attacks.PGD):
            part.attack = replace(part.attack, num_steps=2, epsilon=part.attack.epsilon_at(3.5))
        elif isinstance(part, UnderAttack):
            part.attack = part.attack.at(part.attack.epsilon_at(3.5))
            extra.append(nn.Hardtanh())  # for a gradient to pass straight through
        elif isinstance(part, o.Certified):
            part.kappa, part.epsilon = 0.5, 0.02
        elif isinstance(part, p.DeformationStability):
            part.num_deformations = 2
    settings = replace(
        recipe.training, epochs=1, batch_size=BATCH, selection=None, rollback=None, plateau=None, measures=[]
    )
    model = net(channels, *extra, is_random=is_random(objective))
    return trained(model, objective, settings, channels, **options)


def trained(
    model: nn.Module,
    objective: Objective,
    settings: TrainingSettings,
    channels: int = 1,
    **options: Any,
) -> Trained:
    settings = replace(settings, epochs=1, batch_size=BATCH, accelerator="cpu", **options)
    row = fit(model, data(channels), objective, settings, progress=False).rows[-1]
    assert float(row["loss"]) > 0
    numbers = {key: float(value) for key, value in row.items() if key not in ("seconds", "note")}
    return Trained(model.state_dict(), numbers)


def of_settings(name: str, **options: Any) -> Trained:
    layers: dict[str, list[nn.Module]] = {
        "dropout": [nn.Dropout2d(0.3), nn.Dropout(0.5)],
        "synchronised statistics": [nn.BatchNorm2d(4)],
        "synchronised statistics in bounds": [nn.BatchNorm2d(4)],
        "synchronised statistics at perturbed weights": [nn.BatchNorm2d(4), nn.Dropout(0.3)],
        "averaged": [nn.BatchNorm2d(4)],
    }
    bounded = o.Certified(math.inf, 0.02, domain="box", kappa=0.5, batch_statistics=True)
    objective = bounded if "bounds" in name else o.Adversarial(PGD) + o.NoisyCrossEntropy(0.2)
    objective = o.WeightPerturbation(objective, 0.05) if "perturbed" in name else objective
    settings = TrainingSettings(**SETTINGS[name], optimizer=sgd)
    model = net(1, *layers.get(name, []))
    if name == "unlike start" and not is_first():  # as a script has it that seeds nothing
        for weight in model.parameters():
            weight.data.zero_()
    return trained(model, objective, settings, **options)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def of_own(name: str, **options: Any) -> Trained:
    objective = OWN[name]()
    model = net(is_random=is_random(objective))
    return trained(model, objective, TrainingSettings(optimizer=sgd), **options)


class Scaled(nn.Module):
    """Has a weight of no dimension, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.9))
        self.shift = nn.Parameter(torch.full((5, 1, 1, 1), 0.1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift[1]


def of_divided(name: str, *, devices: int = 1) -> Trained:
    """Weights divided among processes, where there are several."""
    model = net(1, *([Scaled()] if name == "adversarial" else []), is_random=name == "random weights")
    settings = TrainingSettings(constraints=[ws.constraints.SpectralBall(0.2)], average=WeightAverage(0.5))
    options: dict[str, Any] = {"devices": devices, "strategy": "fsdp"} if devices > 1 else {}
    return trained(model, DIVIDED[name](), settings, **options)


class StoppedError(Exception):
    """Ends a training in all processes."""


def stopping_adam(sizes: list[list[int]], at: int | None = None) -> Callable[[Any], torch.optim.Optimizer]:
    """Adam that notes how many numbers of the weights and of its own state lie here before each step."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        adam = torch.optim.Adam(parameters, lr=0.01)

        def note(*_: Any) -> None:
            state = [value for kept in adam.state.values() for value in kept.values() if value.dim()]
            sizes.append([sum(part.to_local().numel() for part in parts) for parts in (parameters, state)])
            if len(sizes) == at:
                raise StoppedError

        adam.register_step_pre_hook(note)
        return adam

    return make


def stop_and_go_on(out: Path) -> None:
    """A training without an end before its end, and one that goes on from a checkpoint between two steps."""
    made = replace(data(), train=split(2 * STEPS, 1, 0))
    sizes: list[list[int]] = []
    base = TrainingSettings(epochs=1, batch_size=2, accelerator="cpu", devices=2, strategy="fsdp")
    base = replace(base, checkpoint_seconds=0, constraints=[ws.constraints.SpectralBall(1.0)])
    base = replace(base, average=WeightAverage(0.9))

    def go(folder: Path | None, model: nn.Module, **options: Any) -> None:
        settings = replace(base, **options)
        fit(model, made, o.NoisyCrossEntropy(0.2), settings, out=folder, progress=False)

    whole, gone_on, stopped, diverged = (net(1, Scaled()) for _ in range(4))
    go(None, whole, optimizer=stopping_adam(sizes))
    with pytest.raises(StoppedError):
        go(out / "stopped", stopped, optimizer=stopping_adam([], at=STOPPED))
    left: list[list[int]] = []
    go(out / "stopped", gone_on, optimizer=stopping_adam(left))
    with pytest.raises(ws.types.NonFiniteLossError):
        go(None, diverged, optimizer=stopping_adam([]), lr_factor=1e30)
    states = [model.state_dict() for model in (whole, gone_on, diverged)]
    torch.save({"states": states, "sizes": sizes, "left": len(left)}, out / f"stopped {rank()}.pt")


def of_cut_schedule() -> None:
    """A training on two processes whose epsilon would take seven epochs, and has one."""
    attack = replace(PGD, epsilon=ws.schedules.Linear(0.0, 0.1, epochs=7))
    trained(net(), o.Adversarial(attack), TrainingSettings(optimizer=sgd), devices=2)


def recipes() -> list[str]:
    """One recipe for each objective and way to train; of those that differ in their data alone the first."""
    found: dict[str, str] = {}
    for name in packaged_recipes():
        recipe = parse_recipe(find_recipe(name)).recipe
        if isinstance(recipe.objective, o.FreeAdversarial):  # which refuses parts of a batch
            continue
        found.setdefault(f"{recipe.objective} {recipe.training.constraints} {recipe.training.augment}", name)
    return list(found.values())


MAKERS: dict[str, tuple[Callable[..., Trained], Callable[[], list[str]]]] = {
    "recipe": (of_recipe, recipes),
    "own": (of_own, lambda: list(OWN)),
    "settings": (of_settings, lambda: list(SETTINGS)),
    "divided": (of_divided, lambda: list(DIVIDED)),
}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes came to, all of it in one job."""
    folder = tmp_path_factory.mktemp("two")
    done = run_script(Path(__file__), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stderr").write_text(done.stderr, encoding="utf-8")
    return folder


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAKERS)
def test_two_processes_come_to_the_weights_and_figures_of_one(kind: str, of_two: Path) -> None:
    make, names = MAKERS[kind]
    for name in names():
        one, two = make(name), torch.load(of_two / f"{kind} {name}.pt", weights_only=True)
        for key, weight in one.weights.items():
            torch.testing.assert_close(two["weights"][key], weight, atol=1e-5, rtol=1e-5, msg=f"{name} {key}")
        assert one.row.keys() == two["row"].keys()
        for key, value in one.row.items():
            assert two["row"][key] == pytest.approx(value, abs=1e-5, rel=1e-5), (name, key)


def test_two_processes_give_a_warning_once(of_two: Path) -> None:
    assert (of_two / "stderr").read_text(encoding="utf-8").count("which takes 7 epochs") == 1


@pytest.fixture(scope="module")
def stopped(of_two: Path) -> list[dict[str, Any]]:
    """What each process has of trainings with divided weights."""
    return [torch.load(of_two / f"stopped {number}.pt", weights_only=True) for number in range(2)]


def test_divided_training_that_goes_on_ends_with_whole_weights_of_one_without_a_stop(
    stopped: list[dict[str, Any]], of_two: Path
) -> None:
    whole = stopped[0]["states"][0]
    assert stopped[0]["left"] == STEPS - KEPT
    for process in stopped:
        *finished, diverged = process["states"]
        for state in finished:
            assert all(torch.equal(weight, whole[name]) for name, weight in state.items())
        assert all(weight.shape == whole[name].shape for name, weight in diverged.items())
    for file in ("last.safetensors", "model.safetensors"):
        model = net(1, Scaled())
        ws.models.load_weights(model, of_two / "stopped" / file)
        assert all(torch.equal(weight, whole[name]) for name, weight in model.state_dict().items())


def test_processes_keep_their_part_of_the_weights_and_of_adams_state_between_steps(
    stopped: list[dict[str, Any]],
) -> None:
    state = stopped[0]["states"][0]
    num, num_trained = (sum(weight.numel() for weight in state.values()) - less for less in (0, 5))
    own = [process["sizes"][-1] for process in stopped]
    assert [sum(column) for column in zip(*own, strict=True)] == [num, 2 * num_trained]
    for weights, adam in own:
        assert weights <= 0.55 * num
        assert adam <= 0.55 * 2 * num_trained


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for kind, (make, names) in MAKERS.items():
        for name in names():
            made = make(name, devices=2)
            assert num_processes() == 2
            if is_first():
                torch.save(made._asdict(), out / f"{kind} {name}.pt")
    of_cut_schedule()
    stop_and_go_on(out)
