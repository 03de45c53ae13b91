"""Each kind of docs/kinds.md goes from nothing to a report, and gives the same figures elsewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import withstand as ws
from withstand.cli import main
from withstand.data import Dataset

SECTIONS = (Path(__file__).parents[1] / "docs" / "kinds.md").read_text(encoding="utf-8").split("\n## ")[1:]
KEYS = ["measure", "by", "norm", "level"]


def blocks(section: str, language: str) -> list[str]:
    """What is run, without files, which name themselves in their first line."""
    found = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return [block for block in found if not block.startswith("# ")]


PYTHON = {
    re.findall(r'out="runs/(.+?)"', block)[0]: block
    for section in SECTIONS
    for block in blocks(section, "python")
}
COMMANDS = {
    re.findall(r"--out=runs/(\S+)", block)[0]: block
    for section in SECTIONS
    for block in blocks(section, "sh")
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to be in, with the files of the page."""
    for section in SECTIONS:
        for name, content in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", section, flags=re.DOTALL):
            (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pictures(folder: Path) -> None:
    """Three pictures of noise around a colour for each of 100 classes."""
    generator = np.random.default_rng(0)
    for label in range(100):
        colour = generator.integers(30, 225, 3)
        for number, part in enumerate(("train", "train", "test")):
            place = folder / part / f"class-{label:02}"
            place.mkdir(parents=True, exist_ok=True)
            levels = colour + generator.integers(-30, 31, (64, 64, 3))
            Image.fromarray(levels.astype(np.uint8)).save(place / f"{number}.png")


def require_same_figures_elsewhere(name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run folder, moved, gives the network again where nothing is that it was made of."""
    assert Path("runs", name, "report.html").is_file()
    here, elsewhere = Path.cwd(), Path.cwd().with_name(f"elsewhere-{name}")
    shutil.move(here / "runs" / name, elsewhere / name)
    shutil.rmtree(here)
    monkeypatch.chdir(elsewhere)
    then = pd.read_csv(Path(name) / "measurements.csv")
    proven = then[then["measure"] == "certified accuracy"]
    meter = ws.meters.Certificate(float(proven["norm"].iloc[0]), proven["level"].tolist())
    tested = int(then.loc[then["measure"] == "clean accuracy", "total"].iloc[0])
    Path("again").mkdir()
    ws.evaluate(ws.load(name), dataset, [meter], num_examples=tested, out="again")
    now = pd.read_csv(Path("again", "measurements.csv"))
    both = then.merge(now, on=KEYS, suffixes=("_then", "_now"))
    assert {"clean accuracy", "certified accuracy"} <= {*both["measure"]}
    accuracies = both[both["measure"].str.endswith("accuracy")]
    assert accuracies["correct_then"].tolist() == accuracies["correct_now"].tolist()
    np.testing.assert_allclose(both["value_then"], both["value_now"], rtol=1e-5)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", PYTHON)
def test_kind_in_python_takes_12_lines_and_has_the_same_figures_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = PYTHON[name]
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    assert "ws.check(" in block
    short = re.sub(r"epochs=\d+", "epochs=1", block).replace("num_examples=100", "num_examples=4")
    names: dict[str, Dataset] = {}
    exec(compile(short, name, "exec"), names)
    require_same_figures_elsewhere(name, names["dataset"], monkeypatch)


@pytest.mark.filterwarnings("ignore:The weights of torch's own layers are seen here alone")
@pytest.mark.parametrize("name", COMMANDS)
def test_kind_in_commands_takes_two_and_has_the_same_figures_elsewhere(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pictures":
        write_pictures(folder / "pictures")
    elif name == "tiny-vit":
        pytest.importorskip("transformers")
        exec((folder / "tiny_vit.py").read_text(encoding="utf-8"), {})
    check, run = (shlex.split(line)[1:] for line in COMMANDS[name].splitlines())
    assert (check[0], run[0]) == ("check", "run")
    assert main(check) == 0
    assert main([*run, "--training.epochs=1", "--evaluation.num_examples=4"]) in (None, 0)
    data = next((word for word in run if word.startswith("--data.name=")), "=digits").partition("=")[2]
    require_same_figures_elsewhere(name, ws.data.load(data), monkeypatch)
