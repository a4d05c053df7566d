"""AE-PSL: object region mining with adversarial erasing (Wei et al., CVPR 2017). From image tags to a segmentation network.

Stage 1, adversarial erasing: train a tag classifier, take the region its class activation map (CAM) points at, erase it from the
picture, train again; the union of the rounds is the object. Stage 2: assemble a mask S from the mined regions and the
unsalient background. Stage 3, prohibitive segmentation learning (PSL): learn from S and from the network's own prediction,
weighted by its own image-level confidences. PSL++ predicts the training set, refines by a CRF, and trains once more.

Shape letters: B batch, C classes, D channels, H W picture, h w feature map. Class 0 is background.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from frugalseg.data.transforms import Augmented, ZoomCrop, longer_side, stack
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import backbone, heads, optim, schedule, tag_classifier
from frugalseg.nets.weights import read_weights
from frugalseg.progress import track
from frugalseg.recipes.aepsl import Config
from frugalseg.recipes.checks import restored
from frugalseg.regions import saliency
from frugalseg.regions.cache import Cache
from frugalseg.regions.crf import dense_crf
from frugalseg.types import IGNORE, Prediction, Sample

# -- losses ----------------------------------------------------------------------------------------------------------


def segmentation_loss(logits: Tensor, masks: Tensor, tags: Tensor) -> Tensor:
    """J of sec. 3.2: cross-entropy averaged over the labelled pixels of the picture's tags and background, then over pictures.

    A pixel that is ignored or carries a class the picture is not tagged with neither adds nor counts; a picture without any
    labelled pixel gives 0. Shapes: logits (B, C+1, h, w), masks (B, h, w) of 0..C and 255, tags (B, C).
    """
    allowed = torch.cat([torch.ones_like(tags[:, :1]), tags], 1) > 0
    labels = torch.where(masks == IGNORE, 0, masks)
    valid = (masks != IGNORE) & allowed.gather(1, labels.flatten(1)).view_as(masks)
    losses = F.cross_entropy(logits, labels, reduction="none") * valid
    return (losses.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)).mean()


@torch.no_grad()
def online_mask(logits: Tensor, weights: Tensor, background: float = 1.0) -> Tensor:
    """S^ = argmax([1, v] * f) (sec. 3.2), (B, h, w); f is the softmax of logits (B, C+1, h, w), weights v are (B, C)."""
    weights = torch.cat([torch.full_like(weights[:, :1], background), weights], 1)
    return (logits.softmax(1) * weights[:, :, None, None]).argmax(1)


# -- networks --------------------------------------------------------------------------------------------------------


def head(config: Config, channels: int) -> tuple[nn.Module, int]:
    """DeepLab's fc6 and fc7 on a backbone of that many channels, or nothing, and the channels that come out."""
    if not config.channels:
        return nn.Identity(), channels
    if config.head == "fcn":
        return heads.FCN(channels, config.channels, config.dilation), config.channels
    average = config.backbone == "vgg16"  # pool5a belongs to DeepLab's VGG-16
    return heads.LargeFOV(channels, config.channels, config.dilation, config.dropout, average), config.channels


class Classifier(tag_classifier.Classifier):
    """The tag classifier: a network whose CAM tells where a class is (sec. 3.1)."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        net = backbone.build(
            config.backbone,
            output_stride=config.output_stride,
            weights=config.weights,
            normalize=config.normalize,
            level=config.level,
            frozen=config.frozen,
            freeze_norm=config.freeze_norm,
        )
        super().__init__(classes, net, config.label_loss, config.levels, config.standardize, partial(head, config))
        self.config = config

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """CAM alone: every confident class where its map passes erase_fraction of the map's maximum; see `Segmenter.predict`."""
        self.eval()
        return [self._predict(sample, tags) for sample in samples]

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        size = longer_side(size_of(sample), self.config.resize)
        maps, v = tag_classifier.multi_scale(self, sample.image, size, self.config.cam_scales, self.config.cam_flip)
        keep = prohibited(v, given(sample, tags), self.config.threshold)
        maps = maps[keep.nonzero().flatten()].relu()
        maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-5)
        scores = torch.cat([torch.full_like(maps[:1] if len(maps) else v.new_zeros(1, *size), self.config.erase_fraction), maps])
        scores = scores / scores.sum(0)
        return finish(sample, scores, keep, v, self.classes, self.config)


