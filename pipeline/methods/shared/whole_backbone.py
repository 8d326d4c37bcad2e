"""The backbone of methods of label maps: as much of it trains as its profile says, all in the papers'."""

BOTTLENECK_DEPTH, BOTTLENECK_EXPANSION = 50, 4  # ResNets from this depth on widen each stage four times


def whole_backbone(backbone: dict, groups: int) -> dict:
    """A backbone's configuration; its batch normalisation stays frozen as authors have it.

    Args:
        backbone: as a profile has it; one that starts from nothing (`norm_eval: false`) trains its normalisation, too.
        groups: of a group normalisation in its place; 0 for none.
    """
    norm = {"type": "BN", "requires_grad": not backbone.get("norm_eval", True)}
    if groups:
        norm = {"type": "GN", "num_groups": groups, "requires_grad": True}
    return dict(backbone) | {"norm_cfg": norm}


def stage_channels(backbone: dict) -> list:
    """Channels of the stages that a ResNet or ResNeXt hands out."""
    expansion = BOTTLENECK_EXPANSION if backbone["depth"] >= BOTTLENECK_DEPTH else 1
    stages = backbone.get("out_indices", (0, 1, 2, 3))
    return [backbone.get("base_channels", 64) * 2**stage * expansion for stage in stages]
