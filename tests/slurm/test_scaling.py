"""The model of a job: its steps follow the arithmetic where that is known, and its interruptions Young and Daly's
formula.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from recipes.common.errors import DataError, PlanError
from recipes.schema import PROJECT
from slurm.scaling import (
    Assumptions,
    best_every_s,
    main,
    most_ranks,
    reduction_s,
    run_s,
    step_s,
    suite_bytes,
    young_daly_s,
)

STILL = Assumptions(
    image_s=0.001,
    fixed_s=0.004,
    jitter=0.0,
    norms=0,
    gradient_bytes=0.0,
    suite_bytes=0.0,
    latency_s=0.0,
    interruptions_h=0.0,
)
"""Nothing is random, nothing is sent, nothing interrupts."""


# --------------------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize("ranks", [1, 2, 4, 64])
def test_a_step_without_jitter_and_messages_is_its_share_of_the_batch(ranks: int) -> None:
    """R ranks take the fixed part and their share of the images, where cores are enough; where two ranks share one,
    twice as long.
    """
    assert step_s(STILL, 256, 128, ranks, 1) == pytest.approx(0.004 + 256 / ranks * 0.001)
    assert step_s(replace(STILL, cores=ranks / 2), 256, 128, ranks, 1) == pytest.approx(
        2 * (0.004 + 256 / ranks * 0.001)
    )


def test_messages_cost_what_the_ring_says() -> None:
    """A sum moves 2 (R - 1) / R of its bytes over the slowest link, the node's or between nodes, and waits 2 log2 R
    times; one rank sends nothing.
    """
    given = replace(STILL, latency_s=1e-5, link_bytes_s=1e9, node_bytes_s=1e10)
    assert reduction_s(given, 1e6, 8, 2) == pytest.approx(6e-5 + 1.75e-3) and reduction_s(
        given, 1e6, 8, 1
    ) == pytest.approx(6e-5 + 1.75e-4)
    assert reduction_s(given, 1e6, 1, 1) == 0.0


def test_messages_hide_behind_the_backward_pass() -> None:
    """The suite's reduction, begun before the last backward pass, costs nothing while that lasts longer; gradients in
    one message are all waited for, in ten only the last is; what does not fit sticks out.
    """
    given = replace(STILL, fixed_s=0.0, forward=0.25, link_bytes_s=1e9)
    step, own = 0.064, 0.75 * 0.064  # 128 images on two ranks; the backward pass

    def suite_s(size: float) -> float:
        return step_s(replace(given, suite_bytes=size * 1e9), 128, 32, 2, 2)

    assert suite_s(0.9 * own) == pytest.approx(step) and suite_s(1.5 * own) == pytest.approx(step + 0.5 * own)

    def gradients_s(size: float, buckets: int) -> float:
        return step_s(replace(given, gradient_bytes=size * 1e9, buckets=buckets), 128, 32, 2, 2)

    assert gradients_s(0.5 * own, 1) == pytest.approx(step + 0.5 * own) and gradients_s(0.5 * own, 10) == pytest.approx(
        step + 0.05 * own
    )


def test_jitter_waits_for_the_slowest() -> None:
    """With jitter a step of many ranks is the expected largest of as many draws: for lognormal factors of 10 %, as
    drawn here apart; and more ranks wait longer.
    """
    given = replace(STILL, fixed_s=0.05, image_s=0.0, jitter=0.1)
    sigma = math.sqrt(math.log(1.01))
    for ranks in (1, 16, 128):
        largest = np.random.default_rng(7).lognormal(-(sigma**2) / 2, sigma, (4000, ranks)).max(axis=1).mean()
        assert step_s(given, 1024, 1024 // ranks, ranks, 1, steps=2000) == pytest.approx(0.05 * largest, rel=0.01)


def test_shared_cores_are_never_idle() -> None:
    """Four ranks on two cores take half of their work together, not four times the slowest's share of a core: jitter
    costs them nothing; on a node each they have no need to share.
    """
    given = replace(STILL, fixed_s=0.05, image_s=0.0, jitter=0.1, cores=2.0)
    assert step_s(given, 128, 32, 4, 1, steps=2000) == pytest.approx(0.1, rel=0.01)
    assert step_s(given, 128, 32, 4, 4) == step_s(replace(given, cores=math.inf), 128, 32, 4, 1)


def test_a_slow_loader_sets_the_pace() -> None:
    """Where the loader makes fewer images/s than the step takes, the step takes as long as the loader; a faster one is
    not noticed, jitter or not.
    """
    for rate, wanted in ((500.0, 128 / 2 / 500), (1e6, 0.004 + 0.064)):
        assert step_s(replace(STILL, loader_images_s=rate, loader_jitter=0.0), 128, 32, 2, 1) == pytest.approx(
            wanted, rel=0.02
        )
    late = [
        step_s(replace(STILL, loader_images_s=1000.0, loader_jitter=0.3, prefetch=ahead), 128, 32, 2, 1, steps=1000)
        for ahead in (1, 4, 100)
    ]
    assert (
        0.08 > late[0] > late[1] > late[2] > 0.0679
    )  # just fast enough on average: batches come late now and then, the less the further it may be ahead


def test_ranks_that_share_a_group_pay_for_its_statistics() -> None:
    """Up to one rank a group no statistics are exchanged; beyond, each layer's are, forward and backward."""
    given = replace(STILL, norms=53, latency_s=1e-5)
    assert step_s(given, 256, 128, 2, 1) == pytest.approx(
        0.004 + 0.128 + reduction_s(given, 0, 2, 1)
    )  # the gradients' own message
    shared = step_s(given, 256, 128, 8, 1)
    assert shared == pytest.approx(0.004 + 0.032 + 2 * 53 * reduction_s(given, 0, 4, 1) + reduction_s(given, 0, 8, 1))


