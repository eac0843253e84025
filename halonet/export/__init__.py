"""Models for others: as programs that run without halonet (`programs`, checked by `parity`), and of what a command
line names, which may be a run (`source`), a folder of the Hugging Face Hub.
"""

from halonet.export.parity import Comparison
from halonet.export.programs import FORMATS, Exporter, Written

__all__ = ["FORMATS", "Comparison", "Exporter", "Written"]