class Segmenter(Classifier):
    """The PSL network: the classifier's trunk and label branch, and a segmentation branch beside it (fig. 3b)."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self.score = nn.Conv2d(self.fc.in_features, len(self.classes) + 1, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.constant_(self.score.get_parameter("bias"), 0.0)
        if config.levels:
            self.label_norm = tag_classifier.standardized(self.backbone.channels, config.standardize)
            self.fc = tag_classifier.label_layer(self.backbone.channels, self.classes)
        self.fc.requires_grad_(config.label_branch)

    def branches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the segmentation branch sees, (B, D, h, w), and what the label branch sees, pooled over the picture, (B, D').

        With levels, places come from their maps and tags from the last map, where a class is told best and its place least.
        """
        if not self.config.levels:
            features = self.features(images)
            return features, features.mean((2, 3))
        *maps, last = self.backbone.maps(images.to(memory_format=torch.channels_last), (*self.config.levels, 0))
        return self.joined(maps), self.label_norm(last).mean((2, 3))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: image (B, 3, H, W), tags (B, C), semantic (B, H, W), online = whether S^ teaches yet."""
        features, pooled = self.branches(batch["image"])
        # Without a label branch no class is prohibited.
        tags = batch["tags"] if self.config.label_branch else pooled.new_ones(len(pooled), len(self.classes))
        labels = self.fc(pooled)
        logits = upsample(self.score(features), self.config.output_stride, self.config.label_stride)
        # Between the map's last point and the crop's edge there are labels, but no scores.
        extent = logits.shape[-2:]
        masks = batch["semantic"][:, :: self.config.label_stride, :: self.config.label_stride][:, : extent[0], : extent[1]]
        losses = {"segmentation": segmentation_loss(logits, masks, tags)}
        if self.config.label_branch:
            losses["label"] = tag_classifier.label_loss(labels, tags, self.label_loss)
        if self.config.psl and self.config.masks == "mined":
            online = online_mask(logits, self._weights(labels, tags), self.config.background_weight)
            losses["online"] = segmentation_loss(logits, online, tags) * float(batch["online"])
        return losses

    def _weights(self, labels: Tensor, tags: Tensor) -> Tensor:
        if self.config.prohibit_by == "predicted":
            return weighting(tag_classifier.confidences(labels.detach(), self.label_loss), self.config)
        return tags.nan_to_num(0.0) if self.config.prohibit_by == "tags" else torch.ones_like(tags)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps f (B, C+1, h, w), a softmax, and confidences v (B, C), without a label branch the maxima of the maps."""
        features, pooled = self.branches(images)
        scores = self.score(features).softmax(1)
        if not self.config.label_branch:
            return scores, scores[:, 1:].amax((2, 3))
        return scores, tag_classifier.confidences(self.fc(pooled), self.label_loss)

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        size = longer_side(size_of(sample), self.config.resize)
        scores, v = tag_classifier.multi_scale(self, sample.image, size, self.config.test_scales, self.config.test_flip)
        keep = prohibited(v, given(sample, tags), self.config.threshold)
        weights = weighting(keep, self.config)[keep > 0]
        scores = torch.cat([scores[:1] * self.config.background_weight, scores[1:][keep > 0] * weights[:, None, None]])
        return finish(sample, scores / scores.sum(0).clamp(min=1e-8), keep, v, self.classes, self.config)


# -- maps to masks ---------------------------------------------------------------------------------------------------


def size_of(sample: Sample) -> tuple[int, int]:
    """(H, W) of the picture."""
    return int(sample.image.shape[-2]), int(sample.image.shape[-1])


def upsample(maps: Tensor, stride: int, target: int) -> Tensor:
    """Maps (B, C, h, w) with a point every `stride` pixels to a point every `target` pixels.

    Convolutions with padding k // 2 put point i of the map on pixel i * stride, so corners align: (h - 1) * stride / target + 1.
    """
    height, width = ((extent - 1) * stride // target + 1 for extent in maps.shape[-2:])
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)


def given(sample: Sample, tags: str) -> Tensor | None:
    """The picture's own tags where the caller asks for them ("given"), else None."""
    if tags == "predicted":
        return None
    if sample.tags is None:
        raise ValueError(f"{sample.name}: tags='given' needs the picture's tags and it has none; leave the option out")
    return sample.tags.nan_to_num(0.0)


def prohibited(v: Tensor, tags: Tensor | None, threshold: float) -> Tensor:
    """Class weights at test (sec. 3.2): confidences below the threshold become 0; known tags stand in their place if given."""
    return torch.where(v < threshold, 0.0, v) if tags is None else tags.to(v)


def weighting(v: Tensor, config: Config) -> Tensor:
    """Confidences (..., C) as weights of the score maps: themselves, or as shares of the largest; 1 without a label branch."""
    if not config.label_branch:
        return (v > 0).to(v)
    return v / v.amax(-1, keepdim=True).clamp(min=1e-8) if config.relative else v


