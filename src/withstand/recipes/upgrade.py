"""Recipes of older versions: modules that moved, and what to write for keys that no longer exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from withstand.types import RecipeError

# Keys of settings that are those of a meter now.
_METERS = {
    "kernel_norms": "KernelNorms",
    "noise": "NoiseCurve",
    "corruptions": "Corruptions",
    "smoothing": "RandomizedSmoothing",
}
_UNCERTAINTY = "sampling.uncertainty"
# Switches of attacks, in whose place is the mode.
_MODES = {"stop_when_fooled": "evaluation", "rank_by_loss": "random"}
_OLD = ("attacks", "epsilons", "suite", "certificates", "protocols", *_METERS, _UNCERTAINTY)


# Where classes that recipes name by their whole path were, and are.
_MOVED = {
    "kernel_norms": "evaluation.kernel_norms",
    "noise": "core.noise",
    "schedules": "core.schedules",
    "terms": "loss",
}
# As a whole value of YAML; a path in which such a name occurs is none.
_OLD_MODULE = re.compile(
    rf"(?<![^\s\[{{,'\"])withstand\.({'|'.join(_MOVED)})\.(?=[A-Z]\w*\s*(?:[\]}},'\"#]|$))", re.MULTILINE
)


def with_moved_modules(text: str) -> str:
    """A recipe's text in which classes stand in the modules of today."""
    return _OLD_MODULE.sub(lambda module: f"withstand.{_MOVED[module[1]]}.", text)


def refuse_old_keys(path: Path, overrides: Sequence[str], load: Callable[[str], Any]) -> None:
    """Accepts a recipe, and what overrides it, without keys of measurements and attacks that no longer exist.

    Args:
        path: A YAML file; other faults of it are for others to report.
        overrides: Each ``--key=value``.
        load: Reads YAML.

    Raises:
        RecipeError: there is such a key; the text shows what to write instead.
    """
    for override in overrides:
        prefix = f"{override.partition('=')[0]}."
        if key := next((key for key in _OLD if prefix.startswith(f"--evaluation.{key}.")), None):
            raise RecipeError(
                f"evaluation.{key} is no key any more: all that is measured is a list, evaluation.meters. "
                "Add to it by --evaluation.meters+=Suite --evaluation.meters.level=standard "
                "--evaluation.meters.epsilons=[0.1], and so Attacks, Certificate, NoiseCurve, Corruptions, "
                "RandomizedSmoothing, KernelNorms, Uncertainty."
            )
    try:
        recipe = load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    evaluation = recipe.get("evaluation") if isinstance(recipe, Mapping) else None
    if isinstance(evaluation, Mapping) and (old := _old_keys(evaluation)):
        new = yaml.safe_dump({"evaluation": _shown(evaluation)}, sort_keys=False, width=100)
        raise RecipeError(
            f"{path} is of an older version: all that is measured is a list now, evaluation.meters, in the "
            f"place of {', '.join(f'evaluation.{key}' for key in old)}. Write instead:\n{new}"
        )
    if switches := sorted(_switches(recipe)):
        modes = " and ".join(f"mode: {_MODES[key]} for {key}: true" for key in switches)
        raise RecipeError(
            f"{path} is of an older version: attacks have a mode now, in the place of {', '.join(switches)}. "
            f"Leave out what is false, and write {modes}."
        )


def _switches(of: object) -> set[str]:
    """The switches of attacks that are anywhere inside."""
    if isinstance(of, Mapping):
        return {key for key in of if key in _MODES}.union(*map(_switches, of.values()))
    return set().union(*map(_switches, of)) if isinstance(of, list) else set()


def _old_keys(evaluation: Mapping[str, Any]) -> list[str]:
    sampling = evaluation.get("sampling")
    is_unsure = isinstance(sampling, Mapping) and "uncertainty" in sampling
    return [key for key in _OLD if key in evaluation or (is_unsure and key == _UNCERTAINTY)]


def _shown(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What to write instead; an example where the values did not fit the older version either."""
    try:
        return new_evaluation(evaluation)
    except (AttributeError, TypeError, ValueError):
        return {"meters": [_meter("Suite", level="standard", epsilons=[0.1])]}


def new_evaluation(old: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation of an old recipe as one writes it now."""
    epsilons, sampling = old.get("epsilons") or [], dict(old.get("sampling") or {})
    meters = [_meter("Attacks", attacks=old["attacks"], epsilons=[*epsilons])] if old.get("attacks") else []
    if suite := old.get("suite"):
        settings = {"level": suite} if isinstance(suite, str) else dict(suite)
        known = {key: value for key, value in settings.items() if value is not None}
        meters.append(_meter("Suite", **{"epsilons": [*epsilons], **known}))
    for certificate in old.get("certificates") or []:
        own = {key: value for key, value in certificate.items() if value is not None}
        meters.append(_meter("Certificate", **{"norm": 2.0, "epsilons": [*epsilons], **own}))
    meters += [_meter(name, **old[key]) for key, name in _METERS.items() if old.get(key) is not None]
    meters += old.get("protocols") or []
    if (uncertainty := sampling.pop("uncertainty", None)) is not None:
        meters.append(_meter("Uncertainty", **uncertainty))
    unchanged = {key: old[key] for key in ("num_examples", "batch_size", "weights") if key in old}
    return {"meters": meters, **({"sampling": sampling} if sampling else {}), **unchanged}


def _meter(name: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": settings} if settings else {"class_path": name}
