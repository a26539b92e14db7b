"""What Linux says about time, by other ways too."""

import ctypes
import sys
import time
from pathlib import Path

import pytest
from fleetcore_edge.clock import machine as machines
from fleetcore_edge.clock.machine import LinuxMachine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux says it")


class Timex(ctypes.Structure):
    """The start of struct timex, linux/timex.h."""

    _fields_ = (
        ("modes", ctypes.c_int), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 512),
    )  # fmt: skip


def test_the_boot_and_the_time_since_its_start_are_the_kernels():
    machine = LinuxMachine()
    up_s = float(Path("/proc/uptime").read_text().split()[0])

    assert machine.boot_id() == LinuxMachine().boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(machine.boottime_ms() / 1000 - up_s) < 60
    assert abs(machine.wall_ms() / 1000 - time.time()) < 60


def test_whether_the_clock_is_synchronised_is_the_kernels_word():
    timex = Timex()
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))

    assert LinuxMachine().is_synchronised() == (state >= 0 and not timex.status & 0x40)


@pytest.mark.parametrize(
    ("board", "clocks", "forgets"), [(True, (), True), (True, ("rtc0",), False), (False, (), False)]
)
def test_a_board_without_a_clock_may_forget_the_time(tmp_path, monkeypatch, board, clocks, forgets):
    (tmp_path / "rtc").mkdir()
    for name in clocks:
        (tmp_path / "rtc" / name).mkdir()
    if board:
        (tmp_path / "tree").mkdir()
    monkeypatch.setattr(machines, "_RTC", tmp_path / "rtc")
    monkeypatch.setattr(machines, "_DEVICE_TREE", tmp_path / "tree")

    assert LinuxMachine().may_forget() is forgets


def test_without_a_boot_id_each_process_is_a_boot(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_BOOT_ID", tmp_path / "none")

    assert LinuxMachine().boot_id() != LinuxMachine().boot_id()
