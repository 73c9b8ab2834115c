"""What an experiment asks of the artefacts: their specifications, checked and filled in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from subnetworks.artefacts import every
from subnetworks.artefacts.base import FOLLOWED, Artefact, Names, Specification, require_all
from subnetworks.artefacts.turns import SUFFIX
from subnetworks.core.files import canonical_json
from subnetworks.core.validation import Origin, Place, hint, not_allowed, parse
from subnetworks.experiment import Experiment
from subnetworks.experiment.facts import facts_of, seeds_of


@dataclass(frozen=True)
class Asked:
    """An artefact as an experiment asks for it; `spec` is None where it does not.

    `turns` are what it is asked for at further seeds, `seeds` on how many its numbers rest (None
    where nothing is trained), `in_pairs` whether seeds are compared with each other.
    """

    artefact: Artefact
    spec: Specification | None
    turns: tuple[Specification, ...] = ()
    seeds: int | None = None
    in_pairs: bool = False

    @property
    def _named(self) -> Iterator[tuple[str, Names, str]]:
        for spec in (self.spec, *self.turns):
            yield from spec.named() if spec else ()

    @property
    def reads(self) -> list[str]:
        """The results that it reads, relative to the experiment's folder, each once."""
        files = (read.format(name) for _, mark, name in self._named for read in mark.reads)
        return list(dict.fromkeys(files))

    @property
    def over(self) -> str:
        """What it is told of seeds, as canonical JSON."""
        specs = [spec.model_dump(exclude_none=True) for spec in self.turns]
        return canonical_json({"n": self.seeds, "in_pairs": self.in_pairs, "turns": specs})

    @property
    def told(self) -> str:
        """Its specification as canonical JSON."""
        return canonical_json(self.spec.model_dump(exclude_none=True) if self.spec else {})

    @property
    def named(self) -> list[str]:
        """The things of the experiment that it names, each once."""
        return list(dict.fromkeys(name for _, _, name in self._named))

    @property
    def files(self) -> dict[str, str]:
        """Its files by suffix, relative to the experiment's folder."""
        kind, name = self.artefact.kind, self.artefact.name
        files = {suffix[1:]: f"{kind}/{name}{suffix}" for suffix in self.artefact.suffixes}
        return files | ({"seeds": f"{kind}/{name}{SUFFIX}"} if self.turns else {})


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
    return {name: _asked(artefact, experiment, origin) for name, artefact in known.items()}


def _asked(artefact: Artefact, experiment: Experiment, origin: Origin) -> Asked:
    given = getattr(experiment, artefact.kind).get(artefact.name)
    if given is None:
        return Asked(artefact, None)
    place = experiment.place((artefact.kind, artefact.name))
    spec = parse(artefact.specification, given, origin, place)
    _check(spec, _known(experiment), origin, place)

    def at(turn: int) -> Specification:
        def name(section: str, name: str) -> str:
            found = "updates" if section in (FOLLOWED, "runs") else section
            return experiment.replicates.at(found, name, turn)

        return spec.with_names(name).filled(
            lambda section, name: facts_of(experiment, section, name)
        )

    filled = at(0)
    require_all(filled, origin, place)
    further = [at(turn) for turn in range(1, len(experiment.replicates.seeds))]
    named = [(mark.section, name) for _, mark, name in filled.named()]
    return Asked(
        artefact,
        filled,
        tuple(further) if any(one != filled for one in further) else (),
        *seeds_of(experiment, named),
    )


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
