"""The interface that all tasks share: their options, their results, and the examples they leave for the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import toys

import frugalseg
from frugalseg import cli, methods
from frugalseg.config import UsageError
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.fewshot import FewShotResult, FewShotScores, PresenceScores
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.metrics.instances import InstanceScores
from frugalseg.metrics.semantic import SemanticScores
from frugalseg.tasks import TASKS, choose_options, foreground, gallery
from frugalseg.tasks.options import FewShot, Masks
from frugalseg.workflows import find_objects, report

BIOPT, AEPSL, R2O = (methods.METHODS[name] for name in ("biopt", "aepsl", "r2o"))
PANELS = {"image": np.zeros((8, 8, 3), np.uint8)}


def few_shot_result() -> FewShotResult:
    scores = FewShotScores(("cat",), "toy", "val")
    scores.update("0", 1, np.ones((2, 2)), np.ones((2, 2)))
    return FewShotResult({0: scores}, PresenceScores())


def test_every_task_has_a_module_options_and_words() -> None:
    assert list(TASKS) == list(methods.TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert callable(task.code.evaluate)
    names = [field.name for kind in dict.fromkeys(task.options for task in TASKS.values()) for field in fields(kind)]
    assert len(names) == len(set(names)), "an option of one name must mean one thing, since the command line has one list"


def test_the_options_of_tasks_need_no_torch() -> None:
    code = "import sys, frugalseg.tasks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    "result",
    [few_shot_result(), *(kind(("cat",), "toy", "val") for kind in (SemanticScores, InstanceScores, CorLoc)), ForegroundScores()],
    ids=lambda result: type(result).__name__,
)
def test_every_result_has_the_same_interface(result: Any) -> None:
    assert isinstance(result.protocol, str)
    assert callable(result.table)
    assert callable(result.to_json)


def test_few_shot_scores_of_several_lists_are_one_json() -> None:
    result = few_shot_result()
    kept = json.loads(json.dumps(result.to_json()))
    assert kept["seeds"]["0"]["protocol"] == result.protocol
    assert kept["presence"]["questions"] == 0


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_are_those_of_the_task_with_its_defaults() -> None:
    assert choose_options(BIOPT, {"shots": 5}) == FewShot(shots=5, episodes=1000, seeds=1)
    assert choose_options(AEPSL, {"tags": "ground-truth"}) == Masks("ground-truth")
    assert choose_options(R2O, {}) == TASKS["foreground"].options()


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        (AEPSL, {"shots": 5}, "--shots: got 5 for a model of aepsl, which makes semantic masks; --shots is an option of models "
                              "that make masks of new classes. Type the command without --shots"),
        (BIOPT, {"tags": "predicted"}, "--tags: got 'predicted' for a model of biopt, which makes masks of new classes; --tags "
                                       "is an option of models that make semantic masks or object masks"),
        (R2O, {"seeds": 1}, "--seeds: got 1 for a model of r2o, which makes foreground masks"),
        (BIOPT, {"shost": 5}, "there is no setting 'shost' – did you mean shots?"),
        (BIOPT, {"episodes": 0, "shots": -1}, "episodes=0: expected at least 1"),
        (AEPSL, {"tags": "all"}, "--tags: got 'all', expected one of predicted, ground-truth"),
    ],
)  # fmt: skip
def test_an_option_of_another_task_is_refused_by_name(method: methods.Method, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        choose_options(method, given)
    assert words in str(error.value)


def test_command_and_python_refuse_it_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.install(monkeypatch)
    data = fakes.write_bright(tmp_path / "data")
    model = frugalseg.train("threshold", str(data), out=str(tmp_path / "runs"), name="one", workers=0, quiet=True)
    assert cli.main(["evaluate", str(model.folder), str(data), "--shots", "5", "--seeds", "2"]) == cli.USAGE
    said = capsys.readouterr().err
    assert "--shots: got 5 for a model of threshold, which makes semantic masks" in said
    assert "--seeds: got 2 for a model of threshold" in said
    with pytest.raises(UsageError, match="--shots is an option of models that make masks of new classes"):
        frugalseg.evaluate(model, data, shots=5)
    assert not (model.folder / "metrics.json").exists()


# -- examples ----------------------------------------------------------------------------------------------------------


def shown(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "shown" / "shown.json").read_text())


def test_the_list_of_examples_is_whole_or_absent(tmp_path: Path) -> None:
    """A run that is killed while it draws must not leave half a list, nor the list of an earlier run beside other images."""
    gallery.save_examples(tmp_path, "p", [gallery.Example("a", "best", PANELS, 1.0)])
    assert shown(tmp_path)["pictures"][0]["name"] == "a"

    def broken() -> Iterator[gallery.Example]:
        yield gallery.Example("b", "best", PANELS, 1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.save_examples(tmp_path, "p", broken())
    assert not (tmp_path / "shown" / "shown.json").exists()
    assert [path.name for path in (tmp_path / "shown").iterdir()] == ["0.png"]


def test_one_writer_of_examples_whose_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(gallery, "write_json", lambda path, value: written.append(path))
    gallery.save_examples(tmp_path, "p", [gallery.Example("a", "best", PANELS)])
    assert written == [tmp_path / "shown" / "shown.json"]
    source = Path(gallery.__file__).parents[1]
    others = [path.name for path in source.rglob("*.py") if '"shown.json"' in path.read_text() and path.name != "gallery.py"]
    assert others == [], "every task draws its examples through tasks/gallery.py"


def test_an_example_says_what_it_measures(tmp_path: Path) -> None:
    gallery.save_examples(tmp_path, "p", [gallery.Example("a", "worst", PANELS, 0.25, "IoU")])
    assert shown(tmp_path) == {
        "protocol": "p",
        "pictures": [{"name": "a", "why": "worst", "iou": 0.25, "picture": "0.png", "measure": "IoU"}],
    }


# -- foreground --------------------------------------------------------------------------------------------------------


def test_foreground_has_its_trivial_answer_beside_it_in_scores_and_report(tmp_path: Path) -> None:
    """The whole of every image as the object; the report of such a run once ended in an error."""
    data = toys.write(tmp_path / "data")
    finder = find_objects.finder(device="cpu", backbone="tiny", output_stride=16, parts_side=48)
    run = tmp_path / "run"
    scores = foreground.evaluate(Predictor(finder.method, finder.network, finder.classes, run), data, quiet=True)
    trivial = scores.baselines[foreground.WHOLE]
    shares = [float((mask == 1).float().mean()) for _, mask in foreground.annotated_images(data) if mask is not None]
    assert trivial["foreground"] == pytest.approx(np.mean(shares)) == pytest.approx(trivial["foreground-oracle"])
    (kept,) = json.loads((run / "metrics.json").read_text()).values()
    assert ForegroundScores.from_json(kept).baselines[foreground.WHOLE] == pytest.approx(trivial)
    (run / "config.yaml").write_text("method: r2o\ndata: toys\nsplit: train\n")
    assert f"trivial, foreground: {foreground.WHOLE}" in report.write(run).read_text()