def test_ranks_that_the_plan_refuses_are_refused() -> None:
    """The model shares out a batch as sharding.plan.epoch does: 1,024 ranks cannot share 256 images, and a number
    beyond `most_ranks` is an error.
    """
    assert most_ranks(256, 128, 2) == 128 and most_ranks(256, 0, 2) == 256
    step_s(STILL, 256, 128, 128, 16, 2)
    for ranks in (3, 256, 1024):
        with pytest.raises(PlanError):
            step_s(STILL, 256, 128, ranks, 1, 2)


def test_the_suite_sends_the_smaller_of_sums_and_features() -> None:
    """Counted as a sum: 8 K (D + 1) bytes of class sums, or half of the gathered features' 4 B (D + 2)."""
    assert suite_bytes(256, 1000, 2048) == 2 * 256 * 2050 and suite_bytes(4096, 1000, 2048) == 8 * 1000 * 2049


# -------------------------------------------------------------------------------------------------------------- a run
def test_a_run_without_interruptions_is_work_and_saves() -> None:
    """The boot, the work, and a save at the end of each interval but the last."""
    assert run_s(replace(STILL, boot_s=10.0, save_s=2.0), 1000.0, 100.0, 4) == pytest.approx(10 + 1000 + 9 * 2)


def test_an_interruption_costs_the_way_back() -> None:
    """With a time limit of 500 s that warns in time, 1,000 s of work take two more starts; without a warning, what came
    after the last checkpoint is done again.
    """
    given = replace(STILL, boot_s=10.0, save_s=0.0, queue_s=60.0, limit_s=500.0)
    assert run_s(given, 1000.0, 300.0, 1) == pytest.approx(3 * 10 + 2 * 60 + 1000)
    often = replace(STILL, boot_s=10.0, save_s=0.0, queue_s=60.0, interruptions_h=3.0)
    assert (
        run_s(replace(often, grace_s=1.0), 20_000.0, 300.0, 1)
        < run_s(often, 20_000.0, 300.0, 1)
        < run_s(often, 20_000.0, 1200.0, 1)
    )
    assert run_s(often, 20_000.0, 300.0, 4) > run_s(often, 20_000.0, 300.0, 1)  # more nodes, more interruptions


