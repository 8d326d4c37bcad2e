"""Sizes of MaskFormer and of the similarity net: the paper's by default, replaceable for smaller profiles."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.declaration.strict import Count, Natural, Positive, Strict, refused

Share = Annotated[float, Field(ge=0, lt=1)]


class Sizes(Strict):
    """Everything about the model that no experiment turns; the defaults are the full-size model.

    The backbone is not part of it: a run names one.

    Attributes:
        queries: proposals per image.
        channels: of the pixel decoder, the queries and the pixel embedding.
        decoder_layers, heads, feedforward: of the transformer.
        dropout: in the transformer: of attention weights, after attention, after each linear layer.
        norm_groups: groups of the pixel decoder's group normalisation.
        backbone_groups: groups of a group normalisation in the backbone, for one that starts from nothing and sees few
            images; 0 keeps its batch normalisation.
        similarity_channels, similarity_blocks: of the similarity net.
        class_weight, focal_weight, dice_weight: of the losses; the complementary loss is made of the latter two.
        no_object_weight: of the class "no object" in the classification loss.
    """

    queries: Count = 100
    channels: Count = 256
    decoder_layers: Count = 6
    heads: Count = 8
    feedforward: Count = 2048
    dropout: Share = 0.1
    norm_groups: Count = 32
    backbone_groups: Natural = 0
    similarity_channels: Count = 256
    similarity_blocks: Count = 3
    class_weight: Positive = 1.0
    focal_weight: Positive = 20.0
    dice_weight: Positive = 1.0
    no_object_weight: Positive = 0.1

    @model_validator(mode="after")
    def _divisible(self):
        if self.channels % 4:
            raise refused(f"is {self.channels}; valid: a multiple of 4, for the position encoding", "channels")
        for key in ("heads", "norm_groups"):
            if self.channels % getattr(self, key):
                raise refused(f"is {getattr(self, key)}; valid: what divides channels ({self.channels})", key)
        return self
