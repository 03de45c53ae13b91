from __future__ import annotations

import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from withstand.data.folder import list_folder
from withstand.data.picture_files import Form, Picture, decode, form_of
from withstand.types import DataError

WritePicture = Callable[..., Path]


def test_folder_reads_classes_and_pictures_in_sorted_order(picture_folder: Path) -> None:
    folder = list_folder(picture_folder)
    parts = folder.read()
    assert folder.class_names == ("ant", "bee")
    assert parts.train.labels.tolist() == [0] * 6 + [1] * 6
    assert parts.train.images.shape == (12, 3, 4, 6)
    assert parts.train.images[:6, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert parts.train.images[6:, 1, 3, 5].tolist() == [0, 10, 20, 30, 40, 50]
    assert parts.test.labels.tolist() == [0, 1, 1]
    assert parts.test.images[:, 1, 0, 0].tolist() == [0, 200, 100]


def test_folder_keeps_pixels_in_their_places(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = Picture("a", tmp_path / "a.png")
    from_disk = decode([picture], form_of(picture))
    from_memory = decode([Picture("a", (tmp_path / "a.png").read_bytes())], form_of(picture))
    assert np.array_equal(from_disk[0], pixels.transpose(2, 0, 1))
    assert torch.equal(from_disk, from_memory)


def test_folder_keeps_the_order_of_many_pictures(tmp_path: Path, write_picture: WritePicture) -> None:
    paths = [write_picture(tmp_path / f"{level}.png", level, size=(1, 1), mode="L") for level in range(256)]
    pictures = [Picture(str(path), path) for path in [*paths, *reversed(paths), *paths]]
    levels = decode(pictures, form_of(pictures[0])).flatten().tolist()
    assert levels == [*range(256), *reversed(range(256)), *range(256)]


def test_folder_info_measures_the_training_pictures(picture_folder: Path) -> None:
    folder = list_folder(picture_folder)
    info = folder.info()
    floats = folder.read().train.images.double() / 255
    assert info.name == f"folder:{picture_folder}"
    assert (info.shape, tuple(info.class_names)) == ((3, 4, 6), ("ant", "bee"))
    assert list(info.mean) == pytest.approx(floats.mean((0, 2, 3)).tolist())
    assert list(info.std) == pytest.approx(floats.std((0, 2, 3), correction=0).tolist())


def test_folder_takes_colour_from_the_first_picture(
    picture_folder: Path, write_picture: WritePicture
) -> None:
    write_picture(picture_folder / "train" / "ant" / "00.png", 77, mode="L")
    (picture_folder / "train" / "ant" / "0.png").unlink()
    parts = list_folder(picture_folder).read()
    assert parts.train.images.shape == (12, 1, 4, 6)
    assert set(parts.train.images[0].flatten().tolist()) == {77}


def test_folder_size_resizes_the_shorter_side_and_crops_the_longer(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "a" / "wide.png")
        Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / part / "a" / "tall.png")
    images = list_folder(tmp_path, size=4).read().train.images
    # The middle third is what a centre crop keeps.
    assert images.shape == (2, 3, 4, 4)
    assert set(images.flatten().tolist()) == {200}


def test_folder_of_different_sizes_needs_a_size(picture_folder: Path, write_picture: WritePicture) -> None:
    write_picture(picture_folder / "test" / "bee" / "z.png", (1, 2, 3), size=(5, 4))
    with pytest.raises(DataError, match=r"z.png is 5 x 4 pixels, but the first is 6 x 4. Name a `size`"):
        list_folder(picture_folder).read()
    assert list_folder(picture_folder, size=8).read().test.images.shape == (4, 3, 8, 8)


def test_folder_size_must_be_positive(picture_folder: Path) -> None:
    with pytest.raises(DataError, match="size must be at least 1 pixel, but is 0"):
        list_folder(picture_folder, size=0)


@pytest.mark.parametrize("part", ["train", "test"])
def test_folder_needs_both_parts(picture_folder: Path, part: str) -> None:
    shutil.rmtree(picture_folder / part)
    with pytest.raises(
        DataError, match=f"has no folder {part}. Pictures belong in .*/train/CLASS/ and .*/test/"
    ):
        list_folder(picture_folder)


def test_folder_needs_class_folders_in_each_part(picture_folder: Path) -> None:
    shutil.rmtree(picture_folder / "test")
    (picture_folder / "test").mkdir()
    with pytest.raises(DataError, match="test has no class folders"):
        list_folder(picture_folder)


def test_folder_refuses_a_class_that_is_only_tested(
    picture_folder: Path, write_picture: WritePicture
) -> None:
    write_picture(picture_folder / "test" / "wasp" / "1.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"classes that .*train lacks: wasp"):
        list_folder(picture_folder)


def test_folder_takes_a_class_that_is_only_trained_on(picture_folder: Path) -> None:
    shutil.rmtree(picture_folder / "test" / "ant")
    assert list_folder(picture_folder).read().test.labels.tolist() == [1, 1]


@pytest.mark.parametrize("folder", ["train/ant", "test"])
def test_folder_without_pictures_is_refused(picture_folder: Path, folder: str) -> None:
    for path in (picture_folder / folder).rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=f"{folder} holds no pictures .*png"):
        list_folder(picture_folder)


def test_folder_leaves_out_hidden_and_other_files(picture_folder: Path) -> None:
    (picture_folder / "train" / "ant" / "._0.png").write_bytes(b"resource fork")
    (picture_folder / "train" / "ant" / "notes.txt").write_text("hello")
    (picture_folder / "train" / ".thumbnails").mkdir()
    assert len(list_folder(picture_folder).read().train) == 12


@pytest.mark.parametrize("keep", [0, 20, 45])
def test_folder_names_a_broken_picture(picture_folder: Path, keep: int) -> None:
    path = picture_folder / "train" / "ant" / "3.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"3.png cannot be read: .*Delete it or replace it"):
        list_folder(picture_folder).read()


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EOF\n",
        b"P5 6 4 255\n" + bytes(24),
        b"GIF89a" + bytes(20),
    ],
    ids=["EPS", "PPM", "GIF"],
)
def test_folder_opens_the_formats_of_its_suffixes_alone(picture_folder: Path, content: bytes) -> None:
    path = picture_folder / "train" / "ant" / "3.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"3.png cannot be read: it is none of JPEG, PNG, BMP, WEBP"):
        list_folder(picture_folder).read()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_folder_opens_each_format_by_whatever_suffix(picture_folder: Path, kind: str, suffix: str) -> None:
    path = picture_folder / "train" / "ant" / f"another{suffix}"
    Image.new("RGB", (6, 4)).save(path, kind)
    assert len(list_folder(picture_folder).read().train) == 13


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "folder"])
def test_folder_refuses_pictures_that_are_no_files(picture_folder: Path, kind: str) -> None:
    path = picture_folder / "train" / "ant" / "3.png"
    path.unlink()
    if "pipe" in kind:
        os.mkfifo(path if kind == "pipe" else picture_folder / "pipe")
    if kind == "link to a pipe":
        path.symlink_to(picture_folder / "pipe")
    if kind == "device":
        path.symlink_to("/dev/zero")
    if kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=r"3.png is no file, but a folder, a pipe or a device"):
        list_folder(picture_folder).read()