def test_lost_time_is_that_of_theory() -> None:
    """For rare interruptions a run is longer by half an interval, a boot and a wait for each of them, and the saves: to
    1 %.
    """
    given = replace(STILL, boot_s=20.0, save_s=3.0, queue_s=100.0, interruptions_h=0.1)
    work, every = 5e6, 900.0
    each = every / 2 + given.boot_s + given.queue_s
    expected = work * (1 + given.save_s / every) / (1 - each / 36_000)
    assert run_s(given, work, every, 1) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "save_s, mean_h, nodes", [(3.0, 24.0, 1), (3.0, 24.0, 16), (60.0, 5.0, 1), (30.0, 100.0, 1), (120.0, 10.0, 4)]
)
def test_the_best_interval_is_youngs(save_s: float, mean_h: float, nodes: int) -> None:
    """Found by simulation, it is the formula's within a fourth, and the formula's interval makes a run less than 0.2 %
    longer.
    """
    given = replace(STILL, save_s=save_s, boot_s=15.0, queue_s=120.0, interruptions_h=1 / mean_h)
    best, young = best_every_s(given, nodes), young_daly_s(given, nodes)
    assert young == pytest.approx(math.sqrt(2 * save_s * mean_h * 3600 / nodes))
    assert young / 1.25 < best < young * 1.25
    assert run_s(given, 1e6, young, nodes) <= 1.002 * run_s(given, 1e6, best, nodes)


def test_where_nothing_is_lost_saving_is_for_nothing() -> None:
    """Without interruptions, or with a warning that is long enough, no interval is best; and a run that never reaches
    its next checkpoint never ends.
    """
    assert best_every_s(STILL, 1) == best_every_s(replace(STILL, interruptions_h=1.0, grace_s=60.0), 1) == math.inf
    assert run_s(replace(STILL, interruptions_h=10.0), 1e6, 1e5, 1) == math.inf


def test_the_same_question_has_the_same_answer() -> None:
    """Steps, runs and intervals are drawn from fixed seeds."""
    given = Assumptions(image_s=0.001)
    answers = [(step_s(given, 256, 128, 8, 1), run_s(given, 1e5, 600.0, 1), best_every_s(given, 1)) for _ in range(2)]
    assert answers[0] == answers[1] and answers[0][0] != step_s(given, 256, 128, 8, 1, seed=1)


def test_the_table_says_what_is_not_legal(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m slurm.scaling`: efficiency falls with the ranks of one batch, and 1,024 ranks are refused for 256
    images and not for 65,536.
    """
    main(["image_s=0.0003"])
    strong, large = capsys.readouterr().out.split("a batch of 65,536")
    shares = [float(line.split("efficiency ")[1].split(",")[0]) for line in strong.splitlines() if "efficiency" in line]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and len(shares) == 4
    assert "1,024 ranks: not legal, 128 at most" in strong and "1,024 ranks" in large and "not legal" not in large


def test_a_given_size_of_the_reduction_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """`suite_bytes=` takes the place of what follows from each batch."""
    said = []
    for words in ([], ["suite_bytes=1e12"]):
        main(["image_s=0.0003", *words])
        said.append([line for line in capsys.readouterr().out.splitlines() if " 64 ranks" in line])
    assert all(one != other for one, other in zip(*said, strict=True)) and len(said[0]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["image_s=abc"], "image_s=abc is not legal; a number above 0 is"),
        (["image_s=nan"], "image_s=nan is not legal"),
        (["image_s=1", "norms=1.5"], "norms=1.5 is not legal; a whole number from 0 is"),
        (["image_s=1", "queue_s=-1"], "queue_s=-1 is not legal; a number from 0 is"),
        (["image_s=1", "save_s=inf"], "save_s=inf is not legal"),
        (["cores=2"], "image_s= is missing"),
        (["image_s=1", "evaluate_s=9"], "unknown key 'evaluate_s'"),  # it changes nothing that is printed
    ],
)
def test_a_word_that_is_no_number_is_one_sentence(words: list[str], said: str) -> None:
    """An assumption that is no number, or one that the model cannot use, is refused by name."""
    with pytest.raises(DataError, match=re.escape(said)):
        main(words)


def test_the_model_loads_nothing_heavy() -> None:
    """The launcher must answer at once."""
    code = (
        "import sys, slurm.scaling, slurm.planning.forecast; print(sorted({'torch', 'deepspeed', 'webdataset', "
        "'pandas', 'scipy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60
        ).stdout.strip()
        == "[]"
    )
