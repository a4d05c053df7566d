"""BiOpt: bi-level optimization for few-shot segmentation (Liu et al., 2020). A few masks of a new class, then any picture.

The references' features, averaged over their masks, are prototypes; the nearest one by cosine labels a pixel of the query. BiOpt
first mixes them with prototypes of the query's own rough mask (the init module), then moves them by gradient descent on the query
itself (the inner loop). The outer loop trains the features through all of it, episode by episode.

Shape letters: B pictures, E episodes, N new classes of an episode, K references of each, M = N + 1 classes with background as 0,
D channels, H W picture, h w feature map, X = h·w its positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from frugalseg.data import episodes
from frugalseg.data.episodes import Base, Episode, class_mask
from frugalseg.data.problems import DataError
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, optim, schedule
from frugalseg.nets.linear_output import remove_last_relu
from frugalseg.recipes.biopt import Config
from frugalseg.recipes.checks import restored
from frugalseg.types import IGNORE, Prediction, Sample

EPS = 1e-5  # added to the weight of a mean, as in PANet
FLOOR = 1e-6  # least norm of a vector: the cosine of a shorter one has no usable gradient
UNCALIBRATED = (4.7, 2.1, -0.3, -2.6)  # of `confidence`: MobileNetV2's 14 leading blocks on photos, a start for other features
CALIBRATION_SHOTS = (1, 2, 4)  # references of the pairs that calibrate
FINEST = 1024  # longer side, in pixels, at which probabilities are up-sampled; larger pictures repeat its labels
LEAST_SIMILAR = 0.1  # share of the query that stands in for a class without a pixel (ruling)

# -- prototypes ------------------------------------------------------------------------------------------------------


def pooling_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """How much each position of a feature map counts when the map is up-sampled to a mask and averaged inside it.

    Up-sampling is linear: the mean over the pixels of Mask · U · features is a weighted mean of the features, with the weights
    Uᵀ · Mask. So masks act at their full resolution, and no up-sampled features ever exist. Corners align, as in `upsample`.

    Shapes: masks (..., H, W), size (h, w); returns (..., X) float, whose sum is the mask's.
    """
    rows, columns = (upsampling(cells, pixels).to(masks.device) for cells, pixels in zip(size, masks.shape[-2:], strict=True))
    return (rows.T @ masks.float() @ columns).flatten(-2)


def upsampling(cells: int, pixels: int) -> Tensor:
    """The matrix (pixels, cells) of linear interpolation whose corners align."""
    return F.interpolate(torch.eye(cells)[None], pixels, mode="linear", align_corners=True)[0].T


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """Σ_x w_x·f_x / Σ_x w_x: features (..., X, D), weights (..., M, X) -> (..., M, D); zero weights give the zero vector."""
    return weights @ features / (weights.sum(-1, keepdim=True) + EPS)


def class_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Pooling weights of background and object of masks (..., H, W) of 0, 1 and 255 = neither: (..., 2, X)."""
    return pooling_weights(torch.stack([masks == 0, masks == 1], -3), size)


