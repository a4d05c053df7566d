"""Settings: where a value comes from, what is refused, and what the refusal says."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from frugalseg import config
from frugalseg.cli import arguments
from frugalseg.config import UsageError
from frugalseg.methods import METHODS, kinds


@dataclass(frozen=True)
class Inner:
    """Inner.

    Args:
        depth: how deep.
    """

    depth: int = 1


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Args:
        rounds: erasing rounds, at
            20 % each.
        rate: learning rate.
        mode: one of two.
        sizes: of images.
        names: of classes.
        span: from, to.
        weights: a file.
        quick: be quick, 5 % of the time.
        save_every: steps.
        inner: nested.
    """

    rounds: int = 3
    rate: float = 1e-3
    mode: Literal["slow", "fast"] = "slow"
    sizes: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    weights: str | None = None
    quick: bool = False
    save_every: int = 10
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}: expected at least 1")


def refused(*layers: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as error:
        config.resolve([Recipe], *layers)
    return str(error.value)


def test_later_layers_override_earlier_ones_and_defaults() -> None:
    resolved = config.resolve([Recipe], {"rounds": 5, "rate": 0.5}, {"rounds": 7})
    assert (resolved["rounds"], resolved["rate"], resolved["mode"]) == (7, 0.5, "slow")
    assert set(resolved) == {item.name for item in fields(Recipe)}


def test_command_line_gives_only_what_was_typed() -> None:
    words = ["DATA", "--rounds", "4", "--save_every=5", "--quick", "aepsl", "--no-quick", "--sizes", "[3, 4]"]
    free, given = arguments.parse([Recipe], [*words, "--inner.depth", "2"])
    assert free == ["DATA", "aepsl"]
    assert given == {"rounds": 4, "save_every": 5, "quick": False, "sizes": (3, 4), "inner": {"depth": 2}}
    assert config.resolve([Recipe], given)["inner"] == Inner(2)


@pytest.mark.parametrize("typed", ["3,4", "3, 4", "[3, 4]", "[3,4]"])
@pytest.mark.parametrize("equals", [True, False])
def test_lists_are_typed_with_commas(typed: str, equals: bool) -> None:
    words = [f"--sizes={typed}"] if equals else ["--sizes", typed]
    assert arguments.parse([Recipe], [*words, "--weights", "a,b"])[1] == {"sizes": (3, 4), "weights": "a,b"}
    assert arguments.parse([Recipe], ["DATA", "--sizes", "7"]) == (["DATA"], {"sizes": (7,)})
    assert arguments.parse([Recipe], ["--names", "cat,dog", "--span=1,2"])[1] == {"names": ("cat", "dog"), "span": (1.0, 2.0)}


def test_negative_numbers_and_words_after_two_dashes_are_values() -> None:
    assert arguments.parse([Recipe], ["--rate", "-1", "--", "--rounds"]) == (["--rounds"], {"rate": -1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rouns", "3"], "there is no option --rouns – did you mean --rounds?"),
        (["--save-evry", "3"], "there is no option --save-evry – did you mean --save-every?"),
        (["--quik"], "there is no option --quik – did you mean --quick?"),
        (["--rounds", "three"], "--rounds: got 'three', expected a whole number"),
        (["--rounds", "2.5"], "--rounds: got '2.5', expected a whole number"),
        (["--mode", "medium"], "--mode: got 'medium', expected one of slow, fast"),
        (["--rounds"], "--rounds: expected one argument"),
        (["--sizes", "a,b"], "--sizes: got 'a', expected whole numbers with commas between them"),
        (["--span", "1,2,3"], "--span: got '[1, 2, 3]', expected 2 numbers with a comma between"),
    ],
)
def test_command_line_says_what_got_expected(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        arguments.parse([Recipe], words)
    assert message in str(error.value)


def test_every_fault_of_a_layer_is_named_at_once() -> None:
    text = refused({"rounds": "three", "moed": "fast", "rate": None, "inner": {"dept": 2}})
    assert "--rounds: got 'three', expected a whole number" in text
    assert "no setting 'moed' – did you mean mode?" in text
    assert "--rate: got nothing, expected a number" in text
    assert "no setting inner.dept – did you mean depth?" in text


def test_none_is_a_value_where_the_type_says_so() -> None:
    assert config.resolve([Recipe], {"weights": "a.pth"}, {"weights": None})["weights"] is None


def test_a_number_of_yaml_1_2_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: 1e-4\n")  # YAML 1.1 reads this as text
    assert config.resolve([Recipe], config.read(tmp_path / "a.yaml"))["rate"] == 1e-4


def test_saved_settings_read_back_the_same(tmp_path: Path) -> None:
    settings = config.resolve([Recipe], {"sizes": [5], "inner": {"depth": 9}, "weights": "ö: #1"})
    config.save(tmp_path / "config.yaml", settings)
    assert config.resolve([Recipe], config.read(tmp_path / "config.yaml")) == settings
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        config.read(tmp_path / "bad.yaml")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("rounds: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError):
        config.read(tmp_path / "evil.yaml")


def test_some_fields_of_a_recipe_are_options_of_a_command() -> None:
    part = config.some_of(Recipe, "rounds", "sizes")
    assert {name: config.options(Recipe)[name] for name in ("rounds", "sizes")} == dict(config.options(part))
    assert config.instance(part, {"rounds": 9}).rounds == 9
    assert config.divided({"rounds": 9, "mode": "fast"}, part) == ({"rounds": 9}, {"mode": "fast"})


def test_a_value_the_dataclass_refuses_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="rounds=0: expected at least 1"):
        config.build(Recipe, config.resolve([Recipe], {"inner": Inner()}) | {"rounds": 0})


def test_help_of_a_field_is_its_line_of_the_docstring() -> None:
    assert config.options(Recipe)["rounds"].help == "erasing rounds, at 20 % each."
    text = " ".join(config.parser(Recipe).format_help().split())
    assert "at 20 % each." in text
    assert "5 % of the time." in text


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_settings_of_a_method_are_explained_and_do_not_clash(method: Any) -> None:
    known = config.options(*kinds(method))
    assert len(known) == sum(len(fields(kind)) for kind in kinds(method))
    assert [name for name, option in known.items() if not option.help] == []
