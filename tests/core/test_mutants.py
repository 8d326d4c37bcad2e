"""The wrong edits of benchmarks/mutants.py still apply, are many and different, and name tests that exist."""

import shlex

import pytest

from benchmarks import mutants
from pipeline.artifacts import paths
from pipeline.errors import ExperimentError


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_the_edit_applies_to_one_line_and_its_tests_exist(mutant):
    before, after = (paths.ROOT / mutant.file).read_text(), mutants.edited(mutant)
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    assert sum(one != other for one, other in lines) == 1
    assert all((paths.ROOT / file).is_file() for file in shlex.split(mutant.tests) if file.endswith(".py"))


def test_mutants_are_many_and_different():
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(names) >= 60 and len(set(names)) == len(names)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in mutants.MUTANTS}) == len(names)


def test_an_edit_that_no_longer_applies_is_named():
    gone = mutants.MUTANTS[0]._replace(name="gone", old="no such text")
    with pytest.raises(ExperimentError, match="mutant 'gone' does not apply: 'no such text' occurs 0 times in"):
        mutants.edited(gone)
