"""`dvc exp run -S knob=value` rewrites params.yaml: every comment stays where it belongs."""

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.artifacts import paths


def commented(text):
    """[(key, its comment, the comment lines above it)] in the order of the file; no list has a comment inside."""
    found, above = [], []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            above.append(line)
        elif line.startswith("- "):
            assert not above, f"{above} stands inside of a list"
        elif ":" in line.split("#")[0]:
            found.append((line.split(":")[0], line.partition("#")[2].strip(), above))
            above = []
    return found


VALUES = {"dataset": "coco2017", "recipe": "paper", "seeds": "[1,2]", "sigma": "0.2", "query_sharing": "false"}


@pytest.mark.parametrize("knob", YAML(typ="safe").load(paths.PARAMS))
@pytest.mark.parametrize("file", ["params.yaml", "pipeline/methods/contrastmask/knobs.yaml"])
def test_comments_stay_in_place(tmp_path, file, knob):
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    content = YAML(typ="safe").load(text)
    if knob not in content:
        pytest.skip(f"{knob} is no knob of {file}")
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    value = VALUES.get(knob, "0.7")
    for _ in range(2):  # the second time, of what the first wrote
        apply_overrides(str(path), [f"{knob}={value}"])
    changed = path.read_text(encoding="utf-8")
    assert commented(changed) == commented(text)
    assert YAML(typ="safe").load(changed) == content | {knob: YAML(typ="safe").load(value)}
