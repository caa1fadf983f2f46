"""What the numbers of a study depend on, by content and not by name: the teacher before training, and the data.

A name (`model.py:Net`, `images.npz`) says nothing of what the file holds today. So a trained teacher is stored under
its fingerprint, a study records its own when it starts and goes on only with the same, and evaluations are shared
between equal ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace

from torch import Tensor

from esnac_lib.architecture.code_digest import code_digest
from esnac_lib.architecture.graph import Architecture
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError
from esnac_lib.files import digest
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.training.recipes import Recipe

KIND = "fingerprint"  # of the result in a ledger
STARTED, RESUMED = "started", "resumed"  # its name: recorded when the study began, or by a later run of an older study

_CAUSES = {"weights": {"architecture"}, "normalisation": {"training images", "training labels"}}
_WORDS = {  # for a part that has changed, and for what has to be put back
    "architecture": ("another architecture", "model file and what it imports"),
    "weights": ("other weights", "weights file, or the code that draws them"),
    "flip": ("another flip of the images", "data set"),
    "normalisation": ("another normalisation", "normalise"),
    "recipe": ("another recipe for its teacher", "recipe"),
}


@dataclass(frozen=True)
class Fingerprint:
    """Named parts, each in a few words and a digest of all that it holds. Equal texts: equal content."""

    parts: Mapping[str, str]

    @classmethod
    def of(
        cls, architecture: Architecture, weights: Mapping[str, Tensor], data: StudyData, recipe: Recipe | None = None
    ) -> Fingerprint:
        """Return the fingerprint of a teacher before its training by a recipe on the images of a study."""
        # statistics of the images differ in their last bits between machines
        mean, std = (",".join(f"{number:.9g}" for number in numbers) for numbers in data.normalisation)
        code = [code_digest(layer.code, numbers=True) for layer in architecture.layers if layer.code is not None]
        parts = {"architecture": _architecture(architecture), "weights": digest(weights, "".join(code))[:16]}
        parts |= data.dataset.content
        found = cls(parts | {"normalisation": f"{mean}/{std}"})
        return found.trained_by(recipe) if recipe else found

    def trained_by(self, recipe: Recipe) -> Fingerprint:
        """Return the same with the teacher's recipe as a part."""
        return Fingerprint({**self.parts, "recipe": _recipe(recipe)})

    def identity(self, *more: object) -> str:
        """Return 16 hexadecimal digits for these parts and more plain data."""
        text = json.dumps([dict(self.parts), *more], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def check(self, stored: Mapping[str, str], study: str, but: Collection[str] = ()) -> None:
        """Raise ConfigError, in one line, that names the parts which are not as a study has `stored` them."""
        changed = {part for part, now in self.parts.items() if part not in but and stored.get(part, now) != now}
        changed -= {part for part, causes in _CAUSES.items() if causes & changed}
        if changed:
            words = {part: _WORDS.get(part, (f"other {part}", "data set")) for part in self.parts if part in changed}
            other = [f"{word} (stored {stored[part]}, given {self.parts[part]})" for part, (word, _) in words.items()]
            old = " and the old ".join(dict.fromkeys(what for _, what in words.values()))
            advice = f"give the study another name, or put back the old {old}"
            raise ConfigError(f"study {study!r} was started with {', '.join(other)}: {advice}")


def check_content(ledger: Ledger, now: Fingerprint, teacher: Architecture, study: str) -> bool:
    """Return whether a ledger has a fingerprint to compare with.

    One from before there were fingerprints has the teacher's graph at most. Raises ConfigError where what is stored
    differs.
    """
    found = ledger.results(KIND)
    if stored := found.get(STARTED) or found.get(RESUMED):
        now.check(stored, study)
        return True
    graph = Fingerprint({"architecture": _architecture(Architecture.from_json(teacher.to_json()))})
    for trained in ledger.results("teacher").values():
        graph.check({"architecture": _architecture(Architecture.from_json(trained["architecture"]))}, study)
    return False


def _architecture(architecture: Architecture) -> str:
    """Describe a graph with the code of its opaque layers; where a reason says a place in a file, that is left out."""
    layers = tuple(replace(layer, reason="") for layer in architecture.layers)
    code = [code_digest(layer.code) for layer in layers if layer.code is not None]
    text = json.dumps([replace(architecture, layers=layers).to_json(), *code])
    found = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{len(layers)} layers with {architecture.num_params:,} parameters {found}"


def _recipe(recipe: Recipe) -> str:
    """Describe a recipe by what is not the default, so that a later version with more settings finds it the same."""
    given = asdict(recipe)
    defaults = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    own = {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
    return ", ".join(f"{name} {value}" for name, value in own.items())
