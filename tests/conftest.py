"""What several tests share: a data set and a net so small that a training takes milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from tests.devices.pretended import DEVICE, Device
from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.integrations.ray_cluster import Cluster, connected

# How long a machine that does other things takes for an example is no fault.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")
# pytest listens to what torch writes for its own tools: thousands of lines without text.
logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)
# More threads only slow nets of this size down, the more so where several workers run.
torch.set_num_threads(1)

SIDE = 4
CLASSES = 3


def stripes(num: int, seed: int) -> Split:
    """Noisy 4 x 4 images whose bright column is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % CLASSES
    images: Tensor = torch.randint(0, 100, (num, 1, SIDE, SIDE), generator=generator)
    images[torch.arange(num), 0, :, labels] += 120
    return Split(images.to(torch.uint8), labels)


@pytest.fixture(autouse=True, scope="session")
def _key_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The key of run folders is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WITHSTAND_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Each test draws the same numbers, in whichever order and process it is run."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_dataset() -> Dataset:
    """96 training, 30 validation and 45 test images of three classes."""
    info = DatasetInfo("tiny", (1, SIDE, SIDE), ["left", "middle", "right"], [0.4], [0.25])
    return Dataset(info, train=stripes(96, 0), validation=stripes(30, 1), test=stripes(45, 2))


@pytest.fixture
def tiny_model() -> nn.Module:
    """A net with BatchNorm, so that modes matter, and Dropout, so that random state does."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * SIDE * SIDE, CLASSES),
    )


@pytest.fixture(scope="session")
def local_ray(_key_folder: None) -> Iterator[Cluster]:
    """Ray on this machine, with two CPUs; those who ask for it are of ``pytest.mark.xdist_group("ray")``."""
    pytest.importorskip("ray")
    with connected("ray", num_cpus=2) as cluster:
        yield cluster


@pytest.fixture
def device() -> Iterator[Device]:
    """A pretended accelerator; what it refused fails the test, whoever caught it."""
    with DEVICE.switched_on() as device:
        yield device
    assert device.faults == []
