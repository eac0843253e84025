"""A local web page on which one drops a picture and sees where its pixels attend, and what a model answers.

What it can open is `choices`; `subjects` are models with their preprocessing, `pictures` what it was given,
`attention`, `answers` and `costs` what it tells. The `workbench` keeps all that, `app` are the routes, `guard` who may
use them, `server` the process. The page itself lies in `page`, plain HTML, CSS and JavaScript.
"""

from halonet.explore.server import explore

__all__ = ["explore"]
