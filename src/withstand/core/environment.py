"""What a run ran on, so that its figures can be assessed and repeated."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from withstand.core.processes import num_processes
from withstand.core.run_folder import RunFolder

_PACKAGES = ("withstand", "torch", "lightning-fabric", "numpy")


def environment(
    *, seed: int, command: str | None, data_fingerprint: str, device: torch.device
) -> dict[str, Any]:
    """Versions, device, seed, data and commit, as ``environment.json`` holds them.

    Args:
        seed: Of the run.
        command: That repeats the run; None where it was made in Python.
        data_fingerprint: Hash of the data that was used.
        device: Where it ran.
    """
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": describe_device(device),
        "seed": seed,
        "git_commit": git_commit(),
        "data_fingerprint": data_fingerprint,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def add_cost(run: RunFolder, **costs: float) -> None:
    """Puts what a stage cost beside what the others did, in ``environment.json``."""
    content = run.read_json(run.environment)
    content["cost"] = {**content.get("cost", {}), **costs}
    run.write_json(run.environment, content)


def describe_device(device: torch.device) -> str:
    """For people: ``cpu (2 threads)`` or the name of the accelerator; and of how many processes it is one."""
    kind = (
        f"cuda ({torch.cuda.get_device_name(device)})"
        if device.type == "cuda"
        else f"{device.type} ({torch.get_num_threads()} threads)"
    )
    return kind if num_processes() == 1 else f"{num_processes()} processes, each on {kind}"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process held: of the accelerator where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS


def git_commit() -> str | None:
    """The commit of the source, where it runs from a checkout; marked where files differ from it."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # not a stranger's repository
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
