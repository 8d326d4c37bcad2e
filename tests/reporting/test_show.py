"""`commands.show` prints a finished table; where there is none its remedy is a command that makes it."""

import sys

import pytest

from commands import show
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError


@pytest.fixture
def shown(workspace, monkeypatch):
    monkeypatch.setattr(experiments, "selected", lambda: {"tables": {"table1": {}}})

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["show", *arguments])
        show.main.__wrapped__()

    return run


def test_the_first_chosen_table_is_printed_where_table_2_is_not_chosen(shown, workspace, capsys):
    workspace.write(paths.table("toy", "table1", "md"), "| Row |")
    shown()
    assert capsys.readouterr().out.startswith("| Row |\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table1"], "tables/table1.md: not built; run `make reproduce`$"),
        (["table2"], 'tables/table2.md: not built; run `make reproduce TABLES="table1 table2"`$'),
        (["tabel2"], "unknown table 'tabel2'; valid: table2, table1"),
    ],
)
def test_what_is_not_there_is_named_with_what_makes_it(shown, arguments, message):
    with pytest.raises(ExperimentError, match=message):
        shown(*arguments)
