"""`halonet report`: a run's folder, several of them, or a study's, as one page that needs nothing else."""

from halonet.report.write import Options, write_report

__all__ = ["Options", "write_report"]
