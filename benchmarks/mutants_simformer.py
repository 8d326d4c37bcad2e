"""Wrong edits of SimFormer for `benchmarks.mutants`: name, file, text, its replacement, tests that should notice."""

ROOM = "pipeline/methods/simformer/"
TESTS = "tests/simformer/"
LAYER = f"{TESTS}test_reference.py -k layer"
PIXELS = f"{TESTS}test_reference.py -k 'similarity or distillation'"
TRAPS = f"{TESTS}test_traps.py -k 'd2 or d4 or d8 or d10 or shrink'"
TABLE = f"{TESTS}test_pairs.py"
WHOLE = f"{TESTS}test_model.py -k 'scores_are or initial_weights or only_if_told'"
NUMBERS = f"{TESTS}test_verify.py -k 'matcher or simnet.npz or retab or optimizer or mmdet_names'"
SEMANTIC, LABELS = "pipeline/tasks/semantic/", "tests/semantic/test_labelling.py"

ROWS = (
    (
        "novel targets before base ones",
        ROOM + "targets.py",
        "np.stack([base, novel & ~base], axis=1)",
        "np.stack([novel & ~base, base], axis=1)",
        LAYER,
    ),
    (
        "label maps shrink to the centre of a cell",
        ROOM + "targets.py",
        'mode="nearest")',
        'mode="nearest-exact")',
        TRAPS,
    ),
    (
        "masks that vanish have a cost",
        ROOM + "matching.py",
        "seen = small.flatten(2).any(2)[:, None]",
        "seen = targets.has_mask[:, None]",
        NUMBERS,
    ),
    ("alpha of the focal loss", ROOM + "matching.py", "ALPHA, GAMMA = 0.25, 2", "ALPHA, GAMMA = 0.5, 2", LAYER),
    (
        "novel targets in the mask loss",
        ROOM + "matching.py",
        "np.full_like(queries, image), queries, columns, columns < base]",
        "np.full_like(queries, image), queries, columns, columns >= 0]",
        LAYER,
    ),
    (
        "weight of no object",
        ROOM + "losses.py",
        "F.cross_entropy(logits.transpose(1, 2), wanted, weight)",
        "F.cross_entropy(logits.transpose(1, 2), wanted)",
        LAYER,
    ),
    (
        "padding is to be covered",
        ROOM + "losses.py",
        "truth = inside[images] & ~known(",
        "truth = ~known(",
        LAYER,
    ),
    (
        "images without a hidden pixel thin out the complementary loss",
        ROOM + "losses.py",
        "/ (counted.sum() + 1e-5)",
        "/ (len(images) + 1e-5)",
        TRAPS,
    ),
    (
        "no floor of the complementary loss",
        ROOM + "losses.py",
        "logits = torch.maximum(logits, floor)",
        "logits = torch.maximum(logits, logits)",
        LAYER,
    ),
    (
        "novel targets in the normaliser",
        ROOM + "head.py",
        "float(targets.base.sum())",
        "float(targets.counts.sum())",
        LAYER,
    ),
    (
        "last convolution is not initialised",
        ROOM + "head.py",
        "*decoder.output_convs, decoder.last_feat_conv):",
        "*decoder.output_convs):",
        WHOLE,
    ),
    (
        "student within an image",
        ROOM + "pixel_pairs.py",
        'other_image(scores) if self.student == "cross_image" else scores',
        "scores",
        TRAPS,
    ),
    (
        "the teacher moves the statistics",
        ROOM + "pixel_pairs.py",
        "self.compared(embedding, points, self.teacher_statistics)",
        "self.compared(embedding, points, True)",
        TRAPS,
    ),
    (
        "pairs of two base pixels alone",
        ROOM + "pixel_pairs.py",
        "base[:, :, None] | other_image(base)[:, None]",
        "base[:, :, None] & other_image(base)[:, None]",
        PIXELS,
    ),
    (
        "weights of the two kinds of pairs exchanged",
        ROOM + "pixel_pairs.py",
        "torch.where(same, positive, negative)",
        "torch.where(same, negative, positive)",
        PIXELS,
    ),
    ("every point is counted", ROOM + "pixel_pairs.py", "COUNTED = 5 ", "COUNTED = 1 ", NUMBERS),
    (
        "the similarity loss trains the embedding",
        ROOM + "pixel_pairs.py",
        "embedding.detach() if self.detach_embedding else embedding, points",
        "embedding, points",
        WHOLE,
    ),
    ("points lie anywhere", ROOM + "points.py", "JITTER = 0.1 ", "JITTER = 10 ", TABLE),
    ("half of the points of a class", ROOM + "points.py", "= 0.8, 0.2 ", "= 0.5, 0.5 ", TABLE),
    (
        "partners share novel classes, not one",
        ROOM + "pairs.py",
        "novel @ novel[image] == 1",
        "novel @ novel[image] >= 1",
        TABLE,
    ),
    (
        "one novel class is no reason for a partner",
        ROOM + "pairs.py",
        '(1 if rule == "one_common" else 2)',
        "2",
        TRAPS,
    ),
    (
        "padding is resized with the image",
        ROOM + "detector.py",
        "scores[None, :, :height, :width]",
        "scores[None]",
        WHOLE,
    ),
    (
        "flips stay",
        ROOM + "detector.py",
        'scores.flip(-1) if meta.get("flip") else scores',
        "scores",
        WHOLE,
    ),
    (
        "boundaries spread",
        "pipeline/methods/shared/retab.py",
        "dense * ~end + diagonal",
        "dense * end + diagonal",
        NUMBERS,
    ),
    (
        "rate of the backbone",
        ROOM + "optimisation.py",
        '{"lr_mult": knobs.backbone_rate}',
        '{"lr_mult": 1.0}',
        NUMBERS,
    ),
    (
        "labels of another seed",
        SEMANTIC + "pseudo.py",
        "training.labels, training.seed)",
        "training.labels, 0)",
        LABELS,
    ),
    (
        "labels of classes that the image does not show",
        SEMANTIC + "pseudo.py",
        "np.isin(prediction, novel_labels)",
        "prediction != IGNORE",
        LABELS,
    ),
    ("views without their mirror image", SEMANTIC + "steps.py", '"probability": 1.0}', '"probability": 0.0}', LABELS),
    ("labels identify no training", "pipeline/declaration/recipe.py", "if training.labels:", "if False:", LABELS),
    (
        "base pixels send what they seem to be of novel classes",
        "pipeline/methods/retab/detector.py",
        "cams * free",
        "cams",
        "tests/methods/test_retab.py -k spread",
    ),
)
