"""AE-PSL: object region mining with adversarial erasing (Wei et al., CVPR 2017). From image tags to a segmentation network.

Stage 1, adversarial erasing: train a tag classifier, take the region its class activation map (CAM) points at, erase it from the
image, train again; the union of the rounds is the object. Stage 2: assemble a mask S from the mined regions and the
unsalient background. Stage 3, prohibitive segmentation learning (PSL): learn from S and from the network's own prediction,
weighted by its own image-level confidences. PSL++ predicts the training set, refines by a CRF, and trains once more.

Shape letters: B batch, C classes, D channels, T tags of an image, H W image, h w feature map. Class 0 is background.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.data import Data
from frugalseg.data.transforms import Augmented, ZoomCrop, stack
from frugalseg.engine.array_store import ArrayStore
from frugalseg.engine.run import Run
from frugalseg.nets import optim, schedule, segmentation, tag_classifier
from frugalseg.nets.multi_scale import MultiScale
from frugalseg.nets.network import Tensors, given_tags
from frugalseg.nets.trunk import standardized
from frugalseg.nets.weights import read_weights
from frugalseg.progress import track
from frugalseg.recipes.aepsl import Config
from frugalseg.recipes.checks import restored
from frugalseg.regions import saliency
from frugalseg.regions.cache import Cache
from frugalseg.regions.crf import refined
from frugalseg.types import IGNORE, Prediction, Sample, size_of

# -- losses ----------------------------------------------------------------------------------------------------------


def segmentation_loss(logits: Tensor, masks: Tensor, tags: Tensor) -> Tensor:
    """J of sec. 3.2: cross-entropy averaged over the labelled pixels of the image's tags and background, then over images.

    A pixel that is ignored or carries a class the image is not tagged with (an unknown tag, nan, counts as none) is left out of
    the sum and the count; an image without any labelled pixel gives 0.
    Shapes: logits (B, C+1, h, w), masks (B, h, w) of 0..C and 255, tags (B, C).
    """
    tagged = torch.cat([torch.ones_like(tags[:, :1]), tags], 1) > 0
    labelled = masks != IGNORE
    labels = masks.where(labelled, 0)
    return segmentation.pixel_loss(logits, labels, labelled & tagged.gather(1, labels.flatten(1)).view_as(masks))


@torch.no_grad()
def online_mask(logits: Tensor, weights: Tensor, background: float = 1.0) -> Tensor:
    """S^ = argmax([1, v] * f) (sec. 3.2), (B, h, w); f is the softmax of logits (B, C+1, h, w), weights v are (B, C)."""
    weights = torch.cat([torch.full_like(weights[:, :1], background), weights], 1)
    return (logits.softmax(1) * weights[:, :, None, None]).argmax(1)


# -- networks --------------------------------------------------------------------------------------------------------


class Classifier(tag_classifier.TagClassifier):
    """The tag classifier: a network whose CAM tells where a class is (sec. 3.1). Alone it predicts by its CAM.

    mean_pixel: mean RGB of the images it learned from, which fills erased regions and the rim of crops.
    """

    config: Config

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes, partial(segmentation.head, config))
        self.mean_pixel: list[float] = []

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """Every confident class where its map passes erase_fraction of the map's maximum; tags: "given" takes the image's own."""
        cams, v = self.multi_scale.average(outputs, sample.image)
        kept = prohibit(v, given_tags(sample) if tags == "given" else None, self.config.threshold)
        cams = cams[kept > 0].relu()
        cams = cams / cams.amax((1, 2), keepdim=True).clamp(min=1e-5)
        scores = torch.cat([cams.new_full((1, *cams.shape[1:]), self.config.erase_fraction), cams])
        return self.labelled(sample, scores / scores.sum(0), kept, v)

    def labelled(self, sample: Sample, scores: Tensor, kept: Tensor, v: Tensor) -> Prediction:
        """The prediction from scores (1 + K, h, w) of background and the K classes whose weights in `kept` (C,) are not 0."""
        ids = torch.cat([kept.new_zeros(1, dtype=torch.long), 1 + kept.nonzero().flatten()])
        return segmentation.labelled(sample, refined(sample.image, scores, self.config), ids, v, self.classes)

    def metadata(self) -> dict[str, Any]:
        """Also the mean pixel."""
        return {**super().metadata(), "mean_pixel": self.mean_pixel}

    def read_metadata(self, metadata: dict[str, Any]) -> None:
        """Take back the mean pixel."""
        self.mean_pixel = metadata["mean_pixel"]


class Segmenter(Classifier):
    """The PSL network: the classifier's trunk and label branch, and a segmentation branch beside it (fig. 3b)."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self.score = segmentation.score_layer(self.channels, self.classes)
        if config.levels:
            self.label_norm = standardized(self.backbone.channels, config.standardize)
            self.fc = tag_classifier.label_layer(self.backbone.channels, self.classes)

    def branches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the segmentation branch sees, (B, D, h, w), and what the label branch sees, pooled over the image, (B, D').

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
        tags, tag_logits, stride = batch["tags"], self.fc(pooled), self.config.label_stride
        logits = segmentation.upsample(self.score(features), self.config.output_stride, stride)
        masks = segmentation.at_points(batch["semantic"], logits, stride)
        losses = {"segmentation": segmentation_loss(logits, masks, tags)}
        losses["label"] = tag_classifier.label_loss(tag_logits, tags, self.label_loss)
        if self.config.learns_online:
            online = online_mask(logits, self._weights(tag_logits, tags), self.config.background_weight)
            losses["online"] = segmentation_loss(logits, online, tags) * float(batch["online"])
        return losses

    def _weights(self, labels: Tensor, tags: Tensor) -> Tensor:
        """v of the online mask, (B, C)."""
        if self.config.prohibit_by == "predicted":
            return self.score_weights(tag_classifier.confidences(labels.detach(), self.label_loss))
        return tags.nan_to_num(0.0) if self.config.prohibit_by == "tags" else torch.ones_like(tags)

    def score_weights(self, v: Tensor) -> Tensor:
        """Confidences (..., C) as weights of the score maps: themselves, or as shares of the largest."""
        return v / v.amax(-1, keepdim=True).clamp(min=1e-8) if self.config.relative else v

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps f (B, C+1, h, w), a softmax, and confidences v (B, C)."""
        features, pooled = self.branches(images)
        return self.score(features).softmax(1), tag_classifier.confidences(self.fc(pooled), self.label_loss)

    @property
    def multi_scale(self) -> MultiScale:
        """The views whose score maps are averaged."""
        config = self.config
        return MultiScale(config.test_scales, config.test_flip, config.resize, config.output_stride)

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The class of the highest score weighted by [1, v] at each pixel; tags: "given" takes the image's own in v's place."""
        scores, v = self.multi_scale.average(outputs, sample.image)
        kept = prohibit(v, given_tags(sample) if tags == "given" else None, self.config.threshold)
        weights = self.score_weights(kept)[kept > 0]
        scores = torch.cat([scores[:1] * self.config.background_weight, scores[1:][kept > 0] * weights[:, None, None]])
        return self.labelled(sample, scores / scores.sum(0).clamp(min=1e-8), kept, v)


class PlainSegmenter(Segmenter):
    """The segmentation branch alone (`label_branch: false`), kept for runs and weights older than the method `fcn`."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self.fc.requires_grad_(False)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss of the segmentation branch; no class is prohibited."""
        tags = batch["image"].new_ones(len(batch["image"]), len(self.classes), dtype=torch.float32)
        return {"segmentation": super().forward({**batch, "tags": tags})["segmentation"]}

    def score_weights(self, v: Tensor) -> Tensor:
        """1 for every class that is kept."""
        return (v > 0).to(v)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps (B, C+1, h, w), a softmax, and as confidences (B, C) their maxima."""
        scores, _ = super().maps(images)
        return scores, scores[:, 1:].amax((2, 3))


def build(config: Config, classes: Sequence[str]) -> Classifier:
    """A network with its first weights: the tag classifier alone with segment=cam, else the PSL network."""
    if config.segment == "cam":
        return Classifier(config, classes)
    return (Segmenter if config.label_branch else PlainSegmenter)(config, classes)


def prohibit(v: Tensor, tags: Tensor | None, threshold: float) -> Tensor:
    """Class weights at test (sec. 3.2), (C,): confidences below the threshold become 0; given tags take their place."""
    return torch.where(v < threshold, 0.0, v) if tags is None else tags.to(v)


# -- mined regions and masks -----------------------------------------------------------------------------------------


def discriminative_region(cam: Tensor, config: Config) -> Tensor:
    """The "top 20 %" of a map (h, w) (sec. 4.1), bool; a map that is nowhere positive marks nothing."""
    cam = cam.relu()
    if cam.max() <= 0:
        return torch.zeros_like(cam, dtype=torch.bool)
    if config.erase == "fraction_of_max":
        return cam > config.erase_fraction * cam.max()
    count = max(1, round(config.erase_fraction * cam.numel()))
    return (cam >= cam.flatten().topk(count).values[-1]) & (cam > 0)


def assemble(regions: np.ndarray, ids: Iterable[int], background: np.ndarray) -> np.ndarray:
    """The training mask S (sec. 3.1, fig. 3a), (H, W) uint8.

    Ignored (255) are pixels in the regions of two classes, of low saliency inside a region, and in neither.

    Args:
        regions: (T, H, W) bool, the mined region of each of the image's tags.
        ids: the T class ids, 1..C.
        background: (H, W) bool, low saliency.
    """
    votes = regions.sum(0) if len(regions) else np.zeros(background.shape, int)
    mask = np.where(background & (votes == 0), 0, IGNORE).astype(np.uint8)
    for region, index in zip(regions, ids, strict=True):
        mask[region & (votes == 1) & ~background] = index
    return mask


class MinedRegions:
    """The regions mined so far: for each image and tag the union over the rounds, kept as packed bits.

    stores: one for each round.
    """

    def __init__(self, stores: Sequence[ArrayStore]) -> None:
        self.stores = list(stores)

    @staticmethod
    def pack(regions: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        """What one round keeps of an image: regions (T, H, W) bool and their class ids (T,)."""
        flat = regions.reshape(len(regions), math.prod(regions.shape[1:]))  # -1 for the pixels fails without any tag
        return {"bits": np.packbits(flat, axis=1), "ids": ids, "size": np.array(regions.shape[1:])}

    def union(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(T, H, W) bool and the T class ids 1..C of one image."""
        rounds = [store.read(index) for store in self.stores]
        size, ids = tuple(rounds[0]["size"]), rounds[0]["ids"]
        bits = np.bitwise_or.reduce([arrays["bits"] for arrays in rounds])
        return np.unpackbits(bits, axis=1, count=math.prod(size)).astype(bool).reshape(len(ids), *size), ids


class ErasedImages:
    """The training images at their original size, every region mined so far replaced by the mean pixel (algorithm 1)."""

    def __init__(self, data: Data, regions: Sequence[ArrayStore], mean: Sequence[float]) -> None:
        self.data, self.classes, self.mined = data, data.classes, MinedRegions(regions)
        self.mean = torch.tensor(mean).round().to(torch.uint8)[:, None]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        if self.mined.stores:
            regions, _ = self.mined.union(index)
            sample.image[:, torch.from_numpy(regions.any(0))] = self.mean
        return sample


class AssembledMasks:
    """The training masks S, assembled in the processes that read the data, so that saliency uses every core."""

    def __init__(self, config: Config, data: Data, regions: Sequence[ArrayStore]) -> None:
        self.config, self.data, self.mined, self.cache = config, data, MinedRegions(regions), Cache()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> np.ndarray:
        regions, ids = self.mined.union(index)
        sample = self.data[index]
        if sample.tags is not None and bool((sample.tags == 0).all()):
            return np.zeros(regions.shape[1:], np.uint8)  # it is tagged with no class: all background
        indoor = any(self.data.classes[i - 1] in self.config.indoor for i in ids)
        threshold = self.config.indoor_background if indoor else self.config.background
        return assemble(regions, ids, self._saliency(sample) < threshold)

    def _saliency(self, sample: Sample) -> np.ndarray:
        if self.config.saliency == "boundary_connectivity":
            return np.asarray(self.cache(saliency.boundary_connectivity, sample.image))
        return np.asarray(saliency.from_folder(self.config.saliency, sample))


class PseudoLabelled:
    """The training images with masks from a store."""

    def __init__(self, data: Data, masks: ArrayStore) -> None:
        self.data, self.classes, self.masks = data, data.classes, masks

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.data[index], semantic=torch.from_numpy(self.masks.read(index)["mask"]).long())


