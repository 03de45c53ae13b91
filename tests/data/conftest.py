from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteIdx = Callable[..., Path]
WritePicture = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test sees the data or the cache of the user, except those that ask for real data."""
    if "real_root" not in request.fixturenames:
        monkeypatch.delenv("WITHSTAND_DATA", raising=False)
        monkeypatch.setenv("WITHSTAND_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_idx() -> WriteIdx:
    """Writes an idx file of uint8 values, gzipped where the name ends in .gz."""

    def write(path: Path, values: object) -> Path:
        array = np.asarray(values, np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
        data = header + array.tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.fixture
def mnist_arrays() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """What the four files of a tiny MNIST hold: 40 training and 7 test images."""
    draw = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": draw.integers(0, 256, (40, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": draw.integers(0, 10, 40, np.uint8),
        "t10k-images-idx3-ubyte": draw.integers(0, 256, (7, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": draw.integers(0, 10, 7, np.uint8),
    }


@pytest.fixture
def mnist_root(
    tmp_path: Path,
    write_idx: WriteIdx,
    mnist_arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
) -> Path:
    """A data root with a tiny MNIST."""
    for name, values in mnist_arrays.items():
        write_idx(tmp_path / "MNIST" / "raw" / f"{name}.gz", values)
    return tmp_path


@pytest.fixture
def write_picture() -> WritePicture:
    """Writes a picture of one level or colour."""

    def write(
        path: Path, color: int | tuple[int, int, int], *, size: tuple[int, int] = (6, 4), mode: str = "RGB"
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, color).save(path)
        return path

    return write


@pytest.fixture
def picture_folder(tmp_path: Path, write_picture: WritePicture) -> Path:
    """An image folder with two classes, twelve training and three test pictures of 6 x 4 pixels."""
    folder = tmp_path / "pictures"
    for number in range(6):
        write_picture(folder / "train" / "ant" / f"{number}.png", (10 * number, 0, 0))
        write_picture(folder / "train" / "bee" / f"{number}.BMP", (0, 10 * number, 255))
    write_picture(folder / "test" / "ant" / "x.png", (200, 0, 0))
    write_picture(folder / "test" / "bee" / "x.png", (0, 200, 255))
    write_picture(folder / "test" / "bee" / "y.png", (0, 100, 255))
    return folder


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the loopback URL at which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()
