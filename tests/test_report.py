"""The report and the drawings: complete, self-contained, and safe with names from outside."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from PIL import Image

import frugalseg
from frugalseg import draw
from frugalseg.config import UsageError
from frugalseg.data.png import palette
from frugalseg.progress import duration
from frugalseg.tasks.gallery import pick_examples
from frugalseg.types import Instances, Prediction
from frugalseg.workflows import report
from frugalseg.workflows.run_folder import read_run_info, update_run_info

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished, evaluated run of the fake method on a data set with a hostile name."""
    fakes.install(monkeypatch)
    data = fakes.write_bright(tmp_path / "<img src=x onerror=alert(1)>", wrong=1)
    model = frugalseg.train("threshold", str(data), level=90, out=str(tmp_path / "runs"), name="first", workers=0, quiet=True)
    frugalseg.evaluate(model, str(data), quiet=True)
    assert model.folder is not None
    update_run_info(model.folder, commands=[f"frugalseg train {EVIL}"])
    return model.folder


class Page(HTMLParser):
    """The tags, attributes and text of a page, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_needs_nothing_from_outside_and_runs_nothing(folder: Path) -> None:
    page = Page(report.write(folder).read_text())
    assert not {"script", "link", "iframe", "object"} & set(page.found)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert EVIL in page.text  # shown, not run


def test_report_says_what_was_learned_measured_and_typed(folder: Path) -> None:
    text = " ".join(Page(report.write(folder).read_text()).text.split())
    record = next(iter(json.loads((folder / "metrics.json").read_text()).values()))
    expected = [
        "Threshold: bright is an object",
        "4 images of",
        "with these labels: tags",
        "External supervision: a <b>guess</b>",
    ]
    expected += [f"{100 * record['miou']:.1f}", record["protocol"], "95 % interval", "trivial: all background"]
    expected += ["1 min 5 s", "1.2 GB", "quietyes"]
    expected += ["5 differ from the recipe's defaults", "best", "worst", "config.yaml", "torchvision"]
    assert [words for words in expected if words not in text] == []


def test_report_embeds_the_images_of_the_run(folder: Path) -> None:
    page = Page(report.write(folder).read_text())
    sizes = [Image.open(BytesIO(base64.b64decode(link.partition(",")[2]))).size for link in page.links]
    assert len(sizes) == 1 + 4  # the curves, and all four validation images, because they are few
    shown = json.loads((folder / "predictions" / "val" / "shown" / "shown.json").read_text())["pictures"]
    assert shown[-1]["name"] == "val0"  # its truth is empty, the model paints a square
    assert shown[-1]["iou"] == pytest.approx((32 * 40 - 16 * 8) / (32 * 40) / 2)


def test_report_marks_settings_that_differ(folder: Path) -> None:
    assert report.contents(folder)["changed"] == {"level", "name", "out", "quiet", "workers"}


def test_report_of_an_unfinished_run_shows_what_there_is(folder: Path) -> None:
    for name in ("metrics.json", "about.json", "log.jsonl"):
        (folder / name).unlink()
    assert "Results" not in Page(report.write(folder).read_text()).text


def test_report_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.yaml cannot be read"):
        report.write(tmp_path)


def test_commands_are_kept_once_and_in_order(tmp_path: Path) -> None:
    for command in ("a", "b", "a"):
        update_run_info(tmp_path, commands=[command], images=3)
    update_run_info(tmp_path, images=4)
    assert read_run_info(tmp_path) == {"commands": ["a", "b"], "images": 4}


def test_examples_are_the_best_median_and_worst() -> None:
    names = [str(index) for index in range(9)]
    assert pick_examples(names) == {"0": "best", "1": "best", "3": "median", "4": "median", "7": "worst", "8": "worst"}
    assert pick_examples(["a", "b"]) == {"a": "best", "b": "best"}
    assert pick_examples([]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not set"), ("", "not set"), ([], "not set"), (False, "no"), (0, "0"), ([1.0, None], "1.0, not set"), ("x", "x")],
)
def test_settings_in_words(value: object, text: str) -> None:
    assert report.words(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (125, "2 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (2.5e9, "2.5 GB")])
def test_sizes(count: float, text: str) -> None:
    assert report.size(count) == text


def test_overlay_tints_classes_and_leaves_the_background_alone() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[5:15, 5:15] = 2
    drawn = draw.overlay(image, Prediction("a", (20, 30), ("cat", "dog"), semantic=mask))
    assert drawn.shape == (20, 30, 3)
    assert (drawn[mask.numpy() == 0] == 100).all()
    assert (drawn[5, 5:15] == palette()[2]).all()  # the outline
    assert (drawn[6:14, 6:14] == np.array([50, 114, 50])).all()  # half of each
    assert (image == 100).all()


def test_overlay_names_the_classes_that_are_there() -> None:
    image = torch.full((3, 300, 300), 100, dtype=torch.uint8)
    mask = torch.zeros(300, 300, dtype=torch.uint8)
    mask[290:, 290:] = 1
    prediction = Prediction("a", (300, 300), ("cat", "dog"), semantic=mask)
    plain, named = draw.overlay(image, prediction, legend=False), draw.overlay(image, prediction)
    changed = (plain != named).any(-1)
    assert changed[:40].any()
    assert not changed[100:].any()
    assert (named == palette()[1]).all(-1)[:40].any()


def test_overlay_of_objects_outlines_each() -> None:
    from faster_coco_eval.core import mask as codec

    masks = np.zeros((2, 20, 30), np.uint8)
    masks[0, 2:8, 2:8], masks[1, 2:8, 8:14] = 1, 1
    rles = [codec.encode(np.asfortranarray(mask)) for mask in masks]
    objects = Instances(torch.zeros(2, 4), torch.tensor([1, 1]), torch.ones(2), rles)
    drawn = draw.overlay(torch.zeros(3, 20, 30, dtype=torch.uint8), Prediction("a", (20, 30), ("cat",), instances=objects))
    borders = {tuple(drawn[4, x].tolist()) for x in (7, 8)}
    assert len(borders) == 2  # a colour of its own for each
    assert tuple(drawn[4, 5].tolist()) not in borders
    assert not drawn[:, 20:].any()


def test_overlay_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match="one size"):
        draw.paint(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int))


def test_images_three_pixels_high_are_not_turned() -> None:
    assert draw.paint(np.zeros((3, 7, 3), np.uint8), np.zeros((3, 7), int)).shape == (3, 7, 3)
    assert draw.paint(np.zeros((3, 7, 5), np.uint8), np.zeros((7, 5), int)).shape == (7, 5, 3)


def test_sheet_puts_titles_side_by_side() -> None:
    red, blue = np.full((20, 40, 3), (255, 0, 0), np.uint8), np.full((40, 40, 3), (0, 0, 255), np.uint8)
    made = draw.sheet([{"image": red, "prediction": blue}, {"image": blue}], side=40)
    assert made.shape == (draw.TITLE + draw.GAP + 2 * (40 + draw.GAP), draw.GAP + 2 * (40 + draw.GAP), 3)
    assert (made == (255, 0, 0)).all(-1).sum() == 800
    assert (made == (0, 0, 255)).all(-1).sum() == 3200


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    mask = np.arange(4).reshape(2, 2)
    shown = draw.row(np.zeros((2, 2, 3), np.uint8), mask, mask, ("a", "b", "c"), side=9)
    assert {name: picture.shape for name, picture in shown.items()} == dict.fromkeys(("image", "truth", "prediction"), (8, 8, 3))


def test_curves_are_an_image_of_every_stage() -> None:
    log = [{"step": step, "losses": {"label": 1 / step}} for step in (1, 2, 3)]
    one, four = (Image.open(BytesIO(draw.curves(dict.fromkeys(map(str, range(count)), log)))) for count in (1, 4))
    assert four.width == pytest.approx(3 * one.width, abs=6)
    assert four.height == pytest.approx(2 * one.height, abs=6)
