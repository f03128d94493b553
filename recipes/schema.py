"""The recipe: every value that a run depends on, typed, strict and documented in one place.

A field is *science* if it may change a number in the table, or *operation* if it only changes where and how fast the
run goes. The science fields that differ from the defaults below make the hash in the run's name, so a field added
later must default to the old behaviour. Nothing here imports torch: the launcher must answer within half a second.
"""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from recipes.declarations import declaration
from recipes.identity import hash8
from recipes.sbatch import options as sbatch
from recipes.values import REAL, WHOLE, as_typed

PROJECT = Path(__file__).resolve().parent.parent
MOST_PROFILED = 100
"""Steps of one profile: a trace takes about a megabyte for each."""


def science(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a field that may change a number in the table."""
    return Field(default, description=doc, json_schema_extra={"science": True}, **limits)


def operation(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a field that only changes where and how fast the run goes."""
    return Field(default, description=doc, json_schema_extra={"science": False}, **limits)


def _plain(value: str) -> str:
    """Check a value for SLURM: on a command line and in a batch file no shell may read anything in it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.,:=/@+-]{0,199}", value):
        raise ValueError(
            "only letters, digits and _ . , : = / @ + - are legal, 200 at most, and it starts with a letter or digit"
        )
    return value


def _features(value: str) -> str:
    """Check node features, with SLURM's signs between them; a shell would read some, so the batch file quotes them."""
    if not re.fullmatch(r"[A-Za-z0-9\[(][A-Za-z0-9_.,:=/@+&|*\[\]()-]{0,199}", value):
        raise ValueError(
            "only letters, digits and _ . , : = / @ + - & | * [ ] ( ) are legal, 200 at most, and it starts with a "
            "letter, a digit, [ or ("
        )
    return value


def _steps(value: str) -> str:
    """Check the steps of a profile."""
    found = re.fullmatch(r"([0-9]{1,12}):([0-9]{1,12})", value)
    if not found or not 0 < int(found[2]) - int(found[1]) <= MOST_PROFILED:
        raise ValueError(
            "two steps are legal, FIRST:END, such as 100:105 for the five from step 100 to step 105, "
            f"{MOST_PROFILED} of them at most"
        )
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,99}", value):
        raise ValueError("a name has lower-case letters, digits and _ only, 100 of them at most")
    return value


