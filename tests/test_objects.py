"""A model of objects from an image to the files and scores that it leaves, with predictions that are known beforehand."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import sys
import tracemalloc
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from fakes import Answers
from PIL import Image
from pycocotools.coco import COCO as OracleCOCO
from pycocotools.cocoeval import COCOeval

from frugalseg import draw, rle
from frugalseg.data import DataError, png, read, shapes
from frugalseg.data.images import load_mask
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import METHODS, Method
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.instances import COCO, InstanceScores
from frugalseg.metrics.panoptic import PanopticScores
from frugalseg.types import IGNORE, Instances, Prediction, Sample
from frugalseg.workflows import predict, report
from frugalseg.workflows.evaluate import evaluate
from tests import cocos


class Oracle(Answers):
    """Knows the objects of every image, and is wrong about some on purpose."""

    def __init__(self, data: Any) -> None:
        super().__init__(data.classes)
        self.known = {name: data.compact(index) for index, name in enumerate(data.names)}

    def answer(self, sample: Sample, tags: str) -> Prediction:
        assert sample.instances is None, "a model must not see the truth"
        known, size = self.known[sample.name], (sample.image.shape[1], sample.image.shape[2])
        masks = rle.decode(known.rles, size)
        masks[:, ::3] = False  # rows left out: overlap 2/3
        codes = [*known.rles[:1], *map(rle.encode, masks[1:])]
        scores = torch.linspace(0.9, 0.3, len(codes))
        found = Instances(known.boxes, known.labels, scores, codes)
        return Prediction(sample.name, size, self.classes, torch.zeros(len(self.classes)), instances=found)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write(tmp_path_factory.mktemp("pictures") / "shapes", train=1, val=8, test=0, size=64)


@pytest.fixture
def predictor(pictures: Path, tmp_path: Path) -> Predictor:
    data = read(pictures, "Segmentation/val")
    method = Method("oracle", "Oracle", frozenset({"image", "instances"}), "instances", "", "")
    return Predictor(method, Oracle(data), data.classes, tmp_path / "run")


def test_evaluation_follows_from_what_the_method_makes(predictor: Predictor, pictures: Path) -> None:
    scores = evaluate(predictor, pictures, "Segmentation/val", quiet=True)
    assert isinstance(scores, InstanceScores)
    assert scores.images == 8
    assert 0.5 < scores.values["AP"] < 1
    assert scores.values["AP50"] == 1
    home = predictor.folder / "predictions" / "Segmentation_val"
    metrics = json.loads((predictor.folder / "metrics.json").read_text())
    assert [protocol.partition("|shapes")[0] for protocol in metrics] == [
        "AP^r@0.5|mask|voc|area", "mAP VOC12|box|voc|area", "AP|boundary|coco|coco101|max100", "pq|things|score0.5|void-ignored",
        "corloc|boxes|iou>0.5",
    ]  # fmt: skip
    assert InstanceScores.from_json(metrics[scores.protocol]).values == pytest.approx(scores.values, nan_ok=True)
    assert PanopticScores.from_json(next(value for key, value in metrics.items() if key.startswith("pq"))).images == 8
    assert len(list((home / "objects").glob("*.png"))) == 8
    shown = json.loads((home / "shown" / "shown.json").read_text())["pictures"]
    assert {entry["why"] for entry in shown} == {"best", "median", "worst"}
    assert all((home / "shown" / entry["picture"]).is_file() for entry in shown)


def test_the_trivial_answer_is_printed_beside_and_scores_as_a_model_that_gives_it(predictor: Predictor, pictures: Path) -> None:
    class Whole(Answers):
        def answer(self, sample: Sample, tags: str) -> Prediction:
            size, count = (sample.image.shape[1], sample.image.shape[2]), len(predictor.classes)
            boxes = torch.tensor([[0.0, 0.0, size[1], size[0]]]).repeat(count, 1)
            codes, labels = [rle.encode(np.ones(size, bool))] * count, torch.arange(count) + 1
            found = Instances(boxes, labels, labels / count, codes)
            return Prediction(sample.name, size, predictor.classes, torch.ones(count), instances=found)

    scores = evaluate(predictor, pictures, "Segmentation/val", quiet=True)
    (name,) = scores.baselines
    assert name == "the whole picture as one object of each class"
    assert f"baseline: {name[:10]}" in str(scores)
    kept = json.loads((predictor.folder / "metrics.json").read_text()).values()
    kinds = {record["kind"]: InstanceScores.from_json(record).baselines[name] for record in kept if "kind" in record}
    assert kinds["mask"] == pytest.approx(scores.baselines[name], nan_ok=True)
    predictor.network = Whole(predictor.classes)
    evaluate(predictor, pictures, "Segmentation/val", quiet=True)
    for record in json.loads((predictor.folder / "metrics.json").read_text()).values():
        if "kind" in record:
            assert InstanceScores.from_json(record).values == pytest.approx(kinds[record["kind"]], nan_ok=True)
    assert 0 < kinds["mask"]["AP^r_vol"] < 1


def test_pycocotools_gets_the_same_from_the_files(predictor: Predictor, pictures: Path) -> None:
    scores = evaluate(predictor, pictures, "Segmentation/val", quiet=True)
    home = predictor.folder / "predictions" / "Segmentation_val"
    ours = [scores.of(measure).value for measure in COCO.values()]
    judged = judged_by_pycocotools(home / "truth.json", home / "results.json")
    assert np.nan_to_num(ours, nan=-1) == pytest.approx(judged, abs=1e-12)


def judged_by_pycocotools(truth: Path, results: Path) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        known = OracleCOCO(truth)
        judged = COCOeval(known, known.loadRes(str(results)), "segm")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats[:6]


def test_results_keep_the_ids_of_the_coco_file_that_the_images_were_read_from(predictor: Predictor, tmp_path: Path) -> None:
    root = cocos.write(tmp_path / "cocos")
    data = read(root, "val")
    predictor.network, predictor.classes = Oracle(data), data.classes
    scores = evaluate(predictor, data, quiet=True)
    ours = np.nan_to_num([scores.of(measure).value for measure in COCO.values()], nan=-1)
    predict.write(predictor, [data], tmp_path / "out", quiet=True)
    theirs, home = root / "annotations" / "instances_val.json", predictor.folder / "predictions" / "val"
    for truth, results in [(theirs, home), (theirs, tmp_path / "out"), (home / "truth.json", home)]:
        assert judged_by_pycocotools(truth, results / "results.json") == pytest.approx(ours, abs=1e-12)
    corrected = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert (corrected["categories"], {image["id"] for image in corrected["images"]}) == (cocos.CATEGORIES, {7, 8})


def test_images_of_two_files_with_the_same_ids_are_counted_anew(predictor: Predictor, tmp_path: Path) -> None:
    data = read(cocos.write(tmp_path / "cocos"))
    predictor.network, predictor.classes = Oracle(data), data.classes
    predict.write(predictor, [data], tmp_path / "out", quiet=True)
    written = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [image["id"] for image in written["images"]] == [1, 2, 3, 4]
    assert [category["id"] for category in written["categories"]] == [1, 2]


def test_coco_and_voc_layouts_score_alike(predictor: Predictor, pictures: Path) -> None:
    voc = evaluate(predictor, read(pictures, "Segmentation/val"), quiet=True)
    coco = evaluate(predictor, read(pictures, "val", layout="coco"), quiet=True)
    assert coco.values == pytest.approx(voc.values, nan_ok=True)


def test_boxes_are_scored_with_those_annotated_and_difficult_ones_need_not_be_found(predictor: Predictor, pictures: Path) -> None:
    def boxes(**changes: Any) -> float:
        data = read(pictures, "Segmentation/val")
        changed = (tuple(box._replace(**changes) for box in record.boxes) for record in data.records)
        data.records = [replace(record, boxes=own) for record, own in zip(data.records, changed, strict=True)]
        evaluate(predictor, data, quiet=True)
        metrics = json.loads((predictor.folder / "metrics.json").read_text())
        return next(kept["values"]["mAP VOC12"] for protocol, kept in metrics.items() if protocol.startswith("mAP VOC12"))

    assert boxes() == 1.0
    assert boxes(x1=0, y1=0, x2=64, y2=64) < 0.5
    assert boxes(difficult=True) is None, "nothing is left to be found"


def test_corloc_stands_beside_and_counts_boxes_too_where_a_model_learned_from_tags(predictor: Predictor, pictures: Path) -> None:
    predictor.method = Method("weak", "Weak", frozenset({"image", "tags"}), "instances", "", "")
    scores = evaluate(predictor, pictures, "Segmentation/val", quiet=True)
    assert isinstance(scores.beside, CorLoc)
    assert scores.beside.value == 1.0, "all boxes of the oracle are true"
    assert "corloc|boxes|iou>0.5|shapes|Segmentation/val|n=8: 100.00 [100.00, 100.00]" in " ".join(str(scores).split())
    metrics = json.loads((predictor.folder / "metrics.json").read_text())
    assert [*metrics][-1] == scores.beside.protocol
    assert metrics[scores.protocol]["values"].keys() >= {"AP25", "AP50", "AP70", "AP75"}

    data = read(pictures, "Segmentation/val")
    boxes = data.only("image", "tags", "boxes")
    alone = evaluate(predictor, boxes, quiet=True)
    assert isinstance(alone, CorLoc)
    assert (alone.value, alone.images) == (1.0, 8)
    mixed = type(data)(data.root, data.layout, data.split, data.classes, [*data.records[:3], *boxes.records[3:]])
    both = evaluate(predictor, mixed, quiet=True)
    assert (both.images, both.beside.images) == (3, 8)


def test_data_that_cannot_score_is_refused(predictor: Predictor, pictures: Path) -> None:
    with pytest.raises(DataError, match="no image has object masks"):
        evaluate(predictor, read(pictures).only("image", "tags", "boxes"))
    predictor.classes = ("cat",)
    with pytest.raises(DataError, match="expected those of the model"):
        evaluate(predictor, read(pictures, "Segmentation/val"))


def test_predictions_into_a_folder_are_a_data_set_again(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = read(pictures, "Segmentation/val")
    done, skipped = predict.write(predictor, [data], out, min_score=0.5, quiet=True)
    assert (done, skipped) == (8, [])
    results = json.loads((out / "results.json").read_text())
    assert len(results) == sum(len(data.compact(index)) for index in range(8))
    sure = [entry["score"] for entry in results if entry["score"] >= 0.5]
    assert 0 < len(sure) < len(results)
    assert sorted(entry["score"] for entry in json.loads((out / "instances.json").read_text())["annotations"]) == sorted(sure)
    assert results[0].keys() == {"image_id", "category_id", "segmentation", "score"}
    first = predictor.predict(data.select([0]))[0]
    objects = np.asarray(Image.open(out / "objects" / f"{first.name}.png"))
    assert np.array_equal(objects, draw.object_map(first.instances, first.size, 0.5))
    assert (out / "overlays" / f"{first.name}.jpg").is_file()
    for path in (pictures / "JPEGImages").glob("val*"):
        path_of_copy = tmp_path / "again" / "images" / path.name
        path_of_copy.parent.mkdir(parents=True, exist_ok=True)
        path_of_copy.write_bytes(path.read_bytes())
    (out / "instances.json").rename(tmp_path / "again" / "instances.json")
    again = read(tmp_path / "again")
    assert (again.layout, again.classes) == ("coco", data.classes)
    place = again.names.index(first.name)
    assert again.compact(place).rles == draw.sure(first.instances, 0.5).rles


def test_objects_none_of_which_is_drawn_are_told(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    data = read(pictures, "Segmentation/val")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict.write(predictor, [data], tmp_path / "some", min_score=0.5, quiet=True)
    with pytest.warns(UserWarning, match=r"scores min_score=1.0 or more, so none is drawn; the best has 0\.\d"):
        predict.write(predictor, [data], tmp_path / "none", min_score=1.0, quiet=True)


def test_images_that_the_reader_passes_over_are_listed(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for source in sorted((pictures / "JPEGImages").glob("val*"))[:7]:
        shutil.copy(source, tmp_path / "in")
        Image.open(source).save(tmp_path / "in" / f"{source.stem}.png")
    done, skipped = predict.write(predictor, [tmp_path / "in"], tmp_path / "out", quiet=True)
    assert (done, len(skipped)) == (7, 7)
    lines = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert len(lines) == 8
    assert all("same name apart from the ending" in line for line in lines[1:])


def test_what_was_predicted_before_a_failure_is_kept(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls = read(pictures, "Segmentation/val"), []

    def full(path: Path, picture: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise MemoryError

    monkeypatch.setattr(draw, "save", full)
    with pytest.raises(MemoryError):
        predict.write(predictor, [data], tmp_path, min_score=0.0, quiet=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3}
    assert len(json.loads((tmp_path / "instances.json").read_text())["annotations"]) == len(results)
    rows = (tmp_path / "tags.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["image", *data.names[:3]]


def test_tables_appear_whole_and_those_of_an_earlier_call_go(
    predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, seen = read(pictures, "Segmentation/val"), tmp_path / "out", []
    out.mkdir()
    (out / "tags.csv").write_text("of an earlier call")
    (out / "skipped.csv").write_text("of an earlier call")
    monkeypatch.setattr(draw, "save", lambda path, image: seen.append((out / "tags.csv").read_text()))
    predict.write(predictor, [data], out, quiet=True)
    assert seen == ["of an earlier call"] * len(data), "a reader sees the old table or the new one, never a part"
    assert (out / "tags.csv").read_text().count("\n") == 1 + len(data)
    assert not (out / "skipped.csv").exists()
    assert [path for path in out.iterdir() if path.name.startswith(".")] == []


def test_a_table_larger_than_its_memory_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "IN_MEMORY", 64)
    table = predict.Table(["image", "tag"])
    for number in range(100):
        table.add([f'{number}\udc80,"', "ö"])
    table.save(tmp_path / "table.csv")
    rows = list(csv.reader((tmp_path / "table.csv").open(encoding="utf-8", newline="")))
    assert rows == [["image", "tag"], *([f'{number}\\udc80,"', "ö"] for number in range(100))]


def test_the_page_on_objects_names_every_method_that_makes_them() -> None:
    page = (Path(__file__).parents[1] / "docs" / "objects.md").read_text(encoding="utf-8")
    assert [name for name, method in METHODS.items() if method.task == "instances" and f"`{name}`" not in page] == []


# -- drawing --


def test_the_best_object_is_on_top() -> None:
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :, :4], masks[1, :, 2:] = True, True
    found = Instances(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0.3, 0.9]), [rle.encode(mask) for mask in masks])
    assert draw.object_map(found, (4, 6))[0].tolist() == [2, 2, 1, 1, 1, 1]
    assert draw.object_map(found, (4, 6), 0.5)[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert not draw.object_map(None, (4, 6)).any()


def test_objects_are_tinted_and_nothing_else_is() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:70] = True
    found = Instances(torch.tensor([[10.0, 10, 70, 50]]), torch.tensor([1]), torch.tensor([0.9]), [rle.encode(mask)])
    image = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    drawn = draw.objects(image, found, ("cat",))
    assert drawn.shape == (60, 80, 3)
    changed = (drawn != 100).any(-1)
    assert np.array_equal(changed, mask)
    assert not (draw.objects(image, found, least=0.95) != 100).any()
    assert draw.objects(image, found, side=240).shape == (180, 240, 3)


def edges(ids: np.ndarray) -> np.ndarray:
    padded = np.pad(ids, 1, mode="edge")
    around = [padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1]]
    return np.logical_or.reduce([ids != other for other in around]) & (ids != 0)


def painted_at_once(picture: np.ndarray, ids: np.ndarray, alpha: float) -> np.ndarray:
    """`draw.paint` of the whole image in floats."""
    colours = png.palette()
    colours[IGNORE] = 160
    tint, strength = colours[ids].astype(np.float32), np.where(ids[..., None] == 0, 0.0, alpha)
    edge = edges(ids)[..., None] & (ids[..., None] != IGNORE)
    return np.where(edge, tint, picture * (1 - strength) + tint * strength).astype(np.uint8)


def objects_at_once(picture: np.ndarray, ids: np.ndarray, alpha: float) -> np.ndarray:
    """`draw.objects` of the whole image in floats."""
    hues = np.arange(int(ids.max(initial=0)) + 1) * 0.618034 % 1 * 6
    colours = 255 * np.clip(np.abs((hues[:, None] + [0, 4, 2]) % 6 - 3) - 1, 0.15, 1)
    tint, edge = colours[ids].astype(np.float32), edges(ids)[..., None]
    return np.where(edge, tint, np.where(ids[..., None] > 0, picture * (1 - alpha) + tint * alpha, picture)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_bands_are_drawn_as_the_whole_image_would_be(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    size, alpha = tuple(random.integers(1, 60, 2).tolist()), random.choice([0.3, 0.5, 0.75])
    monkeypatch.setattr(draw, "BAND", int(random.integers(1, 400)))
    image = random.integers(0, 256, (3, *size), dtype=np.uint8)
    picture = image.transpose(1, 2, 0)
    ids = np.kron(random.choice([0, 1, 2, 20, IGNORE], (20, 20)), np.ones((3, 3), np.uint8))[: size[0], : size[1]]
    assert np.array_equal(draw.paint(picture, ids, alpha=alpha), painted_at_once(picture, ids, alpha))
    codes = [rle.encode(random.random(size) < share) for share in random.random(12) * 0.3]
    found = Instances(torch.zeros(12, 4), torch.ones(12, dtype=torch.int64), torch.from_numpy(random.random(12)), codes)
    times = max(1, 90 // max(size))
    numbers, large = (part.repeat(times, 0).repeat(times, 1) for part in (draw.object_map(found, size, 0.2), picture))
    drawn = draw.objects(torch.from_numpy(image), found, alpha=alpha, least=0.2, side=90)
    assert np.array_equal(drawn, objects_at_once(large, numbers, alpha))
    assert np.array_equal(image.transpose(1, 2, 0), picture)


def test_drawing_takes_few_bytes_a_pixel() -> None:
    size = (1500, 1600)
    mask = np.zeros(size, bool)
    mask[100:1400, 200:1500] = True
    found = Instances(torch.zeros(1, 4), torch.tensor([1]), torch.tensor([0.9]), [rle.encode(mask)])
    image, ids = torch.full((3, *size), 100, dtype=torch.uint8), torch.from_numpy(mask).to(torch.uint8)
    for shown in (Prediction("a", size, ("cat",), None, None, found), Prediction("a", size, ("cat",), None, ids)):
        tracemalloc.start()
        draw.overlay(image, shown)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 15 * mask.size


def test_many_objects_take_16_bits(tmp_path: Path) -> None:
    ids = np.arange(300).reshape(15, 20)
    png.write(tmp_path / "a.png", ids)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), ids)


def test_more_objects_than_a_png_holds_take_32_bits(tmp_path: Path) -> None:
    ids = np.arange(300).reshape(15, 20) * 1000
    png.write(tmp_path / "a.png", ids)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(np.asarray(image), ids)
        assert image.info["compression"] == "tiff_adobe_deflate"
    assert np.array_equal(load_mask(tmp_path / "a.tif").numpy(), ids)
    with pytest.raises(ValueError, match=r"expected \(H, W\) of 0..2147483647"):
        png.write(tmp_path / "a.png", ids * 10_000)


def test_the_report_shows_the_values(predictor: Predictor, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(predictor, pictures, "Segmentation/val", quiet=True)

    @dataclass(frozen=True)
    class Config:
        """Nothing to set."""

    module = ModuleType("oracle_method")
    module.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "oracle_method", module)
    method = Method("oracle", "Oracle", frozenset({"image"}), "instances", "oracle_method", "oracle_method")
    monkeypatch.setitem(report.METHODS, "oracle", method)
    (predictor.folder / "config.yaml").write_text(f"method: oracle\ndata: {pictures}\nsplit: Segmentation/train\n")
    page = report.write(predictor.folder).read_text()
    assert "trivial, AP75: the whole picture as one object of each class" in page
    assert "trivial: the whole picture as the box of every class" in page
    assert all(
        words in page for words in ("AP^r@0.5", "AP75", "AP25", "panoptic quality", "95 % interval", "mAP VOC12", "CorLoc")
    )


def test_large_images_are_predicted_in_tiles(pictures: Path, predictor: Predictor) -> None:
    class Bright(Answers):
        def answer(self, sample: Sample, tags: str) -> Prediction:
            size = (sample.image.shape[1], sample.image.shape[2])
            assert max(size) <= 40
            code = rle.encode(sample.image[0].numpy() > 128)
            boxes, one = torch.from_numpy(rle.boxes([code])), torch.tensor([1])
            return Prediction(sample.name, size, ("a",), torch.ones(1), instances=Instances(boxes, one, torch.ones(1), [code]))

    predictor.network = Bright(("a",))
    image = torch.zeros(3, 90, 100, dtype=torch.uint8)
    image[:, 10:80, 10:90] = 255
    ((_, prediction),) = predictor.stream(image, tile=40)
    assert rle.decode(prediction.instances.rles, (90, 100)).tolist() == [(image[0] > 128).tolist()]


@pytest.mark.parametrize("size", [(2, 3), (50, 3), (3, 3), (3, 40), (1, 1)])
def test_images_three_pixels_wide_are_drawn_as_they_lie(size: tuple[int, int]) -> None:
    """A tensor (3, H, 3) looks like an array (H, W, 3)."""
    image = torch.arange(3 * size[0] * size[1], dtype=torch.uint8).view(3, *size)
    drawn = draw.paint(image, np.zeros(size, np.uint8))
    assert np.array_equal(drawn, image.permute(1, 2, 0).numpy())
