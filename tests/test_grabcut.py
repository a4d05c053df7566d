"""GrabCut as a cue: hard boxes, repeatable results, the cache; and the other cues behind the same call."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image

from frugalseg.regions import cues, grabcut
from frugalseg.regions.cache import Cache


def scene(height: int = 48, width: int = 64) -> torch.Tensor:
    """A red disc on green noise."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 40, (height, width, 3), dtype=np.uint8) + np.array([10, 150, 30], np.uint8)
    pixels[disc(height, width)] = (220, 30, 40)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def disc(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < 14**2


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_disc_is_found_in_its_box_and_nothing_outside_of_it() -> None:
    box = (14.0, 6.0, 50.0, 42.0)
    mask = grabcut.grabcut(scene(), box).numpy()
    assert overlap(mask, disc()) > 0.95
    outside = mask.copy()
    outside[6:42, 14:50] = False
    assert not outside.any()


def test_boxes_on_which_grabcut_fails_get_a_mask_all_the_same() -> None:
    whole = grabcut.grabcut(scene(), (0.0, 0.0, 64.0, 48.0))
    assert overlap(whole.numpy(), disc()) > 0.8  # OpenCV raises for a box that leaves no background
    tiny = grabcut.grabcut(scene(), (5.0, 5.0, 7.0, 8.0))
    assert tiny.sum() == 6
    assert tiny[5:8, 5:7].all()
    assert grabcut.grabcut(scene(), (9.2, 9.2, 9.8, 9.9)).sum() == 1
    assert not grabcut.grabcut(scene(), (100.0, 5.0, 120.0, 30.0)).any()
    flat = grabcut.grabcut(torch.full((3, 40, 40), 99, dtype=torch.uint8), (4.0, 6.0, 34.0, 26.0))
    assert np.array_equal(flat[6:26, 4:34].numpy(), grabcut.ellipse(20, 30))
    small = torch.randint(0, 255, (3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert grabcut.grabcut(small, (0.0, 0.0, 4.0, 4.0)).any()


def test_a_cut_out_of_a_box_shows_the_same_disc() -> None:
    image, box = scene(480, 640), (180.0, 100.0, 460.0, 380.0)
    y, x = np.mgrid[:480, :640]
    large = torch.from_numpy((y - 240) ** 2 + (x - 320) ** 2 < 130**2)
    image = torch.where(large, torch.tensor([220, 30, 40], dtype=torch.uint8)[:, None, None], image)
    for cut in (0, 32, 64, 1000):
        mask = grabcut.grabcut(image, box, cut=cut).numpy()
        assert mask.shape == (480, 640)
        assert overlap(mask, large.numpy()) > 0.94, cut
    for hard in ((0.0, 0.0, 640.0, 480.0), (0.0, 0.0, 640.0, 5.0), (630.0, 100.0, 900.0, 110.0), (3.0, 470.0, 5.0, 480.0)):
        mask = grabcut.grabcut(image, hard, cut=16).numpy()
        inside = np.zeros_like(mask)
        inside[int(hard[1]) : int(hard[3]), int(hard[0]) : int(hard[2])] = True
        assert mask.any(), hard
        assert not mask[~inside].any(), hard
    assert not grabcut.grabcut(image, (700.0, 5.0, 720.0, 30.0), cut=16).any()
    noise = torch.randint(0, 256, (3, 299, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for x, y in ((0, 298), (0, 0), (0, 150)):  # rounding leaves no pixel of the first
        flat = grabcut.grabcut(noise, (float(x), float(y), 400.0, y + 1.0), cut=64)
        assert flat.sum() > 0
        assert not flat[torch.arange(299) != y].any()


def test_an_ellipse_touches_the_sides_of_its_box_and_has_its_area() -> None:
    mask = grabcut.ellipse(30, 60)
    assert mask.any(0).all()
    assert mask.any(1).all()
    assert mask.mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert not mask[0, 0]


def test_the_same_seed_gives_the_same_mask_whatever_was_drawn_before() -> None:
    noise = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    first = grabcut.grabcut(noise, (5.0, 5.0, 30.0, 33.0))
    grabcut.grabcut(scene(), (14.0, 6.0, 50.0, 42.0), seed=7)
    assert torch.equal(first, grabcut.grabcut(noise, (5.0, 5.0, 30.0, 33.0)))


def test_masks_come_from_the_cache_at_the_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cue = cues.GrabCut(side=32, cache=Cache(tmp_path))
    boxes = torch.tensor([[14.0, 6, 50, 42], [0, 0, 64, 48]])
    first = cue("any", scene(), boxes)
    assert first.shape == (2, 24, 32)
    assert len(list(tmp_path.rglob("*.npz"))) == 2
    monkeypatch.setattr(grabcut, "_cut", None)  # whoever cuts again fails
    assert torch.equal(first, cue("other", scene(), boxes))
    assert cue("none", scene(), torch.zeros(0, 4)).shape == (0, 24, 32)


def test_salient_superpixels_find_the_disc(tmp_path: Path) -> None:
    cue = cues.Superpixels(segments=60, cache=Cache(tmp_path / "cache"))
    mask = cue("scene", scene(), torch.tensor([[14.0, 6, 50, 42]]))[0].numpy()
    assert overlap(mask, disc()) > 0.6
    Image.fromarray(disc().astype(np.uint8) * 200).save(tmp_path / "scene.png")
    from_maps = cues.Superpixels(segments=60, maps=tmp_path, cache=Cache(tmp_path / "cache"))
    assert overlap(from_maps("scene", scene(), torch.tensor([[14.0, 6, 50, 42]]))[0].numpy(), disc()) > 0.6


def test_a_folder_gives_the_object_that_fits_the_box_best(tmp_path: Path) -> None:
    ids = disc().astype(np.uint8)
    ids[2:6, 2:9] = 2
    Image.fromarray(ids).save(tmp_path / "scene.png")
    cue = cues.make_cue(str(tmp_path))
    masks = cue("scene", scene(), torch.tensor([[14.0, 6, 50, 42], [1, 1, 9, 7], [52, 40, 60, 46]])).numpy()
    assert np.array_equal(masks[0], disc())
    assert np.array_equal(masks[1], ids == 2)
    assert np.array_equal(masks[2][40:46, 52:60], grabcut.ellipse(6, 8))
    with pytest.raises(ValueError, match="no such file"):
        cue("unknown", scene(), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="leaves the folder"):
        cue("../scene", scene(), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="shape"):
        cue("scene", torch.zeros(3, 48, 30, dtype=torch.uint8), torch.zeros(1, 4))


def test_an_unknown_cue_is_named(tmp_path: Path) -> None:
    for name in ("grabcat", "superpixels:grabcat"):
        with pytest.raises(ValueError, match=f"'{name}'.*grabcut, superpixels"):
            cues.make_cue(name)
    assert cues.make_cue(f"superpixels:{tmp_path}", 300) == cues.Superpixels(300, maps=tmp_path, cache=ANY)
