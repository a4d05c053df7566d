"""What the files of the project say of it: one version, the same Pythons everywhere, and files that their readers can parse."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_version_to_cite_is_that_of_the_package() -> None:
    assert parsed("CITATION.cff")["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_paper_is_cited() -> None:
    notes = " ".join(reference["notes"] for reference in parsed("CITATION.cff")["references"])
    assert set(re.findall(r"Method (\w+)", notes)) == {"aepsl", "biopt", "pdsl", "r2ios", "r2o"}


def test_declared_pythons_are_those_that_are_tested() -> None:
    declared = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    matrix = parsed(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == declared
    assert f">={min(declared, key=lambda version: int(version.split('.')[1]))}" == PROJECT["requires-python"]
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}


def test_pre_commit_takes_the_ruff_of_the_lock() -> None:
    (hooks,) = [repo for repo in parsed(".pre-commit-config.yaml")["repos"] if repo["repo"].endswith("/ruff-pre-commit")]
    locked = re.search(r"^ruff==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked
    assert hooks["rev"] == f"v{locked[1]}"


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_form_has_what_github_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    ids = [item["id"] for item in form["body"] if item["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    assert all(item["attributes"]["label"] for item in form["body"])


@pytest.mark.parametrize("target", ["test", "docs", "lint"])
def test_checks_before_a_change_are_those_of_ci(target: str) -> None:
    """`make check` and .ci/run stay one list."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert target in re.search(r"^check: (.*)$", makefile, re.MULTILINE)[1].split()  # type: ignore[index]
    assert f"make {target}\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
