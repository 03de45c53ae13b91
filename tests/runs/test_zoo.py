"""The nets that come with the package give the figures that it says, under every command, and are whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import withstand as ws
import zoo as tool
from withstand.cli import main
from withstand.cli.zoo import zoo
from withstand.core.run_folder import RunFolder
from withstand.core.zoo import HOME, zoo_nets
from withstand.models import MODEL_NAMES
from withstand.recipes.parsing import packaged_recipes
from withstand.reporting import table
from withstand.reporting.read import read_run
from withstand.results.measurements import Measurement
from withstand.results.shares import Share, share_of
from withstand.types import Batch

IMAGES = Path(__file__).parents[1] / "zoo"  # 300 test images of each data set, every 33rd
ATTACKED = 100  # images, since an attack takes its time
TIGHTEST = 12  # images proven by the tightest method, which takes longer
NETS = sorted(zoo_nets())
PLAIN, PROVEN = "digits-plain", "digits-l2-0.5"


def images_of(data: str) -> Batch:
    file = IMAGES / f"{data}.npz"
    if not file.exists():
        test = ws.data.load(data).test
        return Batch(test.images.float() / 255, test.labels)
    with np.load(file) as arrays:
        return Batch(torch.tensor(arrays["images"]).float() / 255, torch.tensor(arrays["labels"]).long())


def share_of_true(outcomes: torch.Tensor) -> Share:
    return share_of(int(outcomes.sum()), len(outcomes))


def interval_of(row: Measurement | None) -> tuple[float, float]:
    assert row is not None
    assert row.lower is not None
    assert row.upper is not None
    return row.lower, row.upper


@pytest.mark.parametrize("name", NETS)
def test_figures_of_a_net_are_measured_again(name: str) -> None:
    net, run = zoo_nets()[name], read_run(HOME / name)
    model, batch = ws.load(name), images_of(run.results.dataset if run.results else "")
    clean = share_of_true(model(batch.images).argmax(1) == batch.labels)
    lower, upper = interval_of(table.clean(run))
    assert clean.lower <= upper
    assert lower <= clean.upper
    few, labels = batch.images[:ATTACKED], batch.labels[:ATTACKED]
    norm, epsilon = float(net.norm), net.epsilon
    attack = ws.attacks.PGD(norm=norm, epsilon=epsilon, num_steps=10)
    survives = model(attack(model, few, labels)).argmax(1) == labels
    lower, _ = interval_of(table.at(table.strongest(run), net.norm, epsilon))
    assert lower <= share_of_true(survives).upper  # a short attack breaks no more than a strong one
    proven = table.at(table.most_certified(run), net.norm, epsilon)
    if proven is not None:
        lower, upper = interval_of(proven)
        again = ws.certify(model, few, labels, norm=norm, epsilon=epsilon, method="box_ball").certified
        assert share_of_true(again).lower <= upper  # the tightest method proves no less
        assert not (again & ~survives).any()
        few, labels = few[:TIGHTEST], labels[:TIGHTEST]
        tightest = ws.certify(model, few, labels, norm=norm, epsilon=epsilon).certified
        assert lower <= share_of_true(tightest).upper


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_whole_and_names_no_place_of_a_machine(name: str) -> None:
    net = zoo_nets()[name]
    net.require_whole()
    assert {file.name for file in net.folder.iterdir()} == {*net.sha256, "about.json"}
    for file in net.sha256:
        if not file.endswith(".safetensors"):
            assert not tool.PATH.search((net.folder / file).read_text(encoding="utf-8")), file
    assert f'ws.load("{name}")' in str(ws.load(name).card)


def test_nets_have_names_of_their_own_and_are_small_together() -> None:
    assert not {*NETS} & {*packaged_recipes(), *MODEL_NAMES}
    assert sum(net.num_bytes for net in zoo_nets().values()) < 25 * 2**20
    assert {PLAIN, PROVEN} <= {*NETS}


# -- commands ---------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("here")
def test_commands_measure_a_copy_of_a_net(capsys: pytest.CaptureFixture[str]) -> None:
    copy = RunFolder(Path("runs") / PROVEN)
    assert main(["certify", PROVEN, "--num_examples=12", "--epsilons=[0.5]"]) == 0
    assert "zoo: digits-l2-0.5 is copied to runs/digits-l2-0.5" in capsys.readouterr().out
    assert main(["attack", PROVEN, "--norm=2", "--epsilon=0.5", "--num_steps=2"]) == 0
    assert "copied" not in capsys.readouterr().out
    made = copy.read_json(copy.environment)
    assert made["command"].startswith("withstand run digits-certified")
    assert [command.split()[1] for command in made["measured_by"]] == ["certify", "attack"]
    table_of_copy = read_run(copy.path).table
    assert table_of_copy.by.tolist().count("pgd-2-l2") == 1
    assert not (copy.path / "report.html").exists()
    zoo_nets()[PROVEN].require_whole()


@pytest.mark.usefixtures("here")
def test_a_copy_goes_to_out_and_not_into_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    few = "--evaluation.num_examples=6"
    assert main(["evaluate", PLAIN, "--out=mine", "--evaluation.meters=[]", few]) == 0
    assert read_run("mine").table.total[0] == 6
    assert not Path("runs").exists()
    text = failed(capsys, "evaluate", PROVEN, "--out=mine", few)
    assert "mine holds another run than the net digits-l2-0.5 of the zoo" in text
    assert "a run folder says itself which model" in failed(capsys, "evaluate", PLAIN, "--weights=a.pt")


@pytest.mark.usefixtures("here")
def test_a_copy_of_which_nothing_was_measured_yet_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    failed(capsys, "certify", PROVEN, "--norm=2", "--epsilons=[-0.1]")
    assert Path("runs", PROVEN).is_dir()
    model = ws.load(PROVEN)
    assert "Nothing was measured of this model yet" in str(model.card)
    assert main(["certify", PROVEN, "--num_examples=5", "--epsilons=[0.5]"]) == 0
    assert "## " in str(ws.load(PROVEN).card)


@pytest.mark.usefixtures("here")
def test_a_folder_without_a_run_hides_no_net(capsys: pytest.CaptureFixture[str]) -> None:
    Path(PLAIN).mkdir()
    Path(PLAIN, "notes.txt").touch()
    assert isinstance(ws.load(PLAIN), torch.nn.Module)
    assert main(["attack", PLAIN, "--epsilon=0.1", "--num_steps=2", "--num_examples=4"]) == 0
    assert f"zoo: {PLAIN} is copied to runs/{PLAIN}" in capsys.readouterr().out
    Path("empty").mkdir()
    with pytest.raises(ws.RunFolderError, match="empty"):
        ws.load("empty")


@pytest.mark.usefixtures("here")
def test_a_net_takes_no_weights_and_no_data_but_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ws.ModelError, match="weights of its own: leave weights out"):
        ws.load(PLAIN, weights="mine.pt")
    with pytest.raises(ws.ModelError, match="knows what it was trained on: leave dataset out"):
        ws.load(PLAIN, dataset="mnist")
    text = failed(capsys, "evaluate", "mnist-l2-1.58", "--data.name=digits", "--evaluation.num_examples=4")
    assert "runs/mnist-l2-1.58 is of mnist, not digits: to measure it there, name --data.root, too." in text


@pytest.mark.usefixtures("here")
def test_export_reads_a_net_where_it_lies() -> None:
    pytest.importorskip("onnxscript")
    assert main(["export", PLAIN]) == 0
    images = torch.rand(3, 1, 8, 8)
    assert torch.allclose(ws.load("digits-plain.onnx")(images), ws.load(PLAIN)(images), atol=1e-4)
    zoo_nets()[PLAIN].require_whole()


def test_check_is_of_the_trained_net(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(model: torch.nn.Module, *_: object, **__: object) -> None:
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(model.eval()(images), ws.load(PLAIN)(images))
        raise ws.ModelError("The model was handed over.")

    monkeypatch.setattr("withstand.cli.check.check_model", seen)
    assert "The model was handed over." in failed(capsys, "check", PLAIN)


@pytest.mark.usefixtures("here")
def test_unknown_names_are_errors_that_say_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ws.ModelError, match="did you mean 'digits-plain'"):
        ws.load("digits-plane")
    for command in (["evaluate"], ["certify"], ["check"], ["export"], ["zoo"]):
        assert "did you mean 'digits-plain'" in failed(capsys, *command, "digits-plane")


def test_zoo_lists_the_nets_and_all_that_is_known_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    zoo([])
    shown = capsys.readouterr().out
    assert all(name in shown for name in NETS)
    zoo([PROVEN, "--format=json"])
    (known,) = json.loads(capsys.readouterr().out)
    assert known["certified"]["lower"] < known["certified"]["value"] < known["attacked"]["value"]
    assert known["num_parameters"] == sum(weight.numel() for weight in ws.load(PROVEN).parameters())
    assert known["data_licence"].startswith("CC BY 4.0")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one net, to be damaged."""
    shutil.copytree(HOME / PLAIN, tmp_path / "home" / PLAIN)
    monkeypatch.setattr("withstand.core.zoo.HOME", tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_damaged_net_is_not_used(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights,) = (home / PLAIN).glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ws.RunFolderError, match=f"{weights.name} is gone, or not as it was packaged"):
        ws.load(PLAIN)
    assert "not as it was packaged" in failed(capsys, "certify", PLAIN, "--norm=2", "--epsilons=[0.1]")
    assert not Path("runs", PLAIN).exists()
    about = home / PLAIN / "about.json"
    known = json.loads(about.read_text())
    for text in ("{", json.dumps(known | {"sha256": None}), json.dumps(known | {"sha256": {}})):
        about.write_text(text)
        assert "about.json is damaged" in failed(capsys, "zoo")


