"""Proposals: selective search against slow oracles, grids, files of others, and boxes that are none."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from scipy import io
from skimage.segmentation import felzenszwalb
from torchvision.ops import box_iou

from frugalseg import cli
from frugalseg.data import Data, read, shapes
from frugalseg.data.dataset import Box
from frugalseg.engine.run import Run
from frugalseg.recipes.runtime import Runtime
from frugalseg.regions import boxfiles, precompute, proposals
from frugalseg.regions import selective_search as search
from frugalseg.regions.boxfiles import BoxFileError, BoxFiles
from frugalseg.regions.cache import Cache
from frugalseg.types import Sample

IDS = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [3, 3, 2, 1]])


def noise(height: int = 30, width: int = 40) -> torch.Tensor:
    """Blocks of colour under noise, so that there is something to merge."""
    blocks = torch.randint(0, 200, (3, -(-height // 10), -(-width // 10))).repeat_interleave(10, 1).repeat_interleave(10, 2)
    return (blocks[:, :height, :width] + torch.randint(0, 50, (3, height, width))).to(torch.uint8)


# -- selective search ------------------------------------------------------------------------------------------------


def test_region_boxes_neighbours_and_histograms_equal_a_look_at_every_pixel() -> None:
    ids = felzenszwalb(noise().permute(1, 2, 0).numpy(), scale=50, min_size=5)
    count = ids.max() + 1
    values = np.random.default_rng(0).integers(0, 5, (*ids.shape, 2)).astype(np.uint8)
    sizes = np.bincount(ids.ravel()).astype(float)
    pairs = set()
    for y, x in np.ndindex(*ids.shape):
        for other in [(y + 1, x), (y, x + 1)]:
            if other[0] < ids.shape[0] and other[1] < ids.shape[1] and ids[y, x] != ids[other]:
                pairs.add((min(ids[y, x], ids[other]), max(ids[y, x], ids[other])))
    assert set(map(tuple, search.neighbours(ids, count).tolist())) == pairs
    boxes, histograms = search.boxes_of(ids, count), search.histograms(ids, values, 5, sizes)
    for number in range(count):
        rows, columns = np.nonzero(ids == number)
        assert boxes[number].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        expected = [np.bincount(values[ids == number][:, channel], minlength=5) / (2 * sizes[number]) for channel in range(2)]
        np.testing.assert_allclose(histograms[number], np.concatenate(expected), rtol=1e-6)


def merged_by_hand(coloured: np.ndarray, textures: np.ndarray, ids: np.ndarray) -> list[tuple[int, ...]]:
    """Algorithm 1 of the paper, comparing all pairs of neighbours anew at every step; regions are sets of pixels."""
    masks = [ids == number for number in range(ids.max() + 1)]
    colours = (coloured * search.COLOUR_BINS).clip(0, search.COLOUR_BINS - 1).astype(int)

    def histogram(mask: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
        counts = [np.bincount(values[..., channel][mask], minlength=bins) for channel in range(values.shape[2])]
        return np.concatenate(counts) / (mask.sum() * values.shape[2])

    def box(mask: np.ndarray) -> tuple[int, ...]:
        rows, columns = np.nonzero(mask)
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        score = 0.0
        for values, bins in ((colours, search.COLOUR_BINS), (textures.astype(int), search.TEXTURE_BINS)):
            score += np.minimum(histogram(a, values, bins), histogram(b, values, bins)).sum()
        both, (x1, y1, x2, y2) = a.sum() + b.sum(), box(a | b)
        return score + 1 - both / ids.size + 1 - ((x2 - x1) * (y2 - y1) - both) / ids.size

    def touch(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(
            (a[1:] & b[:-1]).any() or (a[:-1] & b[1:]).any() or (a[:, 1:] & b[:, :-1]).any() or (a[:, :-1] & b[:, 1:]).any()
        )

    boxes, alive = [box(mask) for mask in masks], dict(enumerate(masks))
    while len(alive) > 1:
        pairs = [(i, j) for i in alive for j in alive if i < j and touch(alive[i], alive[j])]
        i, j = max(pairs, key=lambda pair: similarity(alive[pair[0]], alive[pair[1]]))
        masks.append(alive.pop(i) | alive.pop(j))
        alive[len(masks) - 1] = masks[-1]
        boxes.append(box(masks[-1]))
    return boxes


def test_regions_merge_as_the_paper_says() -> None:
    pixels = noise().permute(1, 2, 0).numpy()
    coloured = pixels / 255
    textures, ids = search.texture(coloured), felzenszwalb(coloured, scale=30, sigma=0.8, min_size=15)
    assert ids.max() > 8
    found = search.Regions(coloured, textures, ids).merged("CTSF")
    assert [tuple(row) for row in found.tolist()] == merged_by_hand(coloured, textures, ids)


@pytest.mark.parametrize("mode", search.MODES)
def test_boxes_are_whole_different_and_inside(mode: str) -> None:
    boxes = search.selective_search(noise(), mode=mode)
    assert boxes.dtype == torch.float32
    assert len(boxes.unique(dim=0)) == len(boxes) > 1
    assert ((boxes[:, 2:] > boxes[:, :2]).all(1)).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([40.0, 30.0, 40.0, 30.0])).all()
    assert [0.0, 0.0, 40.0, 30.0] in boxes.tolist(), "the last region is the image"


def test_the_same_image_gives_the_same_boxes_in_the_same_order() -> None:
    image = noise()
    assert torch.equal(search.selective_search(image), search.selective_search(image))
    some, all_of_them = search.selective_search(image, count=5), search.selective_search(image)
    assert torch.equal(some, all_of_them[:5])


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 3)])
def test_images_too_small_to_part_give_their_whole(size: tuple[int, int]) -> None:
    boxes = search.selective_search(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
    assert [0.0, 0.0, float(size[1]), float(size[0])] in boxes.tolist()


def test_selective_search_finds_the_objects_of_the_built_in_images() -> None:
    best = []
    for index in range(3):
        sample = shapes.draw(index)
        best.append(box_iou(sample.instances.boxes.as_subclass(torch.Tensor), proposals.of(sample, "selective_search")).amax(1))
    overlaps = torch.cat(best)
    assert (overlaps >= 0.5).float().mean() >= 0.9
    assert (overlaps >= 0.7).float().mean() >= 0.7


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="expected one of single, fast, quality"):
        search.selective_search(noise(), mode="best")
    with pytest.raises(ValueError, match="uint8"):
        search.selective_search(noise().float())


def test_a_large_image_is_searched_shrunk_and_its_boxes_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.randint(0, 256, (3, 30, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    whole = search.selective_search(small)
    monkeypatch.setattr(search, "MAX_PIXELS", 30 * 50)
    assert torch.equal(search.selective_search(small), whole)
    shrunk = search.limited(large)
    assert shrunk.shape == small.shape
    assert torch.equal(search.selective_search(large), search.selective_search(shrunk) * 2)
    assert search.limited(torch.zeros(3, 1, 90_000, dtype=torch.uint8)).shape == (3, 1, 11618)


# -- grids and chance ------------------------------------------------------------------------------------------------


def test_a_grid_meets_every_large_box_halfway() -> None:
    """Any box of a shape between 1:2 and 2:1 and of at least a quarter of the image's side has a neighbour in the grid."""
    grid = proposals.grid(torch.zeros(3, 80, 120, dtype=torch.uint8), count=5000)
    sides = 20 + torch.rand(500, 1) * 60
    shape = 2 ** (torch.rand(500, 1) * 2 - 1)
    sizes = torch.cat([sides * shape**0.5, sides / shape**0.5], 1).clamp(max=80)
    start = torch.rand(500, 2) * (torch.tensor([120.0, 80.0]) - sizes)
    overlaps = box_iou(torch.cat([start, start + sizes], 1), grid).amax(1)
    assert overlaps.min() > 0.35
    assert overlaps.mean() > 0.55


