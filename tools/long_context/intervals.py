"""Means and intervals as `purekv eval` makes them: a percentile bootstrap over whole texts, the same on any machine."""
import functools

DRAWS = 1000


def _split_mix(state):
    """SplitMix64: the next state and number."""
    mask = (1 << 64) - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return state, z ^ (z >> 31)


@functools.lru_cache(maxsize=None)
def _draws(count, seed=1):
    """For each draw, `count` numbers of texts, with replacement. Made once per count: it is most of the work."""
    state, draws = seed, []
    for _ in range(DRAWS):
        draw = []
        for _ in range(count):
            state, number = _split_mix(state)
            draw.append(((number >> 32) * count) >> 32)
        draws.append(draw)
    return draws


def _quantile(ordered, share):
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] * (1 - (at - below)) + ordered[above] * (at - below)


def _means(pairs, seed):
    """The mean of the values of [(text, value)], and those of drawn texts."""
    sums, counts = {}, {}
    for text, value in pairs:
        sums[text] = sums.get(text, 0) + value
        counts[text] = counts.get(text, 0) + 1
    sums, counts = list(sums.values()), list(counts.values())
    drawn = [sum(sums[i] for i in draw) / sum(counts[i] for i in draw) for draw in _draws(len(sums), seed)]
    return sum(sums) / sum(counts), drawn


def bootstrap_groups(groups):
    """(mean, low, high) of the mean over groups, each [(text, value)], of their means: texts are drawn within each group."""
    of_groups = [_means(pairs, seed) for seed, pairs in enumerate(groups, 1)]
    means = sorted(sum(drawn) / len(groups) for drawn in zip(*(drawn for _, drawn in of_groups)))
    return sum(mean for mean, _ in of_groups) / len(groups), _quantile(means, 0.025), _quantile(means, 0.975)


def bootstrap(pairs):
    """(mean, low, high) of the values of [(text, value)]: the central 95 % of the means of drawn texts."""
    return bootstrap_groups([pairs])
