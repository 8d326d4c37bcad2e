"""A machine.yaml that cannot be used is one line; one without a setting is as none."""

import pytest

from pipeline.errors import ExperimentError
from pipeline.launching import settings


@pytest.mark.parametrize("text", ["", "\n\n", "# launcher: slurm\n\n  # jobs: 8\n"])
def test_nothing_set(tmp_path, text):
    (tmp_path / "machine.yaml").write_text(text)
    assert settings.load(tmp_path / "machine.yaml") == settings.Settings()


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_obstacle(tmp_path):
    (tmp_path / "machine.yaml").write_bytes(b"\xef\xbb\xbfjobs: 3\r\nprocesses: 2\r\n")
    assert settings.load(tmp_path / "machine.yaml").jobs == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"jobs: \xff\xfe", "not text in UTF-8"),
        (b"- jobs", "expected a mapping"),
        (b"jobs: [1", "not valid YAML"),
        (b"jobs: 0", "jobs: is 0; valid: at least 1"),
        (b"slurm:", "slurm: is empty; valid: a mapping, or leave it out"),
        (b"job: 1", "did you mean 'jobs'"),
        (b"runs: {x: {nodes: 1}}", "runs.x: unknown run; valid: "),
        (b"jobs: 1\njobs: 2", "jobs"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, content, said):
    (tmp_path / "machine.yaml").write_bytes(content)
    with pytest.raises(ExperimentError, match="machine.yaml") as error:
        settings.load(tmp_path / "machine.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "machine.yaml").mkdir()
    with pytest.raises(ExperimentError, match="machine.yaml: Is a directory; write it anew"):
        settings.load(tmp_path / "machine.yaml")