def test_grids_and_random_boxes_are_clean_and_as_many_as_wanted() -> None:
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    for tool in (proposals.grid, proposals.random):
        boxes = tool(image, count=50)
        assert len(proposals.clean(boxes, (60, 90)).boxes) == len(boxes) <= 50
        assert torch.equal(boxes, tool(image, count=50))
    assert proposals.grid(image, count=1).tolist() == [[0, 0, 90, 60]]


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_fills_the_cache_and_tells_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shapes.write(tmp_path / "set", train=3, val=0, test=0, size=64, quiet=True)
    words = ["regions", "selective_search", str(root), "--split", "Segmentation/train", "--cache", str(tmp_path / "cache")]
    assert cli.main([*words, "--arguments", '{"count": 300}']) == 0
    output = capsys.readouterr().out
    assert "selective_search: 3 made" in output
    for line in ("recall at 0.5", "recall at 0.7", "mean over images"):
        assert line in output
    assert cli.main([*words, "--arguments", '{"count": 300}']) == 0
    assert "0 made, 3 there before" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert "0 made, 3 there before" in capsys.readouterr().out, "one list serves every count"
    assert cli.main(["regions", "proposals", *words[2:]]) == 0
    assert "selective_search: 0 made, 3 there before" in capsys.readouterr().out, "its name in earlier releases"
    assert cli.main(["regions", "selective_saerch", *words[2:]]) == 2
    assert "no tool 'selective_saerch'" in capsys.readouterr().err


