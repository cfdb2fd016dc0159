"""How often the 95 % intervals cover the truth, in a simulation; docs/report.md has what it prints."""

import numpy as np
import pytest

from fbunet_jax.evaluation.statistics import class_iou, pooled_intervals

SHARES = np.array([0.741, 0.2, 0.0534, 0.0056])
RECALL = np.array([0.95, 0.85, 0.8, 0.55])
REPETITIONS = 2000

# spread between groups, of their sizes (log-normal), and how many groups have a pixel of the rare class
MODELS = {
    "even": (0.4, 0.5, 1.0),
    "as it is": (1.0, 0.5, 1.0),
    "uneven": (2.0, 0.5, 1.0),
    "unequal sizes": (1.0, 1.0, 1.0),
    "rare class in 7 of 10": (1.0, 0.5, 0.7),
}


def simulate(random, shape, spread, sizes, present):
    """Return counts `[*shape, 4, 4]` of groups: beta-binomial recall, Dirichlet shares and confusions."""
    share = random.gamma(np.broadcast_to(SHARES * 30 / spread, (*shape, 4)))
    share /= share.sum(axis=-1, keepdims=True)
    rare = SHARES[-1] * random.gamma(2 / spread, spread / 2, shape)
    share[..., -1] = rare * (random.random(shape) < present)
    share /= share.sum(axis=-1, keepdims=True)
    truth = random.poisson(2e5 * np.exp(sizes * random.normal(size=shape))[..., None] * share)
    strength = 12 / spread
    right = random.beta(*(np.broadcast_to(each * strength, (*shape, 4)) for each in (RECALL, 1 - RECALL)))
    other = SHARES**0.6 * (1 - np.eye(4))
    other /= other.sum(axis=1, keepdims=True)
    wrong = random.gamma(np.broadcast_to(10 / spread * other + 1e-3, (*shape, 4, 4))) * (1 - np.eye(4))
    wrong /= wrong.sum(axis=-1, keepdims=True)
    return random.multinomial(truth, (1 - right)[..., None] * wrong + right[..., None] * np.eye(4)).astype(float)


@pytest.mark.long
@pytest.mark.parametrize("groups", [5, 7, 10, 20])
@pytest.mark.parametrize("model", MODELS)
def test_intervals_of_all_groups_cover_the_truth(model, groups):
    random = np.random.default_rng(groups)
    truth = class_iou(sum(simulate(random, (10000,), *MODELS[model]).sum(axis=0) for _ in range(10)))
    hits = [[] for _ in truth]
    for counts in simulate(random, (REPETITIONS, groups), *MODELS[model]):
        for covered, value, interval in zip(hits, truth, pooled_intervals(counts), strict=True):
            if interval:
                covered.append(interval[0] <= value <= interval[1])
    coverage = [100 * np.mean(each) for each in hits]
    print(f"\n{model}, {groups} groups: {', '.join(f'{value:.1f}' for value in coverage)}")
    assert min(len(each) for each in hits) >= REPETITIONS / 10
    # the standard error of a coverage of 0.92 is 0.6 points
    assert min(coverage) > 92 - 1.2
