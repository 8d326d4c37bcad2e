"""The knobs of OPMask."""

from typing import Literal

from pipeline.methods.shared.authors import SettingsKnobs
from pipeline.methods.shared.knobs import CAMKnobs


class Knobs(CAMKnobs, SettingsKnobs):
    """What of OPMask an experiment can turn.

    Attributes:
        box_head: own, the trunk of the released code with batch norm and widths that double; or shared, the box head of
            the detector that all methods start from where a profile trains one.
        head_norm: sync, statistics of the norms in mask head and own box head over the RoIs of all processes; or batch,
            over those of each.
        sync_variance: what several processes keep of the variance: biased, as the released code, or unbiased, as
            torch's batch norm.
    """

    box_head: Literal["own", "shared"]
    head_norm: Literal["sync", "batch"]
    sync_variance: Literal["biased", "unbiased"]
