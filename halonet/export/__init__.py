"""Models for others: as programs that run without halonet (`programs`, checked by `parity`), and as folders of the
Hugging Face Hub made from a run (`hub_folder`).
"""

from halonet.export.parity import Comparison
from halonet.export.programs import FORMATS, Exporter, Written

__all__ = ["FORMATS", "Comparison", "Exporter", "Written"]
