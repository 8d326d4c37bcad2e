"""How many lines dvc.lock has once every chosen stage is made, counted without making any.

python -m commands.select all && python -m benchmarks.lock_lines
"""

import io
import sys
from collections import Counter

from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from ruamel.yaml import YAML

DIGEST = "0" * 32


def entry(stage):
    """What DVC writes of a stage, with made-up digests."""
    params = {dep.def_path: dict(dep.read_params()) for dep in stage.deps if isinstance(dep, ParamsDependency)}
    deps = [_file(dep.def_path) for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    return {"cmd": stage.cmd, "deps": deps, "params": params, "outs": [_file(out.def_path) for out in stage.outs]}


def _file(path):
    folder = {} if "." in path.rpartition("/")[2] else {"nfiles": 1}
    return {"path": path, "hash": "md5", "md5": DIGEST, "size": 1, **folder}


def lines(content):
    """Lines of YAML as DVC writes it."""
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(content, text)
    return text.getvalue().count("\n")


def main():
    counted = Counter()
    for stage in Repo().index.stages:
        kept = {key: value for key, value in entry(stage).items() if value}
        counted[stage.addressing.partition("@")[0]] += lines({stage.addressing: kept})
    for group, count in counted.most_common():
        sys.stdout.write(f"{count:6,}  {group}\n")
    sys.stdout.write(f"{sum(counted.values()):6,}  dvc.lock\n")


if __name__ == "__main__":
    main()
