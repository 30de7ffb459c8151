"""What holds for the repository as a whole."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARTS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Journal format"}

# A clone must work behind anybody's mirror, and a lock file pins one. The names are spelled so
# that this file does not match.
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|yarnpkg|debian|anaconda)\.(?:org|com)\b"
    r"|\bindex[-_]url\b|https?://[^\s\"']+/simple\b",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.~*/-])/(?:home|root|Users|work|workspace)/[\w.]")


def test_every_release_in_the_changelog_says_what_became_of_the_journal_format():
    releases = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]
    without = [
        release.splitlines()[0]
        for release in releases
        if not re.search(r"^### Journal format\n+\S", release, re.MULTILINE)
    ]
    assert without == []


def test_changelog_begins_with_what_is_unreleased_and_then_goes_back_in_time():
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = [
        re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in headings[1:]
    ]
    assert None not in releases, "a release is `## [1.2.3] - 2026-01-31`"
    versions = [(tuple(map(int, release.groups()[:3])), release[4]) for release in releases]
    assert versions == sorted(versions, reverse=True)


def test_parts_of_the_changelog_are_those_of_keep_a_changelog():
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= PARTS


def test_python_version_is_the_lowest_supported_one():
    pinned = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    assert PROJECT["requires-python"] == f">={pinned}"


def test_no_lock_file():
    assert [path for path in tracked_files() if re.search(r"(\.lock|-lock\.json)$", path)] == []


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_no_file_names_a_registry_or_a_path_of_one_machine(pattern):
    found = [
        f"{path}:{number}: {match[0]}"
        for path in tracked_files()
        for number, line in enumerate(lines_of(ROOT / path), start=1)
        if (match := pattern.search(line))
    ]
    assert found == []


def tracked_files() -> list[str]:
    """Return what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []  # a binary file, such as a golden journal


@pytest.mark.parametrize(("page", "at_least"), [("guarantees", 20), ("security", 8)])
def test_every_test_that_a_promise_names_exists(page, at_least):
    text = (ROOT / "docs" / "explanation" / f"{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", text)
    assert len(named) > at_least
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
