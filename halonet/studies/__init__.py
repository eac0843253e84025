"""Tables and figures of the papers as sweeps: published beside measured, on any data set."""

from halonet.studies.papers import STUDIES
from halonet.studies.study import Row, Statement, Study

__all__ = ["STUDIES", "Row", "Statement", "Study"]