def finish(sample: Sample, scores: Tensor, keep: Tensor, v: Tensor, classes: tuple[str, ...], config: Config) -> Prediction:
    """Refine scores (1 + kept, h, w) and label the picture at its own size."""
    size = size_of(sample)
    ids = torch.cat([keep.new_zeros(1, dtype=torch.long), 1 + keep.nonzero().flatten()])
    if len(ids) == 1:
        return Prediction(sample.name, size, classes, v.cpu(), torch.zeros(size, dtype=torch.uint8))
    if config.crf:
        scores = refine(sample.image, scores, config)
    labels = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
    return Prediction(sample.name, size, classes, v.cpu(), ids[labels].to(torch.uint8).cpu())


def refine(image: Tensor, scores: Tensor, config: Config) -> Tensor:
    """DenseCRF marginals (K, h, w) of probabilities (K, ., .), at no more than crf_side pixels."""
    height, width = image.shape[-2:]
    size = longer_side((height, width), min(config.crf_side, max(height, width)))
    small = v2.functional.resize(image.as_subclass(Tensor), list(size), antialias=True).to(scores.device)
    scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    return dense_crf(small, scores, config.crf_iterations, config.crf_gaussian, config.crf_bilateral)


def discriminative(cam: Tensor, config: Config) -> Tensor:
    """The "top 20 %" of a map (h, w) (sec. 4.1), bool; a map that is nowhere positive marks nothing."""
    cam = cam.relu()
    if cam.max() <= 0:
        return torch.zeros_like(cam, dtype=torch.bool)
    if config.erase == "fraction_of_max":
        return cam > config.erase_fraction * cam.max()
    count = max(1, round(config.erase_fraction * cam.numel()))
    return (cam >= cam.flatten().topk(count).values[-1]) & (cam > 0)


def assemble(claims: np.ndarray, ids: Iterable[int], background: np.ndarray) -> np.ndarray:
    """The training mask S (sec. 3.1, fig. 3a), (H, W) uint8.

    Ignored (255) is what two classes claim, where low saliency meets a mined region, and what nobody claims.

    Args:
        claims: (T, H, W) bool, the mined region of each of the picture's T tags.
        ids: the T class ids, 1..C.
        background: (H, W) bool, low saliency.
    """
    votes = claims.sum(0) if len(claims) else np.zeros(background.shape, int)
    mask = np.where(background & (votes == 0), 0, IGNORE).astype(np.uint8)
    for claim, index in zip(claims, ids, strict=True):
        mask[claim & (votes == 1) & ~background] = index
    return mask


# -- data with mined labels ------------------------------------------------------------------------------------------


