"""What follows from an epoch's end: its scores in the log, the best epoch so far, predictions of the last one.

With `log.eval=inline` the ranks predict, and the run waits. With `log.eval=job` the thread that saves writes the
epoch's weights, and the run goes on while an evaluator (ifl/evaluation/__main__.py) judges them. Rank 0 takes the
verdicts, in the order of the epochs, as they come between two steps; the lines of metrics.jsonl that come after a
verdict's place wait for it. So both give the same lines in the same order, and the same best epoch. Nothing else of a
step depends on a verdict, so the other ranks hear of them at the end of an epoch alone. There all agree, too, whether
the evaluator is too far behind and waited for, or is not there: then they judge its weights themselves. The last epoch
is always predicted by the ranks, which have nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ifl.evaluation.verdicts import Presence, Verdicts
from ifl.evaluator import Predictions, accuracy, scores, write_predictions
from ifl.run_log import Reporter
from ifl.saving.best_epoch import best_name
from ifl.saving.kept_weights import know, known
from ifl.saving.saver import Saver
from ifl.saving.state import State
from ifl.saving.weights import read_weights
from ifl.setup import Setup
from ifl.supervision.stop import StopRequest

AHEAD = 2
"""So many epochs may wait for their verdicts when the next one begins."""
LOOK_S = 1.0
"""Between two looks for verdicts while steps are made."""
PAUSE_S = 0.1
"""Between two looks while the run waits."""


class Judge:
    """Judges the epochs of a run, by its ranks or by its evaluator."""

    def __init__(
        self,
        run: Setup,
        state: State,
        report: Reporter,
        saver: Saver,
        stop: StopRequest,
        heartbeat: Callable[..., None],
    ) -> None:
        """Take up a run where `state` is; verdicts that it waits for are asked for again.

        Args:
            run: what it is made of.
            state: whose `unjudged` and best epoch change with the verdicts.
            report: the run's lines.
            saver: writes the weights that are kept, and what is asked of the evaluator once they are there.
            stop: asked before each split, and while the run waits.
            heartbeat: told what comes next.
        """
        self.run, self.report, self.saver, self.stop, self.heartbeat = run, report, saver, stop, heartbeat
        log, self.comm = run.recipe.log, run.ranks.comm
        self.apart, self._patience_s = log.eval == "job", log.eval_wait_s
        self._verdicts, self._presence = Verdicts(run.folder), Presence(run.folder, log.eval_wait_s)
        self._looked_s, self._was_there = 0.0, True
        self._asked: list[tuple[int, str]] | None = None
        self._waits = bool(state.unjudged)  # the same on all ranks, whose lists may be longer than rank 0's
        self._ask(state)

    def look(self, state: State) -> None:
        """Take the verdicts that have come since the last look: rank 0 alone, and not at every step."""
        if state.unjudged and self.comm.rank == 0 and time.monotonic() - self._looked_s > LOOK_S:
            self._take(state)

    def epoch_over(self, state: State, final: bool) -> bool:
        """Judge the epoch that is over, or have it judged. A collective.

        Returns:
            False if a stop was agreed before all was done: nothing of it counts.
        """
        if self.apart and not final:
            self._hand_over(state)
            self._settle(state, AHEAD)  # where it stops, the loop hears of it as well
            return True
        with self.run.model.engine.averaged():
            seen = self._predict(state.epoch)
        if seen is None:
            return False
        if not self._settle(state, 0):
            return False
        self._keep(state, seen, final)
        return True

    # --------------------------------------------------------------------------------------------------- by the ranks
    def _predict(self, epoch: int) -> dict[str, Predictions] | None:
        """Predict the splits that are due; None if a stop was agreed before all were done."""
        seen: dict[str, Predictions] = {}
        for name in splits_of(self.run, epoch):
            if self.stop.agreed():
                return None
            self.heartbeat(f"evaluating {name} after epoch {epoch}")
            evaluator, model = self.run.readers.evaluators[name], self.run.model
            seen[name] = evaluator.predict(model.engine, model.method, self.heartbeat)
        return seen

    def _keep(self, state: State, seen: dict[str, Predictions], final: bool) -> None:
        """Log the scores of the epoch that is over, keep its weights if it is the best, and the last one's predictions.

        The best is the first epoch of the highest accuracy on val.
        """
        fence = self.run.ranks.fence
        for name, predictions in seen.items():
            self.report.write(state, "eval", split=name, **scores(predictions))
            if name == "val" and accuracy(predictions) > state.best_accuracy:
                state.best_epoch, state.best_accuracy = state.epoch, accuracy(predictions)
                state.best_sha256 = ""  # until it is written
                self.saver.weights.begin(best_name(state.epoch))
            if final and fence:
                fence.check()
                write_predictions(self.run.folder / "preds" / "last", name, predictions)

    # ----------------------------------------------------------------------------------------------- by the evaluator
    def _hand_over(self, state: State) -> None:
        """Begin to put the weights of the epoch that is over where the evaluator finds them."""
        self.saver.weights.begin(best_name(state.epoch))
        state.unjudged = [*state.unjudged, (state.epoch, "")]
        self.report.keep_place(state.epoch)
        self._waits = True
        self._ask(state)

    def _ask(self, state: State) -> None:
        """Ask for the verdicts that are missing, once the weights are there."""
        fence, unjudged = self.run.ranks.fence, list(state.unjudged)
        if not self.apart or fence is None or unjudged == self._asked:
            return
        self._asked = unjudged
        token, digests = fence.token, self.saver.weights.digests
        self.saver.weights.then(lambda: self._verdicts.want(known(unjudged, digests), token))

    def _take(self, state: State) -> None:
        self._looked_s = time.monotonic()
        know(vars(state), self.saver.weights.digests)
        while state.unjudged and (verdict := self._verdicts.read(*state.unjudged[0])):
            self._accept(state, verdict)

    def _accept(self, state: State, verdict: dict[str, Any]) -> None:
        """Do what follows from the verdict on the oldest weights that wait for one; as in `_keep`."""
        (epoch, sha256), *state.unjudged = state.unjudged
        self.report.fill_place(epoch, verdict["scores"])
        if verdict["val_accuracy"] > state.best_accuracy:
            state.best_epoch, state.best_accuracy, state.best_sha256 = epoch, verdict["val_accuracy"], sha256

    def _settle(self, state: State, most: int) -> bool:
        """Wait until at most so many epochs have no verdict; judge them here if the evaluator is not there.

        A collective, after which all ranks know what rank 0 knows.

        Returns:
            False if a stop was agreed before.

        Raises:
            StorageError, Fenced: on all ranks, if weights were refused: nobody would ever be asked to judge them.
        """
        while self._waits:
            if self.comm.rank == 0:
                self._take(state)
            mine = (state.unjudged, state.best_epoch, state.best_accuracy, state.best_sha256)
            said = (mine, self._is_there(state, most), self.stop.asked(), self.saver.weights.error)
            every = self.comm.gather_objects(said, self.run.ranks.device)
            state.unjudged, state.best_epoch, state.best_accuracy, state.best_sha256 = every[0][0]
            if len(state.unjudged) <= most:
                self._waits = bool(state.unjudged)
                return True
            if error := every[0][3]:
                raise error
            if any(asked for _, _, asked, _ in every):
                return False
            if every[0][1]:
                self.heartbeat(f"waiting for the verdict on epoch {state.unjudged[0][0]}")
                if self.run.ranks.fence:
                    self.run.ranks.fence.check()
                self._ask(state)
                time.sleep(PAUSE_S)
            elif not self._judge_here(state):
                return False
        return True

    def _is_there(self, state: State, most: int) -> bool:
        """Say, on rank 0, whether the evaluator gets on; where one is missed, the user is told once."""
        if not self.apart or self.comm.rank > 0 or len(state.unjudged) <= most:
            return False
        there = self._presence.there()
        if self._was_there and not there:
            said = f"the evaluator is not there or silent for {self._patience_s:g} s: this run evaluates by itself"
            print(f"{said}, from epoch {state.unjudged[0][0]} on, as long as there is none", flush=True)
            self.run.ranks.tell("evaluator", text=said, epoch=state.unjudged[0][0])
        self._was_there = there
        return there

    def _judge_here(self, state: State) -> bool:
        """Judge the oldest weights that wait by the ranks. A collective; False if a stop was agreed before it ended."""
        know(vars(state), self.saver.written(self.comm, self.run.ranks.device))
        epoch, sha256 = state.unjudged[0]
        with self.run.model.engine.holding(read_weights(self.run.folder / "ckpt" / best_name(epoch), sha256)):
            seen = self._predict(epoch)
        if seen is not None:
            self._accept(state, verdict_on(seen))
            self._ask(state)  # an evaluator that comes back does not judge these any more
        return seen is not None


def splits_of(run: Setup, epoch: int) -> list[str]:
    """Return the splits that are predicted after an epoch: val, and the test splits where they are due."""
    due = epoch + 1 == run.recipe.schedule.epochs or (epoch + 1) % run.recipe.log.eval_test_every == 0
    return ["val", *(run.data.tests if due else [])]


def verdict_on(seen: dict[str, Predictions]) -> dict[str, Any]:
    """Return what the train loop needs to know of an epoch's predictions."""
    found = {name: scores(predictions) for name, predictions in seen.items()}
    return {"val_accuracy": accuracy(seen["val"]), "scores": found}
