"""AnswerAge: what the requests of a batch have produced so far, on average.

Where as many requests end as join, what they have produced and what they still owe have the same
distribution, whatever their answers are like (D. R. Cox, "Renewal Theory", 1962, chapter 5). A
batch that is filling has produced less than it owes: its contexts are still growing, and memory
will hold fewer of its requests than it would of such young ones.
"""

from __future__ import annotations


class AnswerAge:
    """Mutable. Which requests end nobody says: they count as any others, as where it is chance.

    Attributes:
        tokens: The mean, in tokens.
    """

    __slots__ = ("_batch", "_ended", "tokens")

    def __init__(self) -> None:
        self.tokens = 0.0
        self._batch = self._ended = 0

    def ended(self) -> None:
        """Note that a request has ended."""
        self._ended += 1

    def produced(self, batch: int) -> None:
        """Note what an iteration that begins now produces: a token for each request of the batch.

        Of ends that nobody noted a batch counts as older than it is.
        """
        left = self._batch - self._ended
        stayed = left if left < batch else batch
        self.tokens = (self.tokens + 1.0) * stayed / batch if stayed > 0 else 0.0
        self._batch, self._ended = batch, 0