# -- training --------------------------------------------------------------------------------------------------------


def train(config: Config, data: Data, run: Run) -> Classifier:
    """Learn from the tags of `data`; nothing else can reach a loss.

    Writes weights/classifier{t} and weights/segmentation{k}; a finished stage is not run again.
    """
    if config.deprecated:
        typed = " ".join(config.deprecated)
        warnings.warn(f"aepsl {typed} is deprecated; to learn from class masks, type frugalseg train fcn DATA", stacklevel=2)
    data = data.only(*config.needs).having(*config.needs)
    run.expect("data", data.fingerprint)
    mean = run.once("mean_pixel", lambda: mean_pixel(data, run.runtime.quiet))
    segmenter = replace(config, segment="network")
    if config.masks == "given":
        return fit(segmenter, data, run, "segmentation0", mean)
    regions, network = mine(config, data, run, mean)
    if config.segment == "cam":
        return network
    masks = run.each("masks", AssembledMasks(config, data, regions), lambda _, mask: {"mask": mask})
    for k in range(config.plus + 1):
        network = fit(segmenter, PseudoLabelled(data, masks), run, f"segmentation{k}", mean, network)
        if k < config.plus:
            masks = run.each(f"refined{k}", data, partial(predicted_mask, network))
    return network


def fit(config: Config, data: Any, run: Run, stage: str, mean: Sequence[float], previous: Classifier | None = None) -> Classifier:
    """The network of one stage, its random numbers drawn from (seed, stage); with reuse=previous from the network before it."""
    run.seed(stage)
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    network.mean_pixel = list(mean)
    if previous is not None and config.reuse == "previous":
        copy_weights(previous, network)
    model, optimizer = run.setup(network, optim.two_rates(config, network, network.backbone))
    crops = Augmented(data, ZoomCrop(config.crop, config.resize, config.scales, tuple(mean)))
    epochs = config.classifier_epochs if config.segment == "cam" else config.epochs
    steps = max(1, math.ceil(epochs * len(data) / config.batch))
    for step, batch in run.steps(stage, crops, steps, config.batch, model=model, optimizer=optimizer, collate=stack):
        batch["online"] = step >= config.warmup * steps
        run.update(model(batch), optimizer, rate(config, step, steps, epochs))
    run.save_model(network, name=stage)
    return network


