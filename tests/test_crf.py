"""The dense CRF against the published implementation, against the dense Gaussian sums it approximates, and in hand cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot
from torchvision.tv_tensors import Image

from frugalseg.data import images
from frugalseg.regions.crf import Lattice, dense_crf, elevate, simplex


def scene(height: int = 40, width: int = 56, noise: float = 12.0) -> tuple[Tensor, Tensor]:
    """An image of three noisy flat areas and the class (0..2) of each pixel."""
    classes = torch.zeros(height, width, dtype=torch.int64)
    classes[:, width // 2 :] = 1
    classes[height // 4 : height // 2, width // 4 : 3 * width // 4] = 2
    colours = torch.tensor([[60.0, 90, 40], [180, 160, 90], [40, 60, 200]])
    pixels = colours[classes].permute(2, 0, 1) + noise * torch.randn(3, height, width)
    return pixels.clamp(0, 255).byte(), classes


def doubtful(classes: Tensor, count: int, certainty: float = 2.0) -> Tensor:
    """Blurred and noisy probabilities (C, H, W) of a class map."""
    truth = one_hot(classes, count).permute(2, 0, 1).float()
    blurred = avg_pool2d(truth[None], 9, 1, 4)[0]
    return (certainty * (2 * blurred + torch.randn_like(truth))).softmax(0)


def reference(
    image: Tensor, probabilities: Tensor, iterations: int = 10, gaussian: tuple = (3, 3), bilateral: tuple = (4, 121, 5)
) -> Tensor:
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed: pip install pydensecrf2")
    classes, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-np.log(probabilities.clamp(1e-5, 1).flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=gaussian[1], compat=gaussian[0])
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=bilateral[1], srgb=bilateral[2], rgbim=pixels, compat=bilateral[0])
    return torch.from_numpy(np.array(crf.inference(iterations)).reshape(classes, height, width))


def assert_like_reference(image: Tensor, probabilities: Tensor, **settings: tuple | int) -> None:
    expected, got = reference(image, probabilities, **settings), dense_crf(image, probabilities, **settings)  # type: ignore[arg-type]
    assert (expected.argmax(0) == got.argmax(0)).float().mean() > 0.999
    assert (expected - got).abs().mean() < 1e-4


@pytest.mark.parametrize("noise", [0.0, 12.0, 60.0])
@pytest.mark.parametrize("count", [3, 7])
def test_agrees_with_pydensecrf_on_drawn_scenes(noise: float, count: int) -> None:
    image, classes = scene(noise=noise)
    assert_like_reference(image, doubtful(classes, count))


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 1},
        {"gaussian": (3, 1), "bilateral": (4, 67, 3)},
        {"gaussian": (3, 3), "bilateral": (10, 80, 13)},
        {"gaussian": (7, 20), "bilateral": (5, 5, 50)},
    ],
)
def test_agrees_with_pydensecrf_with_other_kernels(settings: dict) -> None:
    image, classes = scene()
    assert_like_reference(image, doubtful(classes, 3), **settings)


@pytest.mark.parametrize("index", [0, 20, 40])
def test_agrees_with_pydensecrf_on_photos(shared_data: Path, index: int) -> None:
    folder = shared_data / "voc20" / "VOC2012"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    name = (folder / "ImageSets/Segmentation/val.txt").read_text().split()[index]
    image = images.load(folder / f"JPEGImages/{name}.jpg")[:, 100:220, 60:220]
    mask = images.load_mask(folder / f"SegmentationClass/{name}.png")[100:220, 60:220]
    classes = mask.where(mask != 255, 0).unique(return_inverse=True)[1]
    probabilities = doubtful(classes, int(classes.max()) + 2)
    assert (dense_crf(image, probabilities).argmax(0) != probabilities.argmax(0)).any()  # or there was nothing to compare
    assert_like_reference(image, probabilities)


def dense_kernel(features: Tensor) -> Tensor:
    """D^-½ K D^-½ over all pairs of features (F, N), (N, N) float64."""
    kernel = (-(torch.cdist(features.T.double(), features.T.double()) ** 2) / 2).exp()
    scale = kernel.sum(1).rsqrt()
    return scale[:, None] * kernel * scale


def grid(height: int, width: int) -> Tensor:
    return torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).flatten(1).float()


@pytest.mark.parametrize(("size", "deviation"), [((24, 31), 3.0), ((24, 31), 8.0), ((1, 60), 5.0)])
def test_filter_approximates_the_dense_gaussian_in_the_plane(size: tuple[int, int], deviation: float) -> None:
    features = grid(*size) / deviation
    values = torch.rand(features.shape[1], 3)
    expected = dense_kernel(features) @ values.double()
    assert ((Lattice.build(features, 2.5)(values) - 2.5 * expected).abs() / (2.5 * expected)).max() < 0.1


def test_filter_approximates_the_dense_gaussian_in_place_and_colour() -> None:
    image, _ = scene(24, 32, noise=8)
    features = torch.cat((grid(24, 32) / 40, image.flatten(1) / 20))
    values = torch.rand(features.shape[1], 3)
    expected = dense_kernel(features) @ values.double()
    got = Lattice.build(features)(values)
    assert (got - expected).norm() / expected.norm() < 0.1


def test_mean_field_approximates_the_one_with_dense_sums() -> None:
    image, classes = scene(24, 32, noise=8)
    probabilities = doubtful(classes, 3)
    place = grid(24, 32)
    kernels = 3 * dense_kernel(place / 3) + 4 * dense_kernel(torch.cat((place / 40, image.flatten(1) / 20)))
    evidence = probabilities.flatten(1).T.double().log()
    beliefs = evidence.softmax(1)
    for _ in range(10):
        beliefs = (evidence + kernels @ beliefs).softmax(1)
    got = dense_crf(image, probabilities, bilateral=(4, 40, 20)).flatten(1).T
    assert (got.argmax(1) == beliefs.argmax(1)).float().mean() > 0.98
    assert (got - beliefs).abs().mean() < 0.02


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_barycentric_weights_rebuild_the_feature(size: int) -> None:
    features = 10 * torch.randn(size, 500)
    nearest, order, barycentric = simplex(features)
    assert torch.equal(nearest.sum(0), torch.zeros(500))  # the corner lies in the plane
    assert torch.equal(order.sort(0).values, torch.arange(size + 1)[:, None].expand(-1, 500))
    torch.testing.assert_close(barycentric.sum(0), torch.ones(500))
    assert barycentric.min() > -1e-4
    corner = torch.arange(size + 1)[:, None, None]
    corners = nearest * (size + 1) + corner - (size + 1) * (order[None] < corner)  # (corner, coordinate, N)
    torch.testing.assert_close((barycentric[:, None] * corners).sum(0), elevate(features), atol=2e-4, rtol=1e-4)


def test_noise_inside_flat_areas_goes_and_the_edges_stay() -> None:
    image, classes = scene(noise=3)
    probabilities = doubtful(classes, 3)
    before, after = ((p.argmax(0) != classes).float().mean() for p in (probabilities, dense_crf(image, probabilities)))
    assert before > 0.1
    assert after < 0.02


def test_marginals_are_probabilities_and_repeatable() -> None:
    image, classes = scene()
    probabilities = doubtful(classes, 4)
    marginals = dense_crf(image, probabilities)
    torch.testing.assert_close(marginals.sum(0), torch.ones(40, 56))
    assert marginals.dtype == torch.float32
    assert torch.equal(marginals, dense_crf(Image(image), probabilities))


def test_classes_have_no_order() -> None:
    image, classes = scene()
    probabilities = doubtful(classes, 4)
    shuffle = [2, 0, 3, 1]
    expected = dense_crf(image, probabilities)[shuffle]
    torch.testing.assert_close(dense_crf(image, probabilities[shuffle]), expected, atol=1e-4, rtol=0)


def test_scores_need_not_sum_to_one_and_may_be_half() -> None:
    image, classes = scene()
    probabilities = doubtful(classes, 3).half()
    expected = dense_crf(image, probabilities.float())
    torch.testing.assert_close(dense_crf(image, probabilities), expected)
    torch.testing.assert_close(dense_crf(image, probabilities.float() / 4), expected)


def test_a_pixel_without_opinion_takes_that_of_its_like() -> None:
    image, classes = scene(noise=3)
    probabilities = one_hot(classes, 3).permute(2, 0, 1).float()
    probabilities[:, 18:20, 5:9] = 0
    assert torch.equal(dense_crf(image, probabilities).argmax(0), classes)


def test_without_kernels_or_iterations_the_probabilities_stay() -> None:
    image, classes = scene()
    probabilities = doubtful(classes, 3, certainty=1)
    torch.testing.assert_close(dense_crf(image, probabilities, iterations=0), probabilities)
    torch.testing.assert_close(dense_crf(image, probabilities, gaussian=(0, 3), bilateral=(0, 121, 5)), probabilities)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2)])
def test_tiny_images(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    marginals = dense_crf(image, torch.rand(2, *size))
    torch.testing.assert_close(marginals.sum(0), torch.ones(size))
    torch.testing.assert_close(dense_crf(image, torch.rand(1, *size)), torch.ones(1, *size))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_same_on_a_gpu() -> None:
    image, classes = scene()
    probabilities = doubtful(classes, 3)
    marginals = dense_crf(image, probabilities.cuda())
    assert marginals.is_cuda
    assert (marginals.cpu() - dense_crf(image, probabilities)).abs().mean() < 1e-4


def test_no_operation_lacks_a_deterministic_form() -> None:
    image, classes = scene()
    torch.use_deterministic_algorithms(True)
    try:
        dense_crf(image, doubtful(classes, 3))
    finally:
        torch.use_deterministic_algorithms(False)


GOOD = torch.full((2, 4, 5), 0.5)


@pytest.mark.parametrize(
    ("image", "probabilities", "settings", "message"),
    [
        (torch.zeros(3, 4, 5), GOOD, {}, "uint8 RGB"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), GOOD, {}, r"\(3, H, W\)"),
        (None, torch.rand(2, 5, 4), {}, r"got \(2, 5, 4\).*resize"),
        (None, torch.rand(4, 5), {}, r"got \(4, 5\)"),
        (None, torch.rand(0, 4, 5), {}, "C ≥ 1"),
        (None, GOOD * torch.nan, {}, "NaN"),
        (None, GOOD / 0, {}, "infinity"),
        (None, GOOD - 1, {}, "got -0.5.*softmax"),
        (None, GOOD, {"iterations": -1}, "iterations: got -1"),
        (None, GOOD, {"bilateral": (4, 121, 0)}, "deviations > 0"),
        (None, GOOD, {"gaussian": (-3, 3)}, "weights ≥ 0"),
        (None, GOOD, {"bilateral": (4, 1e-4, 1e-4)}, "too small"),
    ],
)
def test_bad_input_is_named(image: Tensor | None, probabilities: Tensor, settings: dict, message: str) -> None:
    noise = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        dense_crf(noise if image is None else image, probabilities, **settings)
