import os
import signal

import pytest

from fbunet_jax.runs import interruption as interruption_module
from fbunet_jax.runs.interruption import Interruption, raise_dropped, raise_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_raised_at_once(number, monkeypatch):
    before = signal.signal(number, signal.default_int_handler)
    try:
        with Interruption() as interruption:
            assert not interruption.requested
            os.kill(os.getpid(), number)
            assert interruption.requested
            os.kill(os.getpid(), number)  # of the pair that some launchers send
            monkeypatch.setattr(interruption_module, "AT_ONCE_AFTER", 0.0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_before_the_training_has_begun_stops_it(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), number)

    try:
        raise_on_signals()
        with Interruption() as interruption:
            assert not interruption.requested
        raise_dropped()
        thing = Dropping()
        del thing  # goes on as if nothing had come
        with pytest.raises(KeyboardInterrupt):
            raise_dropped()  # as predict asks between its parts
        with Interruption() as interruption:
            assert interruption.requested
        with Interruption() as interruption:  # told once
            assert not interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        raise_on_signals()  # another command in the same process
        with Interruption() as interruption:
            assert not interruption.requested
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, print])
def test_a_signal_that_is_ignored_or_handled_otherwise_stays_so(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Interruption():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
