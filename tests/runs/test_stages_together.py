"""One folder, several commands: nothing is forgotten, nothing is computed twice, and one at a time."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from withstand.attacks import PGD
from withstand.certificates import Certifier
from withstand.cli.certify import Request, certify_run
from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.evaluation.proofs import Prover
from withstand.reporting.table import select
from withstand.results import Results, read_results
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN

_RECIPE = """\
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, batch_size: 20, accelerator: cpu}
evaluation:
  num_examples: 40
  batch_size: 20
  weights: last
  meters:
    - class_path: Attacks
      init_args: {attacks: [{class_path: PGD, init_args: {num_steps: 3}}], epsilons: [0.02, 0.05]}
    - class_path: NoiseCurve
      init_args: {num_levels: 2}
"""
_COMMANDS = {
    "certify": ["--norm=2", "--epsilons=[0.05,0.1]"],
    "evaluate": [],
    "attack": ["--norm=1", "--epsilon=0.5", "--num_steps=4"],
    "moments": ["--num_examples=2", "--num_samples=20", "--methods=[diagonal]"],
}
_IN_ORDER = [list(_COMMANDS), list(reversed(_COMMANDS))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained, to be copied."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "recipe.yaml").write_text(_RECIPE)
    assert main(["train", str(folder / "recipe.yaml"), f"--out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each thing that takes its time was done of a batch, and what it was.

    Left out are the few images that each certificate is tried on first, and each gallery shows.
    """
    counted: Counter[str] = Counter()
    probing: list[bool] = []

    def counting(of: Any, name: str, key: Callable[..., str | None]) -> None:
        original = getattr(of, name)

        def count(*arguments: Any, **options: Any) -> Any:
            if (result := key(*arguments, **options)) is not None:
                counted[result] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(of, name, count)

    def attacked(attack: PGD, *_: object, **__: object) -> str | None:
        return None if probing else f"pgd-{attack.num_steps}@{attack.epsilon_at():g}"

    def certified(_: object, images: Tensor, *__: object, norm: float, epsilon: Any) -> str | None:
        return f"l{norm:g}@{epsilon:g}" if len(images) == 20 else None

    def probe(prover: Prover, *arguments: Any) -> Any:
        counted["probe"] += 1
        probing.append(True)
        try:
            return probed(prover, *arguments)
        finally:
            probing.clear()

    probed = Prover.probe
    monkeypatch.setattr(Prover, "probe", probe)
    counting(PGD, "perturb", attacked)
    counting(Certifier, "certify", certified)
    counting(sys.modules["withstand.evaluation.meters.moments"], "check_moments", lambda *_, **__: "moments")
    monkeypatch.setattr("withstand.evaluation.measuring.save_gallery", lambda *_: None)
    return counted


def did(run: Path, command: str) -> int:
    return main([command, str(run), *_COMMANDS[command]])


def results_of(run: Path) -> tuple[Results, pd.DataFrame]:
    result = read_results(RunFolder(run))
    assert result is not None
    return result


