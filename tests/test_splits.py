"""Splits: whole groups, fair shares, padding that does not count, and rows gathered by label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrouter.splits import deal_groups, rows_by_label, split_log, stack, without_fold
from jrouter.types import LoggedData

PROPERTY = settings(max_examples=100, derandomize=True, deadline=None)


def log(n, group=None, seed=0):
    model = np.random.default_rng(seed).integers(3, size=n)
    return LoggedData(
        x=jnp.zeros((n, 1)),
        model=jnp.asarray(model, jnp.int32),
        score=jnp.zeros(n),
        cost=jnp.arange(n, dtype=jnp.float32),
        group=None if group is None else jnp.asarray(group, jnp.int32),
        models=("a", "b", "c"),
    )


@PROPERTY
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=40),
    st.integers(0, 1000),
    st.sampled_from([(0.8, 0.2), (0.2,) * 5]),
)
def test_groups_are_never_divided_and_shares_are_about_right(group, seed, shares):
    group = np.array(group)
    part = deal_groups(np.random.default_rng(seed), group, shares)
    assert part.shape == group.shape
    for name in np.unique(group):
        assert len(set(part[group == name])) == 1
    # A group goes where its middle row falls, so a part ends at most half a group early or late.
    counts = np.bincount(part, minlength=len(shares))
    early_or_late = np.cumsum(counts) - np.cumsum(shares) * len(group)
    assert np.abs(early_or_late).max() <= np.bincount(group).max() / 2 + 1e-6


def test_shares_of_single_rows_are_exact_and_at_random():
    parts = [deal_groups(np.random.default_rng(seed), np.arange(1000), (0.5, 0.3, 0.2)) for seed in (0, 0, 1)]
    for part in parts:
        assert np.bincount(part).tolist() == [500, 300, 200]
    assert (parts[0] == parts[1]).all() and (parts[0] != parts[2]).mean() > 0.4
    # Not by place in the log: both halves hold about half of the largest part, give or take 5 standard errors.
    assert abs((parts[0][:500] == 0).sum() - 250) < 5 * np.sqrt(1000 / 16)


def test_split_covers_all_rows_once():
    (split,) = split_log([log(103)], seeds=[3], n_folds=5, valid_share=0.2)
    assert sorted([*split.train.tolist(), *split.valid.tolist()]) == list(range(103))
    assert split.valid.shape[0] in (20, 21)
    assert (split.train_weight == 1).all() and (split.valid_weight == 1).all()
    counts = np.bincount(np.asarray(split.fold))
    assert split.n_folds == 5 and counts.shape == (5,) and counts.min() >= 20 and counts.max() == split.fold_size
    assert split.model_size == np.bincount(np.asarray(log(103).model)).max()


def test_equal_seeds_give_equal_splits():
    splits = split_log([log(200)] * 3, seeds=[0, 0, 1])
    for first, second in zip(jax.tree.leaves(splits[0]), jax.tree.leaves(splits[1]), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (splits[0].fold != splits[2].fold).mean() > 0.5
    assert set(splits[0].valid.tolist()) != set(splits[2].valid.tolist())


def test_one_fold_is_no_crossfitting():
    (split,) = split_log([log(20)], seeds=[0], n_folds=1)
    assert (split.fold == 0).all() and split.fold_size == 20


def test_padding_does_not_count():
    # Groups of unequal size, so that the sides of the two splits differ in length.
    groups = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 2])
    splits = split_log([log(60, groups), log(60)], seeds=[0, 1], n_folds=3, valid_share=0.3)
    padded = 0
    for split, group in zip(splits, (groups, np.arange(60)), strict=True):
        sides = []
        for rows, weight in ((split.train, split.train_weight), (split.valid, split.valid_weight)):
            rows, weight = np.asarray(rows), np.asarray(weight)
            assert set(weight) <= {0.0, 1.0} and (np.diff(weight) <= 0).all()
            assert (rows[weight == 0] == 0).all()
            padded += (weight == 0).sum()
            sides.append(rows[weight == 1])
        assert sorted(np.concatenate(sides)) == list(range(60))
        assert not set(group[sides[0]]) & set(group[sides[1]])
        for name in np.unique(group):
            assert len(set(np.asarray(split.fold)[group == name])) == 1
        assert np.bincount(np.asarray(split.fold)).max() <= split.fold_size
    assert padded > 0
    both = stack(splits)
    assert both.train.shape == (2, splits[0].train.shape[0]) and both.n_folds == 3
    for seed in (0, 1):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], both)
        np.testing.assert_array_equal(one.valid, splits[seed].valid)


@pytest.mark.parametrize("group", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0]])
def test_too_few_queries_for_the_folds(group):
    with pytest.raises(ValueError, match=f"{len(set(group))} distinct queries cannot be split in 5 folds"):
        split_log([log(6, group)], seeds=[0], n_folds=5)
    with pytest.raises(ValueError):
        split_log([log(6), log(6, group)], seeds=[0, 1], n_folds=5)


@pytest.mark.parametrize("group", [[0, 1], [0] * 30 + [1]])
def test_an_accepted_split_has_rows_on_both_sides(group):
    # Without validation rows, training would keep its initial parameters, and say nothing.
    for seed in range(5):
        try:
            (split,) = split_log([log(len(group), group)], seeds=[seed], n_folds=2)
        except ValueError:
            continue
        assert split.train_weight.sum() > 0 and split.valid_weight.sum() > 0


# Ten rows always, so that it is compiled once.
@PROPERTY
@given(st.lists(st.integers(0, 3), min_size=10, max_size=10), st.sampled_from([10, 13]))
def test_rows_by_label(label, size):
    rows, present = rows_by_label(jnp.array(label), n_labels=4, size=size)
    assert rows.shape == present.shape == (4, size)
    for name in range(4):
        expected = [row for row in range(10) if label[row] == name]
        assert rows[name].tolist() == expected + [0] * (size - len(expected))
        assert present[name].tolist() == [True] * len(expected) + [False] * (size - len(expected))


def test_rows_by_label_with_just_enough_room():
    rows, present = rows_by_label(jnp.array([2, 0, 2, 1]), n_labels=3, size=2)
    assert rows.tolist() == [[1, 0], [3, 0], [0, 2]] and present.tolist() == [[True, False], [True, False], [True] * 2]


def test_stack():
    logs = [log(5, seed=0), log(5, seed=1)]
    both = stack(logs)
    assert both.models == ("a", "b", "c") and both.group is None
    for seed in (0, 1):
        np.testing.assert_array_equal(both.model[seed], logs[seed].model)


def test_without_a_fold_its_rows_weigh_nothing_and_the_others_are_folds():
    whole = log(30)
    split = split_log([whole], seeds=[0], n_folds=3)[0]
    for number in range(3):
        rest, folds = without_fold(whole, split, number)
        gone = np.asarray(split.fold) == number
        np.testing.assert_array_equal(np.asarray(rest.weight) == 0, gone)
        np.testing.assert_array_equal(np.asarray(folds.fold) == 2, gone)
        assert folds.n_folds == 2 and set(np.unique(folds.fold)) == {0, 1, 2}
        rows, present = rows_by_label(folds.fold, n_labels=2, size=folds.fold_size)
        assert present.sum() == (~gone).sum() and not gone[np.asarray(rows)[np.asarray(present)]].any()
