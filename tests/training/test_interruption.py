import os
import signal

import pytest

from fbunet_jax.training import interruption as interruption_module
from fbunet_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_raised_by_the_check_and_the_second_at_once(number, monkeypatch):
    before = signal.signal(number, signal.default_int_handler)
    try:
        with Interruption() as interruption:
            interruption.check()
            os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                interruption.check()
            os.kill(os.getpid(), number)  # of the pair that some launchers send
            monkeypatch.setattr(interruption_module, "AT_ONCE_AFTER", 0.0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, print])
def test_a_signal_that_is_ignored_or_handled_otherwise_stays_so(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Interruption():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
