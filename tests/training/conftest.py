import contextlib

import pytest

from fbunet_jax.runs.interruption import Interruption
from fbunet_jax.training.parallel import MappedTraining


@pytest.fixture
def stopped_at_once(monkeypatch):
    """Return a context that gives an interruption, which the first step of the training in it requests."""

    @contextlib.contextmanager
    def context():
        interruption, call = Interruption(), MappedTraining.__call__

        def stopping(self, state, store, items):
            interruption.requested = True
            return call(self, state, store, items)

        with monkeypatch.context() as patch:
            patch.setattr(MappedTraining, "__call__", stopping)
            with pytest.raises(KeyboardInterrupt, match="step 1 of"):
                yield interruption

    return context
