"""Training episodes: random one-way tasks of the base classes, as tensors.

Shape letters: K references, S side of a square, h w feature map, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from frugalseg.data.dataset import Data
from frugalseg.data.episodes import BaseSplit, Episode, class_mask
from frugalseg.data.weak_detection import Store
from frugalseg.types import IGNORE

Pair = tuple[Tensor, Tensor]  # an image (3, H, W) uint8 and the mask of one class in it (H, W) of 0, 1, 255
ENLARGED = (1.0, 1.5)  # range of the zoom of an augmented reference
TRIES = 10  # crops of an augmented reference before it is left whole


class SquareReader:
    """Images of a data set as squares, with the mask of one class.

    side: of the squares. masks: "semantic", or "instances", the union of a class's objects. ignored: classes whose pixels become
    255.
    """

    def __init__(self, data: Data, side: int, masks: str = "semantic", ignored: tuple[int, ...] = ()) -> None:
        self.data, self.side, self.masks, self.ignored = data, side, masks, ignored

    def read(self, index: int, label: int) -> Pair:
        """An image and the mask of a class, at their own size."""
        sample = self.data[index]
        mask = class_mask(sample, label, self.masks)
        for other in self.ignored:
            mask = torch.where(class_mask(sample, other, self.masks) == 1, IGNORE, mask)
        return sample.image.as_subclass(Tensor), mask

    def square(self, image: Tensor, mask: Tensor, side: int = 0) -> Pair:
        """Both as squares; a thin object may vanish from the mask. side: 0 takes the reader's."""
        size = [side or self.side] * 2
        image = v2.functional.resize(image, size, antialias=True)
        return image, F.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0].long()

    def augmented(self, image: Tensor, mask: Tensor) -> Pair:
        """Mirrored, enlarged and cropped (BiOpt, sec. 5.1, after CANet), but never so that the object is cut off."""
        if torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        side = round(self.side * float(torch.empty(()).uniform_(*ENLARGED)))
        large = self.square(image, mask, side)
        for _ in range(TRIES):
            top, left = torch.randint(side - self.side + 1, (2,)).tolist()
            crops = [part[..., top : top + self.side, left : left + self.side] for part in large]
            if (crops[1] == 1).any():
                return crops[0], crops[1]
        return self.square(image, mask)


class EpisodeSampler:
    """Random one-way episodes of the base classes; which one depends on torch's random numbers alone.

    A class is drawn first, evenly, then a query and other images of it as references (BiOpt, sec. 3). Its length, the pairs of
    class and image, only says how long an epoch is. augment: change the references at random; the query stays as it is.

    An item holds query (3, S, S), query_mask (S, S), references (K, 3, S, S) and reference_masks (K, S, S).
    """

    def __init__(self, base: BaseSplit, shots: int, reader: SquareReader, augment: bool = False) -> None:
        self.base, self.shots, self.reader, self.augment = base, shots, reader, augment

    def __len__(self) -> int:
        return sum(map(len, self.base.images.values()))

    def draw(self) -> Episode:
        """The next random episode."""
        label = self.base.labels[int(torch.randint(len(self.base.labels), ()))]
        images = self.base.images[label]
        query, *references = (images[place] for place in torch.randperm(len(images))[: self.shots + 1].tolist())
        return Episode(label, query, tuple(references))

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        episode = self.draw()
        query = self.reader.square(*self.reader.read(episode.query, episode.label))
        shape = self.reader.augmented if self.augment else self.reader.square
        references = [shape(*self.reader.read(index, episode.label)) for index in episode.references]
        return _item(query, references)


class StoredEpisodeSampler(EpisodeSampler):
    """The same episodes with stored features (h, w, D) in the place of images, for features that are fixed.

    store: reads the array "features" of each image of the base split, see `Run.each`.
    """

    def __init__(self, base: BaseSplit, shots: int, reader: SquareReader, store: Store) -> None:
        super().__init__(base, shots, reader)
        self.store = store

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        episode = self.draw()
        query, *references = (self._stored(index, episode.label) for index in (episode.query, *episode.references))
        return _item(query, references)

    def _stored(self, index: int, label: int) -> Pair:
        features = torch.from_numpy(self.store.read(index)["features"]).float()
        return features, self.reader.square(torch.zeros(3, 1, 1), self.reader.read(index, label)[1])[1]


def _item(query: Pair, references: list[Pair]) -> dict[str, Tensor]:
    images, masks = (torch.stack(parts) for parts in zip(*references, strict=True))
    return {"query": query[0], "query_mask": query[1], "references": images, "reference_masks": masks}
