"""Batches of features, read from arrays in the place of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sharding.format.dataset import Split
from sharding.images.dice import draw_rng
from sharding.plan.ranks import Draws
from sharding.reader import Batch


class FeatureBatches(torch.utils.data.Dataset[Batch]):
    """A map-style data set: indexed by `Draws`, it returns their `Batch`, whose `images` are features float32 [M, D].

    With several views each draw takes one of them, by chance: a function of (seed, epoch, draw).
    """

    def __init__(self, split: Split, views_ND: Sequence[np.ndarray]) -> None:
        """Read of `split` the features in one or more views, each float32 [N, D]."""
        self.split, self._views_ND = split, views_ND

    def __getitem__(self, draws: Draws) -> Batch:
        views = np.zeros(len(draws.ids), np.int64)
        if len(self._views_ND) > 1:
            dice = (draw_rng(draws.seed, draws.epoch, draw) for draw in draws.draws.tolist())
            views = np.fromiter((die.integer(len(self._views_ND)) for die in dice), np.int64, len(views))
        features_MD = np.empty((len(views), self._views_ND[0].shape[1]), np.float32)
        for view in np.unique(views).tolist():
            features_MD[views == view] = self._views_ND[view][draws.ids[views == view]]
        columns = (self.split.index.label[draws.ids], draws.ids, draws.streams)
        return Batch(torch.from_numpy(features_MD), *(torch.from_numpy(column.astype(np.int64)) for column in columns))