def test_folder_refuses_sixteen_bits_and_does_not_cut_them_off(picture_folder: Path) -> None:
    deep = np.full((4, 6), 40_000, np.uint16)
    Image.fromarray(deep).save(picture_folder / "test" / "ant" / "deep.png")
    with pytest.raises(DataError, match=r"deep.png has more than 8 bits a channel"):
        list_folder(picture_folder).read()


def test_folder_turns_pictures_upright(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    picture = Picture("a", tmp_path / "a.png")
    assert decode([picture], form_of(picture))[0, 0].tolist() == [[0, 0, 0], [255, 255, 255]]


def said(caplog: pytest.LogCaptureFixture, pictures: list[Path], first: Path | None = None) -> str:
    """What is said of pictures whose form the first one sets."""
    caplog.clear()
    named = [Picture(path.name, path) for path in pictures]
    with caplog.at_level(logging.WARNING):
        decode(named, form_of(Picture("first", first or pictures[0])))
    return caplog.text


def test_transparent_pictures_are_laid_on_white_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    pixels[0, 0, 3], pixels[0, 1] = 0, (0, 100, 255, 51)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    pictures = [Picture(name, tmp_path / name) for name in ("opaque.png", "clear.png")]
    with caplog.at_level(logging.WARNING):
        opaque, clear = decode(pictures, form_of(pictures[0]))
    assert torch.equal(opaque[:, 1:], clear[:, 1:])
    np.testing.assert_array_equal(opaque[:, 1:], pixels[1:, :, :3].transpose(2, 0, 1))
    assert clear[:, 0, 0].tolist() == [255, 255, 255]
    assert clear[:, 0, 1].tolist() == [204, 224, 255]
    assert "1 of 2 pictures, such as clear.png, are transparent" in caplog.text
    assert "opaque" not in caplog.text


def test_transparent_palettes_and_greys_are_seen_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    palette = Image.new("RGB", (3, 2), (51, 102, 204)).convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    Image.new("LA", (3, 2), (9, 0)).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        assert f"such as {name}, are transparent" in said(caplog, [tmp_path / name])
        picture = Picture(name, tmp_path / name)
        assert {*decode([picture], form_of(picture)).flatten().tolist()} == {255}


def test_mixed_grey_and_colour_pictures_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.new("L", (3, 2), 70).save(grey)
    Image.new("RGB", (3, 2), (10, 200, 30)).save(colour)
    assert "such as colour.png, are in colour, but the first picture is grey" in said(caplog, [grey, colour])
    assert "such as grey.png, are grey, but the first picture is in colour" in said(caplog, [colour, grey])
    assert said(caplog, [colour, colour]) == said(caplog, [grey]) == ""


def test_pictures_of_inks_and_moving_ones_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("CMYK", (3, 2)).save(tmp_path / "ink.jpg")
    frames = [Image.new("RGB", (3, 2), (level, 0, 0)) for level in (10, 200)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    assert "ink.jpg, have the colours CMYK" in said(caplog, [tmp_path / "ink.jpg"])
    assert "film.png, hold several pictures" in said(caplog, [tmp_path / "film.png"])


def _png_of_16_bits(path: Path, kind: int, channels: int) -> Path:
    """A PNG of 2 x 2 pixels with 16 bits a channel, which Pillow cannot write in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + bytes(range(1, 4 * channels + 1))) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pictures_of_16_bits_are_refused_not_cut_off(tmp_path: Path, kind: int, channels: int) -> None:
    path = _png_of_16_bits(tmp_path / "deep.png", kind, channels)
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        form_of(Picture("deep.png", path))


def test_pictures_that_are_far_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (8200, 8200)).save(tmp_path / "bomb.png")
    Image.new("1", (2000, 2000)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"bomb.png is 8200 x 8200 pixels, and at most 67,108,864"):
        form_of(Picture("bomb.png", tmp_path / "bomb.png"))
    with pytest.raises(DataError, match=r"large.png is 2000 x 2000 pixels, but the first is 4 x 4"):
        decode([Picture("large.png", tmp_path / "large.png")], Form("L", 4, 4, resize=False))


def test_pictures_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    picture = Picture("a", tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1 pictures of 3 x 10000000 x 10000000 take .* GiB.*smaller"):
        decode([picture], Form("RGB", 10_000_000, 10_000_000, resize=True))


def test_folder_with_a_renamed_class_says_which(picture_folder: Path) -> None:
    (picture_folder / "test" / "ant").rename(picture_folder / "test" / "emmet")
    with pytest.raises(DataError, match=r"train lacks: emmet. Was one renamed\? In test there is no ant"):
        list_folder(picture_folder)


def test_folder_says_what_it_does_not_read(
    picture_folder: Path, write_picture: WritePicture, caplog: pytest.LogCaptureFixture
) -> None:
    list_folder(picture_folder)
    assert caplog.text == ""
    write_picture(picture_folder / "train" / "ant" / "more" / "1.png", (1, 2, 3))
    write_picture(picture_folder / "test" / "bee" / "scan.tiff", (1, 2, 3))
    write_picture(picture_folder / "test" / "loose.png", (1, 2, 3))
    list_folder(picture_folder)
    assert "3 files or folders are not read, such as" in caplog.text
