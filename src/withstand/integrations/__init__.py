"""Training loops of others: Lightning and Hugging Face's Trainer, each imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from withstand.integrations import hugging_face, lightning

__all__ = ["hugging_face", "lightning"]

if not TYPE_CHECKING:  # a checker that saw this would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"withstand.integrations.{name} needs the package {error.name}, which is not installed: "
                "pip install 'withstand[loops]'.",
                name=error.name,
            ) from error
