"""The forms that an ensemble can be opened in: its folds apart, all in one graph, or their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from oarseg.inference.engines.protocol import Engine

# Opens the first folds; whether their mean is enough.
OpenForm = Callable[[int, bool], Sequence[Engine]]


@dataclass
class Networks:
    """The folds of an ensemble. One form is open at a time, as each holds every weight.

    Attributes:
        folds: how many there are.
        open: opens a form. Engines of one fold each also serve where fewer folds are wanted.
        has_mean: ``open`` makes a graph of the mean; otherwise folds stay apart.
    """

    folds: int
    open: OpenForm
    has_mean: bool = True
    _form: tuple[int, bool] = field(default=(0, False), init=False)
    _engines: tuple[Engine, ...] = field(default=(), init=False)

    def take(self, folds: int, *, mean: bool = False) -> tuple[Engine, ...]:
        """Return engines that compute the first folds; those returned before are not used again.

        Args:
            folds: how many; their logits are in the manifest's order.
            mean: the mean of the folds is enough. One engine may answer with it; engines that do
                not leave it to the caller.
        """
        wanted = min(folds, self.folds)
        mean = mean and self.has_mean and wanted > 1
        if not self._holds(wanted, mean):
            self._engines = ()  # what is open is closed first: there may be no room for both
            self._engines = tuple(self.open(wanted, mean))
            self._form = (wanted, mean)
        return self._engines[:1] if mean else self._engines[:wanted]

    def _holds(self, folds: int, mean: bool) -> bool:
        """Tell whether what is open computes so many folds and no more."""
        if self._form == (folds, mean):
            return True
        apart = all(engine.answers == 1 for engine in self._engines)
        return not mean and not self._form[1] and apart and len(self._engines) >= folds


def separate_networks(engines: Sequence[Engine]) -> Networks:
    """Make an ensemble of engines of one fold each, which are open already."""
    return Networks(len(engines), lambda folds, _: engines[:folds], has_mean=False)
