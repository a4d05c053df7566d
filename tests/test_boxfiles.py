"""Files of boxes: pickles of all ages, hostile ones, names of images in folders, detectron2's scores and modes.

What the files of others hold otherwise is tested in test_proposals.py.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from scipy.io import savemat

from frugalseg.regions import boxfiles
from frugalseg.regions.boxfiles import BoxFileError, BoxFiles

XYXY = np.array([[0, 0, 40, 30], [4, 6, 20, 25]], np.float32)


def pickled(folder: Path, held: Any, protocol: int = 4) -> Path:
    """A file with the pickle of a value, or with these bytes."""
    path = folder / "boxes.pkl"
    path.write_bytes(held if isinstance(held, bytes) else pickle.dumps(held, protocol))
    return path


def of_objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# -- what pickles hold ---------------------------------------------------------------------------------------------------

HELD = {
    "list of arrays": {"boxes": [XYXY, XYXY[1:]], "ids": ["a", "b"]},
    "tuple of arrays": {"boxes": (XYXY, XYXY[1:]), "ids": ("a", "b")},
    "array of arrays": {"boxes": of_objects(XYXY, XYXY[1:]), "ids": of_objects("a", "b")},
    "cells of MATLAB": {
        "boxes": of_objects(XYXY, XYXY[1:])[None],
        "ids": of_objects(np.array(["a"]), np.array([["b"]]))[:, None],
    },
    "columns first": {"a": np.asfortranarray(XYXY), "b": np.asfortranarray(XYXY[1:])},
    "each other row": {"a": np.repeat(XYXY, 2, 0)[::2], "b": XYXY[1:]},
    "bytes turned": {"a": XYXY.astype(">f8"), "b": XYXY[1:].astype(">i2")},
    "lists of numbers": {"a": XYXY.tolist(), "b": [[np.float32(4), np.int64(6), 20, 25]]},
    "lists of rows": {"a": list(XYXY), "b": list(XYXY[1:])},
    "numpy's names": {np.str_("a"): XYXY, np.str_("b"): XYXY[1:]},
    "names in an array": {"boxes": [XYXY, XYXY[1:]], "ids": np.array(["a", "b"])},
    "names of bytes": {"boxes": [XYXY, XYXY[1:]], "ids": np.array([b"a", b"b"])},
    "one array": {"boxes": np.stack([XYXY, XYXY]), "ids": ["a", "c"], "more": [{"lr": 0.1}, None, True, (), b"", np.bool_(True)]},
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_pickles_are_read_whatever_holds_the_boxes(held: Any, protocol: int, tmp_path: Path) -> None:
    path = pickled(tmp_path, held, protocol)
    for core in (b"numpy._core.", b"numpy.core.")[: 2 if protocol < 4 else 1]:  # later ones tell lengths
        boxes = BoxFiles(pickled(tmp_path, path.read_bytes().replace(b"numpy._core.", core)))
        assert [len(own) for own in boxes.by_name.values()] == ([2, 2] if "c" in boxes.by_name else [2, 1])
        for name, own in boxes.by_name.items():
            assert np.array_equal(own, XYXY[name == "b" :])
            assert np.array_equal(boxes(name), own)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR(K\x01(K\x02K\x04tcnumpy\ndtype\n("
        + text(b"f4") + b"K\x00K\x01tR(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )  # fmt: skip
    number = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text(b"i8") + b"K\x00K\x01tR(K\x03" + text(b"<")
    number += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + text(struct.pack("<q", 2007000033)) + b"tR"
    head = b"\x80\x02}(" + text(b"boxes") + b"]" + array
    path = pickled(tmp_path, head + text(XYXY.tobytes()) + b"tba" + text(b"ids") + b"]" + number + b"au.")
    assert np.array_equal(BoxFiles(path)("2007_000033"), XYXY)


# -- hostile pickles -----------------------------------------------------------------------------------------------------


class Calls:
    """A pickle that calls something and then builds on what it gives."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.call = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call if self.call[2] is not None else self.call[:2]


