"""K-means against scikit-learn, hand cases, and what breaks other implementations: empty clusters, doubles, too few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from frugalseg.regions import border_prior
from frugalseg.regions.kmeans import kmeans


def blobs(points: int, channels: int, centres: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    middle = 4 * torch.randn(centres, channels, generator=generator)
    return middle[torch.arange(points) % centres] + torch.randn(points, channels, generator=generator)


@pytest.mark.parametrize("clusters", [2, 7])
def test_from_the_same_start_it_ends_where_scikit_learn_does(clusters: int) -> None:
    points = blobs(200, 6, 5)
    found = kmeans(points[None], clusters, start=points[None, :clusters], iterations=300)
    theirs = KMeans(clusters, init=points[:clusters].numpy(), n_init=1, max_iter=300, tol=0).fit(points.numpy())
    assert found.labels[0].tolist() == theirs.labels_.tolist()
    assert found.inertia[0].item() == pytest.approx(theirs.inertia_, rel=1e-4)
    assert np.allclose(found.centres[0], theirs.cluster_centers_, atol=1e-4)


def test_with_restarts_its_inertia_is_scikit_learns() -> None:
    points = F.normalize(blobs(150, 8, 6, seed=3), dim=1)
    theirs = KMeans(6, n_init=20, random_state=0).fit(points.numpy())
    assert kmeans(points[None], 6, restarts=20).inertia[0].item() <= 1.02 * theirs.inertia_


def test_problems_do_not_mix() -> None:
    points, present = torch.stack([blobs(30, 3, 3), blobs(30, 3, 3, seed=1)]), torch.ones(2, 30, dtype=torch.bool)
    present[1, 20:] = False
    start = points[:, :3]
    together = kmeans(points, 3, present=present, start=start)
    alone = [kmeans(points[:1], 3, start=start[:1]), kmeans(points[1:, :20], 3, start=start[1:])]
    assert torch.equal(together.labels[0], alone[0].labels[0])
    assert torch.equal(together.labels[1, :20], alone[1].labels[0])
    assert (together.labels[1, 20:] == -1).all()


def test_an_empty_cluster_moves_to_the_farthest_point() -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0], [50.0]])
    found = kmeans(points[None], 3, start=torch.tensor([[[0.0], [10.0], [-1000.0]]]))
    assert found.labels[0].tolist() == [0, 0, 1, 1, 2]


def test_there_are_no_more_clusters_than_distinct_points() -> None:
    points = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, 1.0], [5.0, 5.0]])
    found = kmeans(points[None], 128)
    assert found.alive.sum() == 3
    assert found.inertia == 0
    assert len(set(found.labels[0].tolist())) == 3
    assert torch.isfinite(found.centres).all()
    assert found.labels[0, 0] == found.labels[0, 2]


def test_a_seed_tells_the_result_and_another_another() -> None:
    points = torch.rand(1, 60, 4, generator=torch.Generator().manual_seed(0))
    one, again, other = (kmeans(points, 9, seed, iterations=1).labels for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (torch.zeros(3, 4), {}, r"points: got \(3, 4\)"),
        (torch.full((1, 2, 2), torch.nan), {}, "NaN or infinity"),
        (torch.zeros(1, 2, 2), {"restarts": 0}, "restarts=0"),
        (torch.zeros(1, 2, 2), {"present": torch.ones(1, 3, dtype=torch.bool)}, "present: got"),
        (torch.zeros(1, 2, 2), {"start": torch.zeros(1, 3, 2)}, r"start: got .* expected \(1, 2, 2\)"),
    ],
)
def test_what_cannot_be_clustered_is_named(points: torch.Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kmeans(points, 2, **options)  # type: ignore[arg-type]


def test_the_object_is_the_large_part_away_from_the_border() -> None:
    ids = torch.zeros(8, 8, dtype=torch.int64)  # background touches the border all around
    ids[2:6, 2:6] = 3  # the object
    ids[3, 3] = 5  # something small on it, which touches no more
    assert border_prior.inner(ids) == 3


def test_parts_are_regions_of_like_features() -> None:
    features = torch.zeros(4, 6, 6)
    features[0], features[:, 2:4, 2:4] = 1.0, torch.tensor([0.0, 2.0, 0.0, 0.0])[:, None, None]
    ids = border_prior.parts(features, clusters=5)
    assert len(ids.unique()) == 2, "no more parts than there are different features"
    assert border_prior.inner(ids) == ids[2, 2]
    assert (ids == ids[2, 2]).sum() == 4
