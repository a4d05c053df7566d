"""Superpixels and saliency: what must hold on any image, a slow oracle, drawn scenes, tiny and flat images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import rankdata
from skimage.color import rgb2lab
from skimage.measure import label
from torch import Tensor

from frugalseg.data import images
from frugalseg.regions import saliency, superpixels
from frugalseg.types import Sample

TINY = [(1, 1), (1, 40), (2, 2), (3, 200), (200, 3)]


def halves() -> Tensor:
    image = torch.full((3, 40, 60), 40, dtype=torch.uint8)
    image[:, :, 25:] = 200
    return image


def photo(shared_data: Path) -> Tensor:
    folder = shared_data / "bsds500" / "images"
    paths = sorted(path for path in folder.rglob("*") if path.suffix in images.SUFFIXES)
    if not paths:
        pytest.skip(f"no photos in {folder}")
    return images.load(paths[0])


def test_superpixels_are_numbered_connected_and_about_as_many_as_asked(shared_data: Path) -> None:
    ids = superpixels.slic(photo(shared_data), 100)
    assert ids.dtype == torch.int64
    count = int(ids.max()) + 1
    assert torch.equal(ids.unique(), torch.arange(count))
    assert label(ids.numpy() + 1, connectivity=1).max() == count
    assert 85 <= count <= 125


def test_superpixels_keep_to_edges() -> None:
    ids = superpixels.slic(halves(), 20)
    assert not set(ids[:, :25].unique().tolist()) & set(ids[:, 25:].unique().tolist())


@pytest.mark.parametrize("size", TINY)
def test_tiny_images_have_superpixels_and_saliency(size: tuple[int, int]) -> None:
    for image in (torch.zeros(3, *size, dtype=torch.uint8), torch.randint(0, 256, (3, *size), dtype=torch.uint8)):
        assert superpixels.slic(image).shape == size
        salient = saliency.boundary_connectivity(image)
        assert salient.shape == size
        assert salient.dtype == torch.float32
        assert 0 <= salient.min() <= salient.max() <= 1


@pytest.mark.parametrize("tool", [superpixels.slic, saliency.boundary_connectivity])
def test_bad_images_and_counts_are_named(tool) -> None:  # type: ignore[no-untyped-def]
    for image in (torch.rand(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(3, 0, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected \(3, H, W\) uint8 RGB"):
            tool(image)
    with pytest.raises(ValueError, match="segments=0"):
        tool(halves(), segments=0)


def drawn(seed: int) -> tuple[Tensor, np.ndarray]:
    """An ellipse away from the border on a textured background of two tones, and where it is."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((120, 160))
    place, radii = random.uniform((45, 55), (75, 105)), random.uniform(18, 32, 2)
    inside = ((rows - place[0]) / radii[0]) ** 2 + ((columns - place[1]) / radii[1]) ** 2 < 1
    sky, ground, thing = random.uniform(30, 220, (3, 3))
    thing = np.where(np.abs(thing - (sky + ground) / 2).max() < 60, 255 - (sky + ground) / 2, thing)
    background = np.where((rows < random.uniform(50, 70))[..., None], sky, ground)
    pixels = np.where(inside[..., None], thing, background) + random.normal(0, 10, (120, 160, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1), inside


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a pixel of the object is more salient than one outside."""
    ranks, count = rankdata(scores.ravel())[truth.ravel()], truth.sum()
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (truth.size - count)))


def test_objects_in_drawn_scenes_are_salient() -> None:
    scores = []
    for seed in range(8):
        image, inside = drawn(seed)
        scores.append(auc(saliency.boundary_connectivity(image).numpy(), inside))
    assert np.mean(scores) > 0.97
    assert min(scores) > 0.85


def test_the_object_and_not_what_the_border_cuts_off_is_salient() -> None:
    """Contrast alone would light up the patch in the corner as well."""
    image = torch.full((3, 90, 120), 120, dtype=torch.uint8)
    image[:, 30:60, 45:75] = torch.tensor([230, 40, 40], dtype=torch.uint8)[:, None, None]
    image[:, :30, :30] = torch.tensor([40, 40, 230], dtype=torch.uint8)[:, None, None]
    salient = saliency.boundary_connectivity(image)
    assert salient[35:55, 50:70].mean() > 0.9
    assert salient[70:, 60:].mean() < 0.1
    assert salient[5:25, 5:25].mean() < 0.75 * salient[35:55, 50:70].mean()


def test_an_image_of_one_colour_is_salient_nowhere() -> None:
    assert not saliency.boundary_connectivity(torch.full((3, 50, 70), 93, dtype=torch.uint8)).any()


def test_grey_images_have_saliency_from_0_to_1() -> None:
    image, inside = drawn(3)
    grey = image.float().mean(0).byte().expand(3, -1, -1)
    salient = saliency.boundary_connectivity(grey)
    assert (salient.min(), salient.max()) == (0, 1)
    assert auc(salient.numpy(), inside) > 0.9


def test_saliency_equals_the_equations_written_as_loops() -> None:
    image, _ = drawn(1)
    ids = superpixels.slic(image, 30).numpy()
    lab = rgb2lab(image.permute(1, 2, 0).numpy())
    count = ids.max() + 1
    colours = [lab[ids == r].mean(0) for r in range(count)]
    places = [np.argwhere(ids == r).mean(0) / max(ids.shape) for r in range(count)]
    border = [r for r in range(count) if any((edge == r).any() for edge in (ids[0], ids[-1], ids[:, 0], ids[:, -1]))]
    contrast = np.array([[np.linalg.norm(a - b) for b in colours] for a in colours])

    way = np.full((count, count), np.inf)
    np.fill_diagonal(way, 0)
    touching = {(int(a), int(b)) for a, b in zip(ids[:, :-1].ravel(), ids[:, 1:].ravel(), strict=True)}
    touching |= {(int(a), int(b)) for a, b in zip(ids[:-1].ravel(), ids[1:].ravel(), strict=True)}
    for a, b in touching | {(a, b) for a in border for b in border}:
        way[a, b] = way[b, a] = contrast[a, b]
    for middle in range(count):  # Floyd and Warshall
        way = np.minimum(way, way[:, middle : middle + 1] + way[middle : middle + 1])

    expected = np.zeros(count)
    for p in range(count):
        for i in range(count):
            spanned = np.exp(-(way[i] ** 2) / (2 * 10**2))
            connectivity = sum(spanned[r] for r in border) / np.sqrt(spanned.sum())
            near = np.exp(-(np.linalg.norm(places[p] - places[i]) ** 2) / (2 * 0.25**2))
            expected[p] += contrast[p, i] * near * (1 - np.exp(-(connectivity**2) / 2))
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(saliency.boundary_connectivity(image, 30).numpy(), expected[ids], atol=1e-5)


@pytest.fixture
def sample() -> Sample:
    return Sample("dog", torch.zeros(3, 12, 20, dtype=torch.uint8))


def write(path: Path, values: np.ndarray) -> None:
    PIL.Image.fromarray(values).save(path)


def test_maps_of_a_folder_are_read_as_they_are(tmp_path: Path, sample: Sample) -> None:
    values = np.arange(240, dtype=np.uint8).reshape(12, 20)
    write(tmp_path / "dog.png", values)
    torch.testing.assert_close(saliency.from_folder(tmp_path, sample), torch.from_numpy(values / np.float32(255)))
    write(tmp_path / "dog.png", values.astype(np.uint16) * 257)
    torch.testing.assert_close(saliency.from_folder(str(tmp_path), sample), torch.from_numpy(values / np.float32(255)))


def test_a_smaller_map_of_the_same_shape_is_resized(tmp_path: Path, sample: Sample) -> None:
    small = np.zeros((6, 10), np.uint8)
    small[:, 5:] = 255
    write(tmp_path / "dog.png", small)
    salient = saliency.from_folder(tmp_path, sample)
    assert salient.shape == (12, 20)
    assert (salient[:, :9] == 0).all()
    assert (salient[:, 11:] == 1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((20, 12), np.uint8), "20×12.*12×20"),
        (np.zeros((12, 20, 3), np.uint8), "mode RGB"),
        (None, "there is no map"),
        (b"no picture", "cannot be read"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    tmp_path: Path, sample: Sample, values: np.ndarray | bytes | None, message: str
) -> None:
    if isinstance(values, bytes):
        (tmp_path / "dog.png").write_bytes(values)
    elif values is not None:
        write(tmp_path / "dog.png", values)
    with pytest.raises(ValueError, match=message):
        saliency.from_folder(tmp_path, sample)


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    write(tmp_path / "secret.png", np.zeros((12, 20), np.uint8))
    with pytest.raises(ValueError, match="out of the folder"):
        saliency.from_folder(tmp_path / "maps", Sample("../secret", torch.zeros(3, 12, 20, dtype=torch.uint8)))