def test_recall_is_that_of_the_annotated_boxes(tmp_path: Path) -> None:
    data = read(shapes.write(tmp_path / "set", train=4, val=0, test=0, size=64, quiet=True), split="Main/train")
    scores = precompute.recall(data, proposals.grid, Cache(tmp_path / "cache"))
    best = []
    for index in range(4):
        truth = shapes.draw(index, size=64).instances.boxes.as_subclass(torch.Tensor)
        best.append(box_iou(truth, proposals.grid(data.image(index))).amax(1))
    assert scores.recall[0.5] == pytest.approx((torch.cat(best) >= 0.5).float().mean().item())
    assert scores.values["images"] == pytest.approx(np.mean([own.mean().item() for own in best]))


def test_crowds_and_difficult_objects_need_no_proposal(tmp_path: Path) -> None:
    data = read(shapes.write(tmp_path / "set", train=3, val=0, test=0, size=64, quiet=True), split="Main/train")
    tiny = Box(0, 0, 1, 1, 1)
    for index, mark in enumerate(({"difficult": True}, {"crowd": True}, {})):
        data.records[index] = replace(data.records[index], boxes=(Box(0, 0, 64, 64, 1), tiny._replace(**mark)))
    scores = precompute.recall(data, proposals.grid, Cache(tmp_path / "cache"))
    assert scores.recall[0.5] == 3 / 4
    data.records[:] = [replace(record, boxes=(tiny._replace(crowd=True),)) for record in data.records]
    assert precompute.recall(data, proposals.grid, Cache(tmp_path / "cache")).images == 0


# -- cleaning --------------------------------------------------------------------------------------------------------


def test_every_kind_of_bad_box_is_counted() -> None:
    boxes = torch.tensor(
        [
            [1.0, 2.0, 11.0, 12.0],
            [1.0, 2.0, 11.0, 12.0],
            [float("nan"), 0.0, 5.0, 5.0],
            [0.0, 0.0, float("inf"), 5.0],
            [40.0, 0.0, 50.0, 10.0],
            [-9.0, 3.0, 0.0, 9.0],
            [5.0, 5.0, 5.5, 9.0],
            [9.0, 9.0, 3.0, 3.0],
            [-5.0, -5.0, 99.0, 99.0],
        ]
    )
    found = proposals.clean(boxes, (30, 40))
    assert found.boxes.tolist() == [[1, 2, 11, 12], [0, 0, 40, 30]]
    assert (found.broken, found.outside, found.empty, found.double, found.beyond) == (2, 2, 2, 1, 1)
    assert str(found) == "2 boxes, left out: 2 not finite, 2 outside, 2 empty, 1 double"
    assert len(proposals.clean(torch.zeros(0, 4), (30, 40)).boxes) == 0


def test_own_proposals_come_before_any_source() -> None:
    own = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 9.0, 9.0]])
    sample = Sample("a", noise(), proposals=own)
    assert torch.equal(proposals.of(sample, "selective_search", count=1), own[:1])


def test_an_image_without_any_proposal_is_one_itself_where_some_are_needed() -> None:
    far = Sample("a", noise(), proposals=torch.tensor([[90.0, 90.0, 99.0, 99.0]]))
    assert proposals.at_least_one(far, "grid").tolist() == [[0, 0, 40, 30]]
    assert len(proposals.of(far, "grid")) == 0


# -- of a whole training set -----------------------------------------------------------------------------------------


def learned_from(data: Data, source: Path, folder: Path) -> list[list[float]]:
    """The first image's proposals, as a method learns from them."""
    run = Run(folder, Runtime(quiet=True, workers=0, accelerator="cpu"))
    data = precompute.covered(data, str(source))
    return precompute.stored_proposals(data, str(source), 2, run).read(0)["boxes"].tolist()


