"""mmcv-full compiled file by file and in unity files: time of both, and every CPU operator compared bit for bit.

The wheels go to the folder --wheels; one that is there already is not compiled again.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from tools import mmcv_wheel, pins

ROOT = Path(__file__).parents[1]


def with_gradients(function, *inputs):
    """Output of a function of tensors, then the gradients of its inputs for a seeded gradient of the output."""
    import torch

    leaves = [value.requires_grad_() for value in inputs if value.is_floating_point()]
    output = function(*inputs)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return [output, *torch.autograd.grad(output, leaves, gradient, allow_unused=True)]


def operator_cases():
    """Yields the name of each operator that has a CPU kernel and what it makes of seeded inputs."""
    import torch
    from mmcv import ops
    from mmcv.utils import ext_loader

    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(200, 2) * 30], 1)
    scores, labels = torch.rand(200), torch.randint(0, 5, (200,))
    rotated = torch.cat([corners, torch.rand(200, 2) * 30 + 1, torch.rand(200, 1) * 3], 1)
    quadri = torch.cat([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [2, 3]], boxes[:, [0, 3]]], 1)
    rois = torch.cat([torch.randint(0, 2, (200, 1)), boxes], 1)
    rotated_rois = torch.cat([rois[:, :1], rotated], 1)
    images = torch.randn(2, 8, 40, 48)

    yield "nms", ops.nms(boxes, scores, 0.5)
    yield "batched_nms", ops.batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5})
    for method in ("linear", "gaussian", "naive"):
        yield f"soft_nms {method}", ops.soft_nms(boxes, scores, 0.3, 0.5, 1e-3, method)
    yield "nms_match", [torch.tensor(group) for group in ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)]
    yield "nms_rotated", ops.nms_rotated(rotated, scores, 0.3, labels)
    yield "nms_quadri", ops.nms_quadri(quadri, scores, 0.3, labels)
    for mode in ("iou", "iof"):
        yield f"bbox_overlaps {mode}", [bbox_overlaps(boxes, boxes.flip(0), mode)]
        yield f"box_iou_rotated {mode}", [ops.box_iou_rotated(rotated, rotated.flip(0), mode)]
        yield f"box_iou_quadri {mode}", [ops.box_iou_quadri(quadri, quadri.flip(0), mode)]
    for mode in ("avg", "max"):
        for ratio in (0, 2):
            for aligned in (True, False):
                settings = (0.5, ratio, mode, aligned)
                yield (
                    f"roi_align {settings}",
                    with_gradients(lambda x, s=settings: ops.roi_align(x, rois, (7, 7), *s), images.clone()),
                )
    for clockwise in (True, False):
        yield (
            f"roi_align_rotated {clockwise}",
            with_gradients(
                lambda x, c=clockwise: ops.roi_align_rotated(x, rotated_rois, 7, 0.5, 2, True, c), images.clone()
            ),
        )

    weight = torch.randn(6, 8, 3, 3)
    offset, mask = torch.randn(2, 18, 40, 48), torch.rand(2, 9, 40, 48)
    yield (
        "deform_conv2d",
        with_gradients(lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1, 1, 1, 1, False, 2), images, offset, weight),
    )
    yield (
        "modulated_deform_conv2d",
        with_gradients(
            lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, 1, 1, 1, 1, 1),
            *(images.detach(), offset.detach(), mask, weight.detach(), torch.randn(6)),
        ),
    )
    for kind in ("collect", "distribute"):
        yield f"psa_mask {kind}", with_gradients(lambda x, k=kind: ops.PSAMask(k, (5, 5))(x), torch.randn(2, 25, 9, 8))
    angles = torch.randint(1, 9, (8, 3, 3, 8), dtype=torch.int32)
    yield (
        "active_rotated_filter",
        with_gradients(lambda x: ops.active_rotated_filter(x, angles), torch.randn(4, 3, 8, 3, 3)),
    )
    best = torch.rand(2, 10, 12, 5) * 20
    for points in (1, 5):
        yield (
            f"rotated_feature_align {points}",
            with_gradients(lambda x, p=points: ops.rotated_feature_align(x, best, 0.5, p), torch.randn(2, 8, 10, 12)),
        )

    cloud = torch.rand(500, 4) * 8
    boxes_3d = torch.cat([torch.rand(1, 10, 3) * 8, torch.rand(1, 10, 3) * 4, torch.rand(1, 10, 1)], 2)
    yield "points_in_boxes_cpu", [ops.points_in_boxes_cpu(cloud[None, :, :3].contiguous(), boxes_3d)]
    for most in (-1, 5):
        made = ops.voxelization(cloud, [1.0, 1.0, 1.0], [0, 0, 0, 8, 8, 8], most, 400, True)
        yield f"voxelization {most}", made if isinstance(made, tuple) else [made]

    kernels = torch.zeros(20, 20, dtype=torch.int32)
    kernels[3:6, 3:6], kernels[12:15, 10:16] = 1, 2
    grown = (torch.rand(3, 20, 20) > 0.2).to(torch.uint8)
    yield "contour_expand", [torch.tensor(ops.contour_expand(grown, kernels, 1, 3))]
    yield (
        "pixel_group",
        map(
            torch.tensor,
            ops.pixel_group(
                torch.rand(20, 20), grown[0] > 0, torch.rand(20, 20, 4), kernels, (kernels > 0).byte(), 3, 0.9
            ),
        ),
    )

    assert ext_loader.load_ext("_ext", ["nms"]).__file__.startswith(os.environ["PYTHONPATH"].split(os.pathsep)[0])


def bbox_overlaps(boxes, others, mode):
    """The compiled operator, which `mmcv.ops` calls for tensors on a GPU only."""
    from mmcv import _ext

    ious = boxes.new_zeros(len(boxes), len(others))
    _ext.bbox_overlaps(boxes, others, ious, mode={"iou": 0, "iof": 1}[mode], aligned=False, offset=0)
    return ious


def describe():
    """Prints the names that the extension exports and a digest of each operator's results, as JSON."""
    from mmcv import _ext

    import pipeline.compat  # noqa: F401  torchvision beside a CPU torch

    digests = {}
    for name, tensors in operator_cases():
        digest = hashlib.sha256()
        for tensor in tensors:
            if tensor is not None:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().numpy().tobytes())
        digests[name] = digest.hexdigest()
    signatures = {name: getattr(_ext, name).__doc__ for name in dir(_ext) if not name.startswith("__")}
    print(json.dumps({"signatures": signatures, "digests": digests}))


