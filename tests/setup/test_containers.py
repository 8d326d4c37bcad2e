"""The recipes of containers: a base of one version, and no root. They are read, not built."""

import re
import shutil
import subprocess
import sys

from tools.pins import ROOT
from tools.setup_env import LOADS

DOCKERFILE = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()


def instructions():
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [line.split(maxsplit=1) for line in text.splitlines() if line]


def test_the_base_is_a_full_version_and_the_same_in_both():
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-[a-z]+", base)
    assert ["FROM", "${BASE}"] in instructions()
    assert f"\nFrom: {base}\n" in APPTAINER
    assert "imagetools inspect" in DOCKERFILE and f"BASE={base}@sha256:" in DOCKERFILE


def test_the_user_is_not_root_and_has_the_number_that_is_asked_for():
    names = [name for name, _ in instructions()]
    user = dict(instructions())["USER"]
    assert user == "${UID}:${GID}" and names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    defaults = {rest for name, rest in instructions() if name == "ARG"}
    assert {"UID=1000", "GID=1000"} <= defaults


def test_package_lists_are_not_kept_and_nothing_is_fetched_without_tls():
    for text in (DOCKERFILE, APPTAINER):
        assert text.count("apt-get update") == text.count("rm -rf /var/lib/apt/lists/*")
        assert "--no-install-recommends" in text and "http://" not in text


def test_what_is_copied_into_them_is_enough_for_the_set_up(tmp_path):
    copied = [file for name, rest in instructions() if name == "COPY" for file in rest.split()[:-1]]
    assert set(copied) == set(re.findall(r"^    (\S+) /opt/source/", APPTAINER, re.MULTILINE))
    for file in copied:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / file).is_dir() else shutil.copy)(ROOT / file, tmp_path / file)
    done = subprocess.run([sys._base_executable, "-S", "-m", "tools.setup_env", "--help"], cwd=tmp_path)
    assert done.returncode == 0
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOADS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
