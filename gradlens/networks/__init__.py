"""Networks defined here, one file each: plain modules with the layer names of the published weights.

They are filled with `gradlens.checkpoints.read_state` and `fill`; GANs also by `gradlens.models.generator` and
`discriminator` under the name `gradlens.networks:CLASS`. The weights and their licences stay with their owners.
"""

from gradlens.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gradlens.networks.lapsrn import LapSRN
from gradlens.networks.mnist import MNISTDiscriminator, MNISTGenerator
from gradlens.networks.srgan import SRGANGenerator
from gradlens.networks.style import StyleTransfer

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "LapSRN",
    "MNISTDiscriminator",
    "MNISTGenerator",
    "SRGANGenerator",
    "StyleTransfer",
]