RECONSTRUCT = np.ones(1).__reduce__()[0]
FROMBUFFER = np.ones(1).__reduce_ex__(5)[0]
SCALAR = np.float32(1).__reduce__()[0]
OBJECTS = np.dtype("O")


def array(kind: Any, shape: tuple[Any, ...], data: Any) -> Calls:
    return Calls(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, data))


def fields(flags: int) -> Calls:
    """A type of eight bytes that says it has an object far beyond them."""
    return Calls(np.dtype, ("V8", False, True), (3, "|", None, ("f",), {"f": (OBJECTS, 1 << 30)}, 8, 1, flags))


HOSTILE: dict[str, Any] = {
    "fields": array(fields(27), (2, 2), b"\1" * 32),
    "fields without flags": array(fields(0), (2, 2), b"\1" * 32),
    "fields of a number": array(Calls(np.dtype, ("f8",), (3, "<", None, ("f",), {"f": (OBJECTS, 1)}, 8, 1, 27)), (1,), b"\1" * 8),
    "parts of a number": array(Calls(np.dtype, ("f8",), (3, "<", (OBJECTS, (9,)), None, None, 8, 1, 27)), (1,), b"\1" * 8),
    "call of an array": Calls(np.ndarray, ((2, 2), fields(27))),
    "pointers": array(OBJECTS, (1, 1), b"\1" * 8),
    "pointers in a buffer": Calls(FROMBUFFER, (b"\1" * 8, OBJECTS, (1, 1), "C")),
    "pointer": Calls(SCALAR, (OBJECTS, b"\1" * 8)),
    "fewer bytes": array(np.dtype("f4"), (2, 4), b"\1" * 31),
    "more bytes": array(np.dtype("f4"), (2, 4), b"\1" * 33),
    "huge": array(np.dtype("f4"), (1 << 31, 4), b""),
    "beyond all": array(np.dtype("f4"), (1 << 62, 4), b""),
    "negative": array(np.dtype("f4"), (-1, 4), b"\1" * 32),
    "no numbers": array(np.dtype("f4"), ("2", 4), b"\1" * 32),
    "many dimensions": array(np.dtype("f4"), (1,) * 1000, b"\1" * 4),
    "state of a number": Calls(SCALAR, (np.dtype("f4"), b"\1" * 4), (1, (9,), np.dtype("f4"), False, b"")),
    "text for a number": array(np.dtype("f4"), (1, 4), "\u1234" * 16),
    "dates": np.zeros((2, 4), "M8[s]"),
    "several things": np.zeros((2, 4), [("x", "f4"), ("y", "f4")]),
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_arrays_that_lie_are_refused(value: Any, protocol: int, tmp_path: Path) -> None:
    with pytest.raises(BoxFileError, match=r"boxes\.pkl: "):
        BoxFiles(pickled(tmp_path, {"a": value, "b": [value]}, protocol))


PROGRAMS = {
    "a deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a far place in the memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a long buffer": b"\x80\x05}\x8c\x01a\x96" + struct.pack("<Q", 1 << 33) + b"s.",
    "a deep list": b"\x80\x02}U\x01a" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "a list in itself": b"\x80\x02}(U\x05boxes]q\x00h\x00aU\x03ids]q\x01h\x01au.",
    "an array in itself": b"\x80\x02}(U\x05boxes](K\x01K\x02laU\x03idscnumpy.core.multiarray\n_reconstruct\n)Rq\x00"
    b"(K\x01(K\x01tcnumpy\ndtype\n(U\x01OtR\x89]h\x00atbu.",
    "lists of the same lists": b"\x80\x02}U\x01a(K\x01l" + b"".join(b"q\x000](" + b"h\x00" * 9 + b"e" for _ in range(40)) + b"s.",
    "a function as a thing": b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\n}U\x01xK\x01sbs.",
    "a type as a thing": b"\x80\x02}U\x01acnumpy\nndarray\n}U\x01xK\x01sbs.",
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_are_no_arrays_are_refused(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(BoxFileError, match=r"boxes\.pkl: "):
        BoxFiles(pickled(tmp_path, program))


def test_the_same_bytes_named_again_and_again_make_no_end_of_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pickled(tmp_path, {f"{number}": XYXY for number in range(100)})
    assert len(BoxFiles(path).by_name) == 100
    monkeypatch.setattr(boxfiles, "LARGEST_FILE", 50 * XYXY.nbytes)
    with pytest.raises(BoxFileError, match="its boxes take more than 1,600 bytes"):
        BoxFiles(path)


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoxFileError, match="got the image '7' twice"):
        BoxFiles(pickled(tmp_path, {"boxes": [XYXY, XYXY], "ids": [7, "7"]}))


# -- names of images ---------------------------------------------------------------------------------------------------


def detectron(folder: Path, *names: Any) -> Path:
    return pickled(folder, {"boxes": [XYXY[place % 2 :] for place in range(len(names))], "ids": list(names)})


def stems(folder: Path, *names: str) -> Path:
    np.savez(folder / "boxes.npz", **{name: XYXY[place % 2 :] for place, name in enumerate(names)})
    return folder / "boxes.npz"


def mcg(folder: Path, *names: str) -> Path:
    for place, name in enumerate(names):
        (folder / "mcg" / name).parent.mkdir(parents=True, exist_ok=True)
        savemat(folder / "mcg" / f"{name}.mat", {"boxes": XYXY[place % 2 :, [1, 0, 3, 2]]})
    return folder / "mcg"


@pytest.mark.filterwarnings("ignore:.*count pixels from 1")
@pytest.mark.parametrize(
    ("files", "held", "names"),
    [
        (detectron, (7, 8), ("train/000000000007", "train/000000000008")),
        (detectron, (7, 8), ("train/COCO_train2014_000000000007", "train/COCO_train2014_000000000008")),
        (detectron, (2007000033, 8), ("JPEGImages/2007_000033", "JPEGImages/000008")),
        (stems, ("000000000007", "000000000008"), ("train/000000000007", "train/000000000008")),
        (stems, ("train/000000000007", "val/000000000007"), ("train/000000000007", "val/000000000007")),
        (stems, ("7.v1", "7.v2"), ("7.v1", "7.v2")),
        (detectron, ("JPEGImages/7.jpg", "JPEGImages/8.PNG"), ("7", "JPEGImages/8")),
        (mcg, ("000000000007", "000000000008"), ("train/000000000007", "train/000000000008")),
        (mcg, ("train/7", "val/7"), ("train/7", "val/7")),
    ],
)
def test_images_in_folders_are_found(
    files: Callable[..., Path], held: tuple[Any, ...], names: tuple[str, str], tmp_path: Path
) -> None:
    boxes = BoxFiles(files(tmp_path, *held))
    assert boxes.missing(names) == []
    assert [len(boxes(name)) for name in names] == [2, 1]


@pytest.mark.filterwarnings("ignore:.*count pixels from 1")
@pytest.mark.parametrize("files", [detectron, stems, mcg])
def test_two_images_do_not_share_boxes(files: Callable[..., Path], tmp_path: Path) -> None:
    boxes = BoxFiles(files(tmp_path, "1", "2"))
    names = ["a/1", "b/1", "2", "b/2", "c/img_1"]
    assert boxes.missing(names) == ["a/1", "b/1", "b/2", "c/img_1"]
    for name in ("2", "a/1", "a/1"):
        boxes(name)
    for name in ("b/1", "b/2"):
        with pytest.raises(BoxFileError, match=rf"no boxes of the image '{name}'; those of .* are taken for"):
            boxes(name)
    assert boxes.missing(["b/1"]) == []
    assert len(boxes("b/1")) == 2


def test_images_of_other_folders_and_numbers_are_others(tmp_path: Path) -> None:
    boxes = BoxFiles(detectron(tmp_path, "train/1", "a/3", "b/3", 33, 5))
    assert boxes.missing(["val/1", "3", "2007_000033", "x"]) == ["val/1", "3", "2007_000033", "x"]
    assert boxes.missing(["1", "a/3"]) == []


# -- detectron2 ----------------------------------------------------------------------------------------------------------

WHERE = np.array([[10, 12, 5, 6], [0, 0, 9, 8], [1, 1, 2, 2]], np.float32)


@pytest.mark.parametrize("key", ["scores", "objectness_logits"])
@pytest.mark.parametrize("kind", [np.array, list, lambda values: np.array(values)[:, None]])
def test_the_best_boxes_come_first(key: str, kind: Callable[..., Any], tmp_path: Path) -> None:
    worth, best = [-1.0, 5.0, np.nan], WHERE[[1, 0, 2]]
    path = pickled(tmp_path, {"boxes": [WHERE, WHERE[:2]], key: [kind(worth), kind([3, 3])], "ids": ["a", "b"]})
    boxes = BoxFiles(path)
    assert np.array_equal(boxes("a"), best)
    assert np.array_equal(boxes("b"), WHERE[:2])
    path.unlink()
    savemat(tmp_path / "a.mat", {"boxes": WHERE[:, [1, 0, 3, 2]], key: np.array(worth)[:, None]})
    assert np.array_equal(BoxFiles(tmp_path)("a"), best)


@pytest.mark.parametrize(
    ("scores", "message"), [([np.ones(3)], "1 arrays of scores for 2"), ([np.ones(3), np.ones(2)], "2 scores of 3 boxes")]
)
def test_scores_of_other_boxes_are_refused(scores: list[np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(BoxFileError, match=message):
        BoxFiles(pickled(tmp_path, {"boxes": [WHERE, WHERE], "scores": scores, "ids": [1, 2]}))


@pytest.mark.parametrize(("shape", "message"), [((10**12, 4), "16,000,000,000,000"), ((1000, 4), "16,128")])
def test_arrays_that_claim_too_much_are_refused_before_they_are_unpacked(
    shape: tuple[int, int], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = io.BytesIO()
    npy.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.npy", head.getvalue() + bytes(16_000))
    monkeypatch.setattr(boxfiles, "LARGEST_FILE", 10_000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(BoxFileError, match=f"a.npz: its arrays claim {message} bytes; expected at most 10,000"):
        BoxFiles(tmp_path / "a.npz")


def test_boxes_of_a_corner_and_sides(tmp_path: Path) -> None:
    corners = [[10, 12, 15, 18], [0, 0, 9, 8], [1, 1, 3, 3]]
    enum = b"cdetectron2.structures.boxes\nBoxMode\nK\x01\x85R"
    for mode in (b"K\x01", enum):
        held = pickle.dumps({"boxes": [WHERE], "ids": ["a"]}, 2)[:-1] + b"U\x09bbox_mode" + mode + b"s."
        assert BoxFiles(pickled(tmp_path, held))("a").tolist() == corners
    np.savez(tmp_path / "a.npz", boxes=WHERE[None], ids=["a"], bbox_mode=1)
    assert BoxFiles(tmp_path / "a.npz")("a").tolist() == corners
    with pytest.raises(BoxFileError, match="got bbox_mode 2; expected 0, "):
        BoxFiles(pickled(tmp_path, {"boxes": [WHERE], "ids": ["a"], "bbox_mode": 2}))


def test_an_image_with_an_empty_list_has_no_proposals(tmp_path: Path) -> None:
    boxes = BoxFiles(pickled(tmp_path, {"a": XYXY, "b": [], "c": np.zeros(0), "d": (), "e": [[]], "cfg": "yaml", "version": 3}))
    assert boxes.missing(["a", "b", "c", "d", "e"]) == []
    assert [tuple(boxes(name).shape) for name in "bcde"] == [(0, 4)] * 4
    assert boxes.missing(["cfg", "version"]) == ["cfg", "version"]
