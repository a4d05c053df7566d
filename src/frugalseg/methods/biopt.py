"""BiOpt: bi-level optimization for few-shot segmentation (Liu et al., 2020). A few masks of a new class, then any image.

The references' features, averaged over their masks, are prototypes; the nearest one by cosine labels a pixel of the query. BiOpt
first mixes them with prototypes of the query's own rough mask (the init module), then moves them by gradient descent on the query
itself (the inner loop). The outer loop trains the features through all of it, episode by episode.

Shape letters: B images, E episodes, N new classes of an episode, K references of each, M = N + 1 classes with background as 0,
D channels, H W image, h w feature map, X = h·w its positions, S side of a square, C classes, U classes with a prototype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from frugalseg.data import Data, episodes
from frugalseg.data.episode_sampler import EpisodeSampler, SquareReader, StoredEpisodeSampler
from frugalseg.data.episodes import BaseSplit, Episode, class_mask
from frugalseg.data.problems import DataError
from frugalseg.data.transforms import stack
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, optim, schedule
from frugalseg.nets.linear_output import remove_last_relu
from frugalseg.nets.network import Network, Tensors, given_tags
from frugalseg.nets.presence import UNCALIBRATED, confidence, fit_calibration, prototype_similarity
from frugalseg.nets.prototypes import (
    EPS,
    FLOOR,
    PrototypeBank,
    Supports,
    class_weights,
    cosine,
    dot,
    fill_empty,
    reference_prototypes,
    support_prototypes,
    weighted_sum,
)
from frugalseg.progress import track
from frugalseg.recipes.biopt import Config
from frugalseg.types import IGNORE, Prediction, Sample, size_of

CALIBRATION_SHOTS = (1, 2, 4)  # references of the pairs that calibrate
FINEST = 1024  # longer side, in pixels, at which probabilities are up-sampled; larger images repeat its labels

# -- the inner loop --------------------------------------------------------------------------------------------------


def inner_loss(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Eq. 3 for each episode, (E,): Σ_x CE(softmax(α·cos(Q_x, P)), target_x), with target (E, X) of 0..N."""
    return F.cross_entropy(alpha * cosine(unit_query, prototypes), target, reduction="none").sum(1)


def inner_gradient(unit_query: Tensor, prototypes: Tensor, target: Tensor, alpha: float) -> Tensor:
    """∂`inner_loss`/∂P in closed form, (E, M, D).

    With s = α·(softmax(α·cos) − onehot(target)), the slope in the cosine, and p the unit prototype:
    ∂L/∂P_m = (Σ_x s_mx·q_x − (Σ_x s_mx·cos_mx)·p_m) / ‖P_m‖. It is made of differentiable steps, so the outer loop's gradient
    through it is of second order without a second graph, and it works where autograd is switched off.
    """
    norm: Tensor = prototypes.norm(dim=-1, keepdim=True).clamp(min=FLOOR)
    unit = prototypes / norm
    cos = dot(unit, unit_query)
    chosen = F.one_hot(target, prototypes.shape[1]).mT
    slope = alpha * ((alpha * cos).softmax(1) - chosen)
    return (weighted_sum(slope, unit_query) - (slope * cos).sum(-1, keepdim=True) * unit) / norm


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
    """‖ΔP‖/‖P‖ of each episode, (E,): how far the inner loop moved the prototypes (E, M, D)."""
    moved: Tensor = (after - before).flatten(1).norm(dim=1)
    length: Tensor = before.flatten(1).norm(dim=1)
    return moved / length.clamp(min=FLOOR)


# -- losses ----------------------------------------------------------------------------------------------------------