def built(folder, unity):
    """Wheel in `folder`, compiled now if it is not there, in the environment that this runs in."""
    if wheel := mmcv_wheel.cached_wheel(folder):
        return wheel
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    version = pins.read_pins().mmcv_full
    wheel = mmcv_wheel.build_wheel(Path(sys.prefix), version, mmcv_wheel.Target({}, ""), folder, unity)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{folder.name}: {time.monotonic() - started:.0f} s, {processor:.0f} s of processor time", flush=True)
    return wheel


def described(wheel):
    """What `describe` prints with the package of a wheel before that of the environment."""
    unpacked = wheel.with_suffix("")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(unpacked), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.mmcv_build", "--describe"]
    output = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, default=ROOT / "scratch" / "mmcv_build", help="folder of both wheels")
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.describe:
        return describe()
    folder = arguments.wheels.absolute()
    unity, plain = (described(built(folder / name, name == "unity")) for name in ("unity", "plain"))
    print(f"exported with equal signatures: {unity['signatures'] == plain['signatures']}, {len(plain['signatures'])}")
    for name, digest in plain["digests"].items():
        print(f"{name:32} {'equal' if unity['digests'][name] == digest else 'DIFFERENT'}")
    return int(unity != plain)


if __name__ == "__main__":
    sys.exit(main())
