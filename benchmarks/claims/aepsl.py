"""AE-PSL: the ablations of Wei et al. (CVPR 2017, tables 3 and 4, sec. 4.3), and targets for this implementation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import paths
from benchmarks.claims._shared import IMAGENET
from benchmarks.plan import Bench, Claim, Plan, Row, Variant
from frugalseg import config

ROUNDS = 4  # erasing rounds that are mined; the paper stops at three, because the fourth over-erases
NO_CRF, CRF = {"crf": False}, {"crf": True}


def plain_and_refined(name: str, weights: str = "last", **options: Any) -> tuple[Row, Row]:
    return Row(name, weights, options=NO_CRF | options), Row(f"{name} + CRF", weights, options=CRF | options)


def pseudo_labels(run: Path, data: Any) -> list[dict[str, Any]]:
    """How good the assembled masks S are after each round, on the training images that have masks: mIoU over the pixels that S
    labels, and the share of the annotated pixels that it labels."""
    from frugalseg.engine.array_store import ArrayStore
    from frugalseg.inference.predictor import load
    from frugalseg.metrics import SemanticScores

    settings: Any = load(run).network.config
    shelves = [ArrayStore(run / "state" / f"regions{t}") for t in range(ROUNDS)]
    quality = []
    for rounds in range(1, 1 + sum(0 in shelf for shelf in shelves)):
        scores, labelled, known = SemanticScores(data.classes, split=data.split), 0, 0
        for name, mask, truth in assembled(settings, data, shelves[:rounds]):
            known += int((truth != 255).sum())
            truth[mask == 255] = 255
            labelled += int((truth != 255).sum())
            mask[mask == 255] = 0
            scores.update(name, mask, truth)
        quality.append({"rounds": rounds, "images": scores.images, "miou": scores.miou, "coverage": labelled / known})
    return quality


def assembled(settings: Any, data: Any, shelves: list[Any]) -> Any:
    """(name, mask S, true mask) of every picture that has one."""
    from frugalseg.methods.aepsl import AssembledMasks

    masks, truth = AssembledMasks(settings, data.only("image", "tags"), shelves), data.only("semantic")
    for index, record in enumerate(data.records):
        if record.semantic is not None:
            yield record.name, masks[index], truth[index].semantic.numpy()


def as_many_steps(recipe: str, tagged: int, masked: int) -> Mapping[str, Any]:
    """Passes over `masked` pictures that make as many steps as the recipe's over `tagged` ones."""
    return {"epochs": config.read(paths.ROOT / recipe)["epochs"] * tagged / masked}


MINED = {"mined": "mine"}
BOUND = Row("AE 1 + PSL++ + CRF + ground-truth tags", tags="given", options=CRF)
AE3 = {"rounds": 3, "plus": 0}
VARIANTS = (
    Variant(
        "mine",
        (*plain_and_refined("CAM"), Row("CAM + ground-truth tags", tags="given", options=NO_CRF)),
        {"segment": "cam", "rounds": ROUNDS},
        extras={"pseudo_labels": pseudo_labels},
    ),
    *(
        Variant(f"ae{k}", plain_and_refined(f"AE {k}"), {"rounds": k, "psl": False, "plus": 0}, MINED)
        for k in range(1, ROUNDS + 1)
    ),
    Variant(
        "psl",
        (
            *plain_and_refined("AE 3 + PSL", "segmentation0"),
            *plain_and_refined("PSL++"),
            Row("PSL++ + CRF + ground-truth tags", tags="given", options=CRF),
        ),
        {"rounds": 3, "psl": True, "plus": 1},
        MINED,
    ),
    Variant(
        "psl1",
        (*plain_and_refined("AE 1 + PSL", "segmentation0"), *plain_and_refined("AE 1 + PSL++"), BOUND),
        {"rounds": 1, "psl": True, "plus": 1},
        MINED,
    ),
    Variant("no_v", plain_and_refined("AE 3 + PSL, no v"), AE3 | {"prohibit_by": "none"}, MINED),
    Variant("tags_v", plain_and_refined("AE 3 + PSL, tags as v"), AE3 | {"prohibit_by": "tags"}, MINED),
    # More weight on the background makes up for what S leaves out of it; real masks leave out nothing.
    Variant("masks", plain_and_refined("real masks", background_weight=1.0), {"masks": "given"}, masked=True),
)

