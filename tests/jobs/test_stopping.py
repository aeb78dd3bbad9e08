"""What signals do to a job."""

from __future__ import annotations

import signal

import pytest

import jobs.driver as driver
from jobs.driver import JobStopped
from jobs.stopping import Stopping, Terminated


def test_first_signal_asks_and_second_ends(capfd: pytest.CaptureFixture[str]) -> None:
    stopping = Stopping(flag=None)  # type: ignore[arg-type]
    assert not stopping.asked()
    stopping.received(signal.SIGTERM, None)
    assert stopping.asked() and stopping.number == signal.SIGTERM
    assert "once more to end at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        stopping.received(signal.SIGINT, None)
    with pytest.raises(Terminated):
        stopping.received(signal.SIGTERM, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobStopped("go on so", signal.SIGINT), 130),
        (JobStopped("go on so", signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
)
def test_exit_code_names_the_signal(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            driver.main(job)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == code
    assert ("go on so" if isinstance(error, JobStopped) else "the same command goes on") in capsys.readouterr().err