# -- the tool ---------------------------------------------------------------------------------------


@pytest.fixture
def run(here: Path) -> Path:
    """A run folder with figures, such as a training and an evaluation leave it."""
    few = ["--evaluation.num_examples=20", f"--out={here / 'run'}"]
    attack = (
        "[{class_path: Attacks, init_args: {attacks: [{class_path: PGD, init_args: {norm: 2, num_steps: 2}}]"
    )
    meters = f"--evaluation.meters={attack}, epsilons: [0.1]}}}}]"
    assert main(["evaluate", PLAIN, meters, *few]) == 0
    return here / "run"


def test_a_run_is_put_into_the_zoo_without_places_of_this_machine(run: Path, here: Path) -> None:
    folder = tool.add(run, "digits-l2-0.1", norm="2", epsilon=0.1, home=here / "home")
    net = zoo_nets(here / "home")["digits-l2-0.1"]
    net.require_whole()
    assert str(here) not in "".join(file.read_text("latin-1") for file in folder.iterdir())
    commands = json.loads((folder / "environment.json").read_text())["measured_by"]
    assert commands[0].startswith("withstand evaluate runs/digits-l2-0.1 '--evaluation.meters=")
    assert read_run(folder).recipe_text == (folder / "recipe.yaml").read_text()
    assert torch.equal(*(ws.load(place)(torch.ones(1, 1, 8, 8)) for place in (folder, PLAIN)))


