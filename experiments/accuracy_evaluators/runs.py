"""The same candidates judged by each evaluator; what is found is kept line by line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hardsight.candidate import Candidate
from hardsight.datasets.journal import Journal
from hardsight.nas.data import DataSpec, load_data
from hardsight.nas.evaluators import halving, proxy, qat, supernet
from hardsight.nas.evaluators.proxies import PROXIES
from hardsight.nas.spaces import Task
from hardsight.nas.spaces.quant_cnn import Options, QuantCnnSpace
from hardsight.nas.storage import quiet_optuna
from hardsight.progress import Progress

CANDIDATES = 20
EPOCHS = 8
SHORT = 2
RUNGS_EPOCHS = 4
SUPERNET_EPOCHS = 16
FULL_SEEDS = (0, 1)
CHEAP_SEED = 2  # none of the full trainings': chance must not be shared
SPACE = QuantCnnSpace(
    Task((1, 8, 8), 10), Options(resolutions=(8, 12), max_depth=2, widths=((4, 16), (4, 32)), width_step=4)
)

Row = dict[str, Any]
Judge = Callable[[Candidate], Row]


def candidates(count: int = CANDIDATES) -> list[Candidate]:
    """Drawn by a seed."""
    import optuna

    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        return [SPACE.suggest(study.ask()) for _ in range(count)]


def make(folder: Path, count: int, progress: Progress) -> None:
    """Whatever judgements are missing in the folder's journal; a kill loses one at most."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "rows.jsonl")
    chosen = candidates(count)
    for method, judge in judges(folder):
        have = {row["candidate"] for row in journal if row["method"] == method}
        for i, candidate in enumerate(chosen):
            progress(method, i, count)
            if i not in have:
                begin = time.process_time()
                row = {"method": method, "candidate": i, **judge(candidate)}
                journal.append([{**row, "cpu_s": round(time.process_time() - begin, 4)}])
        progress(method, count, count)


def judges(folder: Path) -> Iterator[tuple[str, Judge]]:
    """By method, what it says of a candidate: mostly ``score``."""
    data = load_data(DataSpec(), seed=0)
    full = qat.QatEvaluator(SPACE, data, EPOCHS)
    for seed in FULL_SEEDS:
        yield f"full-{seed}", partial(in_mid_cycle, full, seed)
    yield "short", lambda c: {"score": full.evaluate(c, CHEAP_SEED, SHORT).accuracy}
    rungs = halving.HalvingEvaluator(SPACE, data, RUNGS_EPOCHS, halving.Options(min_epochs=SHORT))
    yield (
        "rungs",
        lambda c: dict(rungs.evaluate_among(c, CHEAP_SEED, ()).details),
    )  # without rivals: to the end
    for name in PROXIES:
        scorer = proxy.ProxyEvaluator(SPACE, data, EPOCHS, proxy.Options.model_validate({"proxy": name}))
        yield name, partial(untrained, scorer)
    shared = supernet.SupernetEvaluator(
        SPACE, data, EPOCHS, supernet.Options(supernet_epochs=SUPERNET_EPOCHS)
    )
    shared.begin(folder)
    yield "supernet", lambda c: inherited(shared, c)
    yield "tuned", lambda c: {"score": shared.evaluate(c, CHEAP_SEED, SHORT).accuracy}


def untrained(scorer: proxy.ProxyEvaluator, candidate: Candidate) -> Row:
    """A proxy's score."""
    return {"score": scorer.score(candidate, CHEAP_SEED)}


def in_mid_cycle(evaluator: qat.QatEvaluator, seed: int, candidate: Candidate) -> Row:
    """A full training, with the accuracies that it would have had to be stopped at."""
    curve = []
    with evaluator._working(seed):
        module = evaluator._module(candidate, EPOCHS)
        shuffle = torch.Generator().manual_seed(seed)
        for done in evaluator._epochs(module, EPOCHS, shuffle, evaluator._deadline()):
            if done in (SHORT, 2 * SHORT, EPOCHS):
                curve.append((done, evaluator._accuracy(module)))
    return {"score": curve[-1][1], "curve": curve}


def inherited(evaluator: supernet.SupernetEvaluator, candidate: Candidate) -> Row:
    """With the time of the first one, in which the supernet is trained, told apart."""
    begin = time.process_time()
    evaluator._shared()
    trained = time.process_time() - begin
    return {"score": evaluator.evaluate(candidate, CHEAP_SEED).accuracy, "training_s": round(trained, 3)}