def support_prototypes(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """P_s (E, M, D), and whether a reference shows the class at all (E, M) (sec. 4.2; the means as in PANet).

    The mean over the references that show the class; the background's also over the classes. A class nobody shows is zero.
    Shapes: features (E, N, K, X, D), weights (E, N, K, 2, X) of background and object.
    """
    pooled, shown = masked_average(features, weights), weights.sum(-1) > 0  # (E, N, K, 2, D), (E, N, K, 2)
    total, count = (pooled * shown[..., None]).sum(2), shown.sum(2)  # over the references of a class
    total = torch.cat([total[:, :, 0].sum(1, keepdim=True), total[:, :, 1]], 1)
    count = torch.cat([count[:, :, 0].sum(1, keepdim=True), count[:, :, 1]], 1)
    return total / count.clamp(min=1)[..., None], count > 0


def fill_empty(prototypes: Tensor, shown: Tensor, query: Tensor) -> Tensor:
    """Prototypes (E, M, D) in which a class without a pixel is what the query (E or 1, X, D) shows least of the others.

    A reference that its object fills has no background. A zero prototype would have no direction, and its cosine no gradient; the
    tenth of the query least similar to the classes that are shown takes its place.
    """
    if bool(shown.all()):
        return prototypes
    similarity = cosine(F.normalize(query, dim=-1), prototypes).masked_fill(~shown[..., None], -1.0).amax(1)  # (E, X)
    least = similarity.topk(max(1, round(LEAST_SIMILAR * similarity.shape[1])), largest=False).indices
    stand_in = query.expand(len(least), -1, -1).gather(1, least[..., None].expand(-1, -1, query.shape[-1])).mean(1)
    return torch.where(shown[..., None], prototypes, stand_in[:, None])


# -- the inner loop --------------------------------------------------------------------------------------------------


def cosine(unit_query: Tensor, prototypes: Tensor) -> Tensor:
    """cos(Q, P) (E, M, X) of unit query features (E or 1, X, D) and prototypes (E, M, D) of any length."""
    return _dot(F.normalize(prototypes, dim=-1, eps=FLOOR), unit_query)


def inner_loss(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Eq. 3 for each episode, (E,): Σ_x CE(softmax(α·cos(Q_x, P)), target_x), with target (E, X) of 0..N."""
    return F.cross_entropy(alpha * cosine(unit_query, prototypes), target, reduction="none").sum(1)


def inner_gradient(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """∂`inner_loss`/∂P in closed form, (E, M, D).

    With s = α·(softmax(α·cos) − onehot(target)), the slope in the cosine, and p the unit prototype:
    ∂L/∂P_m = (Σ_x s_mx·q_x − (Σ_x s_mx·cos_mx)·p_m) / ‖P_m‖. It is made of differentiable steps, so the outer loop's gradient
    through it is of second order without a second graph, and it works where autograd is switched off.
    """
    norm = prototypes.norm(dim=-1, keepdim=True).clamp(min=FLOOR)
    unit = prototypes / norm
    cos = _dot(unit, unit_query)
    chosen = F.one_hot(target, prototypes.shape[1]).mT
    slope = alpha * ((alpha * cos).softmax(1) - chosen)
    return (_gather(slope, unit_query) - (slope * cos).sum(-1, keepdim=True) * unit) / norm


def inner_loop(
    unit_query: Tensor, prototypes: Tensor, target: Tensor, steps: int, lr: float, alpha: float, first_order: bool = False
) -> Tensor:
    """Eq. 7: P ← P − lr·∂L/∂P, `steps` times. The sum over positions matters: with their mean, nothing moves.

    first_order: the gradients are constants to the outer loop.
    """
    for _ in range(steps):
        gradient = inner_gradient(unit_query, prototypes, target, alpha)
        prototypes = prototypes - lr * (gradient.detach() if first_order else gradient)
    return prototypes


def movement(before: Tensor, after: Tensor) -> Tensor:
    """‖ΔP‖/‖P‖ of each episode, (E,): what the inner loop did to the prototypes (E, M, D)."""
    return (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=FLOOR)


def _dot(prototypes: Tensor, query: Tensor) -> Tensor:
    """(E, M, D)·(E or 1, X, D) -> (E, M, X). Episodes that share a query are rows of one product, which reads it once."""
    if len(query) == 1:
        return (prototypes.flatten(0, 1) @ query[0].T).unflatten(0, prototypes.shape[:2])
    return prototypes @ query.mT


def _gather(weights: Tensor, query: Tensor) -> Tensor:
    """(E, M, X)·(E or 1, X, D) -> (E, M, D)."""
    if len(query) == 1:
        return (weights.flatten(0, 1) @ query[0]).unflatten(0, weights.shape[:2])
    return weights @ query


# -- losses ----------------------------------------------------------------------------------------------------------


def upsample(scores: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Scores (E, M, X) of a map of `size` (h, w) at every pixel, (E, M, *to); corners align."""
    return F.interpolate(scores.unflatten(-1, size), to, mode="bilinear", align_corners=True)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One term of eq. 8: mean cross-entropy over the known pixels of each episode, then over episodes.

    Shapes: logits (E, M, H, W), masks (E, H, W) of 0..N and 255; an episode without a known pixel gives 0.
    """
    losses = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none").flatten(1).sum(1)
    return (losses / (masks != IGNORE).flatten(1).sum(1).clamp(min=1)).mean()


# -- one episode -----------------------------------------------------------------------------------------------------


class Solution(NamedTuple):
    """What one pass over a query gives. Logits (E, M, X): rough from P_s (M'), initial from P⁰ (M_q), final from P_q (M̂_q).

    start, found: prototypes before and after the inner loop, (E, M, D).
    """

    rough: Tensor
    initial: Tensor
    final: Tensor
    start: Tensor
    found: Tensor


class Examples(NamedTuple):
    """References, boiled down, of E episodes or classes: all that a query needs of them.

    prototypes: P_s (E, M, D). shown: whether any reference has a pixel of it (E, M). shots: number of references (E,).
    """

    prototypes: Tensor
    shown: Tensor
    shots: Tensor

    def at(self, places: Tensor) -> Examples:
        """Those at an index tensor or mask."""
        return Examples(self.prototypes[places], self.shown[places], self.shots[places])

    def to(self, device: torch.device) -> Examples:
        """The same on another device."""
        return Examples(*(part.to(device) for part in self))

    def together(self) -> Examples:
        """C classes of (C, 2, D) as one episode of all of them, whose background is the mean of theirs: (1, C + 1, D)."""
        seen = self.shown[:, 0]
        background = (self.prototypes[:, 0] * seen[:, None]).sum(0) / seen.sum().clamp(min=1)
        prototypes = torch.cat([background[None], self.prototypes[:, 1]])
        return Examples(prototypes[None], torch.cat([seen.any()[None], self.shown[:, 1]])[None], self.shots.mean()[None])


class InitModule(nn.Module):
    """ω = sigmoid(FC([P_s; P'])), P⁰ = ω·P_s + (1 − ω)·P' (eq. 5), one layer for all classes.

    It starts at zero, that is at the plain mean of the two, which already helps before anything is learned.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, support: Tensor, temporary: Tensor) -> Tensor:
        """P_s and P', both (E, M, D)."""
        weight = self.fc(torch.cat([support, temporary], -1)).sigmoid()
        return weight * support + (1 - weight) * temporary


def temporary_prototypes(query: Tensor, rough: Tensor, support: Tensor) -> Tensor:
    """P' (E, M, D): the query (E or 1, X, D) averaged inside its rough mask, argmax of logits (E, M, X).

    A class that the mask leaves without a pixel keeps its P_s (E, M, D).
    """
    chosen = F.one_hot(rough.argmax(1), rough.shape[1]).mT.to(query)
    count = chosen.sum(-1, keepdim=True)
    return torch.where(count > 0, _gather(chosen, query) / (count + EPS), support)


# -- networks --------------------------------------------------------------------------------------------------------


def on_grid(side: float, stride: int) -> int:
    """The nearest stride·k + 1 pixels: the map's corner points then lie on the picture's corner pixels."""
    return max(1, round((side - 1) / stride)) * stride + 1


class BiOpt(nn.Module):
    """Feature network and init module; everything else has no parameters.

    calibration: the four numbers of `confidence`. known, known_shown, known_shots: examples of the classes it learned from.
    """

    calibration: Tensor
    known: Tensor
    known_shown: Tensor
    known_shots: Tensor

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)
        self.backbone = backbone.build(
            config.backbone,
            output_stride=config.output_stride,
            weights=config.weights,
            normalize=config.normalize,
            level=config.level,
            frozen=config.frozen,
            freeze_norm=config.freeze_norm,
        )
        remove_last_relu(self.backbone.body)
        channels = self.backbone.channels
        self.init = InitModule(channels)
        self.novel: tuple[str, ...] = ()  # classes held back in training
        self.movement = torch.zeros(0)  # of the last batch, for the log
        self.register_buffer("calibration", torch.tensor(UNCALIBRATED))
        self.register_buffer("known", torch.zeros(len(self.classes), 2, channels))
        self.register_buffer("known_shown", torch.zeros(len(self.classes), 2, dtype=torch.bool))
        self.register_buffer("known_shots", torch.zeros(len(self.classes)))

    def features(self, images: Tensor) -> Tensor:
        """(B, h, w, D) float32 of pictures (B, 3, H, W) in 0..255."""
        return self.backbone(images.to(memory_format=torch.channels_last)).permute(0, 2, 3, 1).float()

    def solve(self, query: Tensor, support: Tensor) -> Solution:
        """Algorithm 1 without its outer loop: query (E or 1, X, D), P_s (E, M, D)."""
        config, unit = self.config, F.normalize(query, dim=-1)
        initial = rough = config.alpha * cosine(unit, support)
        start = support
        if config.init == "module":
            start = self.init(support, temporary_prototypes(query, rough, support))
            initial = config.alpha * cosine(unit, start)
        target = initial.detach().argmax(1)
        found = inner_loop(unit, start, target, config.inner_steps, config.inner_lr, config.alpha, config.first_order)
        final = config.alpha * cosine(unit, found) if config.inner_steps else initial
        return Solution(rough, initial, final, start, found)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Eq. 8 for a batch of one-way episodes; terms that coincide under the settings are counted once.

        Batch: query (E, 3, H, W), query_mask (E, H, W), references (E, K, 3, H, W), reference_masks (E, K, H, W), masks of 0, 1
        and 255; or, in the place of pictures, their features (E, h, w, D) and (E, K, h, w, D).
        """
        query, references = self._both(batch["query"], batch["references"])
        size = (query.shape[-3], query.shape[-2])
        with torch.autocast(query.device.type, enabled=False):
            query, references = query.flatten(1, 2), references.flatten(2, 3)
            weights = class_weights(batch["reference_masks"], size)
            support, shown = support_prototypes(references[:, None], weights[:, None])
            found = self.solve(query, fill_empty(support, shown, query))
            self.movement = movement(found.start, found.found).detach()
            return self._losses(found, size, batch) | self._alignment(found, size, query, references, batch)

    def _both(self, query: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Features of queries and references, by one pass of the backbone."""
        if query.is_floating_point():
            return query, references
        features = self.features(torch.cat([query, references.flatten(0, 1)]))
        return features[: len(query)], features[len(query) :].unflatten(0, references.shape[:2])

    def _losses(self, found: Solution, size: tuple[int, int], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        masks = batch["query_mask"]
        extent = (masks.shape[-2], masks.shape[-1])
        losses = {"rough": mask_loss(upsample(found.rough, size, extent), masks)}
        if self.config.init == "module":
            losses["initial"] = mask_loss(upsample(found.initial, size, extent), masks)
        if self.config.inner_steps:
            losses["final"] = mask_loss(upsample(found.final, size, extent), masks)
        return losses

    def _alignment(
        self, found: Solution, size: tuple[int, int], query: Tensor, references: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """PANet's loss (Wang et al., ICCV 2019, sec. 3.4): the query's mask, as found, is the reference of its references."""
        if not self.config.align:
            return {}
        masks = batch["reference_masks"].flatten(0, 1)
        prototypes = temporary_prototypes(query, found.final, found.found).repeat_interleave(references.shape[1], 0)
        logits = self.config.alpha * cosine(F.normalize(references.flatten(0, 1), dim=-1), prototypes)
        return {"align": self.config.align * mask_loss(upsample(logits, size, (masks.shape[-2], masks.shape[-1])), masks)}

    # -- prediction --------------------------------------------------------------------------------------------------

    def picture(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """A picture (3, H, W) of any size as the square the features are made of, (1, 3, S, S) float."""
        side = on_grid(self.config.side * scale, self.config.output_stride)
        device = next(self.parameters()).device
        return v2.functional.resize(image.as_subclass(Tensor).to(device)[None], [side, side], antialias=True).float()

    def views(self, image: Tensor) -> list[Tensor]:
        """Features (1, h, w, D) of a query at every test scale."""
        return [self.features(self.picture(image, scale)) for scale in self.config.test_scales]

    def examples(self, features: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Prototypes (T, 2, D) of background and object in one reference, and the pixels of each (T, 2).

        features: (1, h, w, D). masks: T of the picture's size, of 0, 1 and 255.
        """
        weights = torch.stack([class_weights(mask.to(features.device), (features.shape[1], features.shape[2])) for mask in masks])
        return masked_average(features.flatten(1, 2), weights), weights.sum(-1)

    def find(self, views: Sequence[Tensor], examples: Examples) -> tuple[Tensor, Tensor]:
        """Episodes that share a query: probabilities (E, M, h, w) of the largest view's map, averaged over the views, and how
        sure it is that each class is there (E, N).
        """
        probabilities, alike = [], []
        largest = max(((view.shape[1], view.shape[2]) for view in views), key=math.prod)
        for view in views:
            query = view.flatten(1, 2)
            support = fill_empty(examples.prototypes, examples.shown, query)
            found = self.solve(query, support)
            probabilities.append(upsample(found.final.softmax(1), (view.shape[1], view.shape[2]), largest))
            alike.append(resemblance(query, found.final, support))
        sure = confidence(torch.stack(alike).mean(0), examples.shots, self.calibration)
        return torch.stack(probabilities).mean(0), sure

    @torch.no_grad()
    def label(
        self, image: Tensor, examples: Examples, threshold: float = 0.5, given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class ids (H, W) uint8 of a picture (3, H, W), and confidences (C,), for examples of C classes.

        Every class is first sought alone; those that are surer than `threshold` (or that are `given`, (C,) of 0 and 1) then
        compete for the pixels.
        """
        views, size = self.views(image), size_of(image)
        probabilities, sure = self.find(views, examples)
        present = (sure[:, 0] > threshold if given is None else given.to(sure.device) > 0).nonzero().flatten()
        if not len(present):
            return torch.zeros(size, dtype=torch.uint8), sure[:, 0].cpu()
        if len(present) > 1:
            probabilities, _ = self.find(views, examples.at(present).together())
        else:
            probabilities = probabilities[present]
        ids = torch.cat([present.new_zeros(1), present + 1])[full_size(probabilities, size).argmax(1)]
        return F.interpolate(ids[None].float(), size, mode="nearest")[0, 0].to(torch.uint8).cpu(), sure[:, 0].cpu()

    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Masks of the classes it was trained on, by their mean prototypes; for other classes see `frugalseg.few`."""
        examples = Examples(self.known, self.known_shown, self.known_shots)
        return [predicted(self, sample, self.classes, examples, tags) for sample in samples]


def predicted(
    model: BiOpt, sample: Sample, classes: tuple[str, ...], examples: Examples, tags: str = "predicted", threshold: float = 0.5
) -> Prediction:
    """What `BiOpt.label` makes of a picture; tags="given" takes the picture's own tags for the presence of classes.

    A class without an example is never found.
    """
    if tags == "given" and sample.tags is None:
        raise ValueError(f"{sample.name}: tags='given' needs the picture's tags and it has none; leave the option out")
    usable = examples.shown[:, 1].nonzero().flatten()
    given = sample.tags.nan_to_num(0.0)[usable.cpu()] if tags == "given" and sample.tags is not None else None
    ids, sure = model.label(sample.image, examples.at(usable), threshold, given)
    labels = torch.cat([usable.new_zeros(1), 1 + usable]).cpu()
    confidences = torch.zeros(len(classes)).index_copy(0, usable.cpu(), sure)
    return Prediction(sample.name, size_of(sample.image), classes, confidences, labels[ids.long()].to(torch.uint8))


def size_of(image: Tensor) -> tuple[int, int]:
    """(H, W) of a picture."""
    return int(image.shape[-2]), int(image.shape[-1])


def full_size(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (E, M, h, w) at a picture's size, or at most at FINEST pixels: memory must not grow with the picture."""
    scale = min(1.0, FINEST / max(size))
    extent = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return F.interpolate(probabilities, extent, mode="bilinear", align_corners=True)


# -- is the class there? ---------------------------------------------------------------------------------------------


def resemblance(query: Tensor, logits: Tensor, support: Tensor) -> Tensor:
    """Cosine of the mean feature of what was found and P_s, for background and object, (E, M); −1 where nothing was found.

    Of a dozen measures on real photos (largest probability, margins, segmenting the references back) the object's told
    best whether the class is there with ready-made features, and the background's, that is the scene, with trained ones.

    Shapes: query (E or 1, X, D), logits (E, M, X), support (E, M, D).
    """
    chosen = F.one_hot(logits.argmax(1), logits.shape[1]).mT.to(query)
    found = F.normalize(_gather(chosen, query), dim=-1)
    return torch.where(chosen.sum(-1) > 0, (found * F.normalize(support, dim=-1)).sum(-1), -1.0)


def confidence(alike: Tensor, shots: Tensor, calibration: Tensor) -> Tensor:
    """How sure it is that each class is there, (E, N): σ(a·object + b·background + c·log2(shots) + d), 0 for what was not found.

    The weights are those of `calibrated`: the mean of more references is more like anything. alike (E, M), shots (E,).
    """
    a, b, c, d = calibration
    scores = a * alike[:, 1:] + b * alike[:, :1] + c * shots.clamp(min=1).log2()[:, None] + d
    return torch.where(alike[:, 1:] > -1, scores.sigmoid(), 0.0)


def calibrated(alike: np.ndarray, shots: np.ndarray, present: np.ndarray, ridge: float = 1e-4) -> np.ndarray:
    """The (4,) of `confidence` by logistic regression (Newton's method) on pairs with and without the class.

    alike (N, 2) of background and object, shots (N,), present (N,) bool. ridge: a little of the squared weights, so that
    pairs that separate perfectly do not drive them to infinity.
    """
    seen = alike[:, 1] > -1
    inputs = np.stack([alike[:, 1], alike[:, 0], np.log2(shots), np.ones(len(shots))], 1)[seen].astype(np.float64)
    weights, wanted = np.zeros(4), present[seen].astype(np.float64)
    penalty = ridge * len(wanted) * np.array([1.0, 1.0, 1.0, 1e-6])
    for _ in range(50):
        sure = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (sure - wanted) + penalty * weights
        curve = (inputs * (sure * (1 - sure))[:, None]).T @ inputs + np.diag(penalty + 1e-12)
        weights = weights - np.linalg.solve(curve, slope)
    return weights


# -- episodes to learn from ------------------------------------------------------------------------------------------


class Reader:
    """Pictures of a data set as squares, with the mask of one class. hidden: classes whose pixels are 255 ("ignore")."""

    def __init__(self, config: Config, data: Any, hidden: Sequence[int] = ()) -> None:
        self.config, self.data, self.side = config, data, on_grid(config.side, config.output_stride)
        self.hidden = hidden if config.novel_in_train == "ignore" else ()

    def read(self, index: int, label: int) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (H, W) of 0, 1, 255, at their own size."""
        sample = self.data[index]
        mask = class_mask(sample, label, self.config.masks)
        for other in self.hidden:
            mask = torch.where(class_mask(sample, other, self.config.masks) == 1, IGNORE, mask)
        return sample.image.as_subclass(Tensor), mask

    def square(self, image: Tensor, mask: Tensor, side: int = 0) -> tuple[Tensor, Tensor]:
        """Both as squares; a thin object may vanish from the mask."""
        size = [side or self.side] * 2
        image = v2.functional.resize(image, size, antialias=True)
        return image, F.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0].long()

    def augmented(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A reference mirrored, enlarged by 1 to 1.5 and cropped (sec. 5.1, after CANet); never so that its object is cut off."""
        if torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        side = round(self.side * float(torch.empty(()).uniform_(1, 1.5)))
        large = self.square(image, mask, side)
        for _ in range(10):
            top, left = torch.randint(side - self.side + 1, (2,)).tolist()
            crops = [part[..., top : top + self.side, left : left + self.side] for part in large]
            if (crops[1] == 1).any():
                return crops[0], crops[1]
        return self.square(image, mask)


class Tasks:
    """Random one-way episodes of the base classes; which one depends on torch's random numbers alone.

    A class is drawn first, evenly, then a query and other pictures of it as references (sec. 3). Its length, the pairs of class
    and picture, only says how long an epoch is.
    """

    def __init__(self, config: Config, base: Base) -> None:
        self.config, self.base, self.reader = config, base, Reader(config, base.data, base.hidden)

    def __len__(self) -> int:
        return sum(map(len, self.base.pictures.values()))

    def drawn(self) -> Episode:
        """A random episode: a class, a query and its references."""
        label = self.base.labels[int(torch.randint(len(self.base.labels), ()))]
        pictures = self.base.pictures[label]
        query, *references = (pictures[place] for place in torch.randperm(len(pictures))[: self.config.shots + 1].tolist())
        return Episode(label, query, tuple(references))

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        episode = self.drawn()
        query, query_mask = self.reader.square(*self.reader.read(episode.query, episode.label))
        shape = self.reader.augmented if self.config.augment else self.reader.square
        pairs = [shape(*self.reader.read(index, episode.label)) for index in episode.references]
        references, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return {"query": query, "query_mask": query_mask, "references": references, "reference_masks": masks}


class StoredTasks(Tasks):
    """The same episodes with features in the place of pictures: where nothing that makes them learns or is random."""

    def __init__(self, config: Config, base: Base, shelf: Any) -> None:
        super().__init__(config, base)
        self.shelf = shelf

    def __getitem__(self, _: int) -> dict[str, Tensor]:
        episode = self.drawn()
        pairs = [self._stored(index, episode.label) for index in (episode.query, *episode.references)]
        features, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return {"query": features[0], "query_mask": masks[0], "references": features[1:], "reference_masks": masks[1:]}

    def _stored(self, index: int, label: int) -> tuple[Tensor, Tensor]:
        features = torch.from_numpy(self.shelf.read(index)["features"]).float()
        return features, self.reader.square(torch.zeros(3, 1, 1), self.reader.read(index, label)[1])[1]


# -- training --------------------------------------------------------------------------------------------------------


def train(config: Config, data: Any, run: Run) -> BiOpt:
    """Learn episode by episode from the base classes; no pixel of a class that is held back reaches a loss.

    Writes weights/last; with steps=0 the weights are the backbone's. Raises DataError where there is too little to learn from.
    """
    run.expect("data", data.fingerprint)
    base = episodes.base(data, held_back(config, data.classes), config.shots, config.least, config.masks, config.novel_in_train)
    names = {"base": [data.classes[label - 1] for label in base.labels], "novel": [data.classes[i - 1] for i in base.hidden]}
    run.expect("classes", names)
    run.once("episodes", lambda: {"pictures": len(base.data), "dropped": base.dropped, "left_out": dict(base.left_out)})
    run.seed("biopt")
    model = BiOpt(config, data.classes).to(memory_format=torch.channels_last)
    if config.steps:
        fit(config, model, base, run)
    else:
        model.to(run.device)
    know(config, model.eval(), base, run)
    model.novel = tuple(names["novel"])
    run.save_model(model, {"method": "biopt", "config": asdict(config), "classes": list(model.classes), **names})
    return model


def held_back(config: Config, classes: Sequence[str]) -> list[int]:
    """The ids of the new classes. Raises DataError for a name that is none of the classes."""
    strange = [name for name in config.novel if name not in classes]
    if strange:
        raise DataError(f"novel: got {', '.join(strange)}, expected some of the classes {', '.join(classes)}")
    if config.novel:
        return [classes.index(name) + 1 for name in config.novel]
    if config.fold < 0:
        return []
    if config.folds > len(classes):
        raise DataError(f"folds={config.folds}: there are only {len(classes)} classes; use fewer --folds, or --novel NAME")
    return episodes.folds(len(classes), config.folds, config.folding)[config.fold]


def fit(config: Config, model: BiOpt, base: Base, run: Run) -> None:
    """The outer loop of algorithm 1."""
    wrapped, optimizer = run.setup(model, optimizer_of(config, model))
    tasks, log_every = tasks_of(config, model, base, run), run.runtime.log_every
    for step, batch in run.steps(
        "episodes", tasks, config.steps, config.batch, model=wrapped, optimizer=optimizer, collate=stack
    ):
        run.update(wrapped(batch), optimizer, schedule.step_decay(step, 1.0, config.drops))
        if config.inner_steps and (step + 1) % log_every == 0:
            run.log(stage="episodes", step=step + 1, moved=round(float(model.movement.mean()), 5))


def tasks_of(config: Config, model: BiOpt, base: Base, run: Run) -> Tasks:
    """The episodes to train on; features are computed once where the backbone is fixed and no picture is augmented."""
    learning = any(parameter.requires_grad for parameter in model.backbone.parameters())
    if learning or not config.freeze_norm or config.augment:
        return Tasks(config, base)
    reader = Reader(config, base.data)

    @torch.no_grad()
    def features(_: int, sample: Sample) -> dict[str, np.ndarray]:
        picture = v2.functional.resize(sample.image.as_subclass(Tensor), [reader.side] * 2, antialias=True)
        return {"features": model.features(picture[None].to(run.device))[0].cpu().numpy()}

    return StoredTasks(config, base, run.each("features", base.data, features))


def optimizer_of(config: Config, model: BiOpt) -> torch.optim.Optimizer:
    """The recipe's optimiser of what learns (SGD, sec. 5.1); with init "support" the init module has no part in the loss."""
    model.init.requires_grad_(config.init == "module")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError("nothing can learn: every block is frozen and init is 'support'; lower frozen, or give steps=0")
    return optim.of(config, [{"params": learning, "lr": config.lr}])


def stack(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Items as one batch: each tensor gets a first dimension B."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def know(config: Config, model: BiOpt, base: Base, run: Run) -> None:
    """After training: the mean prototypes of the base classes, and how sure is sure, from some of their pictures."""
    chosen = sorted({index for pictures in base.pictures.values() for index in spread(pictures, config.known)})
    pictures = base.data.select(chosen)
    labels = [[label for label in base.labels if index in base.pictures[label]] for index in chosen]

    @torch.no_grad()
    def examples(index: int, sample: Sample) -> dict[str, np.ndarray]:
        masks = [class_mask(sample, label, config.masks) for label in labels[index]]
        prototypes, pixels = model.examples(model.features(model.picture(sample.image)), masks)
        return {"prototypes": prototypes.cpu().numpy(), "pixels": pixels.cpu().numpy()}

    shelf = run.each("examples", pictures, examples)
    bank = Bank(
        {(index, label): part for index in range(len(pictures)) for label, part in _parts(shelf.read(index), labels[index])}
    )
    for label in base.labels:
        mean, shown = bank.mean(label, [index for index in range(len(pictures)) if label in labels[index]])
        model.known[label - 1], model.known_shown[label - 1] = mean, shown
        model.known_shots[label - 1] = sum(label in mine for mine in labels)
    if config.pairs:
        calibrate(config, model, pictures, labels, bank, run)


def spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly over the list."""
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else list(items)


def _parts(arrays: Mapping[str, np.ndarray], labels: Sequence[int]) -> Iterable[tuple[int, tuple[Tensor, Tensor]]]:
    for label, prototypes, pixels in zip(labels, arrays["prototypes"], arrays["pixels"], strict=True):
        yield label, (torch.from_numpy(prototypes), torch.from_numpy(pixels))


class Bank:
    """Prototypes (2, D) and pixels (2,) of single references, by (picture, class): each is computed once for all its episodes."""

    def __init__(self, parts: dict[tuple[int, int], tuple[Tensor, Tensor]]) -> None:
        self.parts = parts

    def mean(self, label: int, pictures: Sequence[int]) -> tuple[Tensor, Tensor]:
        """P_s (2, D) of these references of a class, and which of background and object they show (2,)."""
        prototypes = torch.stack([self.parts[picture, label][0] for picture in pictures])
        shown = torch.stack([self.parts[picture, label][1] > 0 for picture in pictures])
        total = (prototypes * shown[..., None]).sum(0)
        return total / shown.sum(0).clamp(min=1)[:, None], shown.any(0)

    def examples(self, tasks: Sequence[Episode]) -> Examples:
        """The references of episodes, (E, 2, D)."""
        means = [self.mean(task.label, task.references) for task in tasks]
        shots = torch.tensor([float(len(task.references)) for task in tasks])
        return Examples(torch.stack([mean for mean, _ in means]), torch.stack([shown for _, shown in means]), shots)


def by_query(tasks: Iterable[Episode]) -> dict[int, list[tuple[int, bool]]]:
    """For each picture that is asked, (number of the episode, whether it shows the class): it is looked at once for all."""
    found: dict[int, list[tuple[int, bool]]] = {}
    for number, task in enumerate(tasks):
        found.setdefault(task.query, []).append((number, True))
        if task.absent is not None:
            found.setdefault(task.absent, []).append((number, False))
    return dict(sorted(found.items()))


def calibrate(config: Config, model: BiOpt, pictures: Any, labels: Sequence[Sequence[int]], bank: Bank, run: Run) -> None:
    """Fit `confidence` on pictures of base classes that show the class asked for, and as many that do not."""
    pixels = [dict.fromkeys(mine, 1) for mine in labels]
    usable = [label for label in range(1, len(model.classes) + 1) if sum(label in mine for mine in labels) > 1]
    tasks: list[Episode] = []
    for shots in CALIBRATION_SHOTS:
        wide = [label for label in usable if sum(label in mine for mine in labels) > shots]
        if wide:
            tasks += episodes.draw(
                pictures, pixels, wide, shots, -(-config.pairs // len(CALIBRATION_SHOTS)), run.runtime.seed
            ).episodes
    asked = by_query(tasks)
    places = list(asked)

    @torch.no_grad()
    def measure(index: int, sample: Sample) -> dict[str, np.ndarray]:
        numbers, present = zip(*asked[places[index]], strict=True)
        examples = bank.examples([tasks[number] for number in numbers]).to(run.device)
        query = model.features(model.picture(sample.image)).flatten(1, 2)
        support = fill_empty(examples.prototypes, examples.shown, query)
        alike = resemblance(query, model.solve(query, support).final, support)
        return {"alike": alike.cpu().numpy(), "shots": examples.shots.cpu().numpy(), "present": np.array(present)}

    shelf = run.each("presence", pictures.select(places), measure)
    found = [shelf.read(index) for index in range(len(places))]
    if not found:
        return
    alike, many, present = (np.concatenate([arrays[key] for arrays in found]) for key in ("alike", "shots", "present"))
    if present.any() and not present.all():
        model.calibration.copy_(torch.from_numpy(calibrated(alike, many, present)))


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> BiOpt:
    """The model of a weights file that `train` wrote."""
    model = BiOpt(restored(Config, metadata["config"]), metadata["classes"])
    model.load_state_dict(state)
    model.novel = tuple(metadata["novel"])
    return model.to(memory_format=torch.channels_last).eval()