def test_images_that_a_file_lacks_are_left_out_with_a_warning_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.write(tmp_path / "images")
    own = {name: XYXY[:, [0, 1, 0, 1]] + np.array([0, 0, 20, 20], np.float32) for name in data.names}
    np.savez(tmp_path / "all.npz", **own)
    np.savez(tmp_path / "one.npz", **{name: own[name] for name in data.names[1:]})
    np.savez(tmp_path / "others.npz", a=XYXY)
    assert precompute.covered(data, str(tmp_path / "all.npz")) is data
    with pytest.raises(ValueError, match=r"others\.npz has no boxes of 6 of 6 images, such as 'picture0', .*other images\?"):
        precompute.covered(data, str(tmp_path / "others.npz"))
    with pytest.raises(ValueError, match="no boxes of 1 of 6 images"):
        precompute.covered(data, str(tmp_path / "one.npz"))
    monkeypatch.setattr(precompute, "MISSING", 0.2)
    with pytest.warns(UserWarning, match="no boxes of 1 of 6 images, such as 'picture0'; they are left out"):
        assert precompute.covered(data, str(tmp_path / "one.npz")).names == data.names[1:]
    for name in data.names[1:]:
        np.savez(tmp_path / f"{name}.npz", boxes=own[name])
    assert BoxFiles(tmp_path).missing(data.names) == ["picture0"]


