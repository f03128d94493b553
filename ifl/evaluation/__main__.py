"""`python -m ifl.evaluation RUN_FOLDER`: the evaluator of a run with `log.eval=job`, one process.

It judges the weights that the trainer asks for (ifl/evaluation/verdicts.py), in their order, until the run is finished,
it is asked to stop, or a newer evaluator takes over. It keeps no state: what has a verdict is not judged again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ifl.evaluation.verdicts import Claim, Verdicts
from recipes.common.addresses import command_of_process
from recipes.common.errors import DataError, UserError
from recipes.common.json_text import read_object
from recipes.resolve import load_resolved

if TYPE_CHECKING:
    from ifl.setup import Setup
    from recipes.schema import Recipe

PAUSE_S = 0.1
"""Between two looks for something to do."""


class Over(Exception):
    """There is nothing more to do."""


def serve(folder: Path, beat: Callable[..., None], check: Callable[[], None]) -> None:
    """Judge the epochs of a run until `beat` raises.

    Args:
        folder: the run folder.
        beat: called as this process gets on.
        check: raises where this is not the evaluator of the run any more.

    Raises:
        CheckpointError: weights that are wanted are not there, or data or decoder are not those of the run.
    """
    from ifl.evaluation.judge import splits_of, verdict_on
    from ifl.saving.best_epoch import best_name
    from ifl.saving.checkpoint import CheckpointError
    from ifl.saving.weights import read_weights

    recipe = load_resolved(folder / "recipe.yaml")
    while not (folder / "meta.json").exists():  # it holds what the ranks have agreed on
        beat()
        time.sleep(PAUSE_S)
    run, verdicts = ready(recipe, folder, beat), Verdicts(folder)
    meta = read_object(folder / "meta.json", {"data_fingerprint": str, "decoder": str})
    if run.data.fingerprint != meta["data_fingerprint"]:
        raise CheckpointError(f"the data in {recipe.data_root} are not those that {folder.name} is trained on")
    if run.readers.decoder != meta["decoder"]:  # the best epoch would be chosen among scores of different pixels
        raise CheckpointError(
            f"{folder.name} is decoded by {meta['decoder']}, and an evaluator here would be by {run.readers.decoder}: "
            "it leaves, and the run evaluates by itself"
        )
    while True:
        beat()
        if (wanted := verdicts.next_wanted(_newest_start(folder))) is None:
            time.sleep(PAUSE_S)
            continue
        (epoch, sha256), began, model = wanted, time.monotonic(), run.model
        model.engine.network.load_state_dict(read_weights(folder / "ckpt" / best_name(epoch), sha256))
        seen = {
            name: run.readers.evaluators[name].predict(model.engine, model.method, beat)
            for name in splits_of(run, epoch)
        }
        check()
        verdicts.write(epoch, sha256, {**verdict_on(seen), "seconds": round(time.monotonic() - began, 3)})
        print(f"epoch {epoch}: {time.monotonic() - began:.2f} s", flush=True)


def ready(recipe: Recipe, folder: Path, beat: Callable[..., None]) -> Setup:
    """Return what predicting needs of a run. Nothing of the run folder is claimed: it is the trainer's."""
    from ifl import setup
    from ifl.distributed.comm import Comm
    from ifl.engine import connect
    from ifl.supervision.watchdog import patience_s

    patience = patience_s(recipe.log.stuck_after_s)
    device = connect(patience)
    ranks = setup.Ranks(device=device, comm=Comm(patience_s=patience), fence=None, patience_s=patience)
    beat()
    data = setup.open_data(recipe, command_of_process())
    model = setup.build_model(recipe, folder, ranks, data, False, setup.USUAL_PARTS, trains=False)
    beat()
    readers = setup.build_readers(recipe, folder, ranks, data, model, False, setup.USUAL_PARTS, beat)
    return setup.Setup(recipe=recipe, folder=folder, ranks=ranks, data=data, model=model, readers=readers)


def _newest_start(folder: Path) -> str:
    """Return the token of the start that has the run; what older ones ask for counts no more."""
    with contextlib.suppress(DataError):
        return str(read_object(folder / "FENCE", {"token": str})["token"])
    return ""


def main(folder: Path, asked: Callable[[], bool]) -> int:
    """Serve a run; returns the exit code, 0 where the evaluator was not needed any more.

    Args:
        folder: the run folder.
        asked: says whether this process was asked to stop.
    """
    claim = Claim(folder)

    def beat(*_: object) -> None:
        if asked() or (folder / "done").exists():
            raise Over
        claim.beat()

    try:
        serve(folder, beat, claim.check)
    except Over:
        return 0
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
    except Exception:  # whatever it was, the trainer goes on without an evaluator
        traceback.print_exc()
    finally:
        claim.leave()
    return 1


if __name__ == "__main__":
    from ifl.supervision.signals import watch

    code = main(Path(sys.argv[1]), watch())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for loader workers or process groups
