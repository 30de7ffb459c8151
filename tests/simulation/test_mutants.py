"""The bugs of tools/mutants.py fit the code; `make mutants` shows that the checks find them."""

import pytest

from tools.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_edit_of_a_mutant_fits_once_and_changes_something(mutant):
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
    for check in mutant.checks:
        paths = [word for word in check if word.startswith(("tests/", "tools/"))]
        assert all((ROOT / path).exists() for path in paths)
