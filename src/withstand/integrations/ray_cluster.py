"""A cluster of Ray, joined or started here, whose workers run the code that runs here."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import torch

from withstand.core.setting_rules import COUNT, optional
from withstand.types import ClusterError

LOCAL = "ray"
"""What starts a cluster of this machine alone, or joins the one that RAY_ADDRESS names."""

_MISSING = "Ray is not installed: pip install 'withstand[distributed]'."
_SECONDS = 20.0  # in which an address must answer
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # which is what its next version does, and warns of
    "RAY_USAGE_STATS_ENABLED": "0",  # else it asks, or tells its makers
}


@dataclass(frozen=True)
class Cluster:
    """A cluster of Ray that this process has joined.

    Attributes:
        num_nodes: Machines that it has now.
        num_cpus: CPUs of all of them; tasks ask for whole ones.
        num_gpus: GPUs of all of them.
        is_local: Whether it was started here, so that its workers see this machine's files.
    """

    num_nodes: int
    num_cpus: int
    num_gpus: int
    is_local: bool

    def __str__(self) -> str:
        """In words: ``Ray with 8 CPUs and 1 GPU on 2 machines``."""
        parts = [_counted(self.num_cpus, "CPU")] + ([_counted(self.num_gpus, "GPU")] if self.num_gpus else [])
        return f"Ray with {' and '.join(parts)} on {_counted(self.num_nodes, 'machine')}"


@contextmanager
def connected(on: str = LOCAL, *, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Joins or starts a cluster, and leaves it in the end; what was started here ends with it.

    Where this process has joined one already, that one serves, and is not left.

    Args:
        on: ``ray``: a cluster of this machine alone, or the one that the environment's RAY_ADDRESS names.
            ``ray:host:port`` or ``ray:auto``: one of which this machine is part. ``ray://host:port``: one
            that is reached by Ray's client from outside.
        num_cpus: Of a cluster that is started here: how many; as many as the machine has where None.

    Raises:
        ClusterError: Ray is not installed, or its cluster cannot be reached.
        ValueError: ``on`` names no cluster, or a number is below 1.
    """
    num_cpus = optional(COUNT)("num_cpus of a cluster", num_cpus)
    address = _address(on)
    ray = require_ray()
    if ray.is_initialized():
        yield _joined(ray, is_local=False)
        return
    is_local = address == "local"
    try:
        _require_listening(address)
        _join(ray, address, num_cpus if is_local else None, _environment(is_local=is_local))
    except (OSError, RuntimeError, ValueError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ClusterError(f"Ray's cluster {on!r} cannot be reached: {first_line[:300]}") from error
    try:
        yield _joined(ray, is_local=is_local)
    finally:
        ray.shutdown()


def require_ray() -> ModuleType:
    """Ray itself, imported when it is first needed.

    Raises:
        ClusterError: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ClusterError(_MISSING) from error
    return ray


def use_assigned_threads() -> None:
    """In a worker: as many threads as its task or actor has CPUs, at least one; call it first.

    Ray sets OMP_NUM_THREADS alike, but not where the driver's environment has it.
    """
    ray = require_ray()
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
    torch.set_num_threads(max(1, int(cpus)))


def is_on_ray(on: str) -> bool:
    """Whether it names a cluster of Ray: ``ray``, ``ray:…`` or ``ray://…``."""
    return on == LOCAL or on.startswith("ray:")


def _address(on: str) -> str:
    """What Ray calls the address."""
    host = on.removeprefix("ray://").removeprefix("ray:")
    if not is_on_ray(on) or not host or any(sign.isspace() for sign in on):
        raise ValueError(
            f"{on!r} names no cluster. Take ray (this machine), ray:HOST:PORT, ray:auto (a cluster that this "
            "machine is part of) or ray://HOST:PORT (one reached from outside)."
        )
    if on == LOCAL:
        return os.environ.get("RAY_ADDRESS") or "local"
    return on if on.startswith("ray://") else host


def _require_listening(address: str) -> None:
    """Tries an address that has a port, of which Ray itself would try for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=_SECONDS).close()


def _join(ray: ModuleType, address: str, num_cpus: int | None, environment: dict[str, str]) -> None:
    known: dict[str, Any] = {} if num_cpus is None else {"num_cpus": num_cpus}
    if address == "local":
        known["include_dashboard"] = False
    ray.init(
        address=address,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
        **known,
    )


def _environment(*, is_local: bool) -> dict[str, str]:
    """What workers have in their environment, so that they import what is imported here.

    Another machine has its packages elsewhere: it is told of PYTHONPATH alone, before its own.
    """
    if is_local:
        return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    mine = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{mine}{os.pathsep}${{PYTHONPATH}}"} if mine else {}


def _joined(ray: ModuleType, *, is_local: bool) -> Cluster:
    resources = ray.cluster_resources()
    num_nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return Cluster(num_nodes, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), is_local)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