def copy_weights(source: Classifier, target: Classifier) -> None:
    """Every tensor of the source whose shape fits the target's of the same name."""
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    fitting = {name: value for name, value in source.state_dict().items() if shapes[name] == value.shape}
    target.load_state_dict(fitting, strict=False)


def rate(config: Config, step: int, steps: int, epochs: float) -> float:
    """Learning rate as a share of its first value."""
    if config.lr_schedule == "poly":
        return schedule.poly(step, steps, 1.0)
    drops = [steps * share for share in config.drops] or [steps * config.drop_epochs / epochs]
    return schedule.step_decay(step, 1.0, drops)


def mean_pixel(data: Data, quiet: bool = False) -> list[float]:
    """Mean RGB of the training images, every image weighing the same."""
    with ThreadPoolExecutor() as pool:
        means = pool.map(lambda index: data.image(index).float().mean((1, 2)), range(len(data)))
        shown = list(track(means, "mean pixel", len(data), quiet=quiet, brief=True))
    return torch.stack(shown).mean(0).tolist()


# -- adversarial erasing ---------------------------------------------------------------------------------------------


def mine(config: Config, data: Data, run: Run, mean: Sequence[float]) -> tuple[list[ArrayStore], Classifier]:
    """Algorithm 1: classify, mine, erase, again. Returns a store of regions per round and the first round's classifier."""
    if config.mined:
        return mined_by(Path(config.mined), config.rounds, data)
    regions: list[ArrayStore] = []
    networks: list[Classifier] = []
    classifier = replace(config, segment="cam")
    for t in range(config.rounds):
        erased = ErasedImages(data, regions, mean)
        networks.append(fit(classifier, erased, run, f"classifier{t}", mean, networks[-1] if networks else None))
        if t and config.stop == "auto" and converged_loss(run, t) > config.stop_ratio * converged_loss(run, 0):
            break  # over-erasing (sec. 4.3.1): what is left does not tell the classes apart
        regions.append(run.each(f"regions{t}", erased, partial(mined_regions, config, networks[-1])))
    return regions, networks[0]


