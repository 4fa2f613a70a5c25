"""Networks defined here: published ones with the layer names of their weights, and those that `gradlens train` builds.

Published ones are filled with `gradlens.checkpoints.read_state` and `fill`; GANs also by `gradlens.models.generator` and
`discriminator` under the name `gradlens.networks:CLASS`. The weights and their licences stay with their owners. Of the others the
layer that enlarges or shrinks is an argument.
"""

from gradlens.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gradlens.networks.lapsrn import LapSRN
from gradlens.networks.mnist import MNISTDiscriminator, MNISTGenerator
from gradlens.networks.neutral import NeutralGenerator
from gradlens.networks.rebuilt import Rebuilt
from gradlens.networks.residual import ResidualGenerator
from gradlens.networks.srgan import SRGANGenerator
from gradlens.networks.staged import StagedDiscriminator, StagedGenerator
from gradlens.networks.style import StyleTransfer

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "LapSRN",
    "MNISTDiscriminator",
    "MNISTGenerator",
    "NeutralGenerator",
    "Rebuilt",
    "ResidualGenerator",
    "SRGANGenerator",
    "StagedDiscriminator",
    "StagedGenerator",
    "StyleTransfer",
]
