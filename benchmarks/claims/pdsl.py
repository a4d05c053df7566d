"""PDSL: the ablations of Shen et al. (ICCV 2021, table 1, fig. 3), the step to a network of full masks."""

from __future__ import annotations

from benchmarks.plan import Bench, Claim, Plan, Row, Variant

DRAWN, PHOTOS = ("shapes",), ("voc20",)  # ablations are trained on drawn pictures, where each takes minutes
FULL, REAL = "PDSL", "Mask R-CNN, real masks"
VARIANTS = (
    Variant("full", (Row(FULL), Row("PDSL + ground-truth tags", tags="given"))),
    *(Variant(f"refine{n}", (Row(f"{n} refinement heads"),), {"n_refine": n}, data=DRAWN) for n in (0, 1, 2, 3, 5)),
    *(Variant(f"mask{n}", (Row(f"{n} class-specific mask heads"),), {"n_mask": n}, data=DRAWN) for n in (0, 1, 2, 3, 5)),
    *(Variant(f"seed{n}", (Row(f"{n} seeds"),), {"n_seed": n}, data=DRAWN) for n in (1, 50)),
    Variant("no-correlation", (Row("no correlation"),), {"correlation": False}),
    Variant("cascade", (Row("cascade"),), {"cue": "gradient"}),
    Variant("retrain", (Row("PDSL, then R2-IOS"),), after={"masks_from": "full"}, method="r2ios"),
    Variant("masks", (Row(REAL),), masked=True, method="maskrcnn"),
)
BENCHES = (
    Bench(
        data="voc20",
        about="Real photos of VOC's twenty classes: the tags of 616 to learn from, 84 to score on, from ImageNet weights; the "
        "network of real masks has 163 of the 616.",
        recipe="configs/pdsl_small.yaml",
        train="Main/train",
        masked="Segmentation/train",
        val="Segmentation/val",
        seeds=(0,),
        settings={"weights": "$FRUGALSEG_DATA/weights/mobilenet_v2_imagenet.pth", "normalize": "half"},
        recipes={"r2ios": "configs/r2ios_small.yaml", "maskrcnn": "configs/maskrcnn_small.yaml"},
    ),
    Bench(
        data="shapes",
        about="The built-in pictures, from random weights: 400 to learn from, 160 to score on, 12 classes, 128 × 128 pixels.",
        recipe="configs/pdsl_shapes.yaml",
        train="Main/train",
        masked="Segmentation/train",
        val="Segmentation/val",
        seeds=(0, 1, 2),
        recipes={"r2ios": "configs/r2ios_shapes.yaml", "maskrcnn": "configs/maskrcnn_shapes.yaml"},
    ),
)
CLAIMS = (
    Claim("Refinement helps", FULL, "0 refinement heads", "47.8 > 31.8", DRAWN),
    Claim("Class-specific mask heads help", FULL, "0 class-specific mask heads", "47.8 > 45.4", DRAWN),
    Claim("Ten seeds beat one", FULL, "1 seeds", "47.8 > 38.5", DRAWN),
    Claim("Correlation helps", FULL, "no correlation", "47.8 > 43.7"),
    Claim("Parallel beats cascade", FULL, "cascade"),
    Claim("A network trained on PDSL's masks beats PDSL", "PDSL, then R2-IOS", FULL),
)

PLAN = Plan("pdsl", BENCHES, VARIANTS, CLAIMS)
