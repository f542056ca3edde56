"""The project's habits: workflows, forms and the citation are what GitHub and the rest of the project take them for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

import unetzoo
from unetzoo.cli import main

GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
SYSTEMS = ["ubuntu-latest", "macos-latest", "windows-latest"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def workflow(name: str) -> dict[str, Any]:
    """Return a workflow as GitHub reads it: YAML 1.1, but for "on", which PyYAML takes for true."""
    read = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in read.items()}


def steps(name: str, job: str | None = None) -> list[dict[str, Any]]:
    jobs = workflow(name)["jobs"]
    return [step for key in jobs if job in (None, key) for step in jobs[key].get("steps", ())]


def commands(name: str, job: str | None = None) -> list[str]:
    return [step["run"].strip() for step in steps(name, job) if "run" in step]


def pythons() -> list[str]:
    """Return the versions of Python that the classifiers name, oldest first."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in PROJECT["classifiers"]]
    return [match[1] for match in found if match]


def check_schema(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Hold files against a schema that check-jsonschema brings along: those of schemastore.org, without a network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SCHEMAS = {
    "vendor.github-workflows": list(WORKFLOWS.values()),
    "vendor.github-issue-forms": FORMS,
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}
BREAKS = {
    "vendor.github-workflows": ("runs-on:", "run-on:"),
    "vendor.github-issue-forms": ("type: textarea", "type: textbox"),
    "vendor.github-issue-config": ("false", "perhaps"),
    "vendor.dependabot": ("directory:", "folder:"),
    "vendor.citation-file-format": ("license: MIT", "license: MTI"),
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_github_follow_its_schemas(schema: str, tmp_path: Path) -> None:
    files = SCHEMAS[schema]
    assert files
    done = check_schema(schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    right, wrong = BREAKS[schema]
    broken = tmp_path / files[0].name
    broken.write_text(files[0].read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    assert check_schema(schema, broken).returncode == 1  # the schema sees something


def test_every_job_ends_by_itself() -> None:
    for name in WORKFLOWS:
        for key, job in workflow(name)["jobs"].items():
            # A job that calls another workflow has the limits of that workflow's jobs.
            assert ("uses" in job) != (0 < job.get("timeout-minutes", 0) <= 120), (name, key)


def test_workflows_may_read_and_little_more() -> None:
    more = {}
    for name in WORKFLOWS:
        assert workflow(name)["permissions"] == {"contents": "read"}, name
        assert "pull_request_target" not in workflow(name)["on"], name
        more |= {(name, key): job["permissions"] for key, job in workflow(name)["jobs"].items() if "permissions" in job}
    assert more == {
        ("docs", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "publish"): {"id-token": "write"},
        ("release", "github"): {"contents": "write"},
    }


def test_actions_are_pinned_to_one_commit_each() -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in WORKFLOWS.values():
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line and "./" not in line:
                match = re.fullmatch(r"[ -]+uses: ([\w/-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
                assert match, (path.name, line)
                pins.setdefault(match[1], set()).add((match[2], match[3]))
    assert {action.split("/")[0] for action in pins} == {"actions", "pypa"}
    assert all(len(found) == 1 for found in pins.values()), pins


def test_a_checkout_leaves_no_token_behind() -> None:
    found = [step for name in WORKFLOWS for step in steps(name) if "actions/checkout@" in step.get("uses", "")]
    assert found
    assert all(step["with"]["persist-credentials"] is False for step in found)


def test_no_command_is_put_together_by_github() -> None:
    """A branch may be called ``$(curl …)``: what GitHub fills in reaches a shell as a variable, never as its text."""
    for name in WORKFLOWS:
        for command in commands(name):
            assert "${{" not in command, (name, command)


def test_newer_runs_of_the_tests_cancel_older_ones() -> None:
    tests = workflow("tests")
    assert tests["concurrency"]["cancel-in-progress"] is True
    assert "${{ github.ref }}" in tests["concurrency"]["group"]
    assert {"push", "pull_request", "schedule", "workflow_call"} <= set(tests["on"])
    assert tests["on"]["push"] == {"branches": ["main"]}
    # A group of the same name would let a release cancel its own tests.
    groups = [workflow(name)["concurrency"]["group"].split("-")[0] for name in WORKFLOWS]
    assert sorted(groups) == sorted(WORKFLOWS)


def test_the_matrix_is_what_pyproject_promises() -> None:
    versions = pythons()
    assert workflow("tests")["jobs"]["suite"]["strategy"]["matrix"] == {"os": SYSTEMS, "python": versions}
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == versions[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")
    assert workflow("release")["jobs"]["wheel"]["strategy"]["matrix"] == {"os": SYSTEMS}
    following = f"3.{int(versions[-1].removeprefix('3.')) + 1}"
    assert f"python >={versions[0]},<{following}" in yaml.safe_load(text_of("environment.yml"))["dependencies"]
    said = f"Python {versions[0]} or newer is needed. The tests run on {', '.join(versions[:-1])} and {versions[-1]};"
    assert said in " ".join(text_of("docs/getting_started.md").split())
    assert f"with Python {versions[0]} or later" in text_of("README.md")


def test_single_jobs_run_on_the_oldest_or_the_newest_python() -> None:
    for name in WORKFLOWS:
        for key in workflow(name)["jobs"]:
            for step in steps(name, key):
                if "actions/setup-python@" in step.get("uses", "") and (name, key) != ("tests", "suite"):
                    expected = pythons()[0] if key in {"lint", "lowest"} else pythons()[-1]
                    assert step["with"]["python-version"] == expected, (name, key)


def test_workflows_say_what_the_readme_and_ci_say() -> None:
    readme = text_of("README.md")
    script = text_of(".ci/run").splitlines()
    install = 'pip install -e ".[dev]"'
    suite = f"{install} && pytest"
    assert commands("tests", "suite") == [suite]
    assert suite in script
    assert suite in readme.splitlines()
    assert commands("tests", "newest") == ["bash .ci/run"]
    assert commands("tests", "lowest")[-1] == f"{suite} --ignore tests/test_docs.py"
    assert "pytest --ignore tests/test_docs.py" in text_of("CONTRIBUTING.md")
    linters = commands("tests", "lint")
    assert linters[0] == install
    assert linters[1:] == [line for line in script if re.match(r"(ruff|mypy)\b", line)]
    for command in commands("docs"):
        assert f"`{command}`" in readme
    assert (ROOT / ".ci" / "run").read_bytes().startswith(b"#!/usr/bin/env bash\n")


def test_the_lowest_dependencies_are_those_of_all_that_users_install() -> None:
    (command,) = (text for text in commands("tests", "lowest") if "lowest-direct" in text)
    extras = re.search(r'-e "\.\[([\w,]+)\]"', command)[1].split(",")
    # gradio holds Pillow below 13, so that the page has a place of its own, and so has napari, which warns when pytest
    # starts; docs and dev are for us.
    assert set(extras) == set(PROJECT["optional-dependencies"]) - {"demo", "napari", "docs", "dev"}
    assert len(extras) == len(set(extras))


def test_what_commands_name_is_there() -> None:
    made = {"dist/*", "dist/*.whl", "notes.md", "unetzoo_demo.png", "docs/_build/html"}
    for name in WORKFLOWS:
        for command in commands(name):
            words = [word.strip("\"'") for word in command.split()]
            for word in words:
                if re.search(r"^\.?[\w*-]+/|\.(py|md|toml|sh|yml|png)$", word) and word not in made:
                    assert (ROOT / word).exists(), (name, command)
            if words[0] == "unetzoo":
                with pytest.raises(SystemExit) as ended:
                    main([words[1], "--help"])
                assert ended.value.code == 0
        for job in workflow(name)["jobs"].values():
            called = job.get("uses", "./.github")
            assert (ROOT / called).exists(), called
            for step in job.get("steps", ()):
                cached = step.get("with", {}).get("cache-dependency-path", "pyproject.toml")
                assert (ROOT / cached).is_file()


def test_contributing_names_tests_that_are_there() -> None:
    contributing = text_of("CONTRIBUTING.md")
    named = set(re.findall(r"tests/test_\w+\.py", contributing))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert "`.github/workflows/release.yml`" in contributing
    assert (ROOT / ".github" / "workflows" / "release.yml").is_file()


def test_contributing_lists_the_slow_tests() -> None:
    slow = re.compile(r'mark\.slow|"\w+", tried\(')
    has = {f"tests/{p.name}" for p in (ROOT / "tests").glob("test_*.py") if slow.search(p.read_text(encoding="utf-8"))}
    commands = re.findall(r"`[^`]*pytest -m slow[^`]*`", text_of("CONTRIBUTING.md"))
    assert set(re.findall(r"tests/test_\w+\.py", " ".join(commands))) == has


def ancestors(jobs: dict[str, Any], key: str) -> set[str]:
    """Return the jobs that have ended before this one starts."""
    needs = jobs[key].get("needs", [])
    needs = [needs] if isinstance(needs, str) else needs
    return set(needs).union(*(ancestors(jobs, need) for need in needs))


def test_jobs_wait_for_what_they_use() -> None:
    for name in WORKFLOWS:
        jobs = workflow(name)["jobs"]
        for key in jobs:
            before = ancestors(jobs, key)
            assert before <= set(jobs), (name, key)
            given = {
                step["with"]["name"]
                for job in before
                for step in steps(name, job)
                if "actions/upload-artifact@" in step.get("uses", "")
            }
            taken = {
                step["with"]["name"]
                for step in steps(name, key)
                if "actions/download-artifact@" in step.get("uses", "")
            }
            assert taken <= given, (name, key)


def test_nothing_is_published_before_all_is_checked() -> None:
    release = workflow("release")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    jobs = release["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert ancestors(jobs, "publish") == {"notes", "tests", "build", "wheel"}
    assert ancestors(jobs, "github") == {"notes", "tests", "build", "wheel", "publish"}
    assert not any("if" in job or "continue-on-error" in job for job in jobs.values())
    built = ["python -m build", "twine check --strict dist/*", "sha256sum dist/*"]
    assert commands("release", "build")[1:] == built
    assert commands("release", "wheel") == ["pip install dist/*.whl", "unetzoo demo", "test -s unetzoo_demo.png"]
    assert not any("actions/checkout@" in step.get("uses", "") for step in steps("release", "wheel"))
    (publish,) = (step for step in steps("release", "publish") if "gh-action-pypi-publish@" in step["uses"])
    assert publish["with"] == {"attestations": True}
    assert jobs["publish"]["environment"]["name"] == "pypi"


def test_the_site_is_deployed_from_main_alone() -> None:
    docs = workflow("docs")
    main_only = "github.ref == 'refs/heads/main'"
    assert docs["jobs"]["deploy"]["if"] == main_only
    assert docs["jobs"]["deploy"]["environment"]["name"] == "github-pages"
    (upload,) = (step for step in steps("docs", "build") if "upload-pages-artifact@" in step.get("uses", ""))
    assert upload["if"] == main_only
    assert commands("docs", "build")[-1].split()[-1] == upload["with"]["path"]


def test_forms_ask_for_what_is_needed() -> None:
    assert [path.name for path in FORMS] == ["bug.yml", "feature.yml"]
    for path in FORMS:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
        asked = [field for field in fields if field["type"] != "markdown"]
        assert len({field["id"] for field in asked}) == len(asked)
        assert any(field.get("validations", {}).get("required") for field in asked), path.name
    assert "unetzoo --version" in FORMS[0].read_text(encoding="utf-8")


def test_the_citation_is_the_package_s() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == unetzoo.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["keywords"] == PROJECT["keywords"]
    assert PROJECT["description"].split(":")[0] in citation["title"]


def test_the_changelog_s_newest_version_is_the_package_s() -> None:
    sections = re.findall(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)
    released = [section for section in sections if section != "Unreleased"]
    assert sections[0] in {"Unreleased", unetzoo.__version__}
    assert len(set(sections)) == len(sections)
    # 0.1.0 is the first, and "Unreleased" until then.
    assert (released or ["0.1.0"])[0] == unetzoo.__version__
    assert released == sorted(released, key=lambda version: [int(part) for part in version.split(".")], reverse=True)


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_links_of_the_project_s_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text_of(page)):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


class TestReleaseNotes:
    """``.github/release_notes.py``, on a project of its own."""

    CHANGELOG = (
        "# Changelog\n\n## Unreleased\n\n- Next.\n\n"
        "## 1.2.0 (2026-12-01)\n\n### Added\n\n- Größe × 2 – yes.\n\n"
        "## 1.1.0\n\n- Old.\n"
    )

    @staticmethod
    def run(folder: Path, tag: str, changelog: str, version: str = "1.2.0") -> subprocess.CompletedProcess[str]:
        (folder / ".github").mkdir()
        (folder / "unetzoo").mkdir()
        script = shutil.copy(GITHUB / "release_notes.py", folder / ".github")
        (folder / "unetzoo" / "__init__.py").write_text(
            f'"""A zoo."""\n\n__version__ = "{version}"\n', encoding="utf-8"
        )
        (folder / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
        command = [sys.executable, str(script), tag]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=folder)

    def test_they_are_the_version_s_section_without_its_heading(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "v1.2.0", self.CHANGELOG)
        assert (done.returncode, done.stdout) == (0, "### Added\n\n- Größe × 2 – yes.\n"), done.stderr

    @pytest.mark.parametrize("tag", ["v1.1.0", "1.2.0", "v1.2", "v1.2.0rc1", "v1.2.0 ", ""])
    def test_a_tag_that_is_not_the_version_is_refused(self, tag: str, tmp_path: Path) -> None:
        done = self.run(tmp_path, tag, self.CHANGELOG)
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(rf".*tag .*{tag},.*unetzoo\.__version__ .*1\.2\.0: .*v1\.2\.0\n", done.stderr)

    @pytest.mark.parametrize(
        ("changelog", "message"),
        [
            ("# Changelog\n\n## Unreleased\n\n- Next.\n", r"no section .*1\.2\.0: .*'Unreleased'"),
            ("# Changelog\n", r"no section .*1\.2\.0: .*'none'"),
            ("# Changelog\n\n## 1.2.0\n\n## 1.1.0\n\n- Old.\n", r"empty section .*1\.2\.0: .*'1\.2\.0'"),
            ("# Changelog\n\n## 1.2.01\n\n- Near.\n", r"no section .*1\.2\.0: .*'1\.2\.01'"),
        ],
    )
    def test_a_changelog_without_the_version_is_refused(self, changelog: str, message: str, tmp_path: Path) -> None:
        done = self.run(tmp_path, "v1.2.0", changelog)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"CHANGELOG\.md .*{message}\n", done.stderr)
