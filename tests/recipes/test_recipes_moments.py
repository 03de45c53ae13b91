"""The sweeps over Gaussian noise: what the published units come to in pixels."""

from __future__ import annotations

import pytest

from withstand.recipes.sweep import find_sweep, points, read_sweep

SIGMAS = [0.125, 0.25, 0.325, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
WEIGHTS = [0.5, 1.0, 1.5, 2.0, 5.0, 10.0, 20.0]
# Means and deviations by which the published code normalises.
NORMALISATION = {
    "mnist": ([0.5], [1.0]),
    "cifar10": ([0.4915, 0.4823, 0.4468], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5072, 0.4867, 0.4412], [0.2673, 0.2564, 0.2762]),
}


def in_pixels(data: str, sigma: float) -> list[float]:
    """The noise_std that the published training takes a sigma for, one a channel."""
    means, deviations = NORMALISATION[data]
    value_range = 2 * (len(means) - sum(means)) / sum(deviations)
    return [sigma / value_range * deviation for deviation in deviations]


@pytest.mark.parametrize("data", NORMALISATION)
def test_published_units_are_converted(data: str) -> None:
    file = find_sweep(f"{data}-moments-grid-published-units")
    sweep = read_sweep(file)
    header = file.read_text().split("name:")[0]
    assert sweep.over == {"objective.weight": WEIGHTS}
    assert len(sweep.variants) == len(SIGMAS)
    for sigma, (name, settings) in zip(SIGMAS, sweep.variants.items(), strict=True):
        assert name == f"sigma-{sigma:g}"
        noise_std = settings["objective.noise_std"]
        channels = noise_std if isinstance(noise_std, list) else [noise_std]
        assert channels == [pytest.approx(value, rel=5e-4) for value in in_pixels(data, sigma)]
        if len(channels) > 1:
            assert f"{sigma:<7g} {', '.join(f'{value:g}' for value in channels)}\n" in header


@pytest.mark.parametrize("data", NORMALISATION)
def test_grid_in_pixel_units_takes_every_weight_and_number_of_copies(data: str) -> None:
    sweep = read_sweep(find_sweep(f"{data}-moments-grid"))
    weights = [settings.get("objective.weight") for settings in sweep.variants.values()]
    copies = [
        settings["objective"]["init_args"]["num_copies"]
        for settings in sweep.variants.values()
        if "objective" in settings
    ]
    assert [weight for weight in weights if weight is not None] == WEIGHTS
    assert copies == [1, 5, 10, 20]
    all_points = points(sweep)
    assert len(all_points) == len(sweep.over["objective.noise_std"]) * (len(WEIGHTS) + len(copies))
    assert f"{len(all_points)} runs" in " ".join(find_sweep(sweep.name).read_text().split("\n# ")[:3])
