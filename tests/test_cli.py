"""The command line, from words to exit status, on a method whose results are known beforehand."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from PIL import Image

import frugalseg
from frugalseg import cli, config, files
from frugalseg.config import UsageError
from frugalseg.data import DataError, png
from frugalseg.data.images import MAX_PIXELS, BadImage
from frugalseg.engine.run import Diverged
from frugalseg.errors import FrugalsegError
from frugalseg.methods import METHODS, kinds
from frugalseg.methods.r2o import Collapsed
from frugalseg.nets.weights import WeightsError
from frugalseg.regions.boxfiles import BoxFileError

HEAVY = {"torch", "torchvision", "numpy", "matplotlib", "jinja2", "rich"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with the fake method known and bright squares in `data`."""
    fakes.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    fakes.write_bright(tmp_path / "data")
    return tmp_path


def run(*words: str) -> int:
    return cli.main([*words])


def trained(work: Path) -> Path:
    assert run("train", "threshold", "data", "--name", "one", "--quiet", "--workers", "0") == 0
    return work / "runs" / "threshold" / "one"


def test_help_and_version_load_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], ["train", "aepsl", "--help"], *([name, "--help"] for name in cli.COMMANDS)]
    code = f"import sys; from frugalseg.cli import main; print([main(w) for w in {lines}], *({HEAVY} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == str([0] * len(lines))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, frugalseg; frugalseg.METHODS; dir(frugalseg); print(*({HEAVY!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_public_names_are_what_they_say() -> None:
    assert all(getattr(frugalseg, name) is not None for name in frugalseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        frugalseg.trian  # noqa: B018


def test_help_of_a_method_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "aepsl", "--help") == 0
    text = capsys.readouterr().out
    for option in config.options(*kinds(METHODS["aepsl"])).values():
        assert option.flag in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "data"], "no command 'trian' – did you mean train?"),
        (["train", "treshold", "data"], "no method 'treshold' – did you mean threshold?"),
        (["train", "threshold", "data", "--levle", "3"], "no option --levle – did you mean --level?"),
        (["train", "threshold", "data", "--level", "high"], "--level: got 'high', expected a number"),
        (["train", "threshold", "data", "--rounds", "0"], "rounds=0: expected at least 1"),
        (["train"], "expected frugalseg train [METHOD] DATA"),
        (["evaluate", "run"], "expected frugalseg evaluate RUN DATA"),
        (["methods", "all"], "got all, expected frugalseg methods"),
        (["evaluate", "run", "data", "--quiet", "true"], "switches take no value: type --NAME or --no-NAME"),
        (["evaluate", "data", "data"], "got no run folder and no weights file"),
        (["train", "threshold", "data", "--config", "none.yaml"], "none.yaml cannot be read"),
        (
            ["train", "threshold", "data", "--config", "owm.yaml"],
            "owm.yaml cannot be read: there is no such file – did you mean own",
        ),
        (["train", "threshold", "data", "--name", "../../escape"], "expected a plain name"),
    ],
)
def test_a_mistake_in_the_command_is_one_message_and_status_2(
    work: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (work / "own.yaml").write_text("rounds: 3\n")
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_a_fault_in_the_data_is_status_1(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "threshold", "dtaa") == 1
    assert "no such file" in capsys.readouterr().err
    assert run("train", "threshold", "dtaa", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_the_user_cannot_mend_has_a_traceback(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, traced in ((Diverged("a loss is nan"), False), (ZeroDivisionError("division"), True)):
        monkeypatch.setattr(cli, "dispatch", lambda _, error=error: (_ for _ in ()).throw(error))
        assert run("methods") == 1
        said = capsys.readouterr().err
        assert said.rstrip().endswith(f"error: {error}")
        assert ("Traceback" in said) == traced


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (UsageError, ValueError),
        (DataError, ValueError),
        (BadImage, ValueError),
        (WeightsError, ValueError),
        (BoxFileError, ValueError),
        (Diverged, RuntimeError),
        (Collapsed, RuntimeError),
        (files.DiskError, OSError),
    ],
)
def test_errors_are_of_one_family_and_are_caught_as_before(kind: type[Exception], base: type[Exception]) -> None:
    assert issubclass(kind, FrugalsegError)
    assert issubclass(kind, base)


def test_every_command_has_a_module_of_its_own_and_says_what_it_is() -> None:
    folder = Path(cli.__file__).parent
    modules = {path.stem for path in folder.glob("[!_]*.py")} - {"arguments", "command", "console"}
    assert modules == set(cli.LISTED)
    assert set(cli.COMMANDS) - modules == {"val", "test"}
    for name, command in cli.LISTED.items():
        assert f"  {name}" in cli.overview()
        assert command.summary


def test_the_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "frugalseg.cli", "methods", "all"], capture_output=True, text=True, check=False
    )
    assert result.returncode == cli.USAGE
    assert "error: methods: got all, expected frugalseg methods" in result.stderr