def _model_name(value: str) -> str:
    if ":" not in value:
        return _name(value)
    if not re.fullmatch(r"(timm|torchvision|open_clip):[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value):
        raise ValueError("a file of ifl/models is legal, or timm:NETWORK, torchvision:NETWORK or open_clip:NETWORK")
    return value


def _argument(value: Any) -> Any:
    """Read an argument of a network's factory: a number, true or false, a text, or a list of such."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = [part.strip() for part in value[1:-1].split(",") if part.strip()]
    if isinstance(value, list | tuple):
        if any(isinstance(item, list | tuple | dict) or str(item).startswith("[") for item in value):
            raise ValueError("a list of numbers or texts is legal, without lists in it")
        return [_argument(item) for item in value]
    if isinstance(value, str):
        if not value.strip() or not value.isprintable() or len(value) > 200:
            raise ValueError("a printable text of 1 to 200 characters is legal")
        if WHOLE.fullmatch(value) or REAL.fullmatch(value):
            return as_typed(value, float)
        return {"true": True, "false": False}.get(value, value)
    if value is not None and type(value) not in (bool, int, float):
        raise ValueError("a number, true, false, a text or a list of such is legal")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is legal")
    return value


def _argument_name(value: str) -> str:
    if not re.fullmatch("[a-z_][a-z0-9_]{0,49}", value):
        raise ValueError("an argument's name has lower-case letters, digits and _ only")
    return value


def _minutes(value: Any) -> Any:
    """Read a time limit as minutes, from minutes or from one of SLURM's unmistakable forms.

    A begun minute counts whole, as in SLURM.
    """
    if not isinstance(value, str):
        return value
    number = "([0-9]{1,6})"
    for form in (number, f"(){number}:{number}:{number}", f"{number}-{number}(?::{number}(?::{number})?)?"):
        if match := re.fullmatch(form, value):
            parts = [int(part or 0) for part in match.groups()]
            if len(parts) == 1:
                return parts[0]
            days, hours, minutes, seconds = parts
            if minutes < 60 and seconds < 60 and (not days or hours < 24):
                return days * 1440 + hours * 60 + minutes + -(-seconds // 60)
    raise ValueError("minutes, HH:MM:SS, D-HH, D-HH:MM and D-HH:MM:SS are legal")


def _memory(value: Any) -> Any:
    """Read memory as SLURM writes it, from a number of GB or from a number with its unit."""
    text = str(value)
    if re.fullmatch("[0-9]{1,7}", text):
        text = f"{int(text)}G" if int(text) else "0"
    if isinstance(value, bool) or not re.fullmatch(r"0|[1-9][0-9]{0,6}[MGT]", text):
        raise ValueError("480G, 512M, 1T or a number of GB are legal, and 0 for all that a node has")
    return text


Plain = Annotated[str, AfterValidator(_plain)]
Modules = Annotated[list[Plain], BeforeValidator(lambda value: [] if value is None else value)]
Steps = Annotated[str, AfterValidator(_steps)]
Features = Annotated[str, AfterValidator(_features)]
Minutes = Annotated[int, BeforeValidator(_minutes)]
Memory = Annotated[str, BeforeValidator(_memory)]
Gpus = Annotated[int | str, BeforeValidator(sbatch.gpus_of_a_node)]
OptionName = Annotated[str, AfterValidator(sbatch.checked_name)]
OptionValue = Annotated[Any, AfterValidator(sbatch.checked_value)]
Options = Annotated[dict[OptionName, OptionValue], BeforeValidator(sbatch.mapping), AfterValidator(sbatch.given)]
Name = Annotated[str, AfterValidator(_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Arguments = Annotated[
    dict[Annotated[str, AfterValidator(_argument_name)], Annotated[Any, AfterValidator(_argument)]],
    AfterValidator(lambda given: {key: value for key, value in given.items() if value is not None}),
]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Read a text by the field's type; true is no number: `seed: true` is a slip, not seed 1."""
        return as_typed(value, cls.model_fields[str(info.field_name)].annotation)


class Data(Section):
    name: Name = operation("imagenet_glt", "the data set; it stands in the run's name")
    root: str | None = operation(
        None,
        (
            "folder that holds NAME/dataset.json, or the http(s) address of one, or pipe: for the site file's "
            "command; default: data/ in the project"
        ),
    )
    decoder: Literal["turbojpeg", "torchvision", "simplejpeg", "pillow", "nvjpeg"] | None = science(
        None,
        (
            "what decodes JPEGs; default: the first of these that all ranks have, which a run then keeps; nvjpeg, only "
            "where it is asked for: on each rank's GPU, with crop, resizing and RandAug there"
        ),
    )
    cache: Literal["none", "decoded"] = operation(
        "none",
        (
            "decoded: a node keeps the decoded images of the training set, and the test crops, in data.cache_folder, "
            "for all its ranks and later runs; none: a rank without workers keeps those of small sets in its memory"
        ),
    )
    cache_short_side: int | None = science(
        None,
        (
            "training images are first made this small (shorter side, pixels, never enlarged), which makes a decoded "
            "cache small too"
        ),
        ge=8,
        le=4096,
    )
    cache_folder: str | None = operation(
        None,
        (
            "folder on a node's own disk or in its memory for what it decoded or fetched; default: glt-cache-UID in "
            "the temporary folder"
        ),
    )
    cache_gb: float | None = operation(
        None,
        (
            "most that a node keeps there, of shards from afar or of decoded images, and of each half of it where a "
            "run has both, GB; default: nine tenths of what is free"
        ),
        gt=0,
        le=1e6,
    )
    workers: int | None = operation(
        None,
        (
            "loader processes of each rank; 0 loads in the training process; default: on SLURM one less than "
            "slurm.cpus_per_task, here 2"
        ),
        ge=0,
        le=64,
    )
    image_size: int = science(112, "side of the training and test crops, pixels", ge=8, le=1024)
    test_resize: int = science(128, "shorter side before the central test crop, pixels", ge=8, le=1024)
    mean: tuple[Unit, Unit, Unit] = science((0.485, 0.456, 0.406), "channel means, of pixels in 0..1")
    std: tuple[Spread, Spread, Spread] = science(
        (0.229, 0.224, 0.225), "channel standard deviations, of pixels in 0..1"
    )
    shuffle_window: int = science(0, "0 shuffles the whole epoch; k shuffles inside windows of k permuted shards", ge=0)
    features: Literal["none", "once"] = science(
        "none",
        (
            "once: with model.train=head the backbone's features of all splits are computed once, kept beside the data "
            "for all runs, and read instead of images; none: images are read"
        ),
    )
    feature_views: int = science(
        0,
        (
            "of features=once: augmented views of each training image, of which a draw takes one; 0: its test crop "
            "alone, and nothing of augment"
        ),
        ge=0,
        le=64,
    )

    @model_validator(mode="after")
    def _decodes_on_one_side(self) -> Data:
        if self.decoder == "nvjpeg":
            for key, why in (
                ("cache", "=decoded: a cache on the host would keep what is decoded on the device"),
                ("cache_short_side", ": nvjpeg cuts its crops from whole images"),
                ("features", "=once: each image is read once there, and on the host"),
            ):
                if getattr(self, key) not in (None, "none"):
                    raise ValueError(f"data.decoder=nvjpeg does not go with data.{key}{why}")
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> Data:
        if self.test_resize < self.image_size:
            raise ValueError(
                f"data.test_resize={self.test_resize} is smaller than data.image_size={self.image_size}, which is cut "
                "from it"
            )
        return self


class Model(Section):
    name: ModelName = science(
        "resnext50_32x4d", "a file of ifl/models, or timm:NETWORK, torchvision:NETWORK or open_clip:NETWORK"
    )
    init: Literal["own", "torch"] = science(
        "own",
        (
            "how its convolutions start: as the model's file says (those of the suite: He, fan-out), or torch: as "
            "torch leaves a new Conv2d, which the reference does in BBN"
        ),
    )
    args: Arguments = science(
        {}, "arguments of the network's factory in its library; null leaves out what a weaker layer sets"
    )
    weights: str | None = operation(
        None,
        (
            "file of pretrained weights: safetensors by its suffix, or a torch file of tensors alone; its content "
            "counts as science, by weights_sha256"
        ),
    )
    weights_sha256: Sha256 | None = science(
        None, "what that file holds, written in when the recipe is resolved; given, another file is refused"
    )
    prefix: str | None = science(
        None, "beginning of the entries' names in that file that is cut off, such as module. ; others are left out"
    )
    train: Literal["all", "head", "lora", "adapter", "norm"] = science(
        "all",
        (
            "what of it trains besides the classifier: all, nothing (head), low-rank updates of its linear layers "
            "(lora), AdaptFormer's bottlenecks beside its MLPs (adapter), or its normalisations"
        ),
    )
    rank: int | None = science(
        None, "rank of LoRA's updates, or width of an adapter's bottleneck; default: lora 8, adapter 64", ge=1, le=4096
    )
    alpha: float | None = science(
        None,
        "LoRA's updates count alpha / rank (default: alpha = rank), an adapter's output alpha (default: .1)",
        gt=0,
        le=1e4,
    )
    drop_path: float | None = science(
        None,
        (
            "stochastic depth: the largest share of rows that a residual branch leaves out; default: the model's own, "
            "0 for most"
        ),
        ge=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _one_start(self) -> Model:
        if self.init == "torch" and (self.weights or self.weights_sha256):
            raise ValueError("model.init=torch and model.weights exclude each other: a network has one start")
        if self.prefix and self.name.startswith("open_clip:"):
            raise ValueError(
                f"model.prefix={self.prefix} is not for open_clip, which reads its checkpoints itself: leave it out"
            )
        if self.prefix and not (self.weights or self.weights_sha256):
            raise ValueError(f"model.prefix={self.prefix} is for model.weights, which is not given")
        return self

    def lacking(self) -> str:
        """Say in one sentence that a package is not installed here; empty where it is."""
        if self.train != "lora" or importlib.util.find_spec("peft"):
            return ""
        return (
            "model.train=lora needs the package peft, which is not installed: `.venv/bin/python -m pip install peft`, "
            "or another value of model.train"
        )

    @property
    def width(self) -> int:
        """The rank of LoRA's updates, or the width of an adapter's bottleneck."""
        return self.rank or {"adapter": 64}.get(self.train, 8)

    @property
    def scale(self) -> float:
        """What the output of LoRA's updates, or of an adapter, is multiplied by."""
        if self.train == "adapter":
            return 0.1 if self.alpha is None else self.alpha
        return 1.0 if self.alpha is None else self.alpha / self.width


class Method(Section):
    name: Name = science("ce", "a file of ifl/methods")
    args: dict[str, float | int | bool | str] = science({}, "the method's own arguments: those of ARGS in its file")
    init_from: Plain | None = science(
        None, "first stage: a recipe, or the run of one, whose last weights this one starts from"
    )
    eval_of: Plain | None = science(
        None, "trains nothing and judges the weights of this recipe, or run of one, by the method's own rule"
    )
    text: str | None = operation(
        None,
        "file of class vectors made from text, from which the classifier starts (docs/clip.md); counts by its digest",
    )
    text_sha256: Sha256 | None = science(None, "digest of the file method.text; the launcher writes it here")
    legacy_count_order: bool = science(
        False,
        (
            "class counts in the order of the class ids as text (0, 1, 10, 100, ...), a defect of the reference that "
            "shaped its numbers; no preset sets it"
        ),
    )


class Ifl(Section):
    """Invariant feature learning on top of any method (ECCV 2022, section 4); `ifl: null` switches it off."""

    environments: int = science(
        2, "environment 1 is the training set, 2..n are re-weighted; 1 keeps the center term alone", ge=1, le=8
    )
    milestones: list[int | float] = science(
        [0.6, 0.8],
        (
            "fractions of the epochs (or whole epochs, 0-based): the center term starts or changes there, and the "
            "environments are rebuilt after that epoch"
        ),
    )
    alpha: list[float] = science([0.001, 0.005], "weight of the center term from each milestone on; 0 before the first")
    sample_scale: float = science(
        4.0, "wanted ratio of mean weights, least confident fifth : rest of a class, in the last environment", gt=1
    )
    class_balanced: bool = science(True, "environments 2..n give every class the same mass (the reference's choice)")
    rebuild: Literal["milestones", "every_epoch"] = science(
        "milestones", "when the environments are rebuilt: after the epochs of the milestones, or after each"
    )
    unseen: Literal["zero", "class_mean"] | None = science(
        None, "weight of a sample not drawn in the scoring epoch; default: the preset's"
    )
    center: Literal["l2", "cosine"] = science(
        "l2", "distance of a feature to its class center: squared L2, or 1 - cosine"
    )
    center_lr: float = science(0.5, "SGD rate of the centers", ge=0)
    center_init: Literal["normal", "class_means"] = science(
        "normal",
        (
            "the centers start from N(0, 1), as the reference's, or from the class means of the features seen in the "
            "epoch before the first milestone"
        ),
    )

    @model_validator(mode="after")
    def _one_alpha_each(self) -> Ifl:
        if len(self.alpha) != len(self.milestones):
            raise ValueError(
                f"ifl.alpha has {len(self.alpha)} values and ifl.milestones {len(self.milestones)}; one alpha for "
                "each milestone is legal"
            )
        if sorted(set(self.milestones)) != self.milestones or any(m < 0 for m in self.milestones):
            raise ValueError(f"ifl.milestones={self.milestones} must rise from 0 or more")
        if any(a < 0 for a in self.alpha):
            raise ValueError(f"ifl.alpha={self.alpha} must not be negative")
        return self


class Augment(Section):
    crop_scale: tuple[Unit, Unit] = science((0.08, 1.0), "area of the random crop, as a share of the image")
    hflip: bool = science(True, "mirror half of the draws (never for digits)")
    mixup: float | None = science(
        None,
        (
            "mixes the rows of a group, in blocks of 16 or more, in pairs with one share ~ Beta(mixup, mixup) a "
            "step, across environments (the paper: 1)"
        ),
        gt=0,
    )
    randaug: bool = science(
        False, "the paper's RandAug: pairs of 15 operations x 9 levels, each applied with probability .5"
    )
    randaug_pixels: Literal["own", "package"] = science(
        "own",
        (
            "interpolation and Cutout of RandAug: ours, or those of the package randaugment 1.0.2, which the reference "
            "uses (sharding/images/randaug.py); the recipes of RandAug choose by preset"
        ),
    )

    @model_validator(mode="after")
    def _scale_rises(self) -> Augment:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1]:
            raise ValueError(
                f"augment.crop_scale={list(self.crop_scale)} must hold two shares of the area, 0 < low <= high <= 1"
            )
        return self


BETAS, EPS = (0.9, 0.999), 1e-8
"""AdamW's defaults (Loshchilov and Hutter, ICLR 2019), as torch has them."""


class Optim(Section):
    lr: float = science(0.1, "the highest learning rate, at the start or after the warm-up", gt=0)
    name: Literal["sgd", "adamw", "lars"] = science(
        "sgd", "the optimiser: torch's SGD or AdamW, or timm's LARS; another than sgd needs an `lr` for it"
    )
    momentum: float | None = science(
        None, "momentum of sgd and lars; default: the preset's (paper 0, corrected .9)", ge=0, lt=1
    )
    betas: tuple[Share, Share] | None = science(
        None,
        "adamw's decay of its means of gradients and of their squares; default: 0.9, 0.999",
        examples=[list(BETAS)],
    )
    eps: float | None = science(None, "adamw's term in the denominator; default: 1e-8", gt=0)
    weight_decay: float = science(
        5e-4, "as a part of the gradient (sgd, lars), or apart from it and times the learning rate (adamw)", ge=0
    )
    decay: Literal["all", "weights"] = science(
        "all", "on which parameters: all, or weights: not norms, biases and other vectors"
    )
    layer_decay: float = science(
        1.0, "factor of the learning rate from each layer to the one below it, from the head's on; 1: off", gt=0, le=1
    )
    clip: float = science(0.0, "largest norm of all gradients, those of the mean over the global batch; 0: off", ge=0)
    ema: float = science(
        0.0,
        "moving average of the parameters, this share of it kept at each step; it is evaluated and exported; 0: off",
        ge=0,
        lt=1,
    )
    label_smoothing: float = science(
        0.0, "share of a label that all classes get alike, in methods with a softmax cross-entropy; 0: off", ge=0, lt=1
    )
    precision: Literal["fp32", "bf16"] = science(
        "fp32", "bf16 means torch autocast with float32 parameters and reductions"
    )
    zero: Literal[0, 1] = operation(0, "DeepSpeed ZeRO stage; a run keeps the stage that it began with")

    def lacking(self) -> str:
        """Say in one sentence that the optimiser's package is not installed here; empty where it is."""
        if self.name != "lars" or importlib.util.find_spec("timm"):
            return ""
        return (
            "optim.name=lars needs the package timm, which is not installed: "
            "`.venv/bin/python -m pip install timm`, or optim.name=sgd"
        )


class Schedule(Section):
    epochs: int = science(100, "epochs", ge=1, le=10000)
    decay: Literal["cosine", "steps"] = science(
        "cosine", "the learning rate falls along a cosine to 0, or by `gamma` at each of `drops`"
    )
    by: Literal["epoch", "step"] = science("epoch", "how often it falls: once an epoch, or at every step")
    warmup: float = science(
        0.0, "epochs, or a part of one, in which the learning rate rises from about 0, at every step", ge=0
    )
    drops: list[int | float] = science([0.6, 0.8], "fractions of the epochs (or whole epochs, 0-based) of decay: steps")
    gamma: float = science(0.1, "factor of each of the drops", gt=0, le=1)


class Batch(Section):
    size: int = science(256, "global batch, all streams and ranks together; more nodes never change it", ge=1)
    bn: int = science(
        128,
        (
            "samples of one batch-normalisation group = micro batch; each group has the same mix of streams; 0: the "
            "model has no batch normalisation"
        ),
        ge=0,
    )
    micro: int | None = science(
        None,
        (
            "with batch.bn=0: samples of one micro batch, in which mixup and IRM form their groups; null: a rank's "
            "whole share of the batch"
        ),
        ge=1,
    )
    bn_by: Literal["mix", "env"] = science(
        "mix",
        (
            "env: each group holds one environment only and environment 1 alone moves the running statistics, as by "
            "accident in the reference on two GPUs"
        ),
    )
    draws_per_epoch: float = science(
        1.0,
        (
            "draws of an epoch in units of the training set's size; class_aware: min(K max n_c, 4 N), computed from "
            "the data set's counts"
        ),
        gt=0,
        le=64,
    )
    budget: Literal["paper", "matched"] = science(
        "paper", "paper: every stream draws so many; matched: all streams together do"
    )
    replacement: bool | None = science(
        None,
        "independent draws instead of a shuffle; default: the preset's (paper: with IFL and in BBN, corrected: never)",
    )

    @model_validator(mode="after")
    def _groups(self) -> Batch:
        if self.bn and self.size % self.bn:
            raise ValueError(f"batch.size={self.size} is no multiple of batch.bn={self.bn}")
        if self.micro is not None and self.bn:
            raise ValueError(
                f"batch.micro={self.micro} is for batch.bn=0: with batch normalisation a micro batch is a group, "
                f"batch.bn={self.bn}"
            )
        if self.micro and self.size % self.micro:
            raise ValueError(f"batch.size={self.size} is no multiple of batch.micro={self.micro}")
        return self

    @property
    def group(self) -> int:
        """Rows of a group of the batch: of batch normalisation, else a micro batch; 0 where a rank takes its share."""
        return self.bn or self.micro or 0

    @property
    def group_key(self) -> str:
        """The key that says `group`, for sentences."""
        return "batch.bn" if self.bn else "batch.micro"


class Slurm(Section):
    """What the job asks SLURM for.

    The site file (slurm/site.yaml) holds what is true of a cluster, and shell lines too.
    """

    partition: Plain | None = operation(None, "SLURM partition")
    account: Plain | None = operation(None, "SLURM account")
    qos: Plain | None = operation(None, "SLURM quality of service")
    constraint: Features | None = operation(None, "SLURM node features, such as a100|h100 or [rack1|rack2]*2")
    time: Minutes = operation(
        1440,
        "time limit: minutes, or HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; stands in minutes in recipe.yaml",
        ge=1,
        le=525600,
    )
    gpus_per_node: Gpus | None = operation(
        None, "GPUs asked for on each node, also of a type, as in a100:4; tasks_per_node defaults to their number"
    )
    cpus_per_task: int = operation(8, "CPU cores of a task", ge=1)
    mem: Memory | None = operation(None, "memory of a node: 480G, 512M, a number of GB, or 0 for all that it has")
    signal_delay_s: int = operation(120, "warning before the time limit, seconds", ge=1)
    modules: Modules = operation([], "environment modules that the batch script loads, in this order; null: none")
    arrays: bool = operation(True, "several runs of one command are job arrays; false: each is a job of its own")
    options: Options = operation(
        {},
        (
            "any other option of sbatch by its long name, such as {reservation: ml, gres: 'gpu:a100:4', exclusive: "
            "true}; null leaves out what a weaker layer sets"
        ),
    )

    @property
    def gpus(self) -> int | None:
        """The GPUs of a node, by either of the two ways to ask for them; None where neither is there."""
        if self.gpus_per_node is not None:
            return sbatch.number_of(self.gpus_per_node)
        return sbatch.gpus_in(str(self.options.get("gres", "")))

    def share(self, tasks: int) -> Slurm:
        """Return what a job of one task asks for, as one of so many tasks of a node: the memory and a GPU of a task."""
        amount, unit = (self.mem or "0")[:-1], (self.mem or "0")[-1]
        megabytes = int(amount or 0) * {"M": 1, "G": 1 << 10, "T": 1 << 20}.get(unit, 0) // tasks
        # Of all that a node has no part can be said: then it is what the cluster gives a job that says nothing.
        of_a_task = self.on_one_node().with_gpus(min(1, self.gpus or 0))
        options = {name: value for name, value in of_a_task.options.items() if name not in sbatch.OF_A_START}
        return of_a_task.model_copy(update={"mem": f"{megabytes}M" if megabytes else None, "options": options})

    def on_one_node(self) -> Slurm:
        """Return what a job of one node asks for that comes beside jobs of several."""
        return self.model_copy(update={"options": sbatch.on_one_node(self.options)})

    def with_gpus(self, number: int) -> Slurm:
        """Return what a job asks for with so many GPUs of a node, in the form and of the type that it has now."""
        options = {name: value for name, value in self.options.items() if number or not name.startswith(sbatch.OF_GPUS)}
        if "gres" in options and (gres := sbatch.with_gpus(str(options.pop("gres")), number)):
            options["gres"] = gres
        kind = str(self.gpus_per_node).rpartition(":")[0]
        own = None if self.gpus_per_node is None else f"{kind}:{number}" if kind and number else number
        return self.model_copy(update={"options": options, "gpus_per_node": own})

    @model_validator(mode="after")
    def _asked_once(self) -> Slurm:
        if self.gpus_per_node is not None and sbatch.gpus_in(str(self.options.get("gres", ""))) is not None:
            raise ValueError(
                f"slurm.gpus_per_node={self.gpus_per_node} and slurm.options.gres={self.options['gres']} both ask for "
                "GPUs: one of the two is legal"
            )
        of_memory = [name for name in sbatch.MEMORY if name in self.options]
        if len(asked := [*(["slurm.mem"] if self.mem else []), *(f"slurm.options.{name}" for name in of_memory)]) > 1:
            raise ValueError(f"{' and '.join(asked)} exclude each other in SLURM: one of them is legal")
        return self

    @model_validator(mode="after")
    def _warned_in_time(self) -> Slurm:
        if self.signal_delay_s >= 60 * self.time:
            raise ValueError(
                f"slurm.signal_delay_s={self.signal_delay_s} is no warning within slurm.time={self.time} minutes: it "
                f"must be less than {60 * self.time} seconds"
            )
        return self


class Log(Section):
    every: int = operation(20, "optimizer steps between two training lines of metrics.jsonl", ge=1)
    eval_test_every: int = operation(
        10, "epochs between two looks at the test splits (for figure 5; they select nothing)", ge=1
    )
    eval: Literal["inline", "job"] = operation(
        "inline",
        (
            "who evaluates the epochs; inline: the run's own ranks, which wait; job: a process beside them, on SLURM "
            "in a further job, while the run goes on"
        ),
    )
    eval_wait_s: float = operation(
        60.0, "seconds without a sign of that process after which the run evaluates by itself", ge=1, le=86400
    )
    save_every_s: float = operation(
        600.0, "seconds between two checkpoints, besides those at the last epoch and on a signal", gt=0
    )
    save_every_steps: int | None = operation(None, "steps between two checkpoints, besides those by the clock", ge=1)
    keep: list[int | float] | None = operation(
        None,
        (
            "fractions of the epochs (or whole epochs, 0-based) whose last checkpoint is never deleted; default: "
            "ifl.milestones"
        ),
    )
    digest_every: int = operation(
        50,
        (
            "steps between two comparisons over the ranks of what all hold: parameters, buffers, centers, the streams' "
            "weights, class means and the method's memory"
        ),
        ge=1,
    )
    stuck_after_s: float = operation(
        600.0,
        (
            "seconds without progress after which a rank ends the run, to go on from its last checkpoint; a start "
            "has three times as long, and at least 120 s"
        ),
        ge=5,
        le=86400,
    )
    profile: Steps | None = operation(
        None,
        (
            "profile the steps FIRST:END, such as 100:105 for the five from step 100 to step 105: a trace of each rank "
            "in log/, and the seconds of each phase in metrics.jsonl"
        ),
    )
    tensorboard: bool = operation(
        False,
        (
            "also writes the numbers of metrics.jsonl for TensorBoard, to tensorboard/ in the run folder (package "
            "tensorboard)"
        ),
    )
    wandb: Plain | None = operation(
        None,
        (
            "also sends them to this project of Weights & Biases (package wandb; WANDB_MODE=offline on nodes without "
            "internet)"
        ),
    )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """Return from how many optimizer steps on, and to how many, steps are profiled."""
        if self.profile is None:
            return None
        first, end = map(int, self.profile.split(":"))
        return first, end

    def lacking(self) -> str:
        """Name a package that a switch needs and that is not installed here, in one sentence; empty where none is."""
        for package, wanted in (("tensorboard", self.tensorboard), ("wandb", self.wandb is not None)):
            if wanted and importlib.util.find_spec(package) is None:
                return (
                    f"log.{package} needs the package {package}, which is not installed: `.venv/bin/python -m pip "
                    f"install {package}`, or leave the switch out"
                )
        return ""


class Recipe(Section):
    recipe: Name = operation("glt_baseline", "the table row: a file of recipes/; it stands in the run's name")
    data: Data = Data()
    train: Literal["glt", "cbl"] = operation("glt", "training edition; it stands in the run's name")
    seed: int = operation(0, "seed of everything; it stands in the run's name", ge=0, lt=2**32)
    preset: Literal["paper", "corrected"] = science(
        "paper", "the reference's choices, or a careful person's; a table never mixes them"
    )
    nodes: int = operation(1, "nodes", ge=1, le=4096)
    tasks_per_node: int | None = operation(
        None, "processes of a node; default: its GPUs on SLURM, 1 locally", ge=1, le=64
    )
    cluster: Literal["slurm", "local", "here", "dry"] = operation(
        "slurm",
        "where it runs; here: on the nodes of the allocation that this shell holds; dry prints and touches nothing",
    )
    runs: str | None = operation(None, "folder of the run folders; default: runs/ in the project")
    model: Model = Model()
    method: Method = Method()
    ifl: Ifl | None = None
    augment: Augment = Augment()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    batch: Batch = Batch()
    slurm: Slurm = Slurm()
    log: Log = Log()

    @property
    def stream_names(self) -> list[str]:
        """What the S streams of a batch are.

        With IFL the environments take the place of the method's uniform stream.
        """
        own = declaration(self.method.name).STREAMS
        return [
            name
            for stream in own
            for name in (["environment"] * self.ifl.environments if self.ifl and stream == "uniform" else [stream])
        ]

    @property
    def streams(self) -> int:
        """S, the number of streams a batch is drawn from."""
        return len(self.stream_names)

    @property
    def trains(self) -> bool:
        """Whether anything is trained; else another run's weights, or the network's start, are evaluated."""
        return not self.method.eval_of and declaration(self.method.name).TRAINS != "nothing"

    @property
    def has_evaluator(self) -> bool:
        """Whether a further process evaluates its epochs."""
        return self.log.eval == "job" and self.trains

    @property
    def mixup_blocks(self) -> int:
        """The number of equal blocks of a group of the batch inside which mixup draws partners.

        A block has 16 rows or more where the group has so many. Ranks that share a group hold whole blocks, so that a
        row and its partner are on one rank.
        """
        return math.gcd(self.batch.group // self.streams, max(1, self.batch.group // 16))

    @property
    def kept_epochs(self) -> list[int]:
        """Epochs at whose end a checkpoint is made that is never deleted; whole numbers once the recipe is resolved."""
        default = self.ifl.milestones if self.ifl else []
        return [int(epoch) for epoch in (default if self.log.keep is None else self.log.keep)]

    @property
    def tasks(self) -> int:
        """Number of processes, R."""
        return self.nodes * (self.tasks_per_node or (self.cluster != "local" and self.slurm.gpus) or 1)

    @property
    def hash8(self) -> str:
        """First 8 hex digits of the sha256 of the science fields that differ from the schema's defaults."""
        return hash8(self)

    @property
    def run_name(self) -> str:
        return f"{self.recipe}-{self.data.name}-{self.train}-s{self.seed}-{self.hash8}"

    @property
    def run_folder(self) -> Path:
        return Path(self.runs or PROJECT / "runs") / self.run_name

    @property
    def data_root(self) -> str:
        """A folder, or an address (sharding/cache/remote_files.py)."""
        return self.data.root or str(PROJECT / "data")
