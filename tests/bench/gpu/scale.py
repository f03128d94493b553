"""How large everything is: `FULL` for a GPU, `TOY` for the tests, the same program on a CPU in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of the bench.

    Attributes:
        name: as the option `size=` has it.
        gpu: whether it runs on one.
        model: a file of ifl/models.
        sides: pixels of the crops' sides; the first is that of the recipes, the last of the public figures.
        batch, bn: images of a step, and those of a group of batch normalisation in a recipe's own choice.
        classes, images: of the data set; images of a class for training.
        real: JPEGs are like ImageNet's (tests/bench/loader/data.py); otherwise small painted pictures.
        backend: of torch.compile.
        features: the builder's network, a name of torchvision.
        warm, steps, rounds: steps before anything counts, steps of a round, and rounds at most.
        compile_s: what a compilation may take; without so much time it is left out. Seconds.
        workers: loader processes at most.
        resumed: steps of the run that is stopped half-way.
    """

    name: str
    gpu: bool
    model: str
    sides: tuple[int, ...]
    batch: int
    bn: int
    classes: int
    images: int
    real: bool
    backend: str
    features: str
    warm: int
    steps: int
    rounds: int
    compile_s: float
    workers: int
    resumed: int


FULL = Scale(
    name="full",
    gpu=True,
    model="resnext50_32x4d",
    sides=(112, 224),
    batch=256,
    bn=128,
    classes=1000,
    images=2,
    real=True,
    backend="inductor",
    features="resnet50",
    warm=8,
    steps=12,
    rounds=7,
    compile_s=60,
    workers=15,
    resumed=6,
)
TOY = Scale(
    name="toy",
    gpu=False,
    model="small_resnet",
    sides=(16,),
    batch=8,
    bn=4,
    classes=3,
    images=8,
    real=False,
    backend="eager",
    features="squeezenet1_1",
    warm=1,
    steps=1,
    rounds=2,
    compile_s=0,
    workers=1,
    resumed=2,
)
SCALES = {scale.name: scale for scale in (FULL, TOY)}
