"""The certificate of a module: no period in what it makes of constants, or in the gradient that it hands back.

Source: Sugawara, Shiota, Kiya 2018, eq. 7 to 10.
"""

from gradlens.geometry.certificate.certifying import certify
from gradlens.geometry.certificate.verdicts import Certificate, Direction, Verdict

__all__ = ["Certificate", "Direction", "Verdict", "certify"]
