"""Fetch pretrained weights of timm, torchvision or open_clip where there is internet, for `model.weights=FILE`.

    python -m ifl.pretrained timm:vit_small_patch16_224 out=FILE.safetensors
    python -m ifl.pretrained torchvision:convnext_tiny out=FILE.safetensors [weights=IMAGENET1K_V1]
    python -m ifl.pretrained open_clip:ViT-B-32 out=FILE.safetensors weights=openai
    python -m ifl.pretrained list=timm:vit_small

timm's names take its tags, as in timm:vit_base_patch16_clip_224.openai; of torchvision `weights=` names one of several,
DEFAULT where it is left out, and of open_clip its tag; there the file holds both towers. The file holds the library's
entries, classifier included, under their own names. Prints its sha256.

`list=LIBRARY` prints the names of its networks, each with its weights; `list=LIBRARY:WORD` those whose names hold the
word, or match it where it has a `*`.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifl.pretrained.listing import listed
from recipes.backbones.facts import LIBRARIES, lacking, library_of
from recipes.common.cli import asks_help, split_word
from recipes.common.errors import RunError, one_line
from recipes.common.files import file_digest, write_whole
from recipes.common.output import ends_told, go_on_unread

SUFFIX = ".safetensors"
DEFAULT = "DEFAULT"


def fetch(name: str, out: Path, weights: str = DEFAULT) -> str:
    """Fetch a network's weights, write them as safetensors, and return the file's sha256.

    Args:
        name: LIBRARY:NETWORK.
        out: the file to write.
        weights: torchvision's name of them, or open_clip's tag.

    Raises:
        RunError: there is no such network or no weights of it, or they cannot be fetched from here.
    """
    from safetensors.torch import save

    from ifl.backbones.library import create, without_memory
    from sharding.images.torchvision_operators import define_missing

    if library_of(name) not in LIBRARIES:
        raise RunError(
            f"{name} is no network of a library: {' or '.join(f'{each}:NETWORK' for each in LIBRARIES)} is legal"
        )
    sentence = lacking(library_of(name))
    if sentence:
        raise RunError(sentence)
    if library_of(name) == "timm" and weights != DEFAULT:
        raise RunError(f"weights={weights} is not for timm: a tag of the name says which, as in {name}.TAG")
    if not out.parent.is_dir():
        raise RunError(f"out={out} is in no folder that is there: a file in one that is, is legal")
    without_memory(lambda: create(name, {}))  # refuses what is not there
    define_missing()
    try:
        state = _fetched(name, weights)
    except Exception as error:  # of a missing connection each library raises its own types
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(
            one_line(
                f"the weights of {name} could not be fetched: {why[0][:300]}: run this where there is internet and "
                "such weights exist, and copy the file"
            )
        ) from None
    tensors = {key: tensor.detach().contiguous() for key, tensor in state.items()}
    write_whole(out, save(tensors, metadata={"model": name}))
    return file_digest(out)


def _fetched(name: str, weights: str) -> dict[str, Any]:
    own = name.partition(":")[2]
    if library_of(name) == "timm":
        import timm

        return dict(timm.create_model(own, pretrained=True).state_dict())
    if library_of(name) == "open_clip":
        import open_clip

        return dict(open_clip.create_model(own, pretrained=weights).state_dict())
    from sharding.images.torchvision_cpu import torchvision

    return dict(torchvision.models.get_model(own, weights=weights).state_dict())


def main(words: Sequence[str]) -> int:
    """Do what the command says; returns the exit code."""
    if asks_help(words) or not words:
        print((__doc__ or "").strip())
        return 0 if words else 2
    name, given = words[0], dict(map(split_word, words[1:]))
    out, weights = given.pop("out", ""), given.pop("weights", DEFAULT)
    try:
        if name.startswith("list="):
            if len(words) > 1:
                raise RunError(f"{words[1]} is not legal with {name}, which stands alone")
            print("\n".join(listed(split_word(name)[1])))
            return 0
        if given or not out.endswith(SUFFIX):
            wrong = next(iter(given), f"out={out}")
            raise RunError(
                f"{wrong} is not legal: NAME out=FILE{SUFFIX} is, with weights=WHICH for torchvision and open_clip"
            )
        digest = fetch(name, Path(out), weights)
    except (RunError, OSError) as error:
        print(f"ifl.pretrained: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {name}, sha256 {digest}; use it by model.name={name} model.weights={out}")
    return 0


if __name__ == "__main__":
    go_on_unread()
    sys.exit(ends_told("ifl.pretrained", lambda: main(sys.argv[1:])))
