"""The train loop has the next epoch's plan made while the present one trains, and this changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers import mini
from tests.helpers.mini import IFL, final, same_bits, trained
from tests.helpers.ranks import started


def noted(folder: str) -> dict[int, list[int]]:
    """In a rank: train, and return the streams of each epoch that were planned ahead."""
    from ifl import setup
    from sharding.plan import ahead

    found: dict[int, list[int]] = {}

    class Noted(ahead.Planner):
        def plan(self, epoch: int, weights: ahead.Weights) -> Any:
            if self._ahead:
                found[epoch] = sorted(self._ahead.of(epoch, weights))
            return super().plan(epoch, weights)

    setup.Planner, real = Noted, setup.Planner
    try:
        assert trained(folder) is True
    finally:
        setup.Planner = real
    return found


def never_ahead(folder: str) -> bool | str:
    """In a rank: train without planning ahead."""
    from sharding.plan import ahead

    real, ahead.Planner.begin = ahead.Planner.begin, lambda *args, **more: None
    try:
        return trained(folder)
    finally:
        ahead.Planner.begin = real


def test_what_is_known_is_planned_ahead_and_no_bit_changes(mini_root: Path, tmp_path: Path) -> None:
    """All streams of an epoch are planned ahead, but for an environment whose weights come from the epoch before; the
    run ends with the bits of one that plans nothing ahead.
    """
    folders = [mini.recipe_of(mini_root, tmp_path / name, "recipe=glt_ifl", *IFL).run_folder for name in "ab"]
    # the environment gets new weights after epochs 2 and 3
    assert started(1).run(noted, str(folders[0])) == [{1: [0, 1], 2: [0, 1], 3: [0], 4: [0]}]
    assert started(1).run(never_ahead, str(folders[1])) == [True]
    ends = [final(folder) for folder in folders]
    assert any("weights" in name for name in ends[0]) and same_bits(*ends) == []
