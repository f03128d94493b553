"""What a run notes of values that lie outside of the project: its data set's own, and recipes of a user's folders.

With these its recipe resolves where neither the data nor the folders are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from recipes.backbones.facts import is_told
from recipes.dataset_values import Described, wrong_values
from recipes.folders import DIGESTS


@dataclass(frozen=True)
class Noted(Described):
    """What its data set said of itself, and its recipes.

    Attributes:
        recipes: the values of files that lie in a folder of the user's, by the recipe's name: the run's own, and that
            of the first stage.
        networks: what a library said of the run's network, by what it was asked (recipes/backbones/facts.py).
        files: the digests of its files by their places, as its recipe.yaml has both.
    """

    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The same as canonical JSON, which `Noted.read` reads."""
        return json.dumps(self.__dict__, sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Noted:
        """Return what a text of `Noted.text` says."""
        return cls(**json.loads(text))


NOTHING = Noted()


def noted_in(meta: Mapping[str, Any], recipe: Mapping[str, Any]) -> Noted:
    """Return what a run notes; what has not the shape that it should is left out.

    Args:
        meta: the contents of its meta.json, which has the counts of its training edition.
        recipe: those of its recipe.yaml.
    """
    values, kind, recipes = (meta.get(key) for key in ("data_values", "data_kind", "recipe_values"))
    networks = meta.get("network_facts")
    counts = meta.get("class_counts")
    legal = not wrong_values({"values": values or {}, **({} if kind is None else {"kind": kind})})
    return Noted(
        "its data set",
        values if legal and isinstance(values, dict) else None,
        kind if legal else None,
        {str(recipe.get("train")): counts}
        if isinstance(counts, list) and all(type(count) is int for count in counts)
        else {},
        {name: own for name, own in recipes.items() if isinstance(own, dict)} if isinstance(recipes, dict) else {},
        {asked: told for asked, told in networks.items() if is_told(told)} if isinstance(networks, dict) else {},
        dict(_digests(recipe)),
    )


def _digests(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield place and digest of each file that a written-out recipe names."""
    for keys in DIGESTS.items():
        section = recipe.get(keys[0].partition(".")[0])
        place, digest = (section.get(key.partition(".")[2]) if isinstance(section, Mapping) else None for key in keys)
        if isinstance(place, str) and isinstance(digest, str):
            yield place, digest