class Mined:
    """Regions mined so far: for each picture and tag the union over the rounds, kept as packed bits."""

    def __init__(self, shelves: Sequence[ArrayStore]) -> None:
        self.shelves = list(shelves)

    @staticmethod
    def pack(claims: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        """As an `ArrayStore` keeps them: claims (T, H, W) bool as bits, ids (T,) of their classes."""
        flat = claims.reshape(len(claims), math.prod(claims.shape[1:]))  # -1 for the pixels fails on a picture without tags
        return {"bits": np.packbits(flat, axis=1), "ids": ids, "size": np.array(claims.shape[1:])}

    def claims(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(T, H, W) bool and the T class ids 1..C of one picture."""
        rounds = [shelf.read(index) for shelf in self.shelves]
        size, ids = tuple(rounds[0]["size"]), rounds[0]["ids"]
        bits = np.bitwise_or.reduce([arrays["bits"] for arrays in rounds])
        return np.unpackbits(bits, axis=1, count=math.prod(size)).astype(bool).reshape(len(ids), *size), ids


class Erased:
    """The training pictures with everything mined so far replaced by the mean pixel (algorithm 1), at their original size."""

    def __init__(self, data: Any, regions: Sequence[ArrayStore], mean: Sequence[float]) -> None:
        self.data, self.classes, self.mined = data, data.classes, Mined(regions)
        self.mean = torch.tensor(mean).round().to(torch.uint8)[:, None]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        if self.mined.shelves:
            claims, _ = self.mined.claims(index)
            sample.image[:, torch.from_numpy(claims.any(0))] = self.mean
        return sample


class Assembled:
    """The training masks S, made in the reading processes, so that saliency uses every core."""

    def __init__(self, config: Config, data: Any, regions: Sequence[ArrayStore]) -> None:
        self.config, self.data, self.mined, self.cache = config, data, Mined(regions), Cache()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> np.ndarray:
        claims, ids = self.mined.claims(index)
        sample = self.data[index]
        if (sample.tags == 0).all():
            return np.zeros(claims.shape[1:], np.uint8)  # known to show none of the classes: all background
        indoor = any(self.data.classes[i - 1] in self.config.indoor for i in ids)
        threshold = self.config.indoor_background if indoor else self.config.background
        return assemble(claims, ids, self._saliency(sample) < threshold)

    def _saliency(self, sample: Sample) -> np.ndarray:
        if self.config.saliency == "boundary_connectivity":
            return np.asarray(self.cache(saliency.boundary_connectivity, sample.image))
        return np.asarray(saliency.from_folder(self.config.saliency, sample))


class Labelled:
    """The training pictures with masks read from a shelf; with no shelf, with their own."""

    def __init__(self, data: Any, shelf: ArrayStore | None) -> None:
        self.data, self.classes, self.shelf = data, data.classes, shelf

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        if self.shelf is not None:
            sample = replace(sample, semantic=torch.from_numpy(self.shelf.read(index)["mask"]).long())
        return sample


# -- training --------------------------------------------------------------------------------------------------------


def train(config: Config, data: Any, run: Run) -> Classifier:
    """Learn from the tags of `data` (from its masks with masks="given"); nothing else can reach a loss.

    Writes weights/classifier{t}, weights/segmentation{k} and weights/last; a finished stage is not run again.
    """
    data = learnable(config, data)
    run.expect("data", data.fingerprint)
    mean = run.once("mean_pixel", lambda: mean_pixel(data, run.runtime.quiet))
    if config.masks == "given":
        return save(run, fit_segmenter(config, Labelled(data, None), run, "segmentation0", mean), "last", mean)
    regions, model = mine(config, data, run, mean)
    if config.segment == "cam":
        return save(run, model, "last", mean)
    masks = run.each("masks", Assembled(config, data, regions), lambda _, mask: {"mask": mask})
    for k in range(config.plus + 1):
        model = fit_segmenter(config, Labelled(data, masks), run, f"segmentation{k}", mean, model)
        if k < config.plus:
            masks = run.each(f"refined{k}", data, partial(predicted_mask, model))
    return save(run, model, "last", mean)


def learnable(config: Config, data: Any) -> Any:
    """The pictures that have every label the recipe needs, and no other label; what nobody labelled teaches nothing here."""
    tagged = ~data.tags.isnan().all(1) | (not config.label_branch)
    masked = torch.tensor([config.masks == "mined" or record.semantic is not None for record in data.records])
    return data.only(*config.needs).select((tagged & masked).nonzero().flatten())


def mine(config: Config, data: Any, run: Run, mean: Sequence[float]) -> tuple[list[ArrayStore], Classifier]:
    """Algorithm 1: classify, mine, erase, again. Gives a shelf of regions per round and the first round's classifier."""
    if config.mined:
        return borrowed(config, data)
    regions: list[ArrayStore] = []
    models: list[Classifier] = []
    for t in range(config.rounds):
        erased = Erased(data, regions, mean)
        models.append(fit_classifier(config, erased, run, f"classifier{t}", mean, models[-1] if models else None))
        if t and config.stop == "auto" and converged_loss(run, t) > config.stop_ratio * converged_loss(run, 0):
            break  # over-erasing (sec. 4.3.1): what is left does not tell the classes apart
        regions.append(run.each(f"regions{t}", erased, partial(mined_regions, config, models[-1])))
    return regions, models[0]


@torch.no_grad()
def mined_regions(config: Config, model: Classifier, index: int, sample: Sample) -> dict[str, np.ndarray]:
    """The discriminative region of every tag of one (partly erased) picture, all taken from the same picture."""
    model.eval()
    height, width = size_of(sample)
    ids = np.flatnonzero(sample.tags == 1) + 1
    if not len(ids):
        return Mined.pack(np.zeros((0, height, width), bool), ids)
    size = longer_side((height, width), config.resize)
    maps, _ = tag_classifier.multi_scale(model, sample.image, size, config.cam_scales, config.cam_flip)
    maps = F.interpolate(maps[None, ids - 1], (height, width), mode="bilinear", align_corners=False)[0]
    return Mined.pack(torch.stack([discriminative(own, config) for own in maps]).cpu().numpy(), ids)


def borrowed(config: Config, data: Any) -> tuple[list[ArrayStore], Classifier]:
    """The regions and the first classifier that another run mined from the same pictures and tags."""
    source = Path(str(config.mined))
    if not (source / "state" / "data.json").exists():
        raise ValueError(f"mined={source}: there is no run to take from; train it again, or leave mined out to mine anew")
    shelves = [ArrayStore(source / "state" / f"regions{t}") for t in range(config.rounds)]
    missing = [str(shelf.folder) for shelf in shelves if any(index not in shelf for index in range(len(data)))]
    if missing:
        raise ValueError(
            f"mined={source}: expected {config.rounds} finished mining rounds, {missing[0]} is not one; lower rounds"
        )
    if json.loads((source / "state" / "data.json").read_text()) != data.fingerprint:
        raise ValueError(f"mined={source}: that run mined other pictures or tags than these; leave mined out to mine again")
    model = load(*read_weights(source / "weights" / "classifier0.safetensors"))
    return shelves, model


def predicted_mask(model: Classifier, index: int, sample: Sample) -> dict[str, np.ndarray]:
    """PSL++: what the network makes of a training picture whose tags are known (sec. 4.3.2)."""
    semantic = model.predict([sample], "given")[0].semantic
    assert semantic is not None
    return {"mask": semantic.numpy()}


def fit_classifier(
    config: Config, data: Any, run: Run, stage: str, mean: Sequence[float], previous: nn.Module | None
) -> Classifier:
    """One round's tag classifier."""
    model = start(Classifier, config, data, run, stage, previous)
    fit(
        config,
        model,
        Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, tuple(mean))),
        run,
        stage,
        config.classifier_epochs,
    )
    save(run, model, stage, mean)
    return model


