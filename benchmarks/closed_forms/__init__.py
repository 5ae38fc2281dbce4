"""Every closed form beside the retrained network: ``python -m benchmarks.closed_forms``.

``config.json``  what is run: networks and their recipes, classes, closed forms with what may be chosen, measures
``quick.json``   the same in seconds, on the digits that come with scikit-learn
``networks/``    trained networks that take longer than a minute; the recipe in each manifest makes them again
``results/``     what the last committed run gave

The study itself is ``lashley.studies.closed_forms``. Finished networks and rows are kept in the config's ``work``
folder, so that a run that was stopped goes on.
"""

from __future__ import annotations
