"""The files around the code: they can be read, and say what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

import cnnviz

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == cnnviz.__version__
    assert f'license = "{citation["license"]}"' in PYPROJECT
    assert citation["abstract"] in PYPROJECT
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_workflow_tests_what_the_package_promises() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", PYPROJECT)
    assert set(promised) <= set(matrix["python-version"])
    lowest = re.search(r'requires-python = ">=(3\.\d+)"', PYPROJECT)
    assert lowest
    assert matrix["python-version"][0] == lowest[1]
    assert any("pytest -n auto" in step.get("run", "") for step in jobs["test"]["steps"])


def test_pre_commit_and_the_workflow_run_the_same_linters() -> None:
    hooks = {hook["entry"] for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    steps = [step.get("run", "") for step in read(".github/workflows/ci.yml")["jobs"]["lint"]["steps"]]
    for hook in hooks:
        assert any(step.startswith(hook) for step in steps), hook
    assert hooks == {"ruff check", "mypy", "lint-imports"}