def fit_segmenter(
    config: Config, data: Any, run: Run, stage: str, mean: Sequence[float], previous: nn.Module | None = None
) -> Segmenter:
    """One PSL network, from backbone weights or from the network before it."""
    model = start(Segmenter, config, data, run, stage, previous)
    fit(
        config,
        model,
        Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, tuple(mean))),
        run,
        stage,
        config.epochs,
    )
    save(run, model, stage, mean)
    return model


def start(kind: type, config: Config, data: Any, run: Run, stage: str, previous: nn.Module | None) -> Any:
    """A new network, its random numbers drawn from (seed, stage)."""
    run.seed(stage)
    model = kind(config, data.classes).to(memory_format=torch.channels_last)
    if previous is not None and config.reuse == "previous":
        own = model.state_dict()
        fitting = {name: value for name, value in previous.state_dict().items() if own[name].shape == value.shape}
        model.load_state_dict(fitting, strict=False)
    return model


def fit(config: Config, model: Classifier, data: Any, run: Run, stage: str, epochs: float) -> None:
    """The training loop of both networks."""
    steps = max(1, math.ceil(epochs * len(data) / config.batch))
    wrapped, optimizer = run.setup(model, optimizer_of(config, model))
    for step, batch in run.steps(stage, data, steps, config.batch, model=wrapped, optimizer=optimizer, collate=stack):
        batch["online"] = step >= config.warmup * steps
        run.update(wrapped(batch), optimizer, rate(config, step, steps, epochs))


def rate(config: Config, step: int, steps: int, epochs: float) -> float:
    """Learning rate as a share of its first value."""
    if config.lr_schedule == "poly":
        return schedule.poly(step, steps, 1.0)
    drops = [steps * share for share in config.drops] or [steps * config.drop_epochs / epochs]
    return schedule.step_decay(step, 1.0, drops)


def optimizer_of(config: Config, model: Classifier) -> torch.optim.Optimizer:
    """The optimiser, with the backbone at lr and the new layers at head_lr (sec. 4.1)."""
    return optim.two_rates(config, model, model.backbone)


def mean_pixel(data: Any, quiet: bool = False) -> list[float]:
    """Mean RGB of the training pictures, every picture weighing the same."""
    with ThreadPoolExecutor() as pool:
        means = pool.map(lambda index: data.image(index).float().mean((1, 2)), range(len(data)))
        shown = list(track(means, "mean pixel", len(data), quiet=quiet, brief=True))
    return torch.stack(shown).mean(0).tolist()


def converged_loss(run: Run, t: int) -> float:
    """Mean label loss over the last tenth of a round's logged steps."""
    losses = [line["losses"]["label"] for line in run.logged(f"classifier{t}") if "losses" in line]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def save(run: Run, model: Classifier, name: str, mean: Sequence[float]) -> Classifier:
    """Write the model with all that `load` needs."""
    config = asdict(replace(model.config, segment="network" if isinstance(model, Segmenter) else "cam"))
    run.save_model(model, {"method": "aepsl", "config": config, "classes": list(model.classes), "mean_pixel": list(mean)}, name)
    return model


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> Classifier:
    """The model of a weights file written by `save`."""
    config = restored(Config, metadata["config"])
    model = (Segmenter if config.segment == "network" else Classifier)(config, metadata["classes"])
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval()