SMALL, SHAPES = "configs/aepsl_small.yaml", "configs/aepsl_shapes.yaml"
BENCHES = (
    Bench(
        data="voc20",
        about="Real photos of VOC's twenty classes. Learned from the tags of 616 photos, scored on 84 others without their tags; "
        "the run on real masks learns from 163 of the 616, in as many steps.",
        recipe=SMALL,
        train="Main/train",
        seeds=(0,),
        settings=IMAGENET,
        overrides={"masks": as_many_steps(SMALL, 616, 163)},
        notes="More rounds do not help here: the features are frozen, and a network that no longer sees the first region turns "
        "to the background, so that the mined masks get worse with every round (table above). Tried: erasing what exceeds half "
        "of a map's maximum, as in these rows, instead of the paper's fifth; one round against three, on training photos.",
    ),
    Bench(
        data="shapes",
        about="The built-in images, from random weights: 400 to learn from, 160 to score on, 12 classes, 128 × 128 pixels.",
        recipe=SHAPES,
        train="Main/train",
        notes="More rounds do not help here either: the first already covers more than the object, as a cell of the map stands "
        "for 16 of the 128 pixels, so that the second finds background (table above). Tried: erasing what exceeds half of a "
        "map's maximum, seed 0; the masks of one round are better then, those of two and three again worse than those of one.",
        overrides={"masks": {"epochs": 60}},  # as many steps as the classifier's 36 and the network's 24 that comes after it
    ),
)

FINAL = "AE 1 + PSL++ + CRF"  # what the recipes train; their rounds were chosen on training pictures
CLAIMS = (
    Claim("A second erasing round finds more of the object", "AE 2 + CRF", "AE 1 + CRF", "49.5 > 44.9"),
    Claim("So does a third", "AE 3 + CRF", "AE 2 + CRF", "50.9 > 49.5"),
    Claim("A fourth erases too much", "AE 3 + CRF", "AE 4 + CRF", "50.9 > 48.8"),
    Claim("Prohibitive learning (PSL) helps", "AE 3 + PSL + CRF", "AE 3 + CRF", "54.1 > 50.9"),
    Claim("It helps after one round too", "AE 1 + PSL + CRF", "AE 1 + CRF"),
    Claim("Training once more on refined predictions (PSL++) helps", "PSL++ + CRF", "AE 3 + PSL + CRF", "55.0 > 54.1"),
    Claim("It helps after one round too", "AE 1 + PSL++ + CRF", "AE 1 + PSL + CRF"),
    Claim("Weighting by v beats no weighting", "AE 3 + PSL + CRF", "AE 3 + PSL, no v + CRF", "1.0 more"),
    Claim("Predicted v beats ground-truth tags as v in training", "AE 3 + PSL + CRF", "AE 3 + PSL, tags as v + CRF", "0.6 more"),
    Claim("Ground-truth tags at test are an upper bound", "PSL++ + CRF + ground-truth tags", "PSL++ + CRF", "56.1 > 55.0"),
    Claim("The whole method beats its CAM alone", FINAL, "CAM"),
    Claim("It also beats CAM refined by the same CRF", FINAL, "CAM + CRF"),
    Claim("Tags of 616 photos do as well as masks of 163", FINAL, "real masks + CRF", data=("voc20",)),
    Claim("Floor on real photos: 25 %", FINAL, 0.25, data=("voc20",)),
    Claim("Goal on real photos: 30 %", FINAL, 0.30, data=("voc20",)),
)

PLAN = Plan("aepsl", BENCHES, VARIANTS, CLAIMS)
