"""Optuna's samplers by name, and what each makes of a search space.

All take every space: a parameter that a sampler cannot model it draws at random, by itself.

============  =====================================================================
``tpe``       models all parameters together; a conditional one by itself
``gp``        models all parameters together; draws conditional ones at random
``cmaes``     models numbers without a condition; draws choices, subsets and
              conditional parameters at random; needs two numbers in the space
``qmc``       spreads the parameters of the first trial evenly, except choices and
              subsets, which it draws at random, as it does conditional parameters
              that the first trial has not
``random``    draws all parameters at random
``nsga2``     crosses and mutates the trials of the generation before
============  =====================================================================

Trials that were stopped early teach ``tpe`` alone; the others learn from whole ones. ``cmaes``
keeps its state pickled in the Optuna study: use it only with a database that nobody else writes.
Only `CONSTRAINED_SAMPLERS` learn of ``search.constraints``, and of a second objective: ``cmaes``
takes one alone, and ``qmc`` and ``random`` propose the same whatever a trial's values are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from gam_ray.config import SearchConfig, derive_seed
from gam_ray.config.study import SamplerName

# Trials drawn at random before a model is built of them. Fewer would fill the crowd of a small
# study with variations of its first trials, which then agree with each other, right or wrong.
STARTUP_TRIALS = 10
# Trials of a generation of nsga2. At Optuna's 50 most studies would end within the first one,
# which is random.
POPULATION = 10
# Those that prefer trials that keep to the constraints, which Optuna knows of each trial.
CONSTRAINED_SAMPLERS: tuple[SamplerName, ...] = ("tpe", "gp", "nsga2")


def build_sampler(config: SearchConfig, *, known: int = 0) -> BaseSampler:
    """Optuna's sampler of this name, seeded from the study's seed.

    The same seed proposes the same where the trials end in the same order: on one lane, in one
    go, by the score alone. A study that is taken up again goes on with a seed of its own, derived
    from how many trials were asked for before, so that it does not repeat its proposals; ``qmc``
    goes on in its sequence.

    Args:
        config: Which sampler, and the study's seed.
        known: Trials that earlier lives of the study have asked for.
    """
    names = ("sampler", known) if known and config.sampler != "qmc" else ("sampler",)
    seed = derive_seed(config.seed, *names) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[config.sampler](seed)


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=STARTUP_TRIALS,
        multivariate=True,
    )


def _gp(seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False
    )


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False
    )


def _qmc(seed: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(
        seed=seed,
        scramble=True,
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )


def _random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)


_SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
    "random": _random,
    "nsga2": _nsga2,
}
