"""What to say of a name that timm, torchvision or open_clip does not have. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

KNOWN = ("resnet50", "resnet50d", "vit_small_patch16_224", "vit_b_16", "convnext_tiny", "ViT-B-32", "RN50")
"""Names that a user hears of where none is near what was typed."""
MOST = 4
"""Names that a sentence offers."""


def offer(asked: str, legal: Sequence[str]) -> str:
    """Return the end of a sentence about a name that is not there: those near it, or how to have them all.

    Args:
        asked: LIBRARY:NETWORK, or a bare NETWORK of torchvision.
        legal: the names that the library has, without it.
    """
    library, colon, own = asked.rpartition(":")
    if shown := near(own, legal):
        return f"near are {', '.join(f'{library}{colon}{name}' for name in shown)}"
    known = ", ".join(f"{library}{colon}{name}" for name in KNOWN if name in legal)
    return (
        f"none of its {len(legal)} names is near{f', of which are {known}' if known else ''}; "
        f"`python -m ifl.pretrained list={library or 'torchvision'}` lists all"
    )


def near(own: str, legal: Sequence[str]) -> list[str]:
    """Return the few legal names that look like one that is not legal, or begin with it or hold it."""
    word, by_lower = own.lower(), {name.lower(): name for name in legal}
    close = difflib.get_close_matches(word, by_lower, n=MOST, cutoff=0.6)
    holding = sorted((name for name in by_lower if word in name), key=lambda name: (name.find(word), len(name)))
    return [by_lower[name] for name in dict.fromkeys([*close, *holding])][:MOST]
