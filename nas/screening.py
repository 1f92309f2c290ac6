"""Surrogate-assisted search: thousands of candidates are screened for each that is trained.

What a candidate costs is predicted at once; only its accuracy takes a training. So the costs of every screened
candidate count as known, a small model fitted to the finished trials guesses the accuracy, and the candidate goes next
that is expected to enlarge the front most while it keeps the constraints.

Source: expected hypervolume improvement of Emmerich, Deutz and Klinkenberg (CEC 2011) with all but one objective known;
screening of candidates by cheap objectives as in LEMONADE (Elsken, Metzen and Hutter, ICLR 2019), which has no model of
the accuracy; a Gaussian process on the encoding as in BANANAS (White, Neiswanger and Savani, AAAI 2021), whose
predictor is an ensemble of networks and whose objective is one. Their candidates, too, are mutations of the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import TrialState
from scipy.special import ndtr
from scipy.stats import rankdata

from hardsight.errors import InputError
from hardsight.nas._accuracy_model import GaussianProcess, Inputs, Kernel, likely_kernel
from hardsight.nas._encoding import Encoding
from hardsight.nas._improvement import Bend, expected_improvement
from hardsight.nas.storage import queued_params
from hardsight.prediction import FloatArray

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_PROBES = 512  # random candidates that say what is usual in the space
_MARGIN = 0.1  # of the front's range, beyond its ends: where volume begins to count
_ROWS = 200  # that the model is fitted to at most
_ROWS_FOR_KERNEL = 150
_GROWTH = 1.25  # more rows than last time before the hyper-parameters are chosen again
_PARENTS = 16  # random candidates that stand in for a front
_TRIES = 5  # to find something new: of a small space little may be left
_DRAWS = 16  # of further uncertain objectives
_SURE = 0.22  # of the model's deviation, where it says whether a candidate works: there is no noise in that


class Known(NamedTuple):
    """What is known of a candidate before it is evaluated.

    Args:
        values: by objective, as the study would be told; None where only an evaluation tells; empty: of all.
        violations: by constraint, above 0 where it is broken.
        identity: equal for parameters that mean the same candidate; None: different ones always differ.
    """

    values: tuple[float | None, ...] = ()
    violations: tuple[float, ...] = ()
    identity: Hashable = None


CostFunction = Callable[[Mapping[str, Any]], Known]
"""From a trial's parameters; called for each candidate once."""