def test_objects_takes_the_settings_of_its_network_from_the_recipe() -> None:
    own, recipe = config.options(cli.objects.Search), config.options(METHODS["r2o"].config)
    assert list(own) == list(cli.objects.NETWORK)
    for name, option in own.items():
        assert (option.hint, option.default, option.help) == (recipe[name].hint, recipe[name].default, recipe[name].help)


def test_interrupt_is_status_130(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert run("methods") == 130


def test_only_what_goes_on_is_said_to_go_on(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "dispatch", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    for command, said in (("train", "goes on where it was"), ("predict", "begins anew")):
        run(command, "x")
        assert said in capsys.readouterr().err


def test_control_characters_do_not_reach_the_terminal(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "threshold", "\x1b[31mred")
    assert "\x1b" not in capsys.readouterr().err


def test_training_leaves_settings_weights_scores_and_a_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(work)
    settings = config.read(folder / "config.yaml")
    assert (settings["method"], settings["data"], settings["level"], settings["split"]) == ("threshold", "data", 128.0, "train")
    (scores,) = json.loads((folder / "metrics.json").read_text()).values()
    assert scores["miou"] == 1.0
    assert (folder / "report.html").exists()
    out = capsys.readouterr().out
    assert "baseline" in out
    assert "report.html" in out


def test_a_training_without_scores_says_how_to_get_them_and_shows_images(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "data" / "splits.csv").unlink()
    for path in (work / "data").glob("*/val*.png"):
        path.unlink()
    (work / "data" / "images" / "train1.png").write_bytes(b"no picture")
    words = ["train", "threshold", "data", "--split", "", "--name", "one", "--workers", "0", "--quiet", "--skip-limit", "0.5"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "The training is done, but nothing was scored: " in said
    assert "frugalseg evaluate runs/threshold/one DATA" in said
    shown = work / "runs" / "threshold" / "one" / "predictions" / "of the training" / "shown"
    pictures = json.loads((shown / "shown.json").read_text())["pictures"]
    assert [entry["name"] for entry in pictures] == ["train0", "train2", "train3"]
    drawn = np.asarray(Image.open(shown / "0.png")).astype(int)
    half = drawn.shape[1] // 2
    assert np.abs(drawn[30:-20, 20 : half - 20] - drawn[30:-20, half : 2 * half - 40]).max() > 50, "the mask is drawn"
    page = (shown.parents[2] / "report.html").read_text()
    assert page.count("<figure>") == 3
    assert "not scored" in page


def test_command_line_beats_yaml_beats_defaults(work: Path) -> None:
    (work / "own.yaml").write_text("method: threshold\ndata: data\nlevel: 100\nrounds: 9\nmode: fast\nname: a\nworkers: 0\n")
    assert run("train", "--rounds", "5", "--config", "own.yaml", "--val", "") == 0
    settings = config.read(work / "runs" / "threshold" / "a" / "config.yaml")
    assert (settings["level"], settings["rounds"], settings["mode"], settings["seed"]) == (100.0, 5, "fast", 0)


def test_unknown_key_in_yaml_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "own.yaml").write_text("levl: 100\nrounds: many\nmode:\n")
    assert run("train", "threshold", "data", "--config", "own.yaml", "--mode", "fast") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: own.yaml: there is no setting 'levl' – did you mean level?",
        "own.yaml: --rounds: got 'many', expected a whole number",
        "own.yaml: --mode: got nothing, expected one of slow, fast",
    ]


def test_training_says_what_it_has_to_do_without(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "data" / "images" / "train0.png").write_bytes(b"no picture")
    (work / "data" / "classes.txt").write_text("square\ncircle\n")
    words = ["train", "threshold", "data", "--val", "", "--workers", "0"]
    assert run(*words) == 1
    assert run(*words, "--skip-limit", "0.5") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2
    assert "image-broken: 1 (image left out)" in lines[0]
    assert "images/train0.png" in lines[0]
    assert "no image of the training is tagged with 1 of 2 classes (circle)" in lines[1]


def test_without_a_method_the_labels_choose(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(METHODS) - {"threshold"}:
        monkeypatch.delitem(METHODS, name)
    assert run("train", "data", "--workers", "0", "--dry-run") == 0
    assert "semantic, tags: training threshold" in capsys.readouterr().out
    assert run("train", "data/images", "--split", "") == 2
    assert "no method can learn from data/images, which has images without labels" in capsys.readouterr().err


def test_same_command_finds_its_run_again_others_do_not(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "threshold", "data", "--workers", "0", "--val", ""]
    runs = work / "runs" / "threshold"
    assert run(*words) == run(*words, "--log-every", "3") == 0
    assert len(list(runs.iterdir())) == 1
    assert run(*words, "--level", "90") == 0
    assert len(list(runs.iterdir())) == 2
    assert run(*words, "--name", "mine") == 0
    assert run(*words, "--name", "mine", "--level", "90") == 2
    assert "level: 128.0 there, 90.0 now" in capsys.readouterr().err
    shutil.rmtree(runs / "mine" / "weights")  # as if it had failed before it did anything
    for stage in (path for path in (runs / "mine" / "state").iterdir() if path.is_dir()):
        shutil.rmtree(stage)
    assert run(*words, "--name", "mine", "--level", "90") == 0
    assert config.read(runs / "mine" / "config.yaml")["level"] == 90


def test_resume_takes_the_settings_of_the_run(work: Path) -> None:
    folder = trained(work)
    before = config.read(folder / "config.yaml")
    (folder / "weights" / "last.safetensors").unlink()
    assert run("train", "--resume", str(folder)) == 0
    assert (folder / "weights" / "last.safetensors").exists()
    assert config.read(folder / "config.yaml") == before
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_limit_and_dry_run_select_images(work: Path) -> None:
    for name, extra, images in [("few", ["--limit", "3"], 3), ("dry", ["--dry-run"], 4), ("all", ["--split", ""], 8)]:
        assert run("train", "threshold", "data", "--name", name, "--workers", "0", "--val", "", *extra) == 0
        assert json.loads((work / "runs" / "threshold" / name / "about.json").read_text())["images"] == images


@pytest.mark.parametrize("alias", ["evaluate", "val", "test"])
def test_evaluation_equals_a_count_by_hand(work: Path, alias: str) -> None:
    fakes.write_bright(work / "hard", wrong=2)
    folder = trained(work)
    assert run(alias, str(folder), "hard", "--quiet") == 0
    record = next(value for value in json.loads((folder / "metrics.json").read_text()).values() if value["data"] == "hard")
    squares = [16 * (8 + index) for index in range(4)]  # the model finds them all; the first two are not in the truth
    hit, found = sum(squares[2:]), sum(squares)
    background = 4 * 32 * 40 - found
    assert record["per_class"]["square"] == pytest.approx(hit / found)
    assert record["per_class"]["background"] == pytest.approx(background / (background + found - hit))
    assert record["images"] == 4
    mask = np.asarray(Image.open(folder / "predictions" / "val" / "val3.png"))
    assert mask.sum() == squares[3]


def test_ground_truth_tags_are_a_protocol_of_their_own(work: Path) -> None:
    fakes.write_bright(work / "hard", wrong=2)
    folder = trained(work)
    assert run("evaluate", str(folder), "hard", "--tags", "ground-truth", "--quiet") == 0
    found = {record["split"]: record["miou"] for record in json.loads((folder / "metrics.json").read_text()).values()}
    assert found == {"val": 1.0, "val+ground-truth-tags": 1.0}  # told that the square is not there, the model paints none


def test_evaluation_without_masks_or_with_other_classes_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(work)
    assert run("evaluate", str(folder), "data/images", "--split", "") == 1
    assert "no image has a mask" in capsys.readouterr().err
    (work / "data" / "classes.txt").write_text("square\ncircle\n")
    assert run("evaluate", str(folder), "data") == 1
    assert "got the classes square, circle; expected those of the model, in its order: square" in capsys.readouterr().err


def test_prediction_writes_masks_overlays_tags_and_skips_broken_files(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(work)
    (work / "data" / "images" / "broken.png").write_bytes(b"no picture")
    assert run("predict", str(folder), "data/images", "--quiet") == 0
    rows = list(csv.reader((work / "predictions" / "tags.csv").open()))
    assert rows[0] == ["image", "square"]
    assert len(rows) == 9
    assert len(list((work / "predictions" / "masks").iterdir())) == len(list((work / "predictions" / "overlays").iterdir())) == 8
    mask = Image.open(work / "predictions" / "masks" / "train2.png")
    assert mask.mode == "P"
    assert np.asarray(mask).sum() == 16 * 10
    out = capsys.readouterr().out
    assert "8 images predicted" in out
    assert "1 skipped" in out
    assert "broken.png" in (work / "predictions" / "skipped.csv").read_text()
    assert run("predict", str(folder), "data/images/train1.png", "--quiet", "--no-overlays", "--out", "p2") == 0
    assert [path.name for path in sorted((work / "p2").iterdir())] == ["masks", "tags.csv"]


def test_broken_images_can_be_accepted_in_scoring_and_are_listed_in_prediction(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trained(work))
    next(iter(sorted((work / "data" / "images").glob("val*")))).write_bytes(b"no picture")
    assert run("evaluate", folder, "data", "--quiet") == 1
    assert "accept it with --skip-limit 1.0" in capsys.readouterr().err
    assert run("evaluate", folder, "data", "--quiet", "--skip-limit", "1.0") == 0
    assert run("predict", folder, "data", "--split", "val", "--quiet") == 0
    assert "1 skipped" in capsys.readouterr().out
    assert run("regions", "slic", "data") == 0
    assert "image-broken: 1" in capsys.readouterr().err


def test_prediction_refuses_numbers_that_cannot_be_before_it_writes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(trained(work))
    assert run("predict", model, "data", "--min-score", "7", "--tile", "-3") == 2
    told = capsys.readouterr().err
    assert "min_score=7.0: expected a number from 0 to 1" in told
    assert "tile=-3: expected at least 0" in told
    assert not (work / "predictions").exists()


def test_a_run_that_is_not_there_is_told_with_those_that_are(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "runs/nope", "data") == 2
    assert "Finished runs" not in capsys.readouterr().err
    trained(work)
    assert run("predict", "runs/nope", "data") == 2
    assert "Finished runs here: runs/threshold/one" in capsys.readouterr().err
    assert run("predict", "runs/threshold/oen", "data") == 2
    assert "– did you mean runs/threshold/one?" in capsys.readouterr().err


def test_prediction_of_nothing_but_broken_files_is_status_1(work: Path) -> None:
    (work / "broken.png").write_bytes(b"no picture")
    assert run("predict", str(trained(work)), "broken.png", "--quiet") == 1


def test_prediction_takes_larger_images_when_told(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trained(work))
    assert config.resolve([cli.predict.Output], {})["max_pixels"] == MAX_PIXELS
    assert run("predict", folder, "data/images", "--quiet", "--max-pixels", "1279") == 1
    assert "40 x 32 pixels, the limit is 1,279; shrink it or raise max_pixels (predict --max-pixels)" in capsys.readouterr().out
    for more in ([], ["--tags", "given"]):
        assert run("predict", folder, "data", "--quiet", "--max-pixels", "1280", *more) == 0
        assert "8 images predicted" in capsys.readouterr().out
    assert run("predict", folder, "data", "--quiet", "--max-pixels", "1279", "--tags", "given") == 1


def test_the_overlay_of_an_image_too_long_for_jpeg_is_a_png(work: Path) -> None:
    Image.new("RGB", (65_501, 2)).save(work / "long.png")
    assert run("predict", str(trained(work)), "long.png", "--quiet") == 0
    assert [path.name for path in (work / "predictions" / "overlays").iterdir()] == ["long.png"]


def test_prediction_of_an_empty_folder_says_so_and_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "empty").mkdir()
    assert run("predict", str(trained(work)), "empty") == 1
    assert "empty: no image found" in capsys.readouterr().err
    assert not (work / "predictions").exists()


def test_two_images_of_one_name_do_not_overwrite_each_other(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", str(trained(work)), "data/images", "data/images/val1.png", "--quiet") == 2
    assert "two images are called 'val1'" in capsys.readouterr().err


def test_python_does_what_the_command_line_does(work: Path) -> None:
    data = frugalseg.read("data", split="train")
    model = frugalseg.train("threshold", data, level=90, workers=0, quiet=True)
    assert model.folder is not None
    again = frugalseg.load(model.folder)
    (prediction,) = again.predict("data/images/val0.png")
    assert prediction.semantic is not None
    assert int(prediction.semantic.sum()) == 16 * 8
    image = data[0].image
    assert torch.equal(again.predict(image)[0].semantic, model.predict([frugalseg.Sample("a", image)])[0].semantic)
    assert [item.name for item in again.predict(["data/images/val0.png", data])] == ["val0", *data.names]
    with pytest.raises(UsageError, match="did you mean level"):
        frugalseg.train("threshold", data, levle=3)


def test_broken_files_raise_unless_listed(work: Path) -> None:
    (work / "broken.png").write_bytes(b"no picture")
    model = frugalseg.load(trained(work))
    with pytest.raises(BadImage, match="broken"):
        model.predict("broken.png")
    skipped: list[BadImage] = []
    assert [sample.name for sample, _ in model.stream(["broken.png", "data/images/val0.png"], skipped)] == ["val0"]
    assert [Path(error.path).name for error in skipped] == ["broken.png"]


def test_unfinished_run_says_how_to_finish_it(work: Path) -> None:
    folder = trained(work)
    (folder / "weights" / "last.safetensors").unlink()
    with pytest.raises(UsageError, match=r"not finished; frugalseg train --resume .*one"):
        frugalseg.load(folder)


def test_shapes_check_and_methods_say_what_there_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shapes", "set", "--train", "3", "--val", "2", "--test", "0", "--size", "64") == 0
    assert len(list((work / "set" / "JPEGImages").iterdir())) == 5
    capsys.readouterr()
    assert run("check", "set") == 0
    assert "aepsl" in capsys.readouterr().out
    assert run("check", "nothing") == 1
    assert run("methods") == 0
    said = capsys.readouterr().out
    assert "semantic masks" in said
    assert "compare with" in said
    rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines()]
    assert [row[4] for row in rows if row[1:2] == ["r2ios"]] == [METHODS["r2ios"].baseline] == ["maskrcnn"]


def test_regions_are_made_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["regions", "slic", "data", "--cache", "kept", "--arguments", '{"segments": 9}', "--split", "val"]
    assert run(*words) == 0
    assert "4 made, 0 there before" in capsys.readouterr().out
    assert run(*words) == 0
    assert "0 made, 4 there before" in capsys.readouterr().out
    assert run("regions", "slick", "data") == 2
    assert "no tool 'slick' – did you mean slic?" in capsys.readouterr().err
    assert run("regions", "slic", "data", "--arguments", '{"segmnts": 9}') == 2
    assert "slic has no argument 'segmnts' – did you mean segments?" in capsys.readouterr().err


def test_palette_is_the_published_one() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {index: tuple(png.palette()[index]) for index in known} == known


def test_masks_of_wild_names_stay_in_their_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the folder"):
        files.inside(tmp_path / "a", "../b", ".png")
    png.write(files.inside(tmp_path, "x/y", ".png"), np.arange(256).reshape(16, 16))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x" / "y.png")), np.arange(256).reshape(16, 16))
    with pytest.raises(ValueError, match=r"expected \(H, W\) of 0\.\."):
        png.write(tmp_path / "z.png", np.full((2, 2), -1))