def test_strange_boxes_of_a_training_set_are_counted_in_a_warning_at_every_start(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images")
    good = np.array([[0, 0, 20, 20], [4, 4, 30, 30]], np.float32)
    wild = {"picture0": [[0, 0, 9, 9], [90, 90, 99, 99]], "picture1": [[0, 0, 60, 9], [3, 3, 3, 9]], "picture2": [[np.nan] * 4]}
    np.savez(tmp_path / "boxes.npz", **{name: np.array(wild.get(name, good), np.float32) for name in data.names})
    expected = (
        "1 not finite are left out; 1 outside of their image are left out; 1 without area are left out; 1 reach beyond their "
        "image and are cut; 1 images have none: the whole image is their proposal"
    )
    for _ in range(2):
        with pytest.warns(UserWarning, match="proposals: of") as caught:
            assert learned_from(data, tmp_path / "boxes.npz", tmp_path / "run") == [[0, 0, 9, 9]]
        assert [str(warning.message).partition("boxes.npz, ")[2] for warning in caught] == [expected]


def test_boxes_of_larger_images_are_refused(tmp_path: Path) -> None:
    data = toys.write(tmp_path / "images")
    np.savez(tmp_path / "boxes.npz", **{name: np.array([[0, 0, 400, 300]], np.float32) for name in data.names})
    with pytest.raises(ValueError, match="reach beyond 6 of 6 images; they were made for other images, or for these at another"):
        learned_from(data, tmp_path / "boxes.npz", tmp_path / "run")


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of selective_search, grid, random, rpn"):
        proposals.of(Sample("a", noise()), "edge_boxes")


# -- files of others ---------------------------------------------------------------------------------------------------

XYXY = np.array([[0, 0, 40, 30], [4, 6, 20, 25]], np.float32)  # ours: from 0, ends one past
ONE_BASED = XYXY + np.array([1, 1, 0, 0], np.float32)  # MATLAB's: from 1, ends inside


def test_selective_search_as_girshick_hands_it_out(tmp_path: Path) -> None:
    path, cells, names = tmp_path / "voc_2012_val.mat", np.empty((1, 2), object), np.empty((2, 1), object)
    for place, name in enumerate(("2007_000033", "2007_000042")):
        cells[0, place], names[place, 0] = ONE_BASED[place:, [1, 0, 3, 2]].astype(np.float64), np.array([name])
    io.savemat(path, {"boxes": cells, "images": names})
    with pytest.warns(UserWarning, match="count pixels from 1"):
        boxes = BoxFiles(path)
    assert np.array_equal(boxes("2007_000033"), XYXY)
    assert np.array_equal(boxes("2007_000042"), XYXY[1:])
    with pytest.raises(BoxFileError, match=r"no boxes of the image 'x'; it has '2007_000033', '2007_000042'"):
        boxes("x")


def test_mcg_has_a_file_for_each_image(tmp_path: Path) -> None:
    io.savemat(tmp_path / "2007_000033.mat", {"boxes": ONE_BASED[:, [1, 0, 3, 2]], "scores": np.ones((2, 1))})
    with pytest.warns(UserWarning, match="count pixels from 1"):
        assert np.array_equal(BoxFiles(tmp_path)("2007_000033"), XYXY)
    with pytest.raises(BoxFileError, match=r"expected b\.mat or the like"):
        BoxFiles(tmp_path)("b")


def test_mat_files_count_from_1_even_where_no_box_touches_the_edge(tmp_path: Path) -> None:
    for name, first in (("inner", 5), ("zero", 0)):
        io.savemat(tmp_path / f"{name}.mat", {"boxes": np.array([[first, first, 9, 12]])})
    io.savemat(tmp_path / "none.mat", {"boxes": np.zeros((0, 4))})
    boxes = BoxFiles(tmp_path)
    with pytest.warns(UserWarning, match="count pixels from 1"):
        assert boxes("inner").tolist() == [[4, 4, 12, 9]]
    assert boxes("zero").tolist() == [[0, 0, 12, 9]]
    assert boxes("none").shape == (0, 4)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("names", ["ids", "indexes"])
def test_pickles_of_detectron(names: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "boxes.pkl"
    numbers = [np.int64(2007000033), 5]
    path.write_bytes(pickle.dumps({"boxes": [XYXY, XYXY[1:]], "scores": [np.ones(2), np.ones(1)], names: numbers}, protocol))
    boxes = BoxFiles(path)
    assert np.array_equal(boxes("2007_000033"), XYXY)
    assert np.array_equal(boxes("000005"), XYXY[1:])


def test_a_dict_from_names_to_boxes_as_pickle_and_as_npz(tmp_path: Path) -> None:
    held = {"a": XYXY, "b": XYXY[:0]}
    (tmp_path / "boxes.pkl").write_bytes(pickle.dumps(held))
    np.savez(tmp_path / "boxes.npz", **held)
    for name in ("boxes.pkl", "boxes.npz"):
        boxes = BoxFiles(tmp_path / name)
        assert np.array_equal(boxes("a"), XYXY)
        assert boxes("b").shape == (0, 4)


def test_boxes_that_count_from_0_stay_as_they_are(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    np.savez(tmp_path / "boxes.npz", a=XYXY)
    assert np.array_equal(BoxFiles(tmp_path / "boxes.npz")("a"), XYXY)
    assert not recwarn.list


class Evil:
    """A pickle that runs a program when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["whole", "inside", "array"])
def test_no_pickle_runs_code(place: str, tmp_path: Path) -> None:
    sign, path = tmp_path / "ran", tmp_path / "boxes.pkl"
    evil = Evil(sign)
    hidden = np.empty(1, object)
    hidden[0] = evil
    path.write_bytes(pickle.dumps({"whole": evil, "inside": {"a": XYXY, "b": [evil]}, "array": {"a": hidden}}[place]))
    with pytest.raises(BoxFileError, match="was not run"):
        BoxFiles(path)
    assert not sign.exists()
    pickle.loads(path.read_bytes())
    assert sign.exists(), "the trap must be one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "save it with -v7"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 200, "save it with -v7"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + b" " * 200, "save it with -v7"),
        (b"MATLAB 5.0 MAT-file".ljust(126) + b"IM" + b"\xff" * 64, "cannot be read"),
        (b"not what it claims", "cannot be read"),
    ],
)
def test_mat_files_that_are_none_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(BoxFileError, match=message):
        BoxFiles(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"boxes": [XYXY], "ids": [1, 2]}, "1 arrays of boxes and 2 names"),
        ({"boxes": [XYXY[:, :3]], "ids": [1]}, "expected numbers"),
        ({"boxes": [np.array([["a"] * 4])], "ids": [1]}, "expected numbers"),
        ([1, 2], "got a list"),
        ({"rois": 3}, "0 arrays of boxes"),
    ],
)
def test_pickles_of_something_else_are_refused(held: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(BoxFileError, match=message):
        BoxFiles(tmp_path / "a.pkl")


def test_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2 3 4")
    with pytest.raises(BoxFileError, match=r"expected \.mat, \.pkl"):
        BoxFiles(tmp_path / "a.txt")


def test_names_are_found_however_deep_matlab_wraps_them() -> None:
    assert boxfiles._name(np.array([[np.array(["JPEGImages/000005.jpg"])]], object)) == "JPEGImages/000005"
    assert boxfiles._name(np.array([[7]])) == "7"
