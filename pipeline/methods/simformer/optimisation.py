"""What the released configurations train with, where it is not one value for all parameters."""


def optimisation(settings: dict, knobs) -> dict:
    """As `Method.optimisation`: AdamW with a rate of its own for the backbone, no decay of norms and embeddings.

    Biases do decay. A profile with another optimiser keeps it as it is.
    """
    if settings["optimizer"]["type"] != "AdamW":
        return settings
    factors = {
        "custom_keys": {"backbone": {"lr_mult": knobs.backbone_rate}, "query_embed": {"decay_mult": 0.0}},
        "norm_decay_mult": 0.0,
    }
    return settings | {"optimizer": settings["optimizer"] | {"paramwise_cfg": factors}}
