"""The steps of a migration, and the numbers under which a batch's requests stand in journal and audit.

A run that only assigns or only unassigns has one step a batch, and its number is the batch's own.
"""

from enum import IntEnum


class Step(IntEnum):
    """What a migration does with a batch."""

    UNASSIGN = 0
    """The old license goes."""
    ASSIGN = 1
    """The new one comes."""
    RESTORE = 2
    """The first of these is undone, because the second one failed."""
    CLEAR = 3
    """A new license that an assign in doubt may have given goes, before the assign is sent again."""

    @property
    def word(self) -> str:
        """Its name in the files of a run."""
        return self.name.lower()

    @classmethod
    def of(cls, number: int, batches: int) -> tuple["Step", int]:
        """The step that has this number, and its batch."""
        return cls((number - 1) // batches), (number - 1) % batches + 1

    def number(self, batch_id: int, batches: int) -> int:
        """The number of this step of a batch (from 1) of a plan that has so many `batches`."""
        return batch_id + self * batches

    def numbers(self, ids: range, batches: int) -> range:
        """The numbers of this step of some batches."""
        return range(self.number(ids.start, batches), self.number(ids.stop, batches))