@torch.no_grad()
def mined_regions(config: Config, network: Classifier, index: int, sample: Sample) -> dict[str, np.ndarray]:
    """The discriminative region of every tag of one (partly erased) image, all taken from the same image."""
    network.eval()
    size, ids = size_of(sample.image), np.flatnonzero(sample.tags == 1) + 1
    if not len(ids):
        return MinedRegions.pack(np.zeros((0, *size), bool), ids)
    cams, _ = network.multi_scale.predict(network.maps, sample.image, network.device)
    cams = F.interpolate(cams[None, ids - 1], size, mode="bilinear", align_corners=False)[0]
    return MinedRegions.pack(torch.stack([discriminative_region(cam, config) for cam in cams]).cpu().numpy(), ids)


def mined_by(source: Path, rounds: int, data: Data) -> tuple[list[ArrayStore], Classifier]:
    """The regions and the first classifier of a run that mined the same images and tags. Raises ValueError for any other."""
    if not (source / "state" / "data.json").exists():
        raise ValueError(f"mined={source}: there is no run to take from; train it again, or leave mined out to mine anew")
    stores = [ArrayStore(source / "state" / f"regions{t}") for t in range(rounds)]
    missing = [str(store.folder) for store in stores if any(index not in store for index in range(len(data)))]
    if missing:
        raise ValueError(f"mined={source}: expected {rounds} finished mining rounds, {missing[0]} is not one; lower rounds")
    if json.loads((source / "state" / "data.json").read_text()) != data.fingerprint:
        raise ValueError(f"mined={source}: that run mined other images or tags than these; leave mined out to mine again")
    state, metadata = read_weights(source / "weights" / "classifier0.safetensors")
    network = build(restored(Config, metadata["config"]), metadata["classes"]).to(memory_format=torch.channels_last)
    network.load_state_dict(state)
    network.read_metadata(metadata)
    return stores, network.eval()


def converged_loss(run: Run, t: int) -> float:
    """Mean label loss over the last tenth of a round's logged steps."""
    losses = [line["losses"]["label"] for line in run.logged(f"classifier{t}") if "losses" in line]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def predicted_mask(network: Classifier, index: int, sample: Sample) -> dict[str, np.ndarray]:
    """PSL++: what the network makes of a training image whose tags are known (sec. 4.3.2)."""
    semantic = network.predict([sample], "given")[0].semantic
    assert semantic is not None
    return {"mask": semantic.numpy()}