def figures(table: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Its rows; times differ from one measurement to the next."""
    known = table[~table["measure"].str.startswith("speed-up")]
    return set(known.astype(object).where(known.notna(), None).itertuples(index=False, name=None))


@pytest.mark.parametrize("order", _IN_ORDER, ids="-".join)
def test_commands_do_not_forget_or_repeat_the_results_of_others(
    order: list[str], run: Path, counts: Counter[str]
) -> None:
    seen: Counter[str] = Counter()
    rows: pd.DataFrame | None = None
    before: set[tuple[Any, ...]] = set()
    for command in order:
        counts.clear()
        assert did(run, command) == 0
        assert not seen & counts, f"{command} did again what was done"
        seen += counts
        _, table = results_of(run)
        assert before <= figures(table), f"{command} forgot figures"
        before = figures(table)
        now = pd.read_csv(run / "examples.csv")
        if rows is not None:
            pd.testing.assert_frame_equal(now[list(rows)], rows)
        rows = now
    assert {"pgd-3@0.02", "pgd-3@0.05", "pgd-4@0.5", "l2@0.05", "l2@0.1", "moments"} <= set(seen)
    results, table = results_of(run)
    assert set(select(table, ATTACKED)["by"]) == {"pgd-3-linf", "pgd-4-l1", "pgd-20-margin-l2"}
    assert set(select(table, CERTIFIED)["by"]) == {"certified-l2"}
    assert results.noise is not None
    assert results.moments is not None
    for command in order:
        counts.clear()
        assert did(run, command) == 0
        seen["probe"] += counts.pop("probe", 0)  # what stands for the images of attacks, which are gone
        assert not counts, f"{command} did again what was done"
        assert figures(results_of(run)[1]) == before
    assert seen["probe"] == 2  # once a batch
    environment = RunFolder(run).read_json(RunFolder(run).environment)
    assert all(f"{command}_command" in environment for command in order)
    assert len(environment["measured_by"]) == len(order)  # each once, though each was given twice
    assert all(
        f" {command} " in each for command, each in zip(order, environment["measured_by"], strict=True)
    )
    assert all(f"{command}_seconds" in environment["cost"] for command in order)


@contextmanager
def _stopped_after(num_examples: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupts whatever goes on once so many examples are done."""

    def stop(_: object, __: object, *, completed: int, **___: object) -> None:
        if completed >= num_examples:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("withstand.cli.terminal.Progress.update", stop)
        yield


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, tuple[Any, str, Counter[str]]]:
    """Figures, examples and counts of each command that nothing interrupts, once it has been run."""
    return {}


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("num_examples", [1, 20, 39])
def test_commands_go_on_after_an_interruption(
    command: str,
    num_examples: int,
    run: Path,
    trained: Path,
    tmp_path: Path,
    uninterrupted: dict[str, tuple[Any, str, Counter[str]]],
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _stopped_after(num_examples, monkeypatch):
        assert did(run, command) == 130
    assert "Results so far stay. The same command goes on" in " ".join(capsys.readouterr().err.split())
    assert not (run / "metrics.json").exists()
    cut = counts.copy()
    assert did(run, command) == 0
    both = counts.copy()
    if command not in uninterrupted:
        counts.clear()
        whole = Path(shutil.copytree(trained, tmp_path / "whole"))
        assert did(whole, command) == 0
        examples = (whole / "examples.csv").read_text()
        uninterrupted[command] = figures(results_of(whole)[1]), examples, counts.copy()
    expected, examples, at_once = uninterrupted[command]
    assert figures(results_of(run)[1]) == expected
    assert (run / "examples.csv").read_text() == examples
    both.pop("probe", None)
    assert both == at_once, "what was done before the interruption was done again"
    assert cut or num_examples == 1


def test_commands_that_are_interrupted_leave_the_results_of_others(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert did(run, "evaluate") == 0
    files = ("metrics.json", "measurements.csv", "examples.csv")
    before = [(run / name).read_text() for name in files]
    for command in ("certify", "attack", "moments"):
        with _stopped_after(20, monkeypatch):
            assert did(run, command) == 130
        assert [(run / name).read_text() for name in files] == before


def test_figures_and_settings_are_written_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("withstand.runs.stages.add_cost", killed)  # what comes after the results
        assert did(run, "evaluate") == 130
    assert results_of(run)[0].settings["meters"]
    assert did(run, "certify") == 0
    assert {ATTACKED, CERTIFIED} <= set(results_of(run)[1]["measure"])
    assert len(results_of(run)[0].attacks) == 2, "the attack of the evaluation is not taken over"


def test_run_folder_in_use_is_left_to_its_holder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holding = (
        "import sys, types; from pathlib import Path\n"
        "package = types.ModuleType('withstand'); package.__path__ = [sys.argv[2]]\n"
        "sys.modules['withstand'] = package  # of which it takes one module, without torch\n"
        "from withstand.core.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held('evaluating'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = [sys.executable, "-c", holding, str(run), sys.modules["withstand"].__path__[0]]
    process = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        for command in _COMMANDS:
            capsys.readouterr()
            assert did(run, command) == 2
            printed = " ".join(capsys.readouterr().err.split())
            assert f"is in use by process {process.pid} on " in printed
            assert "evaluating since " in printed
        assert main(["train", str(run / "recipe.yaml"), f"--out={run}"]) == 2
        assert f"is in use by process {process.pid}" in " ".join(capsys.readouterr().err.split())
        assert not (run / "metrics.json").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert did(run, "evaluate") == 0  # a process that was killed holds nothing


def test_suite_counts_at_the_budgets_it_was_run_at(run: Path) -> None:
    suite = [
        "--evaluation.meters=[Suite]",
        "--evaluation.meters.level=fast",
        "--evaluation.meters.epsilons=[0.05]",
    ]
    assert main(["evaluate", str(run), *suite]) == 0
    result = certify_run(run, Request(norm=math.inf, epsilons=[0.1]), command="certify")
    attacked = select(result.table, ATTACKED, norm="inf")
    assert dict(zip(attacked["by"], attacked["level"], strict=True)) == {
        "fast-linf": 0.05,
        "pgd-20-margin-linf": 0.1,
    }


def test_evaluation_of_other_weights_is_measured_anew(run: Path, counts: Counter[str]) -> None:
    assert did(run, "evaluate") == 0
    first = counts.copy()
    weights = run / "last.safetensors"
    state: dict[str, Tensor] = load_file(weights)
    save_file({name: value + 0.1 * torch.ones_like(value) for name, value in state.items()}, weights)
    assert did(run, "evaluate") == 0
    assert set(counts) == set(first)
    assert all(counts[key] > first[key] for key in first)
    assert len(select(results_of(run)[1], CLEAN)) == 1
