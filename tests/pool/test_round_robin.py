"""Sequences that take turns."""

from collections.abc import Iterator

from batchlic.pool.round_robin import round_robin


def test_each_sequence_gives_one_item_after_another() -> None:
    assert list(round_robin(["ad", "b", "cef"], most=3)) == ["a", "b", "c", "d", "e", "f"]


def test_a_sequence_beyond_the_most_begins_when_one_has_ended() -> None:
    assert list(round_robin(["ac", "b", "xyz"], most=2)) == ["a", "b", "c", "x", "y", "z"]


def test_empty_sequences_take_no_turn() -> None:
    assert list(round_robin(["", "a", ""], most=1)) == ["a"]


def test_h_an_item_is_made_when_its_turn_comes() -> None:
    made: list[int] = []

    def numbers(first: int) -> Iterator[int]:
        for number in range(first, first + 100):
            made.append(number)
            yield number

    turns = round_robin([numbers(0), numbers(1000)], most=2)
    assert [next(turns) for _ in range(3)] == [0, 1000, 1]
    assert made == [0, 1000, 1]