@pytest.mark.parametrize(
    ("name", "epsilon", "text"),
    [
        ("mnist-l2-0.1", 0.1, "begins with digits-"),
        ("digits-certified", 0.1, "is the name of a recipe"),
        ("digits-l2", 0.2, "not attacked at norm 2, epsilon 0.2"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, epsilon: float, text: str, run: Path, here: Path) -> None:
    with pytest.raises(ws.WithstandError, match=text):
        tool.add(run, name, norm="2", epsilon=epsilon, home=here / "home")
    assert not (here / "home").exists()


def test_weights_of_another_net_are_refused(run: Path, here: Path) -> None:
    (weights,) = run.glob("*.safetensors")
    model = ws.load(run)
    ws.models.save_weights(model.apply(_zeroed), weights)
    with pytest.raises(ws.RunFolderError, match="but its weights give"):
        tool.add(run, "digits-l2-0.1", norm="2", epsilon=0.1, home=here / "home")


@torch.no_grad()
def _zeroed(layer: torch.nn.Module) -> None:
    for value in layer.parameters(recurse=False):
        value.zero_()


def test_a_place_of_this_machine_in_a_file_is_refused(run: Path, here: Path) -> None:
    file = run / "environment.json"
    file.write_text(file.read_text().replace('"platform": "', '"platform": "/home/me/'))
    with pytest.raises(ws.RunFolderError, match=r"environment.json .* names a place .*, /home/me/"):
        tool.add(run, "digits-l2-0.1", norm="2", epsilon=0.1, home=here / "home")
