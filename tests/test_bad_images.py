"""Whatever is in a file: the right pixels, or an error that names it; in a data set, a counted and listed skip."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from frugalseg.data import DataError, images, read
from frugalseg.data.images import BadImage
from frugalseg.inference.predictor import samples

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image = NOISE, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    return images.load(path).permute(1, 2, 0).numpy()


def huge_png(path: Path) -> Path:
    """A well-formed header that promises 100,000 x 100,000 pixels, and nothing behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT")
    return path


# -- images of every kind come out as a viewer shows them --


def test_rgb_comes_out_unchanged(tmp_path: Path) -> None:
    loaded = images.load(save(tmp_path / "a.png"))
    assert loaded.dtype == torch.uint8
    assert loaded.shape == (3, 20, 30)
    assert (pixels(tmp_path / "a.png") == NOISE).all()


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "I;16"])
def test_a_picture_in_memory_is_what_its_file_is(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257) if kind == "I;16" else Image.fromarray(NOISE).convert(kind)
    loaded = images.load(save(tmp_path / "a.png", image))
    given = [image] if kind == "P" else [image, np.asarray(image)]
    for sample in samples(given):
        assert (sample.image == loaded).all()


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30, 2), (2, 20, 30, 3), (20,)])
def test_an_array_that_is_no_picture_is_told_what_would_be(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadImage, match=rf"{shape[0]}.* of float32; expected height x width"):
        images.converted(np.zeros(shape, np.float32))


