"""Zero-shot classification (CLIP, Radford et al., ICML 2021, section 3.1.2).

A class is a vector made from its name by a text tower (`method.text`), and an image belongs to the class whose vector
has the largest cosine with its features. Nothing is trained: the run evaluates the backbone with the weights that its
recipe gives it.
"""

from __future__ import annotations

from torch import nn

from ifl.method import BaseMethod
from ifl.network.heads import CosineHead

TRAINS = "nothing"
ARGS = {
    "scale": 100.0,  # of the logits; the largest that CLIP's training allows, and that of its released models
}
HEAD = "cosine"
POSITIVE = ("scale",)
NEEDS = {"text": "its class vectors are made from text"}


class Method(BaseMethod):
    def head(self) -> nn.Module:
        return CosineHead(self.task.feature_dim, len(self.task.class_counts), self.task.args["scale"])
