"""What the released configurations train with, where it is not one value for all parameters."""

BACKBONE_RATE = 0.1  # of the learning rate


def optimisation(settings: dict, knobs) -> dict:
    """As `Method.optimisation`: AdamW with a tenth of the rate for the backbone, no decay of norms and embeddings.

    Biases do decay. A profile with another optimiser keeps it as it is.
    """
    if settings["optimizer"]["type"] != "AdamW":
        return settings
    factors = {
        "custom_keys": {"backbone": {"lr_mult": BACKBONE_RATE}, "query_embed": {"decay_mult": 0.0}},
        "norm_decay_mult": 0.0,
    }
    return settings | {"optimizer": settings["optimizer"] | {"paramwise_cfg": factors}}
