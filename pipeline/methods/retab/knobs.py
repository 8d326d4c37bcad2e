"""The knobs of RETAB, our adaptation."""

from pydantic import Field

from pipeline.declaration.knobs import KnobSet


class Knobs(KnobSet):
    """What an experiment can turn.

    Attributes:
        sure: activation from which a cell is one of a novel class to those who learn affinities; below 1 - sure of all
            of them it is of none, between unknown. In place of the two dense CRFs of the released code.
    """

    sure: float = Field(gt=0.5, lt=1)
