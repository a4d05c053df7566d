"""Objects without labels: the scores by hand, the search end to end, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch import nn

from frugalseg import cli
from frugalseg.config import UsageError
from frugalseg.data import DataError, read
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import METHODS
from frugalseg.metrics.foreground import ForegroundScores, overlap
from frugalseg.nets.weights import save_weights
from frugalseg.tasks import foreground
from frugalseg.workflows import find_objects

TINY = {"backbone": "tiny", "output_stride": 16, "parts_side": 48}


def test_the_scores_of_an_image_by_hand() -> None:
    parts = np.array([[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]])
    truth = np.zeros((4, 4), bool)
    truth[1:3, 2:4] = True  # part 2 is half of it, part 1 none
    scores = ForegroundScores()
    scores.update("a", parts, 1, truth)
    wrong, right = (0.0, (0 + 10 / 16) / 2), (2 / 4, (2 / 4 + 12 / 14) / 2)
    assert [*scores.values.values()] == pytest.approx([*wrong, *right])


def test_an_oracle_never_scores_less_and_ignored_pixels_do_not_count() -> None:
    random = np.random.default_rng(0)
    scores = ForegroundScores()
    for name in "abcdef":
        parts, truth = random.integers(0, 5, (9, 9)), random.random((9, 9)) < 0.4
        ignore = random.random((9, 9)) < 0.2
        scores.update(name, parts, int(random.integers(0, 5)), truth, ignore)
        other = parts.copy()
        other[ignore] = 7
        again = ForegroundScores()
        again.update(name, other, 0, truth, ignore)
        assert again.rows[name][2] == scores.rows[name][2]
    values = scores.values
    assert values["foreground-oracle"] >= values["foreground"]
    assert scores.value == values["foreground"]
    assert ForegroundScores.from_json(scores.to_json()).values == values


def test_overlap_where_nothing_is() -> None:
    nothing, all_of_it = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert overlap(nothing, nothing) == (1.0, 1.0)
    assert overlap(all_of_it, all_of_it) == (1.0, 1.0)
    assert overlap(all_of_it, nothing) == (0.0, 0.0)


def test_an_image_without_object_or_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match="'a' shows no object"):
        ForegroundScores().update("a", np.zeros((2, 2)), 0, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"size \(2, 3\)"):
        ForegroundScores().update("a", np.zeros((2, 3)), 0, np.ones((2, 2)))


def bright(folder: Path) -> Path:
    """Two images of a bright square on dark ground, with masks."""
    for index in range(2):
        pixels, mask = np.full((96, 96, 3), 20, np.uint8), np.zeros((96, 96), np.uint8)
        pixels[32:64, 32:64], mask[32:64, 32:64] = 230, 1
        for name, values in (("images", pixels), ("masks", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / name / f"{index}.png")
    (folder / "classes.txt").write_text("square\n")
    return folder


class Brightness(nn.Module):
    """Parts that can be told beforehand: dark and bright cells of 8 pixels."""

    def parts(self, image: torch.Tensor) -> torch.Tensor:
        return (image[0, ::8, ::8] > 128).long()


def test_the_object_is_the_part_inside_and_stretched_over_the_image(tmp_path: Path) -> None:
    finder = Predictor(METHODS["r2o"], Brightness(), ("object",))
    scores = foreground.evaluate(finder, read(bright(tmp_path)), quiet=True)
    assert scores.images == 2
    assert set(scores.values.values()) == {1.0}


def test_random_features_are_called_random(recwarn: pytest.WarningsRecorder) -> None:
    find_objects.finder(device="cpu", **TINY)
    assert "the features are random numbers" in str(recwarn.pop(UserWarning).message)


def test_images_that_show_nothing_are_left_out(tmp_path: Path) -> None:
    data = toys.write(tmp_path)
    assert foreground.evaluate(find_objects.finder(device="cpu", **TINY), data, quiet=True).images == 5
    with pytest.raises(DataError, match="no image has a mask"):
        foreground.evaluate(find_objects.finder(device="cpu", **TINY), data.only("image"), quiet=True)


def test_the_command_writes_masks_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, out = bright(tmp_path / "data"), tmp_path / "found"
    words = ["objects", str(place / "images"), "--backbone", "tiny", "--output-stride", "16", "--parts-side", "48", "--quiet"]
    assert cli.main([*words, "--out", str(out)]) == 0
    assert {int(value) for value in np.unique(np.asarray(Image.open(out / "masks" / "0.png")))} == {0, 1}
    assert (out / "overlays" / "1.jpg").is_file()
    assert cli.main(["objects", str(place), *words[2:], "--score"]) == 0
    assert "best part by the truth" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--model", "run", "--backbone", "tiny", "--output-stride", "16"],
            "--backbone, --output-stride: run has its own; leave them",
        ),
        (["--model", "run", "--weights", "imagenet"], "--weights: run has its own; leave it out, or --model"),
        (["--score", "--out", "there", "--no-overlays"], "--out and --overlays: --score writes no images"),
        (["--split", "val"], "--split: it chooses what is scored; add --score"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["objects", str(tmp_path), *words]) == cli.USAGE
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_transformer_without_a_training_gives_its_own_map() -> None:
    settings = {"backbone": "timm/vit_tiny_patch16_224", "output_stride": 16, "parts_side": 64}
    encoder = find_objects.finder(device="cpu", **settings).network.encoder
    images = torch.rand(1, 3, 64, 64) * 255
    own = encoder.backbone(images)
    assert torch.equal(encoder.fine(images), own)
    assert torch.allclose(encoder(images), own.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), atol=1e-6)


def test_a_model_of_another_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "other.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(UsageError, match="no training of frugalseg"):
        find_objects.finder(tmp_path / "other.safetensors")
