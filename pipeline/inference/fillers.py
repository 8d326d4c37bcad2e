"""What gives an object its mask from its box: the box itself, GrabCut, a trained detector, a box-prompted segmenter.

A filler is called with a picture [H, W, 3] uint8 BGR, boxes [N, 4] (x1, y1, x2, y2) in its pixels and class names, N
of them, and gives N times a mask [H, W] bool and its confidence in [0, 1], None where it has none. `source` says in the
annotation file where a mask comes from, `identity` all that it depends on.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import hashlib
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.core import bbox2roi

from pipeline.declaration import strict
from pipeline.errors import ExperimentError
from pipeline.inference.drawing import fitted
from pipeline.inference.loading import steps
from pipeline.methods.grabcut import cut
from pipeline.methods.grabcut.cut import filled

TOGETHER = 64  # boxes of an image that a detector segments at a time


class FilledBox:
    """All of the box: what a mask has to beat."""

    source, identity = "filled_box", {}

    def __call__(self, image, boxes, names):
        return [(filled(image.shape, box), None) for box in boxes]


class GrabCut:
    """GrabCut (Rother et al., SIGGRAPH 2004) from a rectangle: what colours alone tell, without any training.

    The background is learned from a margin around the box. Large crops are shrunk; the same crop gives the same mask.
    """

    source = "grabcut"
    MARGIN = 0.5  # of the box's sides, on each side
    SIDE = 400  # pixels of the crop's longer side, at most
    ITERATIONS = 5
    identity = {"margin": MARGIN, "side": SIDE, "iterations": ITERATIONS, "opencv": cv2.__version__}

    def __call__(self, image, boxes, names):
        return [(self.cut(image, box), None) for box in boxes]

    def cut(self, image, box, first=None):
        """The mask [H, W] bool of one box.

        Args:
            image: [H, W, 3] uint8.
            box: [4].
            first: [H, W] bool, where to begin: what is probably foreground. None: all of the box.
        """
        height, width = image.shape[:2]
        x1, y1, x2, y2 = box
        wide, tall = (x2 - x1) * self.MARGIN, (y2 - y1) * self.MARGIN
        left, top = max(0, int(x1 - wide)), max(0, int(y1 - tall))
        right, bottom = min(width, int(np.ceil(x2 + wide))), min(height, int(np.ceil(y2 + tall)))
        crop = np.ascontiguousarray(fitted(image[top:bottom, left:right], self.SIDE))
        factor = np.array(crop.shape[1::-1]) / (right - left, bottom - top)
        inner = filled(crop.shape, np.concatenate([(box[:2] - (left, top)) * factor, (box[2:] - (left, top)) * factor]))
        whole = filled(image.shape, box)
        mask = whole if first is None or not (first & whole).any() else first & whole
        # As with a rectangle: outside is background for certain, inside probably foreground.
        begun = inner
        if mask is not whole:
            begun = mask[top:bottom, left:right].astype(np.uint8)
            begun = cv2.resize(begun, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        state = np.where(begun, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        state[~inner] = cv2.GC_BGD
        refined = cut.cut(crop, state, self.ITERATIONS)
        if refined is None:  # no background to learn from, or fewer pixels than colours to tell apart
            return mask
        found = cut.is_object(refined[0]).astype(np.uint8)
        found = cv2.resize(found, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST).astype(bool)
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = found
        inside &= whole
        return inside if inside.any() else mask


class Model:
    """The mask head of a detector on the given boxes, with the class activation map of the given class.

    Confidence is the mean of max(p, 1 - p) over the box, from 0.5 (it cannot tell) to 1, p the probability of the mask.

    Args:
        detector: models.Detector.
    """

    def __init__(self, detector):
        if not getattr(detector.model.roi_head, "with_mask", False):
            raise ExperimentError(f"{detector.title}: has no mask head; complete with what it takes: --by grabcut")
        self.detector, self.steps = detector, steps(detector.steps)
        self.source = f"{detector.title} ({detector.identity['weights'][:12]})"
        self.identity = detector.identity

    def require(self, names, where):
        """Refuse class names that the detector does not have; `where` says what has them."""
        for name in names:
            if name not in self.detector.names:
                known = strict.options(name, self.detector.names)
                raise ExperimentError(
                    f"{where}: class {name!r} is none of {self.detector.title}{known}; rename it there, or name "
                    "those to complete: --classes"
                )

    @torch.no_grad()
    def __call__(self, image, boxes, names):
        info = {"image": image, "path": "", "height": image.shape[0], "width": image.shape[1]}
        sample = self.steps({"img_info": info})
        meta = sample["img_metas"][0].data
        model, device = self.detector.model, self.detector.device
        features = model.extract_feat(sample["img"][0].data[None].to(device))  # a tensor, or a container of one
        scale = np.broadcast_to(np.asarray(meta["scale_factor"], np.float32), 4).copy()
        frames = torch.from_numpy(np.asarray(boxes, np.float32) * scale).to(device)
        labels = torch.tensor([self.detector.names.index(name) for name in names], device=device)
        found = []
        for frame, label in zip(frames.split(TOGETHER), labels.split(TOGETHER), strict=True):
            found += self._segment(features, frame, label, meta["ori_shape"], scale)
        return found

    def _segment(self, features, frames, labels, shape, scale):
        head = self.detector.model.roi_head
        rois = bbox2roi([frames])
        if hasattr(head, "detection_masks"):  # ours: with the map of the given class, not of the one it would detect
            logits = head.detection_masks(features, rois, labels, head._refined_cam(features, rois, labels))
        else:
            logits = head._mask_forward(features, rois)["mask_pred"]
        by_class = head.mask_head.get_seg_masks(logits, frames, labels, head.test_cfg, shape, scale, True)
        by_class = [iter(masks) for masks in by_class]
        rows = torch.zeros_like(labels) if logits.shape[1] == 1 else labels
        cells = logits[torch.arange(len(rows), device=rows.device), rows].sigmoid()
        sure = torch.maximum(cells, 1 - cells).mean((-2, -1)).tolist()
        return [
            (np.asarray(next(by_class[label]), bool), confidence)
            for label, confidence in zip(labels.tolist(), sure, strict=True)
        ]


class Refined:
    """A detector's masks, drawn anew along the colours: GrabCut begins with what the detector takes for the object.

    The detector knows what kind of thing it looks for and is coarse; GrabCut is exact and takes any colour of the box
    for the object. Confidence is the detector's.

    Args:
        model: `Model`.
    """

    def __init__(self, model):
        self.model, self.grabcut = model, GrabCut()
        self.source = f"{model.source}, then grabcut"
        self.identity = {"model": model.identity, "grabcut": GrabCut.identity}

    def require(self, names, where):
        self.model.require(names, where)

    def __call__(self, image, boxes, names):
        begun = self.model(image, boxes, names)
        return [(self.grabcut.cut(image, box, mask), sure) for box, (mask, sure) in zip(boxes, begun, strict=True)]


class Segmenter:
    """A segmenter prompted by boxes, as ONNX: one file, or encoder and decoder as Segment Anything exports them.

    One file has an input of four dimensions, the picture [1, 3, H, W] float32 RGB in [0, 255], and one for the boxes
    [N, 4] or [1, N, 4] (x1, y1, x2, y2) in its pixels; its first output are the logits of N masks [.., H, W], a second
    one, if any, N scores in [0, 1].

    Args:
        files: one path, or two.

    Raises:
        ExperimentError: onnxruntime is not installed, or a file is missing or no model of this kind.
    """

    SIDE = 1024  # of what the encoder of Segment Anything takes
    MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, files):
        try:
            import onnxruntime
        except ImportError:
            raise ExperimentError(
                "--segmenter: onnxruntime is not installed; install it with `python -m pip install onnxruntime`"
            ) from None
        self.sessions = []
        digest = hashlib.sha256()
        for path in map(Path, files):
            if not path.is_file():
                raise ExperimentError(f"{path}: no such file; name the ONNX file of a segmenter: --segmenter FILE")
            content = path.read_bytes()
            digest.update(content)
            try:
                self.sessions.append(onnxruntime.InferenceSession(content, providers=_providers(onnxruntime)))
            except Exception as error:  # onnxruntime's own are many
                raise ExperimentError(
                    f"{path}: not an ONNX model that onnxruntime loads ({type(error).__name__})"
                ) from None
        self.source = f"{Path(files[0]).name} ({digest.hexdigest()[:12]})"
        self.identity = {"segmenter": digest.hexdigest(), "onnxruntime": onnxruntime.__version__}
        ranks = [len(each.shape) for each in self.sessions[0].get_inputs()]
        if (len(self.sessions) == 1 and (len(ranks) != 2 or 4 not in ranks)) or 4 not in ranks:
            raise ExperimentError(f"{files[0]}: takes no picture and boxes; docs/predict.md says what it has to take")

    def __call__(self, image, boxes, names):
        rgb = np.ascontiguousarray(image[..., ::-1]).astype(np.float32)
        boxes = np.asarray(boxes, np.float32)
        return self._prompted(rgb, boxes) if len(self.sessions) == 1 else self._encoded(rgb, boxes)

    def _prompted(self, rgb, boxes):
        (session,) = self.sessions
        picture, prompt = sorted(session.get_inputs(), key=lambda each: -len(each.shape))
        prompts = boxes[None] if len(prompt.shape) == 3 else boxes
        logits, *scores = session.run(None, {picture.name: rgb.transpose(2, 0, 1)[None], prompt.name: prompts})
        masks = logits.reshape(len(boxes), -1, *rgb.shape[:2])[:, 0] > 0
        scores = np.clip(scores[0].reshape(len(boxes), -1)[:, 0], 0, 1).tolist() if scores else [None] * len(boxes)
        return list(zip(masks, scores, strict=True))

    def _encoded(self, rgb, boxes):
        encoder, decoder = self.sessions
        height, width = rgb.shape[:2]
        factor = self.SIDE / max(height, width)
        small = cv2.resize(rgb, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_LINEAR)
        padded = np.zeros((self.SIDE, self.SIDE, 3), np.float32)
        padded[: small.shape[0], : small.shape[1]] = (small - self.MEAN) / self.STD
        (embedding, *_) = encoder.run(None, {encoder.get_inputs()[0].name: padded.transpose(2, 0, 1)[None]})
        found = []
        for box in boxes:
            masks, scores, *_ = decoder.run(
                None,
                {
                    "image_embeddings": embedding,
                    "point_coords": (box * factor).reshape(1, 2, 2).astype(np.float32),
                    "point_labels": np.array([[2, 3]], np.float32),  # a box's corners
                    "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                    "has_mask_input": np.zeros(1, np.float32),
                    "orig_im_size": np.array([height, width], np.float32),
                },
            )
            best = int(scores[0].argmax())
            found.append((masks[0, best] > 0, float(np.clip(scores[0, best], 0, 1))))
        return found


def _providers(onnxruntime):
    """Where it runs: on a GPU if this onnxruntime has one."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]
