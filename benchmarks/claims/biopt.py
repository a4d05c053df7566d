"""BiOpt: the ablations of Liu et al. (2020, tables 1, 4 and 5, fig. 5) in folds, and targets for this implementation.

A claim is about the mean over the classes of all folds, each scored by a run that did not learn it. `few_shot.py` runs them.
"""

from __future__ import annotations

from benchmarks.claims._shared import IMAGENET
from benchmarks.plan import Bench, Claim, Plan, Row, Variant

STEPS = (0, 1, 2, 5)  # of the inner loop at test, beside the 10 of training
MULTI_SCALE = {"test_scales": (0.7, 1.0, 1.3)}


def one_and_five(name: str, **options: object) -> tuple[Row, Row]:
    return Row(f"{name}, 1-shot", options={"shots": 1, **options}), Row(f"{name}, 5-shot", options={"shots": 5, **options})


BASELINE = {"init": "support", "inner_steps": 0}
DISSECTED = ("shapes1600", "voc20")  # where every part is tested; elsewhere only the main results
VARIANTS = (
    Variant(
        "untrained",
        (*one_and_five("prototypes, untrained", **BASELINE), *one_and_five("BiOpt, untrained")),
        {"steps": 0},
    ),
    Variant("baseline", one_and_five("prototypes"), BASELINE),
    Variant("panet", one_and_five("alignment (PANet)"), {**BASELINE, "align": 1.0}, data=DISSECTED),
    Variant("inopt-support", one_and_five("InOpt†"), {"init": "support"}),
    Variant(
        "biopt",
        (
            *one_and_five("BiOpt"),
            *(Row(f"BiOpt, {steps} inner steps, 1-shot", options={"shots": 1, "inner_steps": steps}) for steps in STEPS),
            *one_and_five("BiOpt, multi-scale", **MULTI_SCALE),
        ),
    ),
    Variant("init-only", one_and_five("init module without inner loop"), {"inner_steps": 0}, data=DISSECTED),
    Variant("first-order", one_and_five("BiOpt, first order"), {"first_order": True}, data=DISSECTED),
)

# As ImageNet's weights for photos: those of a network trained on the masks of the images that show none of the fold's classes.
START = Variant("ground", (), {"masks": "given", "epochs": 30}, method="aepsl")

TRIED = """\
Every step of the inner loop lowers the inner loss, but the masks do not improve: with or without the init module, training
through the loop gives worse features than training without it, and second-order gradients worse ones than first-order gradients.
Tried, on other images of the same program (one seed, first fold, one reference): with the paper's `inner_lr` 0.1 the inner loss
rises in the first steps and training does harm; 0.03, which the recipe has, and 0.01 are about equal; first-order gradients
are better than both."""

TRIED_PHOTOS = """\
Here too every step of the inner loop lowers the inner loss, and the masks do not improve. The init module gains with one
reference, for which it was trained, and loses with five, where the references alone are better than with half of the query's
rough mask. Nothing else than the rows above has been tried on photos."""

TRIED_COCO = """\
Five references are scored on fewer classes than one, so the two are not compared. Nothing else than the rows above has been
tried on COCO's classes; the ablations are on the two data sets above."""

BENCHES = (
    Bench(
        data="shapes1600",
        about="The built-in images: 12 classes in four folds of 3. Learned from those of 1,600 images that show none of the "
        "fold's classes, scored on 160 others by 1,000 episodes. The features of all rows start from those of a network "
        "trained to segment the other classes in the same images.",
        recipe="configs/biopt_shapes.yaml",
        recipes={"aepsl": "configs/aepsl_shapes.yaml"},
        start=START,
        notes=TRIED,
    ),
    Bench(
        data="voc20",
        about="Real photos of VOC's twenty classes in four folds of 5 (PASCAL-5i), from ImageNet weights. Learned from the "
        "masked training photos that show none of the fold's classes, so that every photo that shows one is new; scored on all "
        "those by 1,000 episodes.",
        recipe="configs/biopt_small.yaml",
        val="",
        settings=IMAGENET,
        notes=TRIED_PHOTOS,
    ),
    *(
        Bench(
            data=f"coco80-{split}",
            about=f"Real photos with COCO's objects, 80 classes in folds of 20 (split {split.upper()} of COCO-20i). Classes "
            "with too few photos for an episode are left out, more of them with five references than with one, and so are photos "
            "in which the class has fewer than 1,024 pixels.",
            recipe="configs/biopt_small.yaml",
            train="",
            val="",
            settings={**IMAGENET, "masks": "instances", "folding": folding, "least": 1024},
            notes=TRIED_COCO,
        )
        for split, folding in (("a", "blocks"), ("b", "interleaved"))
    ),
)

ALL = tuple(bench.data for bench in BENCHES)
CLAIMS = (
    Claim("The inner loop helps, from the references' prototypes", "InOpt†, 1-shot", "prototypes, 1-shot", "54.76 > 51.70", ALL),
    Claim("It helps more from the init module's", "BiOpt, 1-shot", "InOpt†, 1-shot", "56.85 > 54.76", ALL),
    Claim("BiOpt beats the baseline", "BiOpt, 1-shot", "prototypes, 1-shot", "56.85 > 51.70", ALL),
    Claim("… and with five references", "BiOpt, 5-shot", "prototypes, 5-shot", "", ALL),
    Claim("It beats PANet's alignment", "BiOpt, 1-shot", "alignment (PANet), 1-shot", "53.44 > 48.10 (VGG-16)", DISSECTED),
    Claim("One inner step beats none", "BiOpt, 1 inner steps, 1-shot", "BiOpt, 0 inner steps, 1-shot", "55.80 > 49.88", ALL),
    Claim("The inner loop adds to the init module", "BiOpt, 1-shot", "init module without inner loop, 1-shot", "", DISSECTED),
    Claim("Several scales of the query help", "BiOpt, multi-scale, 1-shot", "BiOpt, 1-shot", "56.85 > 56.04", ALL),
    Claim("… and with five references", "BiOpt, multi-scale, 5-shot", "BiOpt, 5-shot", "64.16 > 63.17", ALL),
    Claim("Five references beat one", "BiOpt, 5-shot", "BiOpt, 1-shot", "64.16 > 56.85", DISSECTED, unpaired=True),
    Claim("Second order beats first", "BiOpt, 1-shot", "BiOpt, first order, 1-shot", "", DISSECTED),
    Claim("Training beats ready-made features", "BiOpt, 1-shot", "BiOpt, untrained, 1-shot", "", ALL),
)

PLAN = Plan("biopt", BENCHES, VARIANTS, CLAIMS, folds=4)