def test_cmyk_red_is_red(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() < 10


def test_sixteen_bits_are_scaled_by_their_range_and_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        grey = pixels(save(tmp_path / name, levels * 257))
        assert (grey == levels[..., None]).all()


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(NOISE).quantize(16)
    assert (pixels(save(tmp_path / "a.png", palette)) == np.array(palette.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    black = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    black.putpixel((0, 0), (0, 0, 0, 0))
    black.putpixel((1, 0), (0, 0, 0, 128))
    image = black if mode == "RGBA" else black.convert(mode)
    shown = pixels(save(tmp_path / "a.tif" if mode == "PA" else tmp_path / "a.png", black if mode == "PA" else image))
    assert shown[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    shown = pixels(save(tmp_path / "a.png", image, transparency=0))
    assert shown[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    assert pixels(save(tmp_path / "a.png", image))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_pictures_are_scaled_by_the_range_that_holds_them(tmp_path: Path, top: float) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32) * top
    assert pixels(save(tmp_path / "a.tif", values))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan")])
def test_float_values_without_a_range_are_refused(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "a.tif", np.array([[0.0, value]], dtype=np.float32))
    for reader in (images.load, images.verify):
        with pytest.raises(BadImage, match="fit none of the ranges") as caught:
            reader(path)
        assert caught.value.code == "image-range"


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert (pixels(tmp_path / "a.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = save(tmp_path / "a.png", exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert (pixels(path) == expected).all()
    assert images.header(path)[:3] == (*expected.shape[:2], orientation)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_hide_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 6), "red"), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert images.load(path).shape == (3, 6, 8)


# -- everything else is an error that names the file --


def truncated(kind: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        whole = io.BytesIO()
        Image.fromarray(NOISE[..., 0]).save(whole, kind)
        path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
        return path

    return make


def written(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def folder(path: Path) -> Path:
    path.mkdir()
    return path


BROKEN = {
    "empty": (written(b""), "the file is empty"),
    "truncated jpeg": (truncated("jpeg"), "cannot be decoded"),
    "truncated png": (truncated("png"), "cannot be decoded"),
    "truncated tiff": (truncated("tiff"), "cannot be decoded"),
    "text": (written(b"not an image"), "cannot identify"),
    "postscript": (written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify"),
    "folder": (folder, "is a folder"),
    "missing": (lambda path: path, "there is no such file"),
    "huge": (huge_png, "100000 x 100000 pixels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unusable_file_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    make, reason = BROKEN[kind]
    path = make(tmp_path / "broken.jpg")
    for reader in (images.load, images.verify, images.load_mask):
        expected = "stored as JPEG" if (kind, reader) == ("truncated jpeg", images.load_mask) else reason
        with pytest.raises(BadImage, match=expected) as caught:
            reader(path)
        assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about tags
@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_random_damage_gives_a_picture_or_bad_image_and_verify_agrees(tmp_path: Path, kind: str) -> None:
    whole, dice = save(tmp_path / f"a.{kind}").read_bytes(), random.Random(kind)
    damaged = tmp_path / f"damaged.{kind}"
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        damaged.write_bytes(content[: dice.choice((len(content), dice.randrange(len(content))))])
        assert usable(images.verify, damaged) == usable(images.load, damaged)


def usable(reader: Callable[[Path], object], path: Path) -> bool:
    try:
        reader(path)
    except BadImage:
        return False
    return True


def test_pixel_limit_is_exact_and_leaves_pillows_own_alone(tmp_path: Path) -> None:
    path, before = save(tmp_path / "a.png"), Image.MAX_IMAGE_PIXELS
    assert images.load(path, max_pixels=600).shape == (3, 20, 30)
    with pytest.raises(BadImage, match="30 x 20 pixels, the limit is 599"):
        images.load(path, max_pixels=599)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's bomb warning would be one
        with pytest.raises(BadImage, match="the limit is"):
            images.load(huge_png(tmp_path / "huge.png"))
    assert before == Image.MAX_IMAGE_PIXELS


def test_bad_image_survives_the_way_out_of_a_worker_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "is torn", "image-broken")))
    assert (str(error), error.code) == ("a.jpg: is torn", "image-broken")


# -- masks --


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_mask_gives_ids_whatever_holds_them(tmp_path: Path, mode: str) -> None:
    ids = np.array([[0, 1, 2], [20, 255, 7]])
    image = Image.fromarray(ids.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)  # colours must not matter
    assert images.load_mask(save(tmp_path / "a.png", image)).tolist() == ids.tolist()


def test_ids_are_those_that_occur() -> None:
    for values in ([0, 3, 3, 255], [7, 65535, 0, 7], [-1, 5, 1 << 30, 5]):
        assert images.ids(torch.tensor(values).reshape(2, 2)) == sorted(set(values))


@pytest.mark.parametrize(
    ("name", "mode", "code"), [("a.png", "RGB", "mask-rgb"), ("a.png", "RGBA", "mask-rgb"), ("a.jpg", "L", "mask-lossy")]
)
def test_mask_that_cannot_hold_ids_is_refused(tmp_path: Path, name: str, mode: str, code: str) -> None:
    with pytest.raises(BadImage) as caught:
        images.load_mask(save(tmp_path / name, Image.new(mode, (4, 4))))
    assert caught.value.code == code


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_follows_its_turned_picture_however_it_was_drawn(tmp_path: Path, orientation: int) -> None:
    """Drawn on the turned image it stays as it is; with the size of the unturned one it is turned along."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    picture, stored = save(tmp_path / "a.png", exif=exif), NOISE[..., 0] % 4
    turned = pixels(picture)[..., 0] % 4
    drawn = images.load_mask(save(tmp_path / "drawn.png", turned), picture)
    assert (drawn.numpy() == turned).all()
    if orientation >= 5:
        assert (images.load_mask(save(tmp_path / "stored.png", stored), picture).numpy() == turned).all()
    with pytest.raises(BadImage, match="its image"):
        images.load_mask(save(tmp_path / "other.png", stored[:-1]), picture)


# -- in a data set: counted, listed, limited; the others are all there --


def tagged(root: Path, count: int = 20) -> Path:
    for number in range(count):
        save(root / "images" / f"{number:02}.png")
    (root / "tags.csv").write_text("".join(f"{number:02},dog\n" for number in range(count)))
    return root


@pytest.mark.parametrize("kind", ["empty", "truncated jpeg", "text", "huge"])
def test_unusable_picture_is_left_out_and_listed(tmp_path: Path, kind: str) -> None:
    root = tagged(tmp_path)
    BROKEN[kind][0](root / "images" / "20.png")
    data = read(root)
    assert data.names == [f"{number:02}" for number in range(20)]
    (problem,) = (problem for problem in data.problems if problem.effect)
    assert problem.code == ("image-too-large" if kind == "huge" else "image-broken")
    assert problem.count == 1
    assert problem.items[0].startswith("images/20.png (")


def test_too_many_unusable_pictures_are_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    root = tagged(tmp_path, 4)
    (root / "images" / "00.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"image left out: 1 of 4.*\n.*image-broken.*images/00.png \(the file is empty\)(.|\n)*skip_limit=1.0"
    ):
        read(root)
    assert len(read(root, skip_limit=0.25)) == 3
    assert len(read(root, verify=False)) == 4


def test_larger_pictures_are_read_when_allowed(tmp_path: Path) -> None:
    root = tagged(tmp_path, 2)
    with pytest.raises(DataError, match="image-too-large"):
        read(root, max_pixels=599)
    assert len(read(root, max_pixels=600)) == 2


def test_masks_with_unknown_ids_are_withheld_and_their_pictures_kept(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "images" / f"{number:02}.png")
        save(tmp_path / "masks" / f"{number:02}.png", np.full((20, 30), number % 3, np.uint8))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    save(tmp_path / "masks" / "07.png", np.full((20, 30), 3, np.uint8))
    data = read(tmp_path)
    assert len(data) == 20
    assert [record.name for record in data.records if record.semantic is None] == ["07"]
    (problem,) = data.problems
    assert (problem.code, problem.items) == ("mask-unknown-id", ["masks/07.png (id 3 of 2)"])


def voc(root: Path, *names: str, lines: str | None = None) -> Path:
    for name in names:
        save(root / "JPEGImages" / f"{name}.png")
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text(lines if lines is not None else "\n".join(names))
    return root


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "../secret", "/etc/passwd", "a/../../secret", "..\\secret", "a\x00b", "a\x1bb"]
)
def test_hostile_names_in_a_list_reach_no_file(tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png")
    root = voc(tmp_path / "set", "a", lines=f"a\n{name}\n")
    data = read(root, "train", skip_limit=1.0)
    assert data.names == ["a"]
    (problem,) = data.problems
    assert (problem.code, problem.count) == ("name-outside", 1)
    assert problem.items[0].isprintable()


@pytest.mark.parametrize("name", ["../set/images/00.png", "/etc/passwd", '"00\n01"', '"a\n../b"'])
def test_hostile_names_in_a_table_reach_no_file(tmp_path: Path, name: str) -> None:
    root = tagged(tmp_path / "set", 3)
    (root / "tags.csv").write_text(f"00,dog\n{name},cat\n")
    data = read(root, skip_limit=1.0)
    assert data.tags[0].tolist() == [1.0]
    assert data.classes == ("dog",)
    assert [(problem.code, problem.count) for problem in data.problems if problem.code != "tag-missing"] == [("name-outside", 1)]


@pytest.mark.parametrize("target", ["file", "folder"])
def test_links_that_lead_outside_are_refused_unless_trusted(tmp_path: Path, target: str) -> None:
    outside = save(tmp_path / "outside" / "secret.png")
    save(tmp_path / "set" / "inside.png")
    link = tmp_path / "set" / ("link.png" if target == "file" else "link")
    os.symlink(outside if target == "file" else outside.parent, link)
    os.symlink(tmp_path / "set" / "inside.png", tmp_path / "set" / "again.png")
    data = read(tmp_path / "set", skip_limit=1.0)
    assert data.names == ["again", "inside"]
    assert [(problem.code, problem.items) for problem in data.problems] == [("name-outside", [link.name])]
    trusted = "link" if target == "file" else "link/secret"
    assert read(tmp_path / "set", follow_links=True).names == ["again", "inside", trusted]


def test_a_link_to_the_folder_above_is_not_gone_round(tmp_path: Path) -> None:
    save(tmp_path / "set" / "a.png")
    os.symlink(tmp_path / "set", tmp_path / "set" / "round")
    assert read(tmp_path / "set", skip_limit=1.0).names == ["a"]
    assert read(tmp_path / "set", follow_links=True).names == ["a"]


BOMB = '<!DOCTYPE a [<!ENTITY b0 "ha">' + "".join(f'<!ENTITY b{n + 1} "{f"&b{n};" * 10}">' for n in range(9)) + "]>"
OBJECT = "<annotation><object><name>{}</name></object></annotation>"
HOSTILE_XML = {
    "entities": (BOMB + OBJECT.format("&b9;")).encode(),
    "entities in UTF-16": ('<?xml version="1.0" encoding="UTF-16"?>' + BOMB + OBJECT.format("&b9;")).encode("utf-16"),
    "external entity": ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + OBJECT.format("&x;")).encode(),
    "cut short": b"<annotation><object><name>dog",
    "no XML": b"\x89PNG",
    "empty": b"",
    "no name": OBJECT.format("").encode(),
    "name of two lines": OBJECT.format("dog\ncat").encode(),
    "box of words": b"<annotation><object><name>dog</name><bndbox><xmin>a</xmin></bndbox></object></annotation>",
    "half a box": b"<annotation><object><name>dog</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
    "endless box": OBJECT.format(
        "dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>inf</xmax><ymax>2</ymax></bndbox><name>"
    ).encode(),
    "large": b"<annotation>" + b" " * 10_000_001 + b"</annotation>",
}


@pytest.mark.parametrize("kind", HOSTILE_XML)
def test_hostile_annotation_is_counted_and_its_tags_are_unknown(tmp_path: Path, kind: str) -> None:
    root = voc(tmp_path, "a", "b")
    (root / "Annotations" / "a.xml").write_bytes(HOSTILE_XML[kind])
    (root / "Annotations" / "b.xml").write_text(OBJECT.format("dog"))
    data = read(root, "train", skip_limit=1.0)
    assert [record.tags is None for record in data.records] == [True, False]
    (problem,) = data.problems
    assert (problem.code, problem.count) == ("annotation-broken", 1)
    with pytest.raises(DataError, match="annotation-broken"):
        read(root, "train")


# -- the smallest sets --


def test_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image found"):
        read(tmp_path)


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"no such file or folder. Did you mean .*photos\?"):
        read(tmp_path / "fotos")


def test_one_picture(tmp_path: Path) -> None:
    data = read(save(tmp_path / "a.png"))
    assert data.names == ["a"]
    assert data.offers == {"image"}
    assert data.tags.shape == (1, 0)
    assert (data[0].image.permute(1, 2, 0).numpy() == NOISE).all()
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"ending in \.heic"):
        read(tmp_path / "a.heic")
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"an archive that ends in \.zip or \.tar \(of \.tar\.gz, what gunzip makes\)"):
        read(tmp_path / "a.tar.gz")


def test_one_class_no_tags_and_all_tags(tmp_path: Path) -> None:
    root = tagged(tmp_path, 3)
    assert read(root).tags.tolist() == [[1.0], [1.0], [1.0]]
    (root / "tags.csv").write_text("00,\n01,\n02,\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    assert read(root).tags.tolist() == [[0.0, 0.0]] * 3
    (root / "tags.csv").write_text("00,dog;cat\n01,cat;dog\n02,cat,dog\n")
    assert read(root).tags.tolist() == [[1.0, 1.0]] * 3
