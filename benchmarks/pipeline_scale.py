"""python -m benchmarks.pipeline_scale: what DVC costs beside a dataset with as many image files as COCO.

In a temporary clone of the working tree: draws annotations of full size and archives of images of one byte, runs stages
download and split on them (`first_s`), then asks again with nothing to do: `dvc status` of these stages and of the
whole pipeline, and `dvc repro`. The image files lie below data/ of the clone, as for a user. Times are wall seconds.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.split_scale import ANNOTATIONS, IMAGES, write_instances
from pipeline.artifacts import paths
from pipeline.datasets.annotations import read_instances
from pipeline.declaration.label_sets import label_set

VAL_SHARE = 5_000 / IMAGES
NAME = "scale"
COMMANDS = {
    "status": ("status", "download", "split"),
    "status_all": ("status",),
    "repro": ("repro", "download", "split"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    parser.add_argument("--folder", help="for the clone (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, clone = Path(folder) / "source", Path(folder) / "clone"
        archives = write_archives(source, args.images, args.annotations)
        labels = {"label_set": "coco", "train": "train2017", "validation": "val2017"}
        make_clone(clone, {"kind": "coco", "profile": "full", **labels, "base_url": str(source), "archives": archives})
        measured = {"first": dvc(clone, "repro", "download", "split")[0]}
        count = sum(1 for _ in (clone / "data" / NAME / "images" / "train2017").iterdir())
        for name, command in COMMANDS.items():
            seconds, output = zip(*(dvc(clone, *command) for _ in range(2)), strict=True)
            measured |= {name: seconds[0], f"{name}_again": seconds[1]}
            if name != "status_all" and "up to date" not in output[-1]:
                sys.exit(f"dvc {' '.join(command)} found something to do:\n{output[-1]}")
    print(f"images={count}", *(f"{name}_s={seconds:.1f}" for name, seconds in measured.items()))


def dvc(clone, *arguments):
    """Run DVC in the clone; gives wall seconds and what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "CONTRASTMASK_", "COCO_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    start = time.perf_counter()
    result = subprocess.run(("dvc", *arguments), cwd=clone, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"dvc {' '.join(arguments)}: {result.stdout[-3000:]}{result.stderr[-3000:]}")
    print(f"dvc {' '.join(arguments)}: {seconds:.1f} s", flush=True)
    return seconds, result.stdout


def write_archives(folder, images, annotations):
    """Pack images of one byte and their annotations as COCO does; gives the `archives` of the dataset's entry."""
    folder.mkdir(parents=True)
    packed = zipfile.ZipFile(folder / "annotations.zip", "w")
    for subset, share in (("train2017", 1), ("val2017", VAL_SHARE)):
        file = folder / f"instances_{subset}.json"
        write_instances(file, max(2, round(images * share)), round(annotations * share))
        packed.write(file, f"annotations/{file.name}")
        names = []
        read_instances(
            file,
            label_set("coco"),
            lambda entries, _, names=names: names.extend(entry["file_name"] for entry in entries),
        )
        with zipfile.ZipFile(folder / f"{subset}.zip", "w") as archive:
            for name in names:
                archive.writestr(f"{subset}/{name}", b"x")
        file.unlink()
    packed.close()
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_clone(folder, entry):
    """Copy the files that git knows or would add, choose the dataset, commit."""
    listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (paths.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    yaml = YAML()
    for name, change in (
        ("pipeline/experiments/datasets.yaml", lambda content: content["datasets"].update({NAME: entry})),
        ("params.yaml", lambda content: content.update(dataset=NAME)),
    ):
        content = yaml.load(folder / name)
        change(content)
        yaml.dump(content, folder / name)
    identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "state")):
        subprocess.run(("git", *command), cwd=folder, check=True)


if __name__ == "__main__":
    main()
