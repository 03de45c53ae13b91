"""What docs/extending.md adds to the package is added by its files alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and the run of its recipe by its command."""
    path = tmp_path_factory.mktemp("extending")
    for name, text in re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL):
        (path / name).write_text(text, encoding="utf-8")
    command = ["run", "extended.yaml", "--trust"]
    code = f"import sys; from withstand.cli.entry import main; sys.exit(main({command}))"
    environment = {
        "PYTHONPATH": f".:{ROOT / 'src'}",
        "OMP_NUM_THREADS": "1",
        "PATH": "",
        "WITHSTAND_CONFIG": "key",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path


def test_extending_needs_two_files_for_a_metric_and_one_for_all_else(folder: Path) -> None:
    files = {file.name for file in folder.glob("*.py")}
    assert files == {
        *("attacked_calibration.py", "attacked_calibration_section.py"),
        *("coin_flips.py", "negative.py", "soft_clip.py"),
    }


def test_metric_of_ones_own_adds_rows_to_the_table(folder: Path) -> None:
    table = pd.read_csv(folder / "runs" / "extended" / "measurements.csv")
    rows = table[table["measure"] == "calibration error under attack"]
    assert sorted(zip(rows["by"], rows["level"], strict=True)) == [
        *(("coin-flips-linf", 0.05), ("coin-flips-linf", 0.1)),
        *(("pgd-5-linf", 0.05), ("pgd-5-linf", 0.1)),
    ]
    assert rows["value"].between(0, 1).all()


def test_metric_of_ones_own_has_its_section_on_the_page(folder: Path) -> None:
    page = (folder / "runs" / "extended" / "report.html").read_text(encoding="utf-8")
    assert "Calibration under attack" in page
    assert "Other measurements" not in page


def test_attack_and_corruption_of_ones_own_are_measured(folder: Path) -> None:
    table = pd.read_csv(folder / "runs" / "extended" / "measurements.csv")
    attacked = table[(table["measure"] == "attacked accuracy") & (table["by"] == "coin-flips-linf")]
    assert list(attacked["total"]) == [60, 60]
    corrupted = table[(table["measure"] == "accuracy under corruption") & (table["by"] == "negative")]
    assert list(corrupted["level"]) == [1, 3]
