"""Small networks of timm, and their library asked in this process instead of one of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VIT = (
    "model.name=timm:vit_tiny_patch16_224",
    "model.args.depth=2",
    "model.args.embed_dim=32",
    "model.args.num_heads=2",
    "model.args.patch_size=8",
    *(GROUPS := ("batch.bn=0", "batch.micro=8")),
)
"""Two blocks over 16 patches of an image of 32 pixels."""
CONVNEXT = ("model.name=timm:convnext_atto", "model.args.depths=[1,1,1,1]", "model.args.dims=[8,8,8,8]", *GROUPS)
RESNET = ("model.name=timm:resnet10t", "model.args.stem_width=8", "model.args.channels=[8,8,8,16]")
"""With batch normalisation."""


def asked_here(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Answer what the launcher asks of a library in this process, which has torch, and keep answers in `cache`."""
    from ifl.network import library_facts
    from ifl.pretrained import start_check
    from recipes.backbones import facts
    from recipes.schema import Recipe

    def answered(module: str, asked: str) -> dict[str, Any]:
        if module == facts.ASKED:
            return library_facts.answer(json.loads(asked))
        said = start_check.fault(Recipe.model_validate(json.loads(asked)))
        return {"fault": said} if said else {}

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(facts, "_ask", answered)
