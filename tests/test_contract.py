"""What every method owes its users: the same contract for all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import load_file

import frugalseg
from benchmarks import resume
from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.data import Data
from frugalseg.engine.log import read_log
from frugalseg.engine.run import Run
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import METHODS, kinds
from frugalseg.types import Prediction, Sample
from frugalseg.workflows.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
ENGINE = {name: resume.SETTINGS[name] for name in ("save_every", "log_every", "workers", "accelerator")}
BUILT_IN = [name for name, method in METHODS.items() if method.module.startswith("frugalseg.")]
pytestmark = pytest.mark.parametrize("method", BUILT_IN)


def smoke(method: str) -> dict[str, Any]:
    """A training of a second or two: configs/<method>_smoke.yaml."""
    return {**config.read(CONFIGS / f"{method}_smoke.yaml"), **ENGINE}


def learn(method: str, data: Data, out: Path, devices: int = 1, **settings: Any) -> Predictor:
    own = {"out": str(out), "name": "run", "devices": devices, "quiet": True}
    return train(method, data, **{**smoke(method), **own, **settings})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return toys.write(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trained(pictures: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    return {method: learn(method, pictures, tmp_path_factory.mktemp(method)) for method in BUILT_IN}


def classes_of(method: str, pictures: Data) -> tuple[str, ...]:
    return ("object",) if METHODS[method].task == "foreground" else pictures.classes


def same(one: list[Prediction], other: list[Prediction]) -> bool:
    return all(torch.equal(a.tags, b.tags) and same_masks(a, b) for a, b in zip(one, other, strict=True))


def same_masks(one: Prediction, other: Prediction) -> bool:
    if one.semantic is not None and other.semantic is not None:
        return torch.equal(one.semantic, other.semantic)
    a, b = one.instances, other.instances
    return a.rles == b.rles and all(
        torch.equal(*pair) for pair in ((a.boxes, b.boxes), (a.labels, b.labels), (a.scores, b.scores))
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "last.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_settings_come_back_from_the_file_as_they_were(method: str, tmp_path: Path) -> None:
    settings = config.resolve(kinds(METHODS[method]), smoke(method))
    config.save(tmp_path / "config.yaml", settings)
    again = config.resolve(kinds(METHODS[method]), config.read(tmp_path / "config.yaml"))
    assert again == settings
    assert config.build(METHODS[method].config, again) == config.build(METHODS[method].config, settings)


def test_the_run_folder_says_how_to_train_it_again(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    written = config.read(trained[method].folder / "config.yaml")
    assert (written.pop("method"), written.pop("data")) == (method, str(pictures.root))
    wanted, settings = config.resolve(kinds(METHODS[method]), smoke(method)), config.resolve(kinds(METHODS[method]), written)
    assert {name: settings[name] for name in smoke(method)} == {name: wanted[name] for name in smoke(method)}


def test_predictions_fit_the_pictures(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    predictions = trained[method].predict(pictures)
    assert [prediction.name for prediction in predictions] == pictures.names
    for prediction, size in zip(predictions, toys.SIZES, strict=True):
        assert prediction.classes == classes_of(method, pictures)
        assert prediction.size == size
        assert ((prediction.tags >= 0) & (prediction.tags <= 1)).all()
        assert (prediction.semantic is None) != (prediction.instances is None)
        if prediction.semantic is not None:
            assert prediction.size == tuple(prediction.semantic.shape)
            assert prediction.semantic.dtype == torch.uint8
            assert int(prediction.semantic.max()) <= len(prediction.classes)
        else:
            fits(prediction)
    assert any(prediction.semantic is not None or len(prediction.instances) for prediction in predictions)


def fits(prediction: Prediction) -> None:
    """Objects lie in the picture, best first, each with a mask that is not empty."""
    found, (height, width) = prediction.instances, prediction.size
    assert len(found.boxes) == len(found.labels) == len(found.scores) == len(found.rles)
    assert found.boxes.dtype == torch.float32
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
    assert ((found.labels >= 1) & (found.labels <= len(prediction.classes))).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert all(code["size"] == [height, width] and found.mask(i).any() for i, code in enumerate(found.rles))


def test_batches_equal_one_by_one(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    """Each image beside its mirror image, which has the same size and other content."""
    samples = [pictures.only("image")[index] for index in range(len(pictures))]
    mirrored = [Sample(f"{sample.name} mirrored", sample.image.flip(-1)) for sample in samples]
    images = [sample for pair in zip(samples, mirrored, strict=True) for sample in pair]
    alone, together = (trained[method].predict(images, batch=batch) for batch in (1, 2))
    assert [prediction.name for prediction in together] == [sample.name for sample in images]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.tags, other.tags, rtol=1e-4, atol=1e-4)
        if one.semantic is not None:
            assert (one.semantic != other.semantic).float().mean() <= 1e-3, "rounding may turn a pixel between two classes"
        else:
            torch.testing.assert_close(one.instances.boxes, other.instances.boxes, rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(one.instances.scores, other.instances.scores, rtol=1e-4, atol=1e-4)
            assert torch.equal(one.instances.labels, other.instances.labels)


def test_weights_lie_in_memory_as_pictures_do(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    """Else every convolution of the training turns them around, a quarter of the time of a step of BYOL."""
    filters = [parameter for parameter in trained[method].network.parameters() if parameter.ndim == 4]
    assert filters
    assert all(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in filters)


def test_a_loaded_model_predicts_as_the_trained_one(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    before, folder = trained[method].predict(pictures), trained[method].folder
    for place in (folder, folder / "weights" / "last.safetensors"):
        loaded = frugalseg.load(place, device="cpu")
        assert (loaded.method.name, loaded.classes) == (method, classes_of(method, pictures))
        assert same(before, loaded.predict(pictures))


def test_the_same_call_again_only_loads_the_result(method: str, trained: dict[str, Predictor], pictures: Data) -> None:
    folder = trained[method].folder
    lines, made = read_log(folder), weights(folder)
    again = learn(method, pictures, folder.parents[1])
    assert read_log(folder) == lines
    assert equal(weights(folder), made)
    assert same(again.predict(pictures), trained[method].predict(pictures))


def test_labels_that_are_not_needed_change_nothing(
    method: str, trained: dict[str, Predictor], pictures: Data, tmp_path: Path
) -> None:
    withheld = learn(method, pictures.only(*METHODS[method].needs), tmp_path)
    assert equal(weights(withheld.folder), weights(trained[method].folder))


def test_it_starts_from_a_run_of_r2o(
    method: str, trained: dict[str, Predictor], pictures: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "steps", lambda *_, **__: iter(()))  # nothing is learned: what it begins with is what it ends with
    begun = learn(method, pictures, tmp_path, weights=str(trained["r2o"].folder))
    own = begun.network.state_dict().values()  # some fork the backbone, under other names
    given = trained["r2o"].network.encoder.backbone.body.state_dict()
    assert [name for name, value in given.items() if not any(torch.equal(value, other) for other in own)] == []


def test_data_without_the_labels_is_refused(method: str, pictures: Data, tmp_path: Path) -> None:
    for label in METHODS[method].needs - {"image"}:
        others = METHODS[method].needs - {label}
        with pytest.raises(UsageError, match=rf"{method} needs .*{label}"):
            learn(method, pictures.only(*others), tmp_path)
    assert not any(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_with_the_weights_of_a_straight_one(
    method: str, processes: int, pictures: Data, tmp_path: Path
) -> None:
    def start(out: Path) -> resume.Forked:
        return resume.Forked(processes, learn, method, pictures, out, processes)

    straight = start(tmp_path / "straight")
    assert straight.finish() == 0, straight.output
    run, folder = start(tmp_path / "killed"), tmp_path / "killed" / method / "run"
    while run.running and len(read_log(folder)) < 5:
        time.sleep(resume.GLANCE)
    run.send(resume.signal.SIGKILL)
    assert run.finish() == -resume.signal.SIGKILL
    assert not (folder / "weights" / "last.safetensors").exists()
    again = start(tmp_path / "killed")
    assert again.finish() == 0, again.output
    assert equal(weights(folder), weights(tmp_path / "straight" / method / "run"))
