"""The studies of the papers, one file a paper. A new study is a value in a file's STUDIES."""

from halonet.studies.papers import botnet_paper, halonet_paper, vil_paper
from halonet.studies.study import Study

STUDIES: dict[str, Study] = {
    study.name: study for paper in (halonet_paper, botnet_paper, vil_paper) for study in paper.STUDIES
}
