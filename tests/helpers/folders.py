"""Run folders as training leaves them, with everything that figures and pages read, made without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.resolve import dump, resolve

NAMES = tuple(f"digit {d}" for d in (9, 3, 8, 1, 5, 7, 2, 4, 6, 0))
COUNTS = (60, 40, 26, 17, 11, 8, 6, 5, 4, 3)
GROUPS = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)
EPOCHS, STEPS, REBUILDS = 6, 10, (2, 4)


def write_rich_run(
    folder: Path,
    recipe: str = "glt_baseline",
    train: str = "glt",
    seed: int = 0,
    *,
    skill: float = 0.6,
    words: Sequence[str] = (),
    names: tuple[str, ...] = NAMES,
    boots: tuple[tuple[int, int], ...] = ((0, 0),),
) -> Path:
    """Write a finished run of digits_glt whose predictions are right with probability `skill`, less towards the tail.

    An IFL recipe also has environments at `REBUILDS` and lines about its centers.

    Args:
        folder: the folder of run folders.
        recipe: its name.
        train: the edition that it trains on.
        seed: the recipe's, also used to draw the predictions.
        skill: in [0, 1].
        words: more words of the recipe.
        names: the classes' names.
        boots: (epoch, total steps) of each start.
    """
    resolved = resolve([f"recipe={recipe}", "data=digits_glt", f"train={train}", f"seed={seed}", *words])
    path = folder / resolved.run_name
    rng = np.random.default_rng([seed, len(recipe), train == "glt", round(1000 * skill)])
    for select in ("last", "best"):
        (path / "preds" / select).mkdir(parents=True)
        for split in ("val", "test_cbl", "test_gbl"):
            label = np.repeat(np.arange(len(names)), 30)
            attribute = np.tile(np.arange(3), 10 * len(names))
            right = rng.random(len(label)) < skill * (1 - 0.05 * label - 0.1 * attribute)
            prediction = np.where(right, label, (label + rng.integers(1, 3, len(label))) % len(names))
            np.savez(
                path / "preds" / select / f"{split}.npz",
                id=np.arange(len(label)),
                label=label,
                group=np.resize(GROUPS, len(names))[label] if len(names) <= 10 else 0 * label,
                attribute=attribute,
                prediction=prediction,
                confidence=rng.random(len(label)).astype(np.float32),
            )
    (path / "recipe.yaml").write_text(dump(resolved))
    meta = {
        "commit": "c0ffee" + "0" * 34,
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "machine": {"node": "vm", "processor": "x86_64", "cores": 2},
        "argv": ["slurm/launch.py", f"recipe={recipe}"],
        "world": 2,
        "hash": resolved.hash8,
        "data_fingerprint": f"f00d{train}",
        "class_names": list(names),
        "class_groups": np.resize(GROUPS, len(names)).tolist(),
        "class_counts": np.resize(COUNTS, len(names)).tolist(),
        "decoder": "pillow",
        "steps_per_epoch": STEPS,
    }
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in metric_lines(resolved.ifl is not None, skill, boots))
    )
    if resolved.ifl is not None:
        (path / "env").mkdir()
        for epoch in REBUILDS:
            write_environments(path / "env" / f"epoch-{epoch:03d}.npz", rng, len(names), resolved.ifl.environments)
    (path / "done").write_text("{}")
    return path


def metric_lines(ifl: bool, skill: float, boots: tuple[tuple[int, int], ...] = ((0, 0),)) -> list[dict[str, Any]]:
    """Return the log of such a run: losses fall, accuracies rise, alpha begins after the first rebuild."""
    lines: list[dict[str, Any]] = []
    for epoch in range(EPOCHS):
        alpha = 0.0 if not ifl or epoch <= REBUILDS[0] else 0.001
        for step in range(epoch * STEPS + 2, (epoch + 1) * STEPS + 1, 2):
            if (epoch, step - 2) in boots:
                lines.append(
                    {"kind": "boot", "epoch": epoch, "step": step - 2, "world": 2, "seconds": 2.5, "parts": {}}
                )
            loss = 2.0 / (1 + step / 10)
            lines.append(
                {
                    "kind": "train",
                    "epoch": epoch,
                    "step": step,
                    "lr": 0.1 * (1 - epoch / EPOCHS),
                    "alpha": alpha,
                    "loss": loss + 20 * alpha,
                    "method_loss": loss,
                    "center_loss": 20.0 * (alpha > 0),
                    "accuracy": 1 - loss / 4,
                    "images_per_s": 900.0 + step,
                }
            )
        at = {"kind": "eval", "epoch": epoch, "step": (epoch + 1) * STEPS}
        for split in ("val", "test_cbl", "test_gbl") if epoch % 2 else ("val",):
            value = round(skill * (epoch + 1) / EPOCHS * (0.9 if split == "test_gbl" else 1.0), 4)
            lines.append(
                {
                    **at,
                    "split": split,
                    "accuracy": {"overall": value, "many": value},
                    "precision": {"overall": round(value * 0.95, 4)},
                }
            )
        if alpha:
            lines.append(
                {
                    **at,
                    "kind": "centers",
                    "norm": [11.0 - 0.1 * epoch * k for k in range(10)],
                    "from_start": [0.2 * epoch + 0.05 * k for k in range(10)],
                }
            )
    return lines


def write_environments(path: Path, rng: np.random.Generator, classes: int = 10, environments: int = 2) -> None:
    """Write weights, of which the last favour attribute 2 three to one inside each class, and grey thumbnails."""
    labels = np.repeat(np.arange(classes), np.resize(COUNTS, classes))
    attributes = np.arange(len(labels)) % 3
    second = np.where(attributes == 2, 3.0, 1.0)
    second /= np.bincount(labels, weights=second)[labels]
    shown = np.arange(0, min(classes, 10), 2)
    shades = rng.integers(0, 255, (len(shown), 2, 6, 1, 1, 1))
    np.savez(
        path,
        ids=np.arange(len(labels)),
        labels=labels,
        attributes=attributes,
        weights=np.stack([*[np.ones(len(labels))] * (environments - 1), second]),
        extreme_classes=shown,
        extremes=np.zeros((len(shown), 2, 6), int),
        thumbnails=np.broadcast_to(shades, (len(shown), 2, 6, 32, 32, 3)).astype(np.uint8),
    )
