"""The order: a permutation in each epoch, uniform, in exact proportion at every scale, looked up in O(1)."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loader.order import Interleave, Order, Permutation, _scale, key

# OLMoE-MIX-0924: tokens by source, as shares; 1.25e9 instances of 4,096 tokens are its 5.133T tokens.
SHARES = [3860, 101, 57.2, 21.1, 12.7, 12.6, 3.69]


@given(st.integers(1, 5000), st.integers(0, 2**70), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_each_epoch_is_a_permutation(size, number, epoch):
    found = Permutation(size, key(number)).apply(np.arange(size), epoch)
    assert np.array_equal(np.sort(found), np.arange(size))


def test_lookups_do_not_depend_on_what_is_looked_up_beside_them():
    permutation = Permutation(100_003, key(1, 2))
    whole = permutation.apply(np.arange(100_003), 5)
    some = np.array([7, 99_999, 7, 0])
    assert np.array_equal(permutation.apply(some, 5), whole[some])
    epochs = np.array([5, 0, 5, 1])
    assert permutation.apply(some, epochs)[0] == whole[7] and permutation.apply(some, epochs)[2] == whole[7]
    assert not np.array_equal(permutation.apply(np.arange(100), 4), whole[:100])
    assert not np.array_equal(Permutation(100_003, key(1, 3)).apply(np.arange(100), 5), whole[:100])


def test_sizes_at_powers_of_two_and_the_limits():
    for size in (1, 2, 255, 256, 257, 65_535, 65_536, 65_537):
        assert len(np.unique(Permutation(size, key(size)).apply(np.arange(size)))) == size
    big = Permutation(1 << 48, key(3)).apply(np.arange(1000))
    assert big.min() >= 0 and big.max() < 1 << 48 and len(np.unique(big)) == 1000
    with pytest.raises(ValueError):
        Permutation(0, 1)
    assert key(1) != key(2) and key(1, 2) != key(2, 1) and key(2**64) != key(0) and key(-1) != key(1)


def chi_square(counts):
    """Standard deviations by which chi-square exceeds its expectation, were the counts from a uniform draw."""
    counts = np.asarray(counts, float).ravel()
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [5, 16, 100])
def test_every_instance_stands_at_every_place_equally_often(size):
    epochs = 40_000
    counts = np.zeros((size, size), int)
    places = np.arange(size)
    for seed in range(4):
        permutation = Permutation(size, key(seed))
        grid_epochs = np.repeat(np.arange(epochs // 4), size)
        found = permutation.apply(np.tile(places, epochs // 4), grid_epochs)
        np.add.at(counts, (np.tile(places, epochs // 4), found), 1)
    # Rows and columns each sum to the number of epochs, which takes 2 * size - 1 degrees of freedom away.
    expected, freedom = epochs / size, (size - 1) ** 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 5


def test_all_orders_of_few_instances_come_up_equally():
    found = Permutation(4, key(0)).apply(np.tile(np.arange(4), 48_000), np.repeat(np.arange(48_000), 4)).reshape(-1, 4)
    counts = np.unique(found @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(counts) == 24 and abs(chi_square(counts)) < 5


def test_neighbours_are_unrelated():
    size = 1_000_003
    found = Permutation(size, key(9)).apply(np.arange(200_000))
    first, second = found[:-1] * 32 // size, found[1:] * 32 // size
    assert abs(chi_square(np.bincount(first * 32 + second, minlength=1024))) < 5
    assert abs(chi_square(np.bincount((found[1:] - found[:-1]) % size * 512 // size, minlength=512))) < 5
    later = Permutation(size, key(9)).apply(np.arange(200_000), 1)
    assert abs(chi_square(np.bincount((later - found) % size * 512 // size, minlength=512))) < 5
    assert abs(chi_square(np.bincount(found * 1000 // size, minlength=1000))) < 5


@given(st.integers(0, 2**48), st.integers(1, 2**48), st.integers(1, 2**48))
@settings(max_examples=300, deadline=None)
def test_scale_is_exact_where_the_product_overflows(position, part, more):
    whole = min(part + more, 2**48)
    part, position = min(part, whole), min(position, whole)
    assert int(_scale(np.array([position]), part, whole)[0]) == (position * part + whole // 2) // whole


@given(st.lists(st.integers(0, 400), min_size=1, max_size=9).filter(sum))
@settings(max_examples=120, deadline=None)
def test_every_prefix_has_the_proportions(counts):
    interleave = Interleave(counts)
    source, rank = interleave.lookup(np.arange(interleave.total))
    dealt = np.zeros((len(counts), interleave.total + 1), int)
    for number, count in enumerate(counts):
        mine = source == number
        assert np.array_equal(rank[mine], np.arange(count))  # each comes once, in order
        dealt[number, 1:] = np.cumsum(mine)
    exact = np.outer(counts, np.arange(interleave.total + 1)) / interleave.total
    assert np.abs(dealt - exact).max() < 2
    for position in (0, interleave.total // 3, interleave.total):
        assert interleave.before(position) == dealt[:, position].tolist()


def test_prefixes_of_the_olmoe_mixture():
    total = 1_250_000_000
    counts = [int(total * share / sum(SHARES)) for share in SHARES]
    interleave = Interleave(counts)
    for position in (1, 1000, 64_512, 123_456_789, interleave.total - 1):
        for found, count in zip(interleave.before(position), counts, strict=True):
            assert abs(found - position * count / interleave.total) < 1.5


def test_epochs_cover_before_they_repeat():
    available, asked = [100, 37, 1000, 5], [250, 37, 400, 0]
    order = Order(available, asked, seed=3)
    found = order.instances(np.arange(order.total))
    assert order.total == sum(asked)
    for source, (there, wanted) in enumerate(zip(available, asked, strict=True)):
        mine = found.instance[found.source == source]
        epochs = found.epoch[found.source == source]
        assert len(mine) == wanted and np.array_equal(epochs, np.arange(wanted) // there)
        for epoch in range(wanted // there):
            assert np.array_equal(np.sort(mine[epochs == epoch]), np.arange(there))
        rest = mine[epochs == wanted // there]
        assert len(np.unique(rest)) == len(rest)
    first, second = (found.instance[(found.source == 0) & (found.epoch == epoch)] for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_any_batch_size_and_any_ranks_read_the_same():
    order = Order([1000, 300], [1500, 300], seed=1)
    whole = order.instances(np.arange(1800))
    for size in (1, 7, 64, 1800):
        pieces = [order.instances(np.arange(a, min(a + size, 1800))) for a in range(0, 1800, size)]
        for got, want in zip(zip(*pieces, strict=True), whole, strict=True):
            assert np.array_equal(np.concatenate(got), want)
    assert order.instance(1234) == tuple(int(part[1234]) for part in whole)
    assert Order([1000, 300], [1500, 300], seed=2).instance(1234) != order.instance(1234)
    with pytest.raises(IndexError):
        order.instance(1800)
    with pytest.raises(ValueError, match="source 0 is asked for 5 instances"):
        Order([0], [5], 0)


def test_reshuffle_draws_the_last_part_anew():
    plain = Order([1000, 200], [2500, 500], seed=1)
    turned = Order([1000, 200], [2500, 500], seed=1, reshuffle_last=600)
    before, after = np.arange(2400), np.arange(2400, 3000)
    for one, other in zip(plain.instances(before), turned.instances(before), strict=True):
        assert np.array_equal(one, other)
    last = turned.instances(after)
    assert np.array_equal(last.source, plain.instances(after).source)
    assert not np.array_equal(last.instance, plain.instances(after).instance)
    for source in (0, 1):  # at most one pass is needed, so nothing comes twice
        mine = last.instance[last.source == source]
        assert len(np.unique(mine)) == len(mine) and (last.epoch[last.source == source] == 0).all()
    everything = Order([10], [25], seed=1, reshuffle_last=99)
    assert np.array_equal(np.sort(everything.instances(np.arange(10)).instance), np.arange(10))


def test_a_billion_instances_cost_no_memory():
    asked = [int(1_250_000_000 * share / sum(SHARES)) for share in SHARES]
    tracemalloc.start()
    order = Order([int(count / 1.26) for count in asked], asked, seed=0)
    positions = np.arange(order.total - 200_000, order.total)
    found = order.instances(positions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    pairs = found.source * 2_000_000_000 + found.instance
    assert len(np.unique(pairs)) == len(pairs)  # all in the second epoch
    assert set(found.epoch[found.source == 0].tolist()) == {1}


def counted(order, positions=None):
    """How often each (source, phase, epoch, instance) stands among the positions."""
    positions = np.arange(order.total) if positions is None else positions
    found = order.instances(positions)
    late = positions >= order.turn if order.turn < order.total else np.zeros(len(positions), bool)
    return np.unique(np.stack([found.source, late, found.epoch, found.instance]), axis=1, return_counts=True)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200)), min_size=1, max_size=5).filter(
        lambda sources: sum(asked for _, asked in sources)
    ),
    st.integers(0, 2**40),
    st.integers(0, 400),
)
@settings(max_examples=40, deadline=None)
def test_whole_training_covers_each_epoch_and_repeats_nothing_within_it(sources, seed, last):
    available, asked = zip(*sources, strict=True)
    order = Order(available, asked, seed, last)
    what, times = counted(order)
    assert (times == 1).all() and len(times) == order.total == sum(asked)
    for source, there in enumerate(available):
        for late in (0, 1):
            epochs = what[2][(what[0] == source) & (what[1] == late)]
            sizes = np.bincount(epochs) if len(epochs) else np.zeros(0, int)
            assert (sizes[:-1] == there).all() and (
                sizes <= there
            ).all()  # only the last pass of a phase may be partial


def passes(size: int, epochs: int, seed: int) -> np.ndarray:
    """The instances of a source, one row an epoch, as they come in a mixture with another source."""
    order = Order([size, 5], [size * epochs, 3 * epochs], seed)
    found = order.instances(np.arange(order.total))
    return found.instance[found.source == 0].reshape(epochs, size)


@pytest.mark.parametrize("seed", [0, 6198])
def test_every_position_has_every_instance_equally_often(seed):
    """Chi-square over (position in an epoch) x (instance)."""
    size, epochs = 24, 3000
    table = np.zeros((size, size), int)
    np.add.at(table, (np.tile(np.arange(size), epochs), passes(size, epochs, seed).ravel()), 1)
    expected, freedom = epochs / size, (size - 1) ** 2
    assert abs(((table - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom) < 5


@pytest.mark.parametrize("seed", [0, 6198])
def test_adjacent_positions_pair_any_two_instances(seed):
    """Chi-square over the pairs (instance at i, instance at i + 1) of each epoch."""
    size, epochs = 12, 12_000
    found = passes(size, epochs, seed)
    pairs = np.zeros((size, size), int)
    np.add.at(pairs, (found[:, :-1].ravel(), found[:, 1:].ravel()), 1)
    assert (np.diag(pairs) == 0).all()
    assert abs(chi_square(pairs[~np.eye(size, dtype=bool)])) < 5


def test_seeds_and_sources_give_unrelated_orders():
    """Chi-square over (instance of one order) x (instance of another) at the same position and epoch."""
    size, epochs = 16, 6000
    base = passes(size, epochs, 0)
    for other in (passes(size, epochs, 1), np.roll(base, 1, axis=0)):
        table = np.zeros((size, size), int)
        np.add.at(table, (base.ravel(), other.ravel()), 1)
        expected, freedom = base.size / size**2, (size - 1) ** 2
        assert abs(((table - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom) < 5


@pytest.mark.parametrize("window", [100, 10_000, 1_000_000, 100_000_000])
def test_any_window_of_a_billion_instances_has_the_proportions(window):
    total = 1_250_000_000
    counts = [int(total * share / sum(SHARES)) for share in SHARES]
    interleave = Interleave(counts)
    for start in np.random.default_rng(window).integers(0, interleave.total - window, 50).tolist():
        ends = zip(interleave.before(start), interleave.before(start + window), counts, strict=True)
        assert all(abs((after - before) - window * count / interleave.total) < 4 for before, after, count in ends)


def test_an_instance_is_a_pure_function_of_its_position():
    asked = [int(1_250_000_000 * share / sum(SHARES)) for share in SHARES]
    available = [int(count / 1.26) for count in asked]
    positions = np.random.default_rng(0).integers(0, sum(asked), 3000)
    one, other = (Order(available, asked, seed=6198).instances(order) for order in (positions, positions[::-1]))
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first, second[::-1])
