"""The cache computes once per content, survives damage, full disks and several writers, and `fill` fills it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frugalseg.regions import TOOLS, proposals, superpixels
from frugalseg.regions import cache as module
from frugalseg.regions.cache import Cache, cacheable
from frugalseg.regions.precompute import Filled, fill

calls: list[dict[str, Any]] = []


@cacheable("numpy")
def brightness(image: Tensor, times: float = 1.0, boxes: Tensor | None = None) -> Tensor:
    calls.append({"times": times})
    return image.float().mean(0) * times


@cacheable("numpy", top_k="rows")
def brightest(image: Tensor, rows: int = 8, least: int = 0) -> Tensor:
    calls.append({"rows": rows})
    if rows < 1:
        raise ValueError(f"rows={rows}")
    return image.float().flatten().clamp(min=least).sort(descending=True).values[:rows]


@cacheable("numpy")
def bright(image: Tensor, least: int = 128) -> Tensor:
    calls.append({"least": least})
    return image.int() >= least


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


@pytest.fixture
def image() -> Tensor:
    return torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)


def test_a_result_is_computed_once_even_by_another_cache(tmp_path: Path, image: Tensor) -> None:
    expected = brightness(image, 2.0)
    results = [Cache(tmp_path)(brightness, image, times=2.0) for _ in range(3)]
    assert len(calls) == 2  # the one above and one of the three
    for result in results:
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_a_list_is_cached_once_and_sliced_to_the_length_asked_for(tmp_path: Path, image: Tensor) -> None:
    every = image.float().flatten().sort(descending=True).values
    for rows in (3, 8, 1, 7):
        assert torch.equal(Cache(tmp_path)(brightest, image, rows=rows), every[:rows])
    assert torch.equal(Cache(tmp_path)(brightest, image), every[:8])
    assert calls == [{"rows": 8}]
    assert len(Cache(tmp_path)(brightest, image, rows=9)) == 9, "more than by default are an entry of their own"
    assert len(Cache(tmp_path)(brightest, image, rows=3, least=5)) == 3
    assert calls == [{"rows": 8}, {"rows": 9}, {"rows": 8}]
    with pytest.raises(ValueError, match="rows=0"):
        Cache(tmp_path)(brightest, image, rows=0)


def test_types_and_shapes_survive(tmp_path: Path, image: Tensor) -> None:
    cache = Cache(tmp_path)
    first, second = (cache(superpixels.slic, image, segments=9) for _ in range(2))
    assert first.dtype == second.dtype == torch.int64
    assert torch.equal(first, second)


def test_masks_are_packed_and_come_back_as_they_were(tmp_path: Path, image: Tensor) -> None:
    cache, odd = Cache(tmp_path), image[:, :11, :13]  # no multiple of eight
    for least in (128, 0, 256):
        first, second = (cache(bright, odd, least=least) for _ in range(2))
        assert second.dtype == torch.bool
        assert torch.equal(first, second)
        assert second.any().item() == (least < 256)
    assert len(calls) == 3
    with np.load(cache.path(bright, odd)) as entry:
        assert entry["bits"].nbytes == -(-3 * 11 * 13 // 8)
    np.savez_compressed(cache.path(bright, odd), result=np.zeros((3, 11, 13), bool))  # as masks were kept before
    assert not cache(bright, odd).any()


def test_defaults_and_order_of_arguments_make_no_difference(tmp_path: Path, image: Tensor) -> None:
    cache = Cache(tmp_path)
    assert cache.path(brightness, image) == cache.path(brightness, image, times=1.0)
    one, other = {"segments": 9, "compactness": 2.0}, {"compactness": 2.0, "segments": 9}
    assert cache.path(superpixels.slic, image, **one) == cache.path(superpixels.slic, image, **other)


def test_whatever_changes_the_result_changes_the_key(tmp_path: Path, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, boxes = Cache(tmp_path), torch.tensor([[0.0, 0, 4, 4]])
    changed = image.clone()
    changed[2, 11, 15] ^= 1
    paths = [
        cache.path(brightness, image),
        cache.path(brightness, changed),
        cache.path(brightness, image.reshape(3, 16, 12)),  # the same bytes
        cache.path(brightness, image, times=2.0),
        cache.path(brightness, image, boxes=boxes),
        cache.path(brightness, image, boxes=boxes + 1),
        cache.path(superpixels.slic, image),
    ]
    monkeypatch.setitem(module._LIBRARIES, brightness, {"revision": "1", "numpy": "0.1"})
    paths.append(cache.path(brightness, image))
    assert len(set(paths)) == len(paths)


def test_views_of_the_same_image_share_a_key(tmp_path: Path, image: Tensor) -> None:
    turned = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not turned.is_contiguous()
    assert Cache(tmp_path).path(brightness, turned) == Cache(tmp_path).path(brightness, image)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if kind == "truncated":
        path.write_bytes(content[:middle])
    elif kind == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif kind == "garbage":
        path.write_bytes(b"not an archive")
    elif kind == "pickled":
        np.savez(path, result=np.array([{"a": 1}], dtype=object))
    elif kind == "other":
        np.savez(path, something=np.zeros(3))
    elif kind == "text":
        np.savez(path, result=np.array(["a"]))
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["empty", "truncated", "flipped", "garbage", "pickled", "other", "text"])
def test_a_damaged_entry_is_computed_anew_and_mended(tmp_path: Path, image: Tensor, kind: str) -> None:
    cache = Cache(tmp_path)
    expected = cache(brightness, image)
    damage(cache.path(brightness, image), kind)
    for _ in range(2):
        assert torch.equal(cache(brightness, image), expected)
    assert len(calls) == 2


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_full_disk_costs_one_warning_and_leaves_nothing(tmp_path: Path, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = Cache(tmp_path)
    with pytest.warns(UserWarning, match="No space left.*FRUGALSEG_CACHE") as caught:
        results = [cache(brightness, image) for _ in range(3)]
    assert len(caught) == 1
    assert all(torch.equal(result, brightness(image)) for result in results)
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path, image: Tensor) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        assert torch.equal(cache(brightness, image), cache(brightness, image))
    assert len(caught) == 1


def test_an_undeclared_tool_is_refused(tmp_path: Path, image: Tensor) -> None:
    with pytest.raises(ValueError, match="@cacheable"):
        Cache(tmp_path)(lambda image: image, image)
    with pytest.raises(TypeError, match="got an argument of object"):
        Cache(tmp_path)(brightness, image, times=object())


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "mine"))
    assert Cache().folder == tmp_path / "mine"
    monkeypatch.delenv("FRUGALSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().folder == tmp_path / "frugalseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Cache().folder == Path.home() / ".cache" / "frugalseg"


def write_at_once(folder: Path, image: np.ndarray, start: Any, results: Any) -> None:
    cache = Cache(folder)
    start.wait()
    results.put([cache(brightness, torch.from_numpy(image), times=float(k)).numpy() for k in range(10)])


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here, and spawning loads torch 3 times"
)
def test_processes_that_write_the_same_entries_at_once(tmp_path: Path, image: Tensor) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=write_at_once, args=(tmp_path, image.numpy(), start, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    given = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    expected = [brightness(image, float(k)).numpy() for k in range(10)]
    for result in given:
        np.testing.assert_array_equal(result, expected)
    assert len(entries(tmp_path)) == 10  # and no temporary file is left
    calls.clear()
    np.testing.assert_array_equal([Cache(tmp_path)(brightness, image, times=float(k)).numpy() for k in range(10)], expected)
    assert calls == []


def images(broken: tuple[int, ...] = ()) -> Any:
    """A data set of five images, of which some cannot be read."""

    class Pictures(SimpleNamespace):
        names = tuple("abcde")

        def __len__(self) -> int:
            return 5

        def image(self, index: int) -> Tensor:
            if index in broken:
                raise ValueError(f"{self.names[index]}.jpg is broken")
            return torch.full((3, 8, 8), index, dtype=torch.uint8)

    return Pictures()


@pytest.mark.parametrize("jobs", [1, 3, None])
def test_fill_makes_every_entry_once(tmp_path: Path, jobs: int | None) -> None:
    cache = Cache(tmp_path)
    assert fill(images(), brightness, cache, jobs=jobs, times=3.0) == Filled(made=5, found=0, unkept=0, failed={})
    assert fill(images(), brightness, cache, jobs=jobs, times=3.0) == Filled(made=0, found=5, unkept=0, failed={})
    assert sorted(call["times"] for call in calls) == [3.0] * 5
    assert torch.equal(cache(brightness, images().image(2), times=3.0), torch.full((8, 8), 6.0))


def test_fill_goes_on_past_broken_images_and_lists_them(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"failed on 2 of 5 images:\n  b: b.jpg is broken"):
        done = fill(images(broken=(1, 3)), brightness, Cache(tmp_path))
    assert (done.made, done.failed) == (3, {"b": "b.jpg is broken", "d": "d.jpg is broken"})


def test_fill_says_what_it_could_not_keep(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with warnings.catch_warnings(record=True):
        done = fill(images(), brightness, Cache(tmp_path / "file"), jobs=1)
    assert done == Filled(made=0, found=0, unkept=5, failed={})


def test_fill_takes_every_tool_by_name(tmp_path: Path) -> None:
    for name in TOOLS:
        given = {"count": 4} if TOOLS[name] in proposals.TOOLS.values() else {"segments": 4}
        assert fill(images(), name, Cache(tmp_path), **given).made == 5
