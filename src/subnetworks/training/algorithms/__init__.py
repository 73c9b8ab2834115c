"""The algorithms: one module each, with its settings and what it asks of the trainer.

A module's `SETTINGS` is the model of its settings. An on-policy one also has `options(job)`: verl's
options beyond those that all on-policy algorithms share; and `register()` if it has a trainer or an
estimator of advantages that verl does not know. One that learns from preferences has
`loss(log_probs, data, settings)` (`subnetworks.training.objectives.preferences`). torch and verl
are imported in functions alone, so that the workflow can read settings without them.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from subnetworks.core.imports import modules_in
from subnetworks.core.validation import Origin, Place, not_allowed
from subnetworks.training.settings import Settings

MODULES: dict[str, ModuleType] = modules_in(__name__)
# In the order of the paper's families: imitation, on-policy, preferences.
_KINDS = ("sft", "online", "preference")
ALGORITHMS: dict[str, type[Settings]] = {
    name: module.SETTINGS
    for name, module in sorted(
        MODULES.items(), key=lambda item: (_KINDS.index(item[1].SETTINGS.kind), item[0])
    )
}


def find(
    settings: Mapping[str, Any], origin: Origin | str = "settings", place: Place = ()
) -> type[Settings]:
    """The model of the algorithm that settings name; `UserError` lists those there are."""
    origin = Origin(origin) if isinstance(origin, str) else origin
    if "algorithm" not in settings:
        raise origin.error(place, f"missing key 'algorithm'; allowed: {', '.join(ALGORITHMS)}")
    algorithm = settings["algorithm"]
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise origin.error((*place, "algorithm"), not_allowed(algorithm, ALGORITHMS))
    return ALGORITHMS[algorithm]
