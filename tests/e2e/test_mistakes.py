"""A mistake in a declaration ends `dvc repro`, the choice of tables and the doctor with one line; nothing is drawn."""

import pytest

from tests.e2e.clone import Clone

pytestmark = pytest.mark.slow

MISTAKES = {  # keys, what is written there, and the line; tests/core/test_schema.py has those of every kind
    "policy": (
        ("profiles", "embedded", "training"),
        {"lr_policy": "cosinee"},
        "profiles.yaml: profiles.embedded.training.lr_policy: is 'cosinee'; valid: step, cosine, poly; "
        "did you mean 'cosine'?",
    ),
    "score": (
        ("figures", "qualitative"),
        {"minscore": 0.5},
        "contrastmask.yaml: figures.qualitative.minscore: unknown key; valid: title, ",
    ),
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("clone"))


def nothing_is_made(clone):
    """Neither data nor a run; DVC writes what git is to ignore beforehand."""
    made = [path for name in ("data", "runs") for path in (clone.folder / name).rglob("*") if path.is_file()]
    return {path.name for path in made} <= {".gitignore"}


def told(clone, *command):
    """What a command says that refuses to work: its output, and the line of its error."""
    done = clone.run(*command, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert nothing_is_made(clone)
    return done.stdout + done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_every_command_before_anything_is_drawn(clone, mistake):
    keys, values, line = MISTAKES[mistake]
    clone.edit_experiments({keys: values})
    line = f"pipeline/experiments/{line}"
    assert f"error: {line}" in told(clone, "dvc", "repro")
    assert f"error: {line}" in told(clone, "python", "-m", "commands.select", "table2")
    if mistake == "policy":
        assert line in told(clone, "python", "-m", "commands.doctor")
    clone.run("git", "checkout", "-q", ".")


def test_a_knob_out_of_its_range_ends_an_experiment_before_anything_is_drawn(clone):
    done = clone.run("dvc", "exp", "run", "-S", "sigma=2", check=False)
    assert (
        done.returncode != 0 and "params.yaml: knob sigma is 2; valid: a number in (0, 1]" in done.stdout + done.stderr
    )
    assert nothing_is_made(clone)
