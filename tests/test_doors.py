"""What is imported when: the package, the command and its help are there before torch is."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import withstand as ws
from withstand.certificates import smoothing
from withstand.cli.commands import COMMANDS
from withstand.cli.entry import main
from withstand.core import norms, schedules

# Each takes a tenth of a second or more to import.
PAGES = {"pandas", "plotly", "jinja2", "pydantic"}
SLOW = {"scipy.stats", "scipy.optimize", "sklearn", "sympy", "torch._dynamo", "lightning_fabric", "requests"}
TORCH = {"torch", "numpy"}
COMMAND_LINE = {"jsonargparse", "rich"}

HELP_OF_ALL = f"""
from withstand.cli import main
for command in {list(COMMANDS)}:
    try:
        main([command, "--help"])
    except SystemExit:
        pass
"""
ATTACK = "from withstand import attacks, bayes, constraints, data, models, objectives, penalties, training"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import withstand", TORCH | PAGES | SLOW | COMMAND_LINE),
        ("from withstand.cli import main; main(['--help'])", TORCH | PAGES | SLOW | {"jsonargparse"}),
        (HELP_OF_ALL, TORCH | PAGES | SLOW | {"jsonargparse"}),
        ("from withstand.cli import main; main(['recipes'])", {"torch"} | PAGES | SLOW),
        ("import withstand.cli.report", {"torch"} | SLOW),
        (f"{ATTACK}; attacks.PGD()", {"jsonargparse"} | PAGES | SLOW),
        ("import withstand.cli.train", {"plotly", "jinja2"} | SLOW),
    ],
    ids=["package", "help", "help of commands", "recipes", "report", "attack", "train"],
)
def test_what_is_not_needed_is_not_imported(code: str, absent: set[str]) -> None:
    done = python(f"{code}\nimport sys\nprint('modules:', *sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("modules:")[2].split())
    assert "withstand" in loaded
    assert not loaded & absent


# -- names ------------------------------------------------------------------------------------------


def declared() -> dict[str, object]:
    """The names that a type checker is told of, with what they stand for."""
    tree = ast.parse(Path(str(ws.__file__)).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    names: dict[str, object] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            home = import_module(str(statement.module))
            value = getattr(home, alias.name, None) or import_module(f"{statement.module}.{alias.name}")
            names[alias.asname or alias.name] = value
    return names


def test_names_of_the_package_are_those_that_a_type_checker_is_told_of() -> None:
    names = declared()
    assert set(names) <= set(ws.__all__)
    for name, value in names.items():
        assert getattr(ws, name) is value, name
    assert set(ws.__all__) <= set(dir(ws))


def test_names_are_found_in_a_fresh_process_whatever_comes_first() -> None:
    code = (
        "import pickle, sys, withstand as ws\n"
        "for name in reversed(ws.__all__):\n"
        "    getattr(ws, name)\n"
        "from withstand import *\n"
        "assert fit is ws.training.fit and spectral is ws.operators and norms is ws.core.norms\n"
        "assert pickle.loads(pickle.dumps(ws.GaussianNoise(0.1))) == ws.GaussianNoise(0.1)\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    assert not hasattr(ws, "atacks")
    with pytest.raises(ImportError, match="atacks"):
        exec("from withstand import atacks")


@pytest.mark.parametrize("module", [norms, schedules, smoothing])
def test_module_lists_all_that_is_public(module: object) -> None:
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == getattr(module, "__name__", None)
    }
    assert own
    assert own <= set(getattr(module, "__all__"))  # noqa: B009


# -- help -------------------------------------------------------------------------------------------


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_shows_options_of_the_long_one_a_line_each(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = helped(capsys, command, "--help"), helped(capsys, command, "--help-all")
    options = [line for line in short.splitlines() if line.startswith("  --")]
    assert 1 <= len(options) <= 10
    assert f"withstand {command} --help-all" in short
    for line in options:
        # A setting of a class is explained with the class.
        known = [key for key in prefixes(line.split()[0].partition("=")[0].rstrip("+")) if key in long]
        assert known, line
        assert len(line) <= 102


def prefixes(option: str) -> list[str]:
    parts = option.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "sweep"])
def test_options_of_short_help_fit_a_recipe(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for option in COMMANDS[command].options if " " not in option and ".help" not in option]
    printed = [*(option for option in options if option != "--print_config"), "--print_config"]
    own = {"sweep": ("--out", "--on", "--cpus", "--scheduler"), "evaluate": ("--on",)}.get(command, ())
    kept = [option for option in printed if not option.startswith(own)]
    kept = [option for option in kept if option != "--weights=FILE"]  # of a model, not of a recipe
    assert "seed:" in helped(capsys, "run", "digits-adversarial", *kept)


@pytest.mark.parametrize("command", ["attack", "certify", "moments"])
def test_options_of_short_help_are_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option for option in COMMANDS[command].options if option not in ("--weights=FILE",)]
    of_runs = [option for option in options if not option.startswith(("--out", "--data"))]
    capsys.readouterr()
    assert main([command, str(tmp_path), *of_runs]) == 2
    assert "withstand train RECIPE" in " ".join(capsys.readouterr().err.split())  # what it lacks is a run


# -- Ctrl-C -----------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, wherever this is run
from withstand.cli import main
sys.exit(main(["train", "digits-adversarial", "--print_config"]))
"""


@pytest.mark.parametrize("module", ["withstand.cli.entry", "torch", "numpy", "withstand.training"])
def test_interrupted_import_of_a_command_ends_without_a_traceback(module: str) -> None:
    done = python(INTERRUPTED, module)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["Interrupted."]
    assert not done.stdout


def test_interrupts_are_again_exceptions_once_a_command_runs() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        assert main(["recipes"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_package_run_as_a_module_is_the_command() -> None:
    run = "runpy.run_module('withstand', run_name='__main__')"
    done = python(f"import runpy, sys; sys.argv = ['withstand', '--version']; {run}")
    assert done.stdout.split() == [ws.__version__]
