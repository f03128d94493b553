"""The features of a backbone that does not train, computed once for all runs that have the same (data.features=once).

They lie in `DATA_ROOT/NAME/features/KEY/`, or below the node's cache folder where nothing can be written there. KEY is
a digest of all that a feature depends on but the image and its crop: the backbone's weights and code, the pixels'
normalisation, what decodes and resizes, and the kind of device. An array's name ends with a digest of split and view.

A feature is computed in the same batch on any number of ranks (`BATCH` samples in the order of the index), so its bits
do not depend on who computes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.distributed.consistency import digest as digest_of_tensors
from ifl.engine import is_first_on_node
from ifl.network.backbone import feature_dim_of
from ifl.network.network import Network
from recipes.code.digest import code_digests
from recipes.common.files import write_json
from recipes.common.syntax_tree import digest, meaning
from recipes.declarations import declaration
from recipes.schema import Recipe
from sharding.cache.disk_budget import cache_folder
from sharding.features.batches import FeatureBatches
from sharding.features.store import FeatureArray, can_write
from sharding.format.dataset import Dataset, Split, digest_of
from sharding.images import dice, randaug
from sharding.images.transforms import origin
from sharding.plan.ranks import Draws
from sharding.reader import EvalView, MicroBatches, Reader, TrainView

BATCH = 256
"""Images of a forward pass."""


@dataclass(frozen=True)
class View:
    """How a split's images are seen, once each.

    Attributes:
        array: where the features are, or are to be.
        crops: the images.
        number: of an augmented view, which is a function of it and of the sample; -1: nothing is random.
    """

    array: FeatureArray
    crops: MicroBatches
    number: int


@dataclass(frozen=True)
class FrozenFeatures:
    """Computes and opens the features of splits.

    Attributes:
        recipe: the run's.
        network: its backbone does not train.
        dataset: whose splits they are.
        decoder: the run's.
        comm: the ranks, which share the work.
        device: this rank's.
        beat: told what is done.
    """

    recipe: Recipe
    network: Network
    dataset: Dataset
    decoder: str
    comm: Comm
    device: torch.device
    beat: Callable[[str], None]

    def of(self, splits: Mapping[str, Split]) -> dict[str, FeatureBatches]:
        """Return the features of splits; what is not there is computed. A collective.

        Args:
            splits: by name; `train` is seen as the recipe says, the others by their test crops.
        """
        about = self.comm.from_first(self._about(), self.device)
        key = digest_of(about)[:16]
        views = self._chosen(key, about, splits)
        for view in (view for seen in views.values() for view in seen):
            self._ensure(view)
        return {
            name: FeatureBatches(split, [view.array.open() for view in views[name]]) for name, split in splits.items()
        }

    def _about(self) -> dict[str, Any]:
        """Return what the features of all splits depend on."""
        data, model = self.recipe.data, self.recipe.model
        return {
            "weights": digest_of_tensors(*self.network.backbone.state_dict().values()),
            "model": model.model_dump(exclude={"train", "rank", "alpha", "drop_path", "weights"}),
            "form": declaration(self.recipe.method.name).FORM,
            "code": code_digests(self.recipe).get("model", ""),
            "mean": data.mean,
            "std": data.std,
            "precision": self.recipe.optim.precision,
            "device": self.device.type,
            "pixels": origin(self.decoder),
        }

    def _chosen(self, key: str, about: dict[str, Any], splits: Mapping[str, Split]) -> dict[str, list[View]]:
        """Return the views of splits in the data's folder, or in the node's where they neither are nor can be there."""
        own = Path(cache_folder(self.recipe.data.cache_folder)) / "features" / key
        if isinstance(self.dataset.root, Path):
            folder = self.dataset.folder / "features" / key
            views = {name: self._views(folder, name, split) for name, split in splits.items()}
            writes = can_write(folder)
            if writes or all(view.array.is_whole() for seen in views.values() for view in seen):
                if writes and self.comm.rank == 0 and not (folder / "about.json").exists():
                    write_json(folder / "about.json", about)
                return views
        own.mkdir(parents=True, exist_ok=True)
        if is_first_on_node():
            print(f"features are kept in {own}, for nothing can be written beside the data", flush=True)
        return {name: self._views(own, name, split) for name, split in splits.items()}

    def _views(self, folder: Path, name: str, split: Split) -> list[View]:
        data = self.recipe.data
        view: TrainView | EvalView = EvalView(data.image_size, data.test_resize)
        numbers, made_by = [-1], ""
        if name == "train" and data.feature_views:
            view = TrainView.of(data, self.recipe.augment)
            numbers = list(range(data.feature_views))
            made_by = digest([meaning(Path(str(module.__file__)).read_bytes()) for module in (dice, randaug)])
        kind = digest_of({"split": split.index.fingerprint, "view": repr(view), "made_by": made_by})[:12]
        crops = MicroBatches(split, view, decoder=self.decoder)
        dim = feature_dim_of(self.network.backbone)
        return [
            View(
                FeatureArray(
                    folder / f"{name}-{kind}{f'-view-{number:02d}' if number >= 0 else ''}.npy", len(split), dim
                ),
                crops,
                number,
            )
            for number in numbers
        ]

    def _ensure(self, view: View) -> None:
        """Compute an array that is not there, or is not what was written. A collective.

        The ranks share the parts. Then the first of each node makes those that it does not see, as where nodes have
        folders of their own, and joins all.
        """
        first, array = is_first_on_node(), view.array
        if all(self.comm.gather_objects(not first or array.is_whole(), self.device)):
            return
        self._compute(view, range(self.comm.rank, array.parts, self.comm.size))
        self.comm.gather_objects(None, self.device)
        if first:
            self._compute(view, array.lacking())
            array.join()
        self.comm.gather_objects(None, self.device)

    @torch.no_grad()
    def _compute(self, view: View, parts: range | list[int]) -> None:
        """Compute those of some parts that nobody has computed yet."""
        array, wanted = view.array, list(parts)
        if not wanted:
            return
        # Each begins elsewhere, so that several runs that start at once do not all do the same.
        begin = secrets.randbelow(len(wanted))
        assert self.recipe.data.workers is not None, "a resolved recipe names it"
        reader = Reader(view.crops, self.recipe.data.workers, pin_memory=self.device.type == "cuda")
        self.network.eval()
        for part in wanted[begin:] + wanted[:begin]:
            if array.has_part(part):
                continue
            batches = reader.read(_draws(array.ids(part), view.number))
            array.put_part(part, np.concatenate([self._features(batch.images) for batch in batches]))
            self.beat(f"features of {array.path.stem}, part {part} of {array.parts}")
        self.network.train()

    def _features(self, images: torch.Tensor) -> np.ndarray:
        bf16 = self.recipe.optim.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            features: np.ndarray = self.network.features(images.to(self.device)).float().cpu().numpy()
        return features


def _draws(ids: np.ndarray, view: int) -> Iterator[Draws]:
    """Yield the draws of samples in a view: no run's seed is in it, so runs of all seeds share it."""
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        yield Draws(some, some, np.zeros_like(some), 0, view)
