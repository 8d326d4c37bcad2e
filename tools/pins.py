"""The versions of the project, read from environment.yml without a YAML library."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "environment.yml"
CONSTRAINTS = ROOT / "constraints.txt"


class SetupError(Exception):
    """The machine or a file lacks something; the message is one line and says what to do."""


@dataclasses.dataclass(frozen=True)
class Pins:
    """`python` such as "3.11", `pip` the requirement lines, `mmcv_full` the version compiled here."""

    python: str
    mmcv_full: str
    pip: tuple[str, ...]

    def requirement(self, name):
        """The requirement line of distribution `name`."""
        return next(line for line in self.pip if line.startswith(f"{name}=="))


def read_pins(path=ENVIRONMENT):
    """Read the pins of a conda environment file.

    The file keeps to a small subset of YAML: top-level keys, items indented by two, pip items by six.
    What does not fit is an error rather than a pin silently lost.

    Raises:
        SetupError: a line that does not fit, a pip requirement without an exact version, or a missing pin.
    """
    python, mmcv_full, pip, section = None, None, [], None
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).rstrip()
        if not line:
            continue
        if match := re.fullmatch(r"(channels|variables|dependencies):|name: \S+", line):
            section = match[1]
        elif section == "variables" and (match := re.fullmatch(r"  MMCV_FULL_VERSION: (\d+(?:\.\d+)+)", line)):
            mmcv_full = match[1]
        elif section == "dependencies" and line == "  - pip:":
            section = "pip"
        elif section == "dependencies" and (match := re.fullmatch(r"  - ([\w.-]+)(?:=(\d+(?:\.\d+)*))?", line)):
            python = match[2] if match[1] == "python" else python
        elif section == "pip" and (match := re.fullmatch(r"      - ([\w.-]+==[\w.+!]+)", line)):
            pip.append(match[1])
        elif (section, line) not in (
            ("channels", "  - conda-forge"),
            ("pip", f"      - -c {CONSTRAINTS.name}"),
        ):
            raise SetupError(
                f"{path.name}, line {number}: cannot read {raw.strip()!r}; pip requirements are written name==version"
            )
    for name, value in (("python", python), ("MMCV_FULL_VERSION", mmcv_full), ("pip list", pip)):
        if not value:
            raise SetupError(f"{path.name}: no {name} with a version")
    return Pins(python, mmcv_full, tuple(pip))


def fingerprint():
    """Digest of all that determines the environment; with it a file merely touched costs nothing."""
    digest = hashlib.sha256()
    for path in (ENVIRONMENT, CONSTRAINTS, *sorted(Path(__file__).parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
