"""Shards: every batch is in exactly one of them, in order, and none has more than its share."""

from itertools import chain, pairwise
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from batchlic.cluster.shards import SHARDS_PER_WORKER, Shard, cut

SIZES = st.lists(st.integers(1, 300), max_size=40)
WORKERS = st.integers(1, 16)


def accounts_of(sizes: list[int], first: int = 1) -> list[tuple[str, range]]:
    accounts = []
    for number, size in enumerate(sizes):
        accounts.append((f"account {number}", range(first, first + size)))
        first += size
    return accounts


@given(SIZES, WORKERS, st.booleans())
def test_every_batch_is_in_exactly_one_shard_in_order(sizes: list[int], workers: int, split: bool) -> None:  # noqa: FBT001
    shards = cut(accounts_of(sizes), workers, may_split=split)
    assert list(chain(*(shard.batches for shard in shards))) == list(range(1, 1 + sum(sizes)))


@given(SIZES, WORKERS)
def test_no_shard_has_more_than_its_share(sizes: list[int], workers: int) -> None:
    shards = cut(accounts_of(sizes), workers)
    assert all(len(shard.batches) <= ceil(sum(sizes) / workers) for shard in shards)
    assert all(shard.batches for shard in shards)


@given(SIZES, WORKERS)
def test_only_accounts_with_more_than_a_share_are_cut(sizes: list[int], workers: int) -> None:
    ends = {shard.batches.stop for shard in cut(accounts_of(sizes), workers)}
    wanted = max(workers, min(SHARDS_PER_WORKER * workers, len(sizes)))
    for _, batches in accounts_of(sizes):
        if len(batches) <= ceil(sum(sizes) / wanted):
            assert not ends & set(batches[1:])


@given(SIZES, WORKERS)
def test_no_account_is_cut_if_none_may_be(sizes: list[int], workers: int) -> None:
    shards = cut(accounts_of(sizes), workers, may_split=False)
    starts = {batches.start for _, batches in accounts_of(sizes)}
    assert all(shard.batches.start in starts and shard.parts == 1 for shard in shards)


@given(st.integers(1, 3000), WORKERS)
def test_parts_of_one_account_differ_by_one_batch_at_most(size: int, workers: int) -> None:
    shards = cut(accounts_of([size]), workers)
    sizes = [len(shard.batches) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(shard.parts == len(shards) for shard in shards)


def test_small_accounts_share_a_shard() -> None:
    assert cut(accounts_of([10, 10, 10, 10]), 2) == [Shard(range(at, at + 10)) for at in (1, 11, 21, 31)]
    many = cut(accounts_of([1] * 80), 2)
    assert [len(shard.batches) for shard in many] == [10] * 8


def test_a_plan_without_batches_has_no_shards() -> None:
    assert cut([], 4) == []


def test_shards_follow_each_other() -> None:
    shards = cut(accounts_of([7, 90, 3, 50]), 3)
    assert all(left.batches.stop == right.batches.start for left, right in pairwise(shards))