def upsample(scores: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Scores (E, M, X) of a map of `size` (h, w) at every pixel, (E, M, *to); corners align."""
    return F.interpolate(scores.view(*scores.shape[:2], *size), to, mode="bilinear", align_corners=True)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One term of eq. 8: mean cross-entropy over the labelled pixels of each episode, then over episodes.

    Shapes: logits (E, M, H, W), masks (E, H, W) of 0..N and 255 = ignore; an episode without a labelled pixel gives 0.
    """
    losses = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none").flatten(1).sum(1)
    return (losses / (masks != IGNORE).flatten(1).sum(1).clamp(min=1)).mean()


# -- one episode -----------------------------------------------------------------------------------------------------


class Solution(NamedTuple):
    """What one pass over a query gives. Logits (E, M, X): rough from P_s (M'), initial from P⁰ (M_q), final from P_q (M̂_q).

    start, end: prototypes before and after the inner loop, (E, M, D).
    """

    rough: Tensor
    initial: Tensor
    final: Tensor
    start: Tensor
    end: Tensor


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
        """P⁰ from P_s and P', all (E, M, D)."""
        weight: Tensor = self.fc(torch.cat([support, temporary], -1)).sigmoid()
        return weight * support + (1 - weight) * temporary


def temporary_prototypes(query: Tensor, rough: Tensor, support: Tensor) -> Tensor:
    """P' (E, M, D): the query (E or 1, X, D) averaged inside its rough mask, argmax of logits (E, M, X).

    A class that the mask leaves without a pixel keeps its P_s (E, M, D).
    """
    chosen = F.one_hot(rough.argmax(1), rough.shape[1]).mT.to(query)
    count = chosen.sum(-1, keepdim=True)
    return torch.where(count > 0, weighted_sum(chosen, query) / (count + EPS), support)


# -- the network -----------------------------------------------------------------------------------------------------


def on_grid(side: float, stride: int) -> int:
    """The nearest stride·k + 1 pixels: the map's corner points then lie on the image's corner pixels."""
    return max(1, round((side - 1) / stride)) * stride + 1


class BiOpt(Network):
    """Feature network and init module; everything else has no parameters.

    base, novel: classes that it learned from and that were held back in training. threshold: confidence above which a class is
    segmented. calibration: the four numbers of `confidence`. known, known_shown, known_shots: `Supports` of the classes it
    segments, by default those it learned from; see `with_supports`.
    """

    calibration: Tensor
    known: Tensor
    known_shown: Tensor
    known_shots: Tensor

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
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
        self.base: tuple[str, ...] = ()
        self.novel: tuple[str, ...] = ()
        self.threshold = 0.5
        self.movement = torch.zeros(0)  # of the last batch, for the log
        self.register_buffer("calibration", torch.tensor(UNCALIBRATED))
        self.register_buffer("known", torch.zeros(len(self.classes), 2, channels))
        self.register_buffer("known_shown", torch.zeros(len(self.classes), 2, dtype=torch.bool))
        self.register_buffer("known_shots", torch.zeros(len(self.classes)))

    def features(self, images: Tensor) -> Tensor:
        """(B, h, w, D) float32 of images (B, 3, H, W) in 0..255."""
        features: Tensor = self.backbone(images.to(memory_format=torch.channels_last))
        return features.permute(0, 2, 3, 1).float()

    def solve(self, query: Tensor, support: Tensor) -> Solution:
        """Algorithm 1 without its outer loop: query (E or 1, X, D), P_s (E, M, D)."""
        config, unit = self.config, F.normalize(query, dim=-1)
        initial = rough = config.alpha * cosine(unit, support)
        start = support
        if config.init == "module":
            start = self.init(support, temporary_prototypes(query, rough, support))
            initial = config.alpha * cosine(unit, start)
        target = initial.detach().argmax(1)
        end = inner_loop(unit, start, target, config.inner_steps, config.inner_lr, config.alpha, config.first_order)
        final = config.alpha * cosine(unit, end) if config.inner_steps else initial
        return Solution(rough, initial, final, start, end)

    # -- training

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Eq. 8 for a batch of one-way episodes; terms that coincide under the settings are counted once.

        Batch: query (E, 3, H, W), query_mask (E, H, W), references (E, K, 3, H, W), reference_masks (E, K, H, W), masks of 0, 1
        and 255; or, in the place of images, their features (E, h, w, D) and (E, K, h, w, D).
        """
        query, references = self._episode_features(batch["query"], batch["references"])
        size = (query.shape[-3], query.shape[-2])
        with torch.autocast(query.device.type, enabled=False):
            query, references = query.flatten(1, 2), references.flatten(2, 3)
            weights = class_weights(batch["reference_masks"], size)
            support, shown = support_prototypes(references[:, None], weights[:, None])
            solution = self.solve(query, fill_empty(support, shown, query))
            self.movement = movement(solution.start, solution.end).detach()
            return self._losses(solution, size, batch) | self._alignment(solution, size, query, references, batch)

    def _episode_features(self, query: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Features of queries and references, from one pass of the backbone."""
        if query.is_floating_point():
            return query, references
        features = self.features(torch.cat([query, references.flatten(0, 1)]))
        return features[: len(query)], features[len(query) :].view(*references.shape[:2], *features.shape[1:])

    def _losses(self, solution: Solution, size: tuple[int, int], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        masks = batch["query_mask"]
        extent = size_of(masks)
        losses = {"rough": mask_loss(upsample(solution.rough, size, extent), masks)}
        if self.config.init == "module":
            losses["initial"] = mask_loss(upsample(solution.initial, size, extent), masks)
        if self.config.inner_steps:
            losses["final"] = mask_loss(upsample(solution.final, size, extent), masks)
        return losses

    def _alignment(
        self, solution: Solution, size: tuple[int, int], query: Tensor, references: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """PANet's loss (Wang et al., ICCV 2019, sec. 3.4): the query's predicted mask is the reference of its references."""
        if not self.config.align:
            return {}
        masks = batch["reference_masks"].flatten(0, 1)
        prototypes = temporary_prototypes(query, solution.final, solution.end).repeat_interleave(references.shape[1], 0)
        logits = self.config.alpha * cosine(F.normalize(references.flatten(0, 1), dim=-1), prototypes)
        return {"align": self.config.align * mask_loss(upsample(logits, size, size_of(masks)), masks)}

    # -- references

    @property
    def supports(self) -> Supports:
        """The prototypes of its classes: (C, 2, D), (C, 2) and (C,)."""
        return Supports(self.known, self.known_shown, self.known_shots)

    @property
    def usable(self) -> Tensor:
        """(U,) places of the classes that have a prototype; the others are never segmented."""
        return self.known_shown[:, 1].nonzero().flatten()

    def with_supports(self, supports: Supports, classes: Sequence[str], threshold: float = 0.5) -> Self:
        """A new network that segments other classes by the prototypes of their references; the two share their layers.

        supports: of C classes. threshold: confidence above which a class is segmented.
        """
        other = self.with_settings()
        other.known, other.known_shown, other.known_shots = supports
        other.classes, other.threshold = tuple(classes), threshold
        return other

    # -- prediction

    def square(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """An image (3, H, W) of any size as the square that is encoded, (1, 3, S, S) float."""
        side = on_grid(self.config.side * scale, self.config.output_stride)
        square: Tensor = v2.functional.resize(image.as_subclass(Tensor).to(self.device)[None], [side, side], antialias=True)
        return square.float()

    def views(self, image: Tensor) -> list[Tensor]:
        """Features (1, h, w, D) of a query at every test scale."""
        return [self.features(self.square(image, scale)) for scale in self.config.test_scales]

    def segment(self, views: Sequence[Tensor], supports: Supports) -> tuple[Tensor, Tensor]:
        """Episodes that share a query: probabilities (E, M, h, w), and the confidence that each class is there, (E, N).

        Probabilities are of the largest view's map, averaged over the views.
        """
        probabilities, similarity = [], []
        largest = max(((view.shape[1], view.shape[2]) for view in views), key=math.prod)
        for view in views:
            query = view.flatten(1, 2)
            support = fill_empty(supports.prototypes, supports.shown, query)
            solution = self.solve(query, support)
            probabilities.append(upsample(solution.final.softmax(1), (view.shape[1], view.shape[2]), largest))
            similarity.append(prototype_similarity(query, solution.final, support))
        confidences = confidence(torch.stack(similarity).mean(0), supports.shots, self.calibration)
        return torch.stack(probabilities).mean(0), confidences

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """The image as a square (3, S, S) for every test scale."""
        return {f"view{place}": self.square(sample.image, scale)[0] for place, scale in enumerate(self.config.test_scales)}

    def infer(self, batch: Tensors) -> Tensors:
        """features<place> (B, h, w, D) of each view; probabilities (B, U, 2, h, w) and confidences (B, U) of each class alone."""
        views = [self.features(batch[f"view{place}"]) for place in range(len(self.config.test_scales))]
        supports = self.supports.at(self.usable)
        alone = [self.segment([view[place, None] for view in views], supports) for place in range(len(views[0]))]
        probabilities, confidences = (torch.stack(parts) for parts in zip(*alone, strict=True))
        features = {f"features{place}": view for place, view in enumerate(views)}
        return {**features, "probabilities": probabilities, "confidences": confidences[..., 0]}

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """Labels at the image's size, and as tags the confidence that each class is there.

        Classes above the threshold, or those that the sample's tags name, compete for the pixels.
        """
        confidences, usable = outputs["confidences"], self.usable
        present = confidences > self.threshold
        if tags == "given":
            present = given_tags(sample).to(usable.device)[usable] > 0
        labels = self._labels(outputs, present.nonzero().flatten(), size_of(sample.image))
        all_confidences = torch.zeros(len(self.classes)).index_copy(0, usable.cpu(), confidences.cpu())
        return Prediction(sample.name, size_of(sample.image), self.classes, all_confidences, labels)

    def _labels(self, outputs: Tensors, present: Tensor, size: tuple[int, int]) -> Tensor:
        """Class ids (H, W) uint8; present: places among the usable classes of those that may get pixels."""
        if not len(present):
            return torch.zeros(size, dtype=torch.uint8)
        usable = self.usable
        probabilities = outputs["probabilities"][present]
        if len(present) > 1:
            views = [outputs[f"features{place}"][None] for place in range(len(self.config.test_scales))]
            probabilities, _ = self.segment(views, self.supports.at(usable[present]).joined())
        ids = torch.cat([usable.new_zeros(1), 1 + usable[present]])[full_size(probabilities, size).argmax(1)]
        return F.interpolate(ids[None].float(), size, mode="nearest")[0, 0].to(torch.uint8).cpu()

    # -- weights files

    def metadata(self) -> dict[str, Any]:
        """Also the classes learned from and those held back."""
        return {**super().metadata(), "base": list(self.base), "novel": list(self.novel)}

    def read_metadata(self, metadata: dict[str, Any]) -> None:
        """Take back the classes learned from and those held back."""
        self.base, self.novel = tuple(metadata["base"]), tuple(metadata["novel"])


def full_size(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (E, M, h, w) at an image's size, or at most at FINEST pixels: memory must not grow with the image."""
    scale = min(1.0, FINEST / max(size))
    extent = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return F.interpolate(probabilities, extent, mode="bilinear", align_corners=True)


def object_masks(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (E, H, W) bool of one-class episodes, on the CPU, from probabilities (E, 2, h, w)."""
    masks = full_size(probabilities[:, 1:], size) > 0.5
    return F.interpolate(masks.float(), size, mode="nearest")[:, 0].bool().cpu()


# -- references of a data set ----------------------------------------------------------------------------------------


@torch.no_grad()
def encode_reference(network: BiOpt, sample: Sample, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Prototypes (T, 2, D) of background and object of T classes in an image with masks, and the pixels of each (T, 2)."""
    masks = [class_mask(sample, label, network.config.masks) for label in labels]
    return reference_prototypes(network.features(network.square(sample.image)), masks)


def encode_supports(network: BiOpt, data: Data, tasks: Sequence[Episode], quiet: bool = False) -> PrototypeBank:
    """The prototypes of every reference of the episodes; each image is encoded once."""
    labels: dict[int, set[int]] = {}
    for task in tasks:
        for reference in task.references:
            labels.setdefault(reference, set()).add(task.label)
    parts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for index in track(sorted(labels), "references", quiet=quiet):
        wanted = sorted(labels[index])
        prototypes, pixels = (part.cpu() for part in encode_reference(network, data[index], wanted))
        parts |= {(index, label): (prototypes[place], pixels[place]) for place, label in enumerate(wanted)}
    return PrototypeBank(parts)


# -- training --------------------------------------------------------------------------------------------------------


def build(config: Config, classes: Sequence[str]) -> BiOpt:
    """The network with its first weights."""
    return BiOpt(config, classes)


def train(config: Config, data: Data, run: Run) -> BiOpt:
    """Learn episode by episode from the base classes; no pixel of a class that is held back reaches a loss.

    With steps=0 the weights are the backbone's. Raises DataError where there is too little to learn from.
    """
    run.expect("data", data.fingerprint)
    novel = novel_labels(config, data.classes)
    base = episodes.base_split(data, novel, config.shots, config.least, config.masks, config.novel_in_train)
    names = {"base": [data.classes[i - 1] for i in base.labels], "novel": [data.classes[i - 1] for i in novel]}
    run.expect("classes", names)
    run.once("episodes", lambda: {"pictures": len(base.data), "dropped": base.dropped, "left_out": dict(base.left_out)})
    run.seed("biopt")
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    network.read_metadata(names)
    if config.steps:
        fit(config, network, base, run)
    fit_prototypes(config, network.to(run.device).eval(), base, run)
    return network


def novel_labels(config: Config, classes: Sequence[str]) -> list[int]:
    """The ids of the classes to hold back. Raises DataError for a name that is none of the classes."""
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


def fit(config: Config, network: BiOpt, base: BaseSplit, run: Run) -> None:
    """The outer loop of algorithm 1."""
    network.init.requires_grad_(config.init == "module")  # else it has no part in the loss
    wrapped, optimizer = run.setup(network, optim.one_rate(config, network))
    data, log_every = training_episodes(config, network, base, run), run.runtime.log_every
    for step, batch in run.steps("episodes", data, config.steps, config.batch, model=wrapped, optimizer=optimizer, collate=stack):
        run.update(wrapped(batch), optimizer, schedule.step_decay(step, 1.0, config.drops))
        if config.inner_steps and (step + 1) % log_every == 0:
            run.log(stage="episodes", step=step + 1, moved=round(float(network.movement.mean()), 5))


def square_reader(config: Config, base: BaseSplit) -> SquareReader:
    """The images of the base split as squares of the training's size."""
    ignored = base.novel if config.novel_in_train == "ignore" else ()
    return SquareReader(base.data, on_grid(config.side, config.output_stride), config.masks, ignored)


def training_episodes(config: Config, network: BiOpt, base: BaseSplit, run: Run) -> EpisodeSampler:
    """The episodes to train on; features are computed once where the backbone is fixed and no image is augmented."""
    reader = square_reader(config, base)
    learning = any(parameter.requires_grad for parameter in network.backbone.parameters())
    if learning or not config.freeze_norm or config.augment:
        return EpisodeSampler(base, config.shots, reader, config.augment)

    @torch.no_grad()
    def features(_: int, sample: Sample) -> dict[str, np.ndarray]:
        square = v2.functional.resize(sample.image.as_subclass(Tensor), [reader.side] * 2, antialias=True)
        return {"features": network.features(square[None].to(run.device))[0].cpu().numpy()}

    return StoredEpisodeSampler(base, config.shots, reader, run.each("features", base.data, features))


# -- after training --------------------------------------------------------------------------------------------------


def fit_prototypes(config: Config, network: BiOpt, base: BaseSplit, run: Run) -> None:
    """The mean prototypes of the base classes, from some of their images, and on those the calibration of the confidence."""
    chosen = sorted({index for images in base.images.values() for index in evenly(images, config.known)})
    data = base.data.select(chosen)
    labels = [[label for label in base.labels if index in base.images[label]] for index in chosen]

    def encode(index: int, sample: Sample) -> dict[str, np.ndarray]:
        prototypes, pixels = encode_reference(network, sample, labels[index])
        return {"prototypes": prototypes.cpu().numpy(), "pixels": pixels.cpu().numpy()}

    store = run.each("examples", data, encode)
    bank = PrototypeBank(
        {(index, label): part for index in range(len(data)) for label, part in _parts(store.read(index), labels[index])}
    )
    for label in base.labels:
        images = [index for index in range(len(data)) if label in labels[index]]
        network.known[label - 1], network.known_shown[label - 1] = bank.mean(label, images)
        network.known_shots[label - 1] = len(images)
    if config.pairs:
        calibrate(config, network, data, labels, bank, run)


def evenly(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly over the list."""
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else list(items)


def _parts(arrays: Mapping[str, np.ndarray], labels: Sequence[int]) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    for label, prototypes, pixels in zip(labels, arrays["prototypes"], arrays["pixels"], strict=True):
        yield label, (torch.from_numpy(prototypes), torch.from_numpy(pixels))


def calibrate(config: Config, network: BiOpt, data: Data, labels: Sequence[Sequence[int]], bank: PrototypeBank, run: Run) -> None:
    """Fit the confidence on images of base classes that show the class asked for, and as many that do not.

    labels: the base classes of each image of `data`, whose prototypes are in the bank.
    """
    tasks = calibration_episodes(config, data, labels, len(network.classes), run.runtime.seed)
    asked = episodes.by_query(tasks)
    places = list(asked)
    measure = partial(_presence, network, bank, tasks, list(asked.values()))
    store = run.each("presence", data.select(places), measure)
    measured = [store.read(index) for index in range(len(places))]
    if not measured:
        return
    similarity, shots, present = (np.concatenate([arrays[key] for arrays in measured]) for key in ("alike", "shots", "present"))
    if present.any() and not present.all():
        network.calibration.copy_(torch.from_numpy(fit_calibration(similarity, shots, present)))


def calibration_episodes(config: Config, data: Data, labels: Sequence[Sequence[int]], classes: int, seed: int) -> list[Episode]:
    """About `pairs` episodes, a third with each of CALIBRATION_SHOTS references, of classes with enough images."""
    pixels = [dict.fromkeys(shown, 1) for shown in labels]
    count = -(-config.pairs // len(CALIBRATION_SHOTS))
    tasks: list[Episode] = []
    for shots in CALIBRATION_SHOTS:
        usable = [label for label in range(1, classes + 1) if sum(label in shown for shown in labels) > shots]
        if usable:
            tasks += episodes.draw(data, pixels, usable, shots, count, seed).episodes
    return tasks


@torch.no_grad()
def _presence(
    network: BiOpt,
    bank: PrototypeBank,
    tasks: Sequence[Episode],
    questions: Sequence[Sequence[tuple[int, bool]]],
    index: int,
    sample: Sample,
) -> dict[str, np.ndarray]:
    """Arrays of `Run.each` for one image: similarity, shots and presence of the class for each episode that asks about it."""
    numbers, present = zip(*questions[index], strict=True)
    supports = bank.supports(tasks[number].support for number in numbers).to(network.device)
    query = network.features(network.square(sample.image)).flatten(1, 2)
    support = fill_empty(supports.prototypes, supports.shown, query)
    similarity = prototype_similarity(query, network.solve(query, support).final, support)
    return {"alike": similarity.cpu().numpy(), "shots": supports.shots.cpu().numpy(), "present": np.array(present)}
