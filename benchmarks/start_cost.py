"""How long the package and its commands take to start, beside ``import torch``.

    python benchmarks/start_cost.py --out=results/benchmarks/start_cost.json

Each is a process of its own, from its start to its end, and they take turns. Medians of all rounds, in
seconds and as multiples of ``import torch`` within the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from timing import interleaved

_TORCH = "import torch"
_COMMANDS = (
    "run",
    "train",
    "evaluate",
    "certify",
    "attack",
    "moments",
    "check",
    "sweep",
    "compare",
    "report",
)
_PACKAGE = (
    "import withstand",
    "import withstand as ws; ws.attacks.PGD()",
    "from withstand import data, models, objectives, penalties, training",
    "import withstand as ws; ws.evaluate",
)


def process(*arguments: str) -> Callable[[], object]:
    """A process of Python's with these arguments, to be timed."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often to time each, after one warm-up")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    lines = [["--help"], *([command, "--help"] for command in _COMMANDS), ["run", "--help-all"], ["recipes"]]
    pieces = {code: process("-c", code) for code in (_TORCH, *_PACKAGE)}
    pieces |= {f"withstand {' '.join(line)}": process("-m", "withstand", *line) for line in lines}
    seconds = interleaved(pieces, rounds=arguments.rounds)
    result = {
        "command": " ".join(["python", "benchmarks/start_cost.py", *sys.argv[1:]]),
        "machine": {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__},
        "rounds": arguments.rounds,
        "seconds": seconds,
        "of_import_torch": {name: value / seconds[_TORCH] for name, value in seconds.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
