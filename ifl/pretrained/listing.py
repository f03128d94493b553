"""Names of a library's networks, each with the weights that its publishers offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from recipes.backbones.facts import LIBRARIES, lacking
from recipes.common.cli import nearest
from recipes.common.errors import RunError
from sharding.images.torchvision_operators import define_missing


def listed(asked: str) -> Iterator[str]:
    """Yield a line for each network: its name as `model.name` takes it, and which weights there are of it.

    Args:
        asked: a library; or LIBRARY:WORD, the networks whose names hold the word, or match it where it has a `*`.

    Raises:
        RunError: there is no such library here, or no such name in it.
    """
    library, _, word = asked.partition(":")
    if library not in LIBRARIES:
        raise RunError(f"list={asked} names no library: {nearest(library, LIBRARIES)}")
    if sentence := lacking(library):
        raise RunError(sentence)
    define_missing()
    pattern = word.lower() if "*" in word else f"*{word.lower()}*"
    weights = _weights(library)
    found = [name for name in weights if fnmatchcase(name.lower(), pattern)]
    if not found:
        raise RunError(f"list={asked} finds none of the {len(weights)} names of {library}: list={library} lists all")
    for name in found:
        of_it = ", ".join(weights[name])
        yield f"{library}:{name}{of_it and f'  weights: {of_it}'}"


def _weights(library: str) -> Mapping[str, Sequence[str]]:
    """Return the names of a library's networks, each with the names of its weights: of timm the tags."""
    if library == "timm":
        import timm

        found: dict[str, list[str]] = {name: [] for name in timm.list_models()}
        for name, _, tag in (full.partition(".") for full in timm.list_models(pretrained=True)):
            found[name].append(tag or "(without a tag)")
        return found
    if library == "open_clip":
        import open_clip

        return {name: open_clip.list_pretrained_tags_by_model(name) for name in open_clip.list_models()}
    from sharding.images.torchvision_cpu import torchvision

    models = torchvision.models
    return {name: list(models.get_model_weights(name).__members__) for name in models.list_models(module=models)}
