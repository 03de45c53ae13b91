"""``withstand moments`` as a user meets it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from withstand.cli.entry import main
from withstand.core.run_folder import RunFolder
from withstand.reporting.table import one
from withstand.results import read_results
from withstand.results.measurements import CLEAN

SMALL = [
    "--objective=CrossEntropy",
    "--model.name=mlp",
    "--training.epochs=1",
    "--training.selection=null",
    "--training.rollback=null",
    "--training.accelerator=cpu",
    "--data.validation_size=100",
    "--evaluation.num_examples=20",
    "--evaluation.meters=[]",
]
FEW = ["--num_examples=2", "--num_samples", "40", "--noise_std=[0.1,64/255]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained, to be copied."""
    out = tmp_path_factory.mktemp("moments") / "run"
    assert main(["train", "digits-adversarial", *SMALL, f"--out={out}"]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error text of a command that must fail, in one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_moments_are_added_to_a_run_and_its_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    before, table = read_results(RunFolder(run)) or pytest.fail("nothing was evaluated")
    capsys.readouterr()
    assert main(["moments", str(run), *FEW]) == 0
    shown = capsys.readouterr().out
    for word in ("diagonal", "factored", "full", "first-", "Linear x", "Draws as good"):
        assert word in " ".join(shown.split()), word
    results, merged = read_results(RunFolder(run)) or pytest.fail("nothing was evaluated")
    without = replace(results, moments=None, settings=before.settings, measures=before.measures)
    assert without == before
    is_new = merged["measure"].str.endswith("of analytic moments")
    assert results.measures == {**before.measures, "moments": list(merged["measure"][is_new].unique())}
    pd.testing.assert_frame_equal(merged[~is_new].reset_index(drop=True), table)
    assert results.moments is not None
    assert [level.noise_std for level in results.moments.levels] == [0.1, 64 / 255]
    assert results.moments.num_samples == 40
    environment = json.loads((run / "environment.json").read_text())
    assert environment["moments_command"].startswith(f"withstand moments {run}")
    assert environment["cost"]["moments_seconds"] > 0
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Analytic moments under noise</h2>" in page
    assert "withstand moments" in page


def test_moments_score_a_run_clean_that_was_never_evaluated(run: Path) -> None:
    assert main(["moments", str(run), *FEW, "--methods=[diagonal]", "--blur=1"]) == 0
    results, table = read_results(RunFolder(run)) or pytest.fail("nothing was evaluated")
    assert (results.attacks, results.num_examples) == ([], 20)
    assert one(table, CLEAN) is not None
    assert results.moments is not None
    assert [method.name for method in results.moments.levels[0].methods] == ["diagonal"]
    assert main(["evaluate", str(run)]) == 0
    again, _ = read_results(RunFolder(run)) or pytest.fail("nothing was evaluated")
    assert again.moments == results.moments
    assert main(["report", str(run)]) == 0
    assert "withstand moments" in (run / "report.html").read_text()


def test_moments_name_bad_input(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "above 0" in failed(capsys, "moments", str(run), "--noise_std=-0.1")
    assert "diagonal" in failed(capsys, "moments", str(run), "--methods=[diag]")
    assert "--num_samples" in failed(capsys, "moments", str(run), "--num_sample=3")
    assert "needs RUN" in failed(capsys, "moments")
    assert "withstand train" in failed(capsys, "moments", str(run / "none"))
    assert not (run / "metrics.json").exists()
    (run / "last.safetensors").unlink()
    assert "withstand train" in failed(capsys, "moments", str(run), *FEW)