class ScreeningSampler(BaseSampler):
    """Proposes by expected hypervolume improvement among screened candidates.

    What it proposes follows from seed, trial number and the trials so far: a resumed study goes on as it would have.
    Trials that run are taken for finished, with the value that the model expects (the kriging believer of Ginsbourger,
    Le Riche and Carraro 2010). Pruned ones teach nothing, but are not proposed again. One that is queued or was
    evaluated, or is the same candidate, is proposed only when nothing else is found.

    Some candidates do not work at all: their training fails, or they end no better than guessing (``hopeless``). What
    is expected of a candidate is multiplied by the probability that it works (as constraints are in Gardner et al.,
    "Bayesian optimization with inequality constraints", ICML 2014), which the model of the accuracy gives, too: a
    second target on the same covariance.

    Args:
        costs: what is known of a candidate for free.
        seed: of everything random.
        screened: candidates compared for each trial.
        start: trials before the model is asked; they spread over the first known objective.
        space: to be searched; by default the parameters that all finished trials share, so that the first is random.
        hopeless: value of the first unknown objective, minimised, from which on an outcome is no better than guessing.

    Example:
        >>> sampler = ScreeningSampler(lambda params: Known((None, params["width"] * 3.0)), seed=0)
        >>> study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    """

    def __init__(
        self,
        costs: CostFunction,
        seed: int = 0,
        screened: int = 2000,
        start: int = 6,
        space: Mapping[str, BaseDistribution] | None = None,
        hopeless: float = math.inf,
    ) -> None:
        if screened < 1 or start < 1:
            raise InputError(
                f"{screened} screened candidates and {start} first trials: give 1 or more of each"
            )
        self._costs = costs
        self._seed = seed
        self._screened = screened
        self._start = start
        self._hopeless = hopeless
        self._given = None if space is None else dict(space)
        self._shared = IntersectionSearchSpace(include_pruned=True)
        self._memory: _Memory | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._shared.calculate(study) if self._given is None else self._given

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 3:
            raise InputError(f"{len(study.directions)} objectives; at most three can be screened for")
        if not search_space:
            return {}
        memory = self._remember(study, search_space)
        rng = np.random.default_rng([self._seed, trial.number])
        return memory.encoding.params(self._propose(memory, _past(study, trial, memory), rng))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        words = [self._seed, trial.number, *param_name.encode()]
        seed = int(np.random.default_rng(words).integers(2**31))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def _remember(self, study: Study, space: dict[str, BaseDistribution]) -> _Memory:
        memory = self._memory
        if memory is None or memory.name != study.study_name or memory.encoding.space != space:
            signs = [1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions]
            probes = min(_PROBES, self._screened)
            memory = _Memory(study.study_name, Encoding(space), np.array(signs), self._costs, self._hopeless)
            memory.probe(memory.encoding.random(probes, np.random.default_rng(self._seed)))
            self._memory = memory
        return memory

    def _propose(self, memory: _Memory, past: _Past, rng: np.random.Generator) -> FloatArray:
        """The next row."""
        for _ in range(_TRIES):
            pool = self._pool(memory, past, rng)
            if pool.size:
                break
        else:
            return np.asarray(memory.encoding.random(1, rng)[0])
        if (pool.broken > 0).all():
            return np.asarray(pool.rows[int(pool.broken.argmin())])
        pool = pool.of(pool.broken <= 0)
        if past.begun < self._start or not len(past.values):
            return np.asarray(pool.rows[_spread_out(memory, past, pool, self._start)])
        gains = _gains(memory, past, pool, rng, self._seed)
        return np.asarray(pool.rows[int(gains.argmax())] if gains.max() > 0 else pool.rows[0])

    def _pool(self, memory: _Memory, past: _Past, rng: np.random.Generator) -> _Candidates:
        """New candidates: half random ones, the other half mutations and crossovers of the front."""
        encoding, half = memory.encoding, (self._screened + 1) // 2
        parents = past.rows[past.front]
        if not len(parents):
            parents = memory.probes.rows[np.argsort(memory.probes.broken, kind="stable")[:_PARENTS]]
        fresh = encoding.random(half, rng)
        first, second = (parents[rng.integers(0, len(parents), max(1, half // 2))] for _ in range(2))
        mutants = encoding.mutated(first, rng)
        rows = [fresh, mutants, encoding.mutated(encoding.crossed(first, second, rng), rng)]
        return memory.new(np.concatenate(rows), past)


class _Candidates(NamedTuple):
    """Rows and what is known of them.

    Args:
        rows: ``(n, p)``.
        values: ``(n, m)`` objectives, minimised; NaN where unknown.
        broken: ``(n,)`` by how much constraints are broken in total, 0 where they are kept.
        costs: ``(n, c)`` all that is known, objectives and constraints: what the model of the others may look at.
    """

    rows: FloatArray
    values: FloatArray
    broken: FloatArray
    costs: FloatArray

    def of(self, kept: Any) -> _Candidates:
        return _Candidates(*(column[kept] for column in self))

    @property
    def size(self) -> int:
        return len(self.rows)


class _Past(NamedTuple):
    """Trials so far.

    Args:
        rows: ``(n, p)`` of finished trials that keep the constraints.
        values: ``(n, m)`` their outcomes, minimised.
        front: indices of those that no other beats, equal ones once.
        running: those without an outcome yet.
        failed: ``(k, p)`` rows whose evaluation failed.
        known: identities that are not to be proposed again.
    """

    rows: FloatArray
    values: FloatArray
    front: list[int]
    running: _Candidates
    failed: FloatArray
    known: set[Hashable]

    @property
    def begun(self) -> int:
        """Trials that teach something, now or when they are finished."""
        return len(self.values) + self.running.size + len(self.failed)


class _Record(NamedTuple):
    """A trial: its row, which candidate that is, whether it broke a constraint, its outcome."""

    row: FloatArray
    identity: Hashable
    broken: bool
    values: list[float] | None


@dataclass
class _Memory:
    """What need not be made again for the next trial of a study.

    Args:
        name: of the study.
        encoding: of its space.
        signs: ``(m,)`` by which objectives are multiplied to be minimised.
        costs: given by the user.
        hopeless: given by the user.
    """

    name: str
    encoding: Encoding
    signs: FloatArray
    costs: CostFunction
    hopeless: float
    seen: dict[bytes, Known] = field(default_factory=dict)
    records: dict[int, _Record] = field(default_factory=dict)
    kernels: dict[tuple[int, int], Kernel] = field(default_factory=dict)

    def probe(self, rows: FloatArray) -> None:
        """Learn from random rows what is usual."""
        self.probes = self.candidates(rows)
        counts = self.encoding.counts(rows)
        self._centre, self._spread = counts.mean(axis=0), np.maximum(counts.std(axis=0), 1e-9)
        # a limit on an objective says nothing new: it orders the probes as the objective does
        orders = {rankdata(c).tobytes(): i for i, c in reversed(list(enumerate(self.probes.costs.T)))}
        known = [i for i in orders.values() if not np.isnan(self.probes.costs[:, i]).any()]
        self._usual = [(i, np.sort(self.probes.costs[:, i])) for i in sorted(known)]

    def lookup(self, row: FloatArray) -> Known:
        key = row.tobytes()
        if key not in self.seen:
            known = self.costs(self.encoding.params(row))
            known = known._replace(values=known.values or (None,) * len(self.signs))
            if len(known.values) != len(self.signs):
                raise InputError(
                    f"the cost function gives {len(known.values)} values for {len(self.signs)} objectives; "
                    "give one for each, None where it is not known"
                )
            self._limits = len(known.violations)
            self.seen[key] = known._replace(identity=key) if known.identity is None else known
        return self.seen[key]

    def new(self, rows: FloatArray, past: _Past) -> _Candidates:
        """Each candidate once, without those that are known."""
        found = [self.lookup(row) for row in rows]
        unique = {known.identity: i for i, known in enumerate(found)}
        kept = [i for identity, i in unique.items() if identity not in past.known]
        return self._table(rows[kept], [found[i] for i in kept])

    def candidates(self, rows: FloatArray) -> _Candidates:
        """What is known of rows."""
        return self._table(rows, [self.lookup(row) for row in rows])

    def record(self, trial: FrozenTrial) -> _Record | None:
        """What a trial says; None where it lacks a parameter."""
        if trial.number not in self.records:
            params = queued_params(trial)  # also of one that waits, or has only begun
            if any(name not in params for name in self.encoding.space):
                return None
            row = self.encoding.row(params)
            known = self.lookup(row)
            broken = any(v > 0 for v in (*trial.constraints.values(), *known.violations))
            record = _Record(row, known.identity, broken, trial.values)
            if not trial.state.is_finished():
                return record
            self.records[trial.number] = record
        return self.records[trial.number]

    def _table(self, rows: FloatArray, found: list[Known]) -> _Candidates:
        values = np.array([k.values for k in found], np.float64).reshape(len(rows), len(self.signs))
        violations = np.array([k.violations for k in found], np.float64).reshape(len(rows), self._limits)
        broken = np.maximum(violations, 0.0).sum(axis=1)
        costs = np.concatenate([values, violations], axis=1)
        return _Candidates(rows, values * self.signs, broken, costs)

    def inputs(self, of: _Candidates) -> Inputs:
        """What the model sees. A cost is given as its place among the probes': no unit, no tail."""
        counts = (self.encoding.counts(of.rows) - self._centre) / self._spread
        places = [np.searchsorted(probes, of.costs[:, i]) / len(probes) for i, probes in self._usual]
        costs = (np.array(places).reshape(len(places), of.size).T - 0.5) * np.sqrt(12.0)
        summary = np.concatenate([counts, costs], axis=1)
        return Inputs(self.encoding.features(of.rows), summary, costs, len(self.encoding))


def _past(study: Study, trial: FrozenTrial, memory: _Memory) -> _Past:
    rows, values, running = [], [], []
    failed: dict[Hashable, FloatArray] = {}
    known: set[Hashable] = set()
    again: set[Hashable] = set()  # a trial that was killed and is tried anew did not fail by itself
    for other in study.get_trials(deepcopy=False):
        record = None if other.number == trial.number else memory.record(other)
        if record is None:
            continue
        known.add(record.identity)
        if other.state != TrialState.FAIL:
            again.add(record.identity)
        if record.broken:
            continue  # a search tells the error of guessing for what it did not train
        if other.state == TrialState.FAIL:
            failed[record.identity] = record.row
        elif other.state == TrialState.RUNNING:
            running.append(record.row)
        elif other.state == TrialState.COMPLETE and all(map(math.isfinite, record.values or [])):
            rows.append(record.row)
            values.append(record.values)
    failures = [row for identity, row in failed.items() if identity not in again]
    shape = (-1, len(memory.encoding))
    outcomes = np.array(values, np.float64).reshape(-1, len(memory.signs)) * memory.signs
    now = memory.candidates(np.array(running, np.float64).reshape(shape))
    tried, lost = (np.array(of, np.float64).reshape(shape) for of in (rows, failures))
    return _Past(tried, outcomes, front_of(outcomes), now, lost, known)


def _spread_out(memory: _Memory, past: _Past, pool: _Candidates, start: int) -> int:
    """Of a slice of the candidates by their first known cost, the one that differs most from all so far."""
    number = past.begun
    known = ~np.isnan(pool.values).any(axis=0)
    kept = np.arange(pool.size)
    if known.any():
        order = np.argsort(pool.values[:, int(known.argmax())], kind="stable")
        # the cheapest is on the true front and shows how bad an outcome may be; then the middle of the widest gap
        place = [0.5, 0.0, 1.0, *(_bit_reversed(i) for i in range(2, start))][number % (start + 1)]
        width = 1 if place == 0 else max(1, pool.size // (2 * start))
        low = int(place * (pool.size - width))
        kept = order[low : low + width]
    so_far = memory.encoding.features(np.concatenate([past.rows, past.running.rows, past.failed]))
    if not len(so_far):
        return int(kept[0])
    own = memory.encoding.features(pool.rows[kept])
    apart = (own**2).sum(axis=1)[:, None] + (so_far**2).sum(axis=1)[None] - 2 * own @ so_far.T
    return int(kept[apart.min(axis=1).argmax()])


def _bit_reversed(number: int) -> float:
    """Van der Corput's sequence: 1/2, 1/4, 3/4, 1/8, ..."""
    place, digit = 0.0, 0.5
    while number:
        place += digit * (number % 2)
        number, digit = number // 2, digit / 2
    return place


def _gains(
    memory: _Memory, past: _Past, pool: _Candidates, rng: np.random.Generator, seed: int
) -> FloatArray:
    """Expected hypervolume improvement of each candidate.

    Exact where at most one objective is unknown. Of several, all but the first are drawn, and the closed form is
    averaged over the draws.
    """
    unknown = [int(i) for i in np.flatnonzero(np.isnan(memory.probes.values).any(axis=0))]
    believed = past.running.values.copy()
    guesses: dict[int, tuple[FloatArray, FloatArray, Bend]] = {}
    works = np.ones(pool.size)
    for objective in unknown:
        guess = _guess(memory, past, pool, objective, seed)
        believed[:, objective] = guess.bend.released(guess.running)
        guesses[objective] = guess.mean, guess.sd, guess.bend
        if objective == unknown[0]:
            works = guess.works
    points = np.concatenate([past.values[past.front], believed])
    front = points[front_of(points)]
    reference = _reference(past.values, front, pool)
    first, *others = unknown or [0]
    columns = [first, *(i for i in range(front.shape[1]) if i != first)]
    if not unknown:  # a search without training: the values themselves
        guesses[0] = pool.values[:, 0], np.full(pool.size, 1e-12), Bend(np.inf, 1.0)
    mean, sd, bend = guesses[first]
    total = np.zeros(pool.size)
    draws = _DRAWS if others else 1
    for _ in range(draws):
        values = pool.values.copy()
        for objective in others:
            at, by, scale = guesses[objective]
            values[:, objective] = scale.released(at + by * rng.normal(size=pool.size))
        total += expected_improvement(
            mean, sd, values[:, columns[1:]], front[:, columns], reference[columns].tolist(), bend
        )
    return np.asarray(works * total / draws)


class _Guess(NamedTuple):
    """Of one objective on its bent scale.

    Args:
        mean: ``(n,)`` of the pool.
        sd: ``(n,)`` its standard deviation.
        works: ``(n,)`` probability that a candidate works at all.
        running: expected of what runs.
        bend: the scale.
    """

    mean: FloatArray
    sd: FloatArray
    works: FloatArray
    running: FloatArray
    bend: Bend


def _guess(memory: _Memory, past: _Past, pool: _Candidates, objective: int, seed: int) -> _Guess:
    kept = _training_rows(past)
    y = past.values[kept, objective]
    bend = Bend.of(y)
    # to the model a failure is as bad as the worst outcome
    rows = np.concatenate([past.rows[kept], past.failed])
    values = np.concatenate([bend.pressed(y), np.full(len(past.failed), bend.pressed(y).max())])
    works = np.concatenate([np.where(y < memory.hopeless, 1.0, -1.0), np.full(len(past.failed), -1.0)])
    known = memory.candidates(rows)
    inputs, targets = memory.inputs(known), np.stack([values, works], axis=1)
    kernel = _kernel(memory, inputs, values, objective, seed)
    model = GaussianProcess(kernel, inputs, targets)
    believed = np.zeros((0, 2))
    if past.running.size:
        believed, _ = model.predict(memory.inputs(past.running))
        both = memory.inputs(_Candidates(*(np.concatenate(p) for p in zip(known, past.running, strict=True))))
        model = GaussianProcess(kernel, both, np.concatenate([targets, believed]))
    mean, sd = model.predict(memory.inputs(pool))
    share = ndtr(mean[:, 1] / (_SURE * sd[:, 1])) if (works < 0).any() else np.ones(pool.size)
    return _Guess(mean[:, 0], sd[:, 0], share, believed[:, 0], bend)


def _kernel(memory: _Memory, inputs: Inputs, values: FloatArray, objective: int, seed: int) -> Kernel:
    """Chosen again when the rows have grown by a quarter, always on the same number of rows."""
    size = 4
    while size * _GROWTH <= min(len(values), _ROWS_FOR_KERNEL):
        size = int(np.ceil(size * _GROWTH))
    size = min(size, len(values))
    if (objective, size) not in memory.kernels:
        rng = np.random.default_rng([seed, objective, size])
        memory.kernels[objective, size] = likely_kernel(inputs.first(size), values[:size], rng)
    return memory.kernels[objective, size]


def _training_rows(past: _Past) -> list[int]:
    """All, or of many the front, the latest, and some of the others at equal distances; in order."""
    count = len(past.values)
    if count <= _ROWS:
        return list(range(count))
    front = past.front[-_ROWS // 3 :]
    latest = list(range(count - _ROWS // 3, count))
    others = np.linspace(0, count - 1, _ROWS - len({*front, *latest})).astype(int).tolist()
    return sorted({*front, *latest, *others})


def front_of(points: FloatArray) -> list[int]:
    """Indices of points ``(n, m)`` that no other beats or equals before them.

    Visits only these, for thousands of points that `hardsight.nas.pareto` would compare pairwise.
    """
    left = np.lexsort(points.T[::-1])
    front: list[int] = []
    while len(left):
        front.append(int(left[0]))
        # in this order nothing later beats the first
        left = left[(points[left] < points[left[0]]).any(axis=1)]
    return sorted(front)


def _reference(points: FloatArray, front: FloatArray, pool: _Candidates) -> FloatArray:
    """A tenth of the range beyond the worst of the front; of a known objective, of the whole pool.

    A costlier candidate than any so far may be the most accurate, so its volume has to count.
    """
    known = np.where(np.isnan(pool.values).any(axis=0), -np.inf, pool.values.max(axis=0))
    low, high = front.min(axis=0), np.maximum(front.max(axis=0), known)
    reach = np.where(high > low, high - low, points.max(axis=0) - low)
    return np.asarray(high + _MARGIN * np.where(reach > 0, reach, 1.0), dtype=np.float64)
