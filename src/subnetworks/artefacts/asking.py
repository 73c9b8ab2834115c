"""What an experiment asks of the artefacts: their specifications, checked and filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subnetworks.artefacts import every
from subnetworks.artefacts.base import FOLLOWED, Artefact, Specification, require_all
from subnetworks.core.files import canonical_json
from subnetworks.core.validation import Origin, Place, hint, not_allowed, parse
from subnetworks.experiment import Experiment
from subnetworks.experiment.facts import facts_of


@dataclass(frozen=True)
class Asked:
    """An artefact as an experiment asks for it; `spec` is None where it does not."""

    artefact: Artefact
    spec: Specification | None

    @property
    def reads(self) -> list[str]:
        """The results that it reads, relative to the experiment's folder, each once."""
        named = self.spec.named() if self.spec else ()
        files = (read.format(name) for _, mark, name in named for read in mark.reads)
        return list(dict.fromkeys(files))

    @property
    def told(self) -> str:
        """Its specification as canonical JSON."""
        return canonical_json(self.spec.model_dump(exclude_none=True) if self.spec else {})

    @property
    def named(self) -> list[str]:
        """The things of the experiment that it names, each once."""
        return list(dict.fromkeys(name for _, _, name in self.spec.named())) if self.spec else []

    @property
    def files(self) -> dict[str, str]:
        """Its files by suffix, relative to the experiment's folder."""
        kind, name = self.artefact.kind, self.artefact.name
        return {suffix[1:]: f"{kind}/{name}{suffix}" for suffix in self.artefact.suffixes}


def asked(experiment: Experiment) -> dict[str, Asked]:
    """Every artefact by name, with what the experiment says of it.

    Raises:
        UserError: the experiment asks for an artefact that is not known, sets a key of one that
            it does not have, or names a thing that the experiment does not have.
    """
    origin = experiment.origin
    known = every()
    for kind in ("tables", "figures"):
        names = [name for name, artefact in known.items() if artefact.kind == kind]
        for name in getattr(experiment, kind):
            if name not in names:
                raise origin.error(
                    experiment.place((kind, name))[:-1], not_allowed(name, names), name
                )
    return {
        name: Asked(artefact, _specification(artefact, experiment, origin))
        for name, artefact in known.items()
    }


def _specification(
    artefact: Artefact, experiment: Experiment, origin: Origin
) -> Specification | None:
    given = getattr(experiment, artefact.kind).get(artefact.name)
    if given is None:
        return None
    place = experiment.place((artefact.kind, artefact.name))
    spec = parse(artefact.specification, given, origin, place)
    _check(spec, _known(experiment), origin, place)
    filled = spec.filled(lambda section, name: facts_of(experiment, section, name))
    require_all(filled, origin, place)
    return filled


def _known(experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    """What the experiment has, by the sections of `Names`."""
    followed = {name: run for name, run in experiment.runs.items() if run.get("trajectory_every")}
    return {
        "runs": experiment.runs,
        "updates": experiment.updates,
        "overlaps": experiment.overlaps,
        "agreements": experiment.agreements,
        "benchmarks": experiment.benchmarks,
        "checkpoints": {**experiment.runs, **experiment.checkpoints},
        FOLLOWED: followed,
    }


def _check(
    spec: Specification,
    known: Mapping[str, Mapping[str, Any]],
    origin: Origin,
    place: Place,
) -> None:
    for key, mark, name in spec.named():
        there = known[mark.section]
        if name not in there:
            kind = "run with trajectory_every" if mark.section == FOLLOWED else mark.section[:-1]
            raise origin.error(
                (*place, key),
                f"no {kind} {name!r}{hint(name, there)}; "
                f"there are: {', '.join(sorted(there)) or 'none'}",
            )
