"""What tests of proofs share."""

import pytest

from withstand.certificates import proving


@pytest.fixture(params=["inputs", "neurons"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of what branch and bound makes cases, whatever the number of inputs."""
    monkeypatch.setattr(proving, "_FEW_INPUTS", 20 if request.param == "inputs" else 0)
    return str(request.param)


@pytest.fixture
def without_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves all to the bounds."""
    monkeypatch.setattr(proving, "attack", lambda *args, **kwargs: None)
