"""YAML that is small once it is read: a few lines of aliases may stand for more than memory holds."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

_MOST_VALUES = 100_000
_MOST_LEVELS = 64
_Reader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class BoundlessYamlError(yaml.YAMLError):
    """A text refers to itself, or stands for more values or levels than are read."""


@dataclass
class _Part:
    """A value with all that is in it, aliases written out."""

    anchor: str | None
    size: int = 1
    levels: int = 1

    def add(self, part: _Part) -> None:
        self.size += part.size
        self.levels = max(self.levels, part.levels + 1)


def require_bounded(text: str) -> None:
    """Accepts YAML of at most 100,000 values in 64 levels, every alias written out, without building any.

    Raises:
        BoundlessYamlError: it has more, or has a part that is in itself.
        yaml.YAMLError: it is no YAML.
    """
    open_parts, known = [_Part(None, levels=0)], dict[str, _Part]()
    for event in yaml.parse(text, _Reader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append(_Part(anchor))
            _require_levels(len(open_parts) - 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            _close(open_parts.pop(), open_parts[-1], known)
        elif isinstance(event, yaml.ScalarEvent):
            _close(_Part(anchor), open_parts[-1], known)
        elif isinstance(event, yaml.AliasEvent):
            if any(part.anchor == anchor for part in open_parts):
                raise BoundlessYamlError(f"the part &{anchor} is in itself, as *{anchor}")
            _close(known.get(str(anchor), _Part(None)), open_parts[-1], known)


def _close(part: _Part, above: _Part, known: dict[str, _Part]) -> None:
    if part.anchor is not None:
        known[part.anchor] = part
    above.add(part)
    _require_levels(above.levels)
    if above.size > _MOST_VALUES:
        raise BoundlessYamlError(f"it stands for more than {_MOST_VALUES:,} values, aliases written out")


def _require_levels(levels: int) -> None:
    if levels > _MOST_LEVELS:
        raise BoundlessYamlError(f"it has more than {_MOST_LEVELS} levels of lists and mappings")
