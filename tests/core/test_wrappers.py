from __future__ import annotations

from typing import cast

import torch
from torch import nn

from withstand.core.wrappers import unwrapped


def test_uncompiled_gives_the_module_that_was_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    assert compiled is not model
    assert unwrapped(compiled) is model


def test_uncompiled_of_another_model_is_that_model() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 2)))
    assert unwrapped(model) is model
