"""The files around the code: they can be read, and say what pyproject.toml says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import yaml

import cnnviz
from cnnviz.audit.audit import JUNIT
from cnnviz.cli.app import main
from cnnviz.errors import EXIT_SOME_FAILED
from cnnviz.io.cache import FOLDER

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


def test_the_action_and_the_hook_run_options_that_there_are(capsys: Any) -> None:
    steps = read("action.yml")["runs"]["steps"]
    [hook] = read(".pre-commit-hooks.yaml")
    assert main(["audit", "--help"]) == 0
    known = capsys.readouterr().out
    used = re.findall(
        r"(?<=\s)--?[a-z-]+", " ".join([steps[1]["run"].partition("audit ")[2].partition("\n")[0], *hook["args"]])
    )
    assert used
    assert all(option in known for option in used)
    assert hook["entry"] == "cnnviz audit"
    assert re.search(hook["files"], "models/policy.yaml")


def test_the_job_of_gitlab_runs_options_and_keeps_files_that_there_are(capsys: Any) -> None:
    job = read("examples/ci/gitlab-ci.yml")["audit"]
    assert main(["audit", "--help"]) == 0
    known = capsys.readouterr().out
    [line] = job["script"]
    assert line.startswith("cnnviz audit policy.yaml -o audit ")
    assert all(option in known for option in re.findall(r"(?<=\s)--?[a-z-]+", line))
    assert job["artifacts"]["reports"]["junit"] == f"audit/{JUNIT}"
    assert job["artifacts"]["paths"] == ["audit"]
    assert FOLDER in job["variables"]
    assert job["allow_failure"]["exit_codes"] == EXIT_SOME_FAILED


def test_the_image_is_made_of_files_and_extras_that_there_are() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = [name for word, rest in steps if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in copied)
    # What the wheel is built from: its package, the readme and the licence that pyproject.toml names.
    assert {"cnnviz", "pyproject.toml", "README.md", "LICENSE"} <= set(copied)
    [extras] = [rest.partition("=")[2] for word, rest in steps if word == "ARG"]
    known = re.findall(r"^(\w+) = \[", PYPROJECT.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    assert set(extras.split(",")) <= set(known)
    assert [rest for word, rest in steps if word == "ENTRYPOINT"] == ['["cnnviz"]']
    assert "\ncnnviz = " in PYPROJECT.partition("[project.scripts]")[2]
    assert [rest for word, rest in steps if word == "USER"][-1] != "root"


def test_pre_commit_and_the_workflow_run_the_same_linters() -> None:
    hooks = {hook["entry"] for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    steps = [step.get("run", "") for step in read(".github/workflows/ci.yml")["jobs"]["lint"]["steps"]]
    for hook in hooks:
        assert any(step.startswith(hook) for step in steps), hook
    assert hooks == {"ruff check", "mypy", "lint-imports", "python .ci/check_lines.py"}


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    check = runpy.run_path(str(ROOT / ".ci" / "check_lines.py"))
    problems = check["problems"]
    problems.__globals__.update(ROOT=tmp_path, EXCEPTIONS={"docs/known.py": 402, "docs/gone.py": 500})
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "short.py").write_text("\n" * 400)
    (tmp_path / "docs" / "long.py").write_text("\n" * 401)
    (tmp_path / "docs" / "known.py").write_text("\n" * 402)
    told = '    """One.\n\n    Two.\n    """\n'
    lines = [f"def fits():\n{told}" + "    x = 1\n" * 49, f"def not_so():\n{told}" + "    x = 1\n" * 50]
    (tmp_path / "docs" / "functions.py").write_text("\n\n".join(lines))
    assert problems() == [
        "docs/functions.py:not_so: 51 lines, at most 50",
        "docs/long.py: 401 lines, at most 400",
        "docs/gone.py: no exception is needed any more",
    ]


def test_job_files_ask_for_options_that_there_are(capsys: Any) -> None:
    assert main(["gradcam", "--help"]) == 0
    known = capsys.readouterr().out
    job = read("examples/cluster/kubernetes.yaml")["spec"]
    [container] = job["template"]["spec"]["containers"]
    [count] = [each["value"] for each in container["env"] if each["name"] == "JOB_COMPLETIONS"]
    assert int(count) == job["completions"]
    assert job["completionMode"] == "Indexed"
    script = (ROOT / "examples" / "cluster" / "slurm.sh").read_text(encoding="utf-8")
    lines = [line.split() for line in script.splitlines() if line.startswith("cnnviz ")]
    for words in (*lines, ["cnnviz", *container["args"]]):
        assert words[1] == "gradcam"
        assert all(word in known for word in words if word.startswith("-"))
        assert {"--shard", "--resume"} <= set(words)
