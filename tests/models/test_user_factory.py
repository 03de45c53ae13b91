from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from withstand.models import Normalize, create
from withstand.types import ModelError

NETWORKS = """
    from dataclasses import dataclass
    from math import prod
    from torch import nn
    import {neighbour}

    @dataclass
    class Sizes:
        width: int

    def make(input_shape, num_classes, width=3):
        width = Sizes(width).width
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), width), nn.Linear(width, num_classes))

    def fixed():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def anything(**options):
        fixed.seen = options
        return fixed()

    def only_classes(*, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def broken():
        raise KeyError("no such thing")

    def leaves():
        raise SystemExit(3)

    def several_lines():
        raise ValueError("one\\ntwo")

    def none():
        return None

    a_number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file that imports its neighbour."""
    neighbour = f"neighbour_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{neighbour}.py").write_text("")
    path = tmp_path / "networks.py"
    path.write_text("from __future__ import annotations\n" + dedent(NETWORKS.format(neighbour=neighbour)))
    return path


def test_factory_gets_the_sizes_that_it_names_and_the_options(file: Path) -> None:
    model = create(f"{file}:make", dataset="digits", width=5)
    assert isinstance(model.get_submodule("normalize"), Normalize)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [5, 10]


@pytest.mark.parametrize(("function", "classes"), [("fixed", 10), ("only_classes", 7), ("make", 7)])
def test_factory_does_not_get_sizes_that_it_does_not_name(file: Path, function: str, classes: int) -> None:
    model = create(f"{file}:{function}", input_shape=(1, 8, 8), num_classes=7)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, classes)


def test_factory_that_takes_any_option_gets_any(file: Path) -> None:
    create(f"{file}:anything", dataset="digits", colour="red")
    (module,) = (module for module in sys.modules.values() if getattr(module, "__file__", "") == str(file))
    assert module.fixed.seen == {"colour": "red"}


def test_factory_may_normalise_by_itself(file: Path) -> None:
    model = create(f"{file}:fixed", dataset="digits", normalize=False)
    assert not any(isinstance(module, Normalize) for module in model.modules())


def test_factory_may_be_an_importable_function_or_class() -> None:
    model = create("torch.nn:Linear", dataset="digits", normalize=False, in_features=8, out_features=4)
    assert isinstance(model, nn.Linear)
    built = create("withstand.models.sequences:mlp", dataset="digits", hidden=[2])
    assert built(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_factory_file_may_have_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert create("networks.py:fixed", dataset="digits")(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_factory_folder_does_not_stay_on_the_path(file: Path) -> None:
    before = list(sys.path)
    create(f"{file}:fixed", dataset="digits")
    assert sys.path == before
    file.write_text("raise ValueError('half way')")
    with pytest.raises(ModelError):
        create(f"{file}:fixed", dataset="digits")
    assert sys.path == before


def test_factory_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for width in (2, 3):
        (tmp_path / str(width)).mkdir()
        code = f"from torch import nn\ndef make():\n    return nn.Linear(8, {width})\n"
        (tmp_path / str(width) / "net.py").write_text(code)
    models = [
        create(f"{tmp_path}/{width}/net.py:make", dataset="digits", normalize=False) for width in (2, 3, 2)
    ]
    assert [model(torch.rand(1, 8)).shape[1] for model in models] == [2, 3, 2]
    files = [getattr(module, "__file__", "") for module in sys.modules.values()]
    assert all(files.count(f"{tmp_path}/{width}/net.py") == 1 for width in (2, 3))


@pytest.mark.parametrize(
    ("function", "message", "cause"),
    [
        ("mak", "networks.py has no function 'mak'; the nearest are: make", None),
        ("a_number", "has no function 'a_number'", None),
        ("", "has no function ''", None),
        ("broken", "networks.py:broken' could not be built: 'no such thing'", KeyError),
        ("leaves", r"could not be built: it ended by sys\.exit\(3\)", SystemExit),
        ("several_lines", "could not be built: one two", ValueError),
        ("none", "must be made as a torch.nn.Module, but its factory returned None", None),
        ("Sizes", r"could not be built.*width.*--model\.options", TypeError),
    ],
)
def test_factory_that_fails_is_named(
    file: Path, function: str, message: str, cause: type[BaseException] | None
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create(f"{file}:{function}", dataset="digits")
    assert type(caught.value.__cause__) is (cause or type(None))


def test_factory_options_are_checked(file: Path) -> None:
    with pytest.raises(ModelError, match="has no option 'widht'; did you mean 'width'"):
        create(f"{file}:make", dataset="digits", widht=3)
    with pytest.raises(ModelError, match="has no option 'width'; there are none"):
        create(f"{file}:fixed", dataset="digits", width=3)


def test_factory_files_and_modules_that_do_not_load_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no file .*missing.py; give the path"):
        create(f"{tmp_path}/missing.py:make", dataset="digits")
    with pytest.raises(ModelError, match=r"no_such_package.models could not be loaded, ModuleNotFoundError"):
        create("no_such_package.models:make", dataset="digits")
    with pytest.raises(ModelError, match=r"path/to/file.py:function or package.module:function"):
        create(":make", dataset="digits")


@pytest.mark.parametrize(
    ("code", "error"),
    [("1 +", SyntaxError), ("1 / 0", ZeroDivisionError), ("import sys; sys.exit('no')", SystemExit)],
)
def test_factory_file_that_fails_while_it_loads_is_named(
    tmp_path: Path, code: str, error: type[BaseException]
) -> None:
    path = tmp_path / "net.py"
    path.write_text(code)
    with pytest.raises(ModelError, match=f"net.py could not be loaded, {error.__name__}") as caught:
        create(f"{path}:make", dataset="digits")
    assert isinstance(caught.value.__cause__, error)
    assert not any(getattr(module, "__file__", "") == str(path) for module in sys.modules.values())
