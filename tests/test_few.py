"""The everyday use: references in, masks out; bad references are named, good ones are judged, the model knows what is absent."""

from __future__ import annotations

import csv
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg import cli
from frugalseg.config import UsageError
from frugalseg.data import DataError, read
from frugalseg.data.episodes import class_mask
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import METHODS, biopt
from frugalseg.nets.prototypes import cosine
from frugalseg.workflows.few_shot import Few

SIZE = 48
OPTIONS: dict[str, Any] = {"backbone": "tiny", "weights": None, "level": 3, "output_stride": 8, "side": 65}


def photo(name: str, folder: Path, top: int, colour: tuple[int, int, int] | None, label: int = 1, masked: bool = True) -> Path:
    """A grey image with a square of that colour, and its mask."""
    random = np.random.default_rng(zlib.crc32(f"{name}{top}".encode()))
    pixels = random.integers(100, 140, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if colour:
        pixels[top : top + 20, 10:34] = colour
        mask[top : top + 20, 10:34] = label
    home = folder / "images" if masked else folder
    home.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(home / f"{name}.png")
    if masked:
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return home / f"{name}.png"


RED, BLUE = (230, 30, 30), (30, 30, 230)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Three red squares and three blue ones."""
    folder = tmp_path / "references"
    for index, top in enumerate((4, 12, 20)):
        photo(f"red{index}", folder, top, RED, 1)
        photo(f"blue{index}", folder, top, BLUE, 2)
    (folder / "classes.txt").write_text("red\nblue\n")
    return folder


class Colours(nn.Module):
    """The mean colour around each point of the map, about as long as real features are."""

    def forward(self, images: Tensor) -> Tensor:
        grey = images.new_tensor([0.0, 0.0, -0.2]).view(1, 3, 1, 1)  # else the background's direction would be noise
        return 20 * (F.avg_pool2d(images, 9, stride=8, padding=4, count_include_pad=False) + grey + 1)


def few(**settings: Any) -> Few:
    """A model whose features are the colours themselves, so that what it must find is known."""
    model = Few(device="cpu", **{**OPTIONS, **settings})
    model.network.backbone.body = Colours()
    model.network.init = biopt.InitModule(3)
    model.network.calibration.copy_(torch.tensor([20.0, 0.0, 0.0, -15.0]))
    return model


def test_a_square_of_the_references_colour_is_found(references: Path, tmp_path: Path) -> None:
    photo("query", tmp_path / "queries", 16, BLUE, masked=False)
    (found,) = few().fit(references).predict(tmp_path / "queries")
    truth = np.zeros((SIZE, SIZE), bool)
    truth[16:36, 10:34] = True
    blue = found.semantic.numpy() == 2
    assert (blue & truth).sum() / (blue | truth).sum() > 0.6
    assert found.classes == ("red", "blue")
    assert found.tags[1] > found.tags[0]
    assert (found.semantic.numpy() == 1).sum() < 0.2 * truth.sum()


def test_a_class_below_the_threshold_is_not_drawn(references: Path, tmp_path: Path) -> None:
    path = photo("query", tmp_path / "queries", 16, RED, masked=False)
    confidences = few().fit(references).predict(path)[0].tags
    model = few()
    model.threshold = float(confidences.max())
    (found,) = model.fit(references).predict(path)
    assert int(found.semantic.max()) == 0


def test_as_many_classes_and_references_as_there_are(references: Path) -> None:
    model = few()
    predictor = model.fit(references, shots=2)
    assert predictor.network.supports.shots.tolist() == [2, 2]
    with pytest.raises(UsageError, match="shots=4: red has 3 references"):
        model.fit(references, shots=4)


def test_order_and_memory_of_queries_do_not_matter(references: Path, tmp_path: Path) -> None:
    paths = [photo(f"q{index}", tmp_path / "queries", 4 * index, RED, masked=False) for index in range(4)]
    predictor = few().fit(references)
    one_by_one = [predictor.predict(path)[0] for path in reversed(paths)]
    for a, b in zip(predictor.predict(paths), reversed(one_by_one), strict=True):
        assert torch.equal(a.semantic, b.semantic)
        assert torch.equal(a.tags, b.tags)


def test_baselines_are_settings(references: Path, tmp_path: Path) -> None:
    path = photo("query", tmp_path / "queries", 16, RED, masked=False)
    model = few(init="support", inner_steps=0)
    predictor = model.fit(references)
    (view,) = model.network.views(read(references).image(0))
    supports = predictor.network.supports.at(torch.tensor([0]))
    query = view.flatten(1, 2)
    probabilities, _ = model.network.segment([view], supports)
    nearest = cosine(F.normalize(query, dim=-1), supports.prototypes).argmax(1)
    assert torch.equal(probabilities.flatten(2).argmax(1), nearest)
    assert predictor.predict(path)[0].semantic.shape == (SIZE, SIZE)


# -- bad references --------------------------------------------------------------------------------------------------


def test_a_reference_without_the_object_is_skipped_and_listed(references: Path) -> None:
    photo("empty", references, 0, None)
    model = few()
    model.fit(references)
    assert any("skipped empty: its mask shows none of the classes" in note for note in model.notes)


def test_no_usable_reference_is_an_error(tmp_path: Path) -> None:
    photo("empty", tmp_path / "references", 0, None)
    with pytest.raises(DataError, match=r"no reference shows a class[\s\S]*skipped empty"):
        few().fit(tmp_path / "references")


def test_a_mask_of_another_size_is_listed(references: Path) -> None:
    Image.fromarray(np.ones((9, 9), np.uint8)).save(references / "masks" / "red0.png")
    model = few()
    model.fit(references)
    assert any("red0" in note and "9 x 9" in note for note in model.notes)
    assert model.network is not None


def test_references_that_contradict_are_an_error(references: Path) -> None:
    shutil.copy(references / "images" / "red0.png", references / "images" / "twin.png")
    shutil.copy(references / "masks" / "red1.png", references / "masks" / "twin.png")
    with pytest.raises(DataError, match="red0 and twin are the same image with different masks"):
        few().fit(references)
    shutil.copy(references / "masks" / "red0.png", references / "masks" / "twin.png")
    model = few()
    model.fit(references)
    assert "skipped twin: the same image and mask as red0" in model.notes


def test_a_reference_filled_by_its_object_works(tmp_path: Path) -> None:
    folder = tmp_path / "references"
    photo("full", folder, 4, RED)
    Image.fromarray(np.ones((SIZE, SIZE), np.uint8)).save(folder / "masks" / "full.png")
    path = photo("query", tmp_path / "queries", 16, RED, masked=False)
    (found,) = few().fit(folder).predict(path)
    assert torch.isfinite(found.tags).all()


def test_a_trained_model_brings_its_own_settings(references: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'stpes'"):
        Few(stpes=3)
    model = Predictor(METHODS["biopt"], few().network, ())
    with pytest.raises(UsageError, match="side, steps: a trained model brings its own; beside --model only alpha, init"):
        Few(model, side=33, steps=3)


def test_the_model_that_is_passed_in_stays_as_it_is(references: Path, tmp_path: Path) -> None:
    path = photo("query", tmp_path / "queries", 16, RED, masked=False)
    model = few().fit(references)
    network, before = model.network, model.predict(path)[0]
    settings, buffers = network.config, {name: value.clone() for name, value in network.named_buffers()}
    other = Few(model, inner_steps=0, init="support", threshold=0.9)
    other.fit(references, shots=1)
    assert (other.network.config.inner_steps, other.network.config.init) == (0, "support")
    assert model.network is network
    assert network.config is settings
    assert (network.config.inner_steps, network.threshold, network.classes) == (10, 0.5, ("red", "blue"))
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
    after = model.predict(path)[0]
    assert torch.equal(after.tags, before.tags)
    assert torch.equal(after.semantic, before.semantic)


# -- advice ----------------------------------------------------------------------------------------------------------


def test_found_is_the_iou_from_the_other_references(references: Path) -> None:
    model = few()
    model.fit(references)
    advice = {entry.name: entry for entry in model.advice()}
    data, names = model._data, model._data.names
    target, rest = names.index("red1"), (names.index("red0"), names.index("red2"))
    (view,) = model.network.views(data.image(target))
    with torch.no_grad():
        probabilities, _ = model.network.segment([view], model._bank.supports([(1, rest)]))
    mask = biopt.full_size(probabilities[:, 1:], (SIZE, SIZE))[0, 0] > 0.5
    truth = class_mask(data[target], 1) == 1
    assert advice["red1"].found == pytest.approx(((mask & truth).sum() / (mask | truth).sum()).item())


def test_a_reference_with_a_wrong_mask_is_the_least_worth(references: Path) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[30:47, 36:47] = 1  # of red2, whose square ends at row 40 and column 34: grey pixels
    Image.fromarray(mask).save(references / "masks" / "red2.png")
    photo("red3", references, 8, RED, 1)
    model = few()
    model.fit(references)
    worth = {entry.name: entry.worth for entry in model.advice() if entry.label == "red"}
    assert min(worth, key=worth.__getitem__) == "red2"
    assert worth["red2"] < 0


def test_a_single_reference_cannot_be_judged(tmp_path: Path) -> None:
    photo("only", tmp_path / "references", 4, RED)
    model = few()
    model.fit(tmp_path / "references")
    (entry,) = model.advice()
    assert (entry.found, entry.worth, entry.hurts) == (None, None, False)


# -- the command -----------------------------------------------------------------------------------------------------


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_segment_writes_masks_overlays_confidences_and_what_it_skipped(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, out = tmp_path / "queries", tmp_path / "out"
    photo("query", queries, 16, BLUE, masked=False)
    shutil.copy(references / "images" / "red0.png", queries / "known.png")
    (queries / "broken.jpg").write_bytes(b"no image")
    assert run("segment", references, queries, "--out", out, *OPTION_WORDS, "--quiet") == 0
    text = capsys.readouterr().out
    assert "references: red 3, blue 3" in text
    assert "red in red0, found from the others with IoU" in text
    with Image.open(out / "masks" / "query.png") as mask:
        assert (mask.mode, mask.size) == ("P", (SIZE, SIZE))
    assert (out / "overlays" / "query.jpg").exists()
    rows = list(csv.reader((out / "tags.csv").open()))
    assert [rows[0], [row[0] for row in rows[1:]]] == [["image", "red", "blue"], ["query"]]
    skipped = dict(csv.reader((out / "skipped.csv").open()))
    assert "is the reference red0" in skipped[str(queries / "known.png")]
    assert len(skipped) == 3  # with the head line and the broken one


def test_an_empty_folder_of_queries_is_an_error(references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "queries").mkdir()
    assert run("segment", references, tmp_path / "queries", *OPTION_WORDS, "--quiet", "--out", tmp_path / "out") == 1
    assert "no image found" in capsys.readouterr().err


def test_folders_are_checked_before_weights_are_fetched(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download for nothing"))
    for words in (("nowhere", tmp_path), (references, "nowhere")):
        assert run("segment", *words, "--quiet") == 1
        assert "nowhere: there is no such file" in capsys.readouterr().err


OPTION_WORDS = ["--backbone", "tiny", "--weights", "null", "--level", "3", "--output-stride", "8", "--side", "65"]
