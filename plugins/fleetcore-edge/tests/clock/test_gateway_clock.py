"""The clock of a gateway: when the time is known, from where, and what it is until then."""

import itertools

import pytest
from fleetcore_edge.clock.gateway_clock import APART_MS, FILE, GatewayClock

DAY = 86_400_000
MINUTE = 60_000


@pytest.fixture
def opened(tmp_path, machine):
    """Opens the clock of the machine, as a process of the agent does at its start."""

    def open_(*, held=(), **options):
        clock = GatewayClock(tmp_path, machine, floor_ms=machine.true_ms - 30 * DAY, **options)
        clock.begin(held)
        return clock

    open_.path = tmp_path
    return open_


def test_a_plausible_clock_is_the_time(opened, machine):
    clock = opened()

    assert clock.is_known
    assert clock.source == "machine"
    assert clock.now_ms() == machine.true_ms


@pytest.mark.parametrize("wall", [60_000, 1_700_000_000_000, 5 * 10**12], ids=["1970", "2023", "2128"])
def test_an_implausible_clock_is_not_believed_and_the_time_is_an_estimate_that_has_passed(opened, machine, wall):
    floor = machine.true_ms - 30 * DAY
    machine.set(wall)

    clock = opened()
    first = clock.now_ms()
    machine.pass_(10_000)

    assert not clock.is_known
    assert floor <= first <= machine.true_ms
    assert clock.now_ms() == first + 10_000


def test_a_clock_over_a_year_ahead_is_not_believed_unless_the_kernel_says_that_it_is_right(opened, machine):
    machine.set(machine.true_ms + 12 * 366 * DAY)
    assert not opened().is_known

    machine.synchronised = True
    assert opened().is_known


def test_a_clock_before_the_time_that_was_known_last_is_not_believed(opened, machine):
    opened()
    last = machine.true_ms
    machine.boot(wall_ms=last - MINUTE)

    clock = opened()

    assert not clock.is_known
    assert last <= clock.now_ms() <= machine.true_ms


def test_a_board_without_a_clock_is_believed_once_it_is_synchronised(opened, machine):
    machine.forgets = True
    clock = opened()
    assert not clock.is_known

    clock.look()
    assert not clock.is_known
    machine.synchronised = True
    clock.look()

    assert clock.is_known
    assert clock.now_ms() == machine.true_ms


def test_a_board_without_a_clock_is_believed_once_its_clock_is_set(opened, machine):
    machine.forgets = True
    machine.set(machine.true_ms - DAY)
    clock = opened()

    machine.set(machine.true_ms)
    clock.look()

    assert clock.is_known


def test_a_machine_that_shows_no_clock_and_is_no_board_is_believed(opened, machine):
    machine.synchronised = False

    assert opened().is_known


def test_trust_believes_a_board_without_a_clock(opened, machine):
    machine.forgets = True

    assert opened(trust=True).is_known


def test_a_clock_that_is_set_while_the_agent_runs_makes_the_time_known(opened, machine):
    machine.set(60_000)
    clock = opened()
    machine.pass_(MINUTE)
    clock.look()
    assert not clock.is_known

    machine.set(machine.true_ms)
    clock.look()

    assert clock.is_known
    assert clock.source == "machine"
    assert clock.now_ms() == machine.true_ms


def test_the_core_tells_the_time(opened, machine):
    machine.set(60_000)
    clock = opened()

    assert clock.told(machine.true_ms, half_ms=20)
    machine.pass_(MINUTE)
    clock.look()

    assert clock.source == "core"
    assert clock.now_ms() == machine.true_ms


def test_a_time_before_the_gateways_certificate_is_not_believed_even_from_the_core(opened, machine):
    machine.set(60_000)
    clock = opened()

    assert not clock.told(machine.true_ms - 31 * DAY, half_ms=20)
    assert not clock.is_known


def test_a_clock_that_is_a_day_ahead_follows_the_core_and_says_so(opened, machine):
    machine.set(machine.true_ms + DAY)
    clock = opened()
    began = clock.now_ms()
    machine.pass_(MINUTE)

    clock.told(machine.true_ms, half_ms=20)
    clock.look()

    assert clock.now_ms() == machine.true_ms
    (correction,) = clock.corrections
    assert correction.by_ms == -DAY
    assert (correction.since_ms, correction.until_ms) == (began, began + MINUTE)
    assert clock.apart_ms == DAY


@pytest.mark.parametrize("apart", [-APART_MS, APART_MS])
def test_a_small_difference_to_the_core_is_left_to_the_machine(opened, machine, apart):
    machine.set(machine.true_ms + apart)
    clock = opened()

    clock.told(machine.true_ms, half_ms=20)

    assert clock.source == "machine"
    assert clock.corrections == []


def test_a_slow_answer_of_the_core_counts_as_exact_as_it_is(opened, machine):
    clock = opened()

    clock.told(machine.true_ms + 12_000, half_ms=10_000)

    assert clock.corrections == []


def test_trust_stays_with_the_machine_against_the_core(opened, machine):
    machine.set(machine.true_ms + DAY)
    clock = opened(trust=True)

    clock.told(machine.true_ms, half_ms=20)

    assert clock.now_ms() == machine.true_ms + DAY


def test_a_machine_that_agrees_with_the_core_again_is_followed_again(opened, machine):
    machine.set(machine.true_ms + DAY)
    clock = opened()
    clock.told(machine.true_ms, half_ms=20)

    machine.set(machine.true_ms + 100)
    clock.look()

    assert clock.source == "machine"
    assert clock.now_ms() == machine.true_ms + 100


def test_a_clock_that_falls_back_to_1970_while_the_agent_runs_changes_nothing(opened, machine):
    clock = opened()
    machine.set(60_000)
    clock.look()
    machine.pass_(MINUTE)
    clock.look()

    assert clock.is_known
    assert clock.now_ms() == machine.true_ms


def test_a_synchronised_step_back_is_followed(opened, machine):
    machine.set(machine.true_ms + DAY)
    clock = opened()
    machine.synchronised = True
    machine.set(machine.true_ms)
    clock.look()

    assert clock.now_ms() == machine.true_ms


def test_what_a_clock_ahead_wrote_down_does_not_make_a_synchronised_clock_doubtful(opened, machine):
    machine.set(machine.true_ms + 100 * DAY)
    opened()
    machine.boot()
    assert not opened().is_known

    machine.synchronised = True
    assert opened().is_known


def test_the_core_makes_good_what_a_clock_ahead_wrote_down(opened, machine):
    machine.set(machine.true_ms + 100 * DAY)
    opened().told(machine.true_ms, half_ms=20)
    machine.boot()

    assert opened().is_known


def test_an_agent_that_starts_again_in_the_same_boot_knows_the_time_that_the_core_told(opened, machine):
    machine.set(60_000)
    opened().told(machine.true_ms, half_ms=20)
    machine.pass_(MINUTE)

    clock = opened()

    assert clock.is_known
    assert clock.source == "core"
    assert clock.now_ms() == machine.true_ms


def test_estimates_do_not_go_back_when_the_agent_starts_again(opened, machine):
    machine.set(60_000)
    clock = opened()
    machine.pass_(MINUTE)
    last = clock.now_ms()

    assert opened().now_ms() >= last


def test_the_decision_for_a_boot_is_on_the_disk_before_the_time_is_known(opened, machine, monkeypatch):
    machine.set(60_000)
    clock = opened()

    def full(*_):
        assert not clock.is_known
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fleetcore_edge.clock.gateway_clock.write_times", full)
    with pytest.raises(OSError, match="No space"):
        clock.told(machine.true_ms, half_ms=20)

    assert not clock.is_known
    assert clock.dated(clock.boot) is None


def test_the_decision_for_a_boot_stays_when_the_clock_is_corrected(opened, machine):
    machine.set(60_000)
    clock = opened()
    clock.told(machine.true_ms + 7_000, half_ms=20)
    decided = clock.dated(clock.boot)

    clock.told(machine.true_ms, half_ms=20)

    assert clock.now_ms() == machine.true_ms
    assert clock.dated(clock.boot) == decided
    assert opened(held=[(clock.boot, 0)]).dated(clock.boot) == decided


def test_a_boot_whose_time_was_never_known_ends_before_the_next_begins(opened, machine):
    machine.set(60_000)
    clock = opened()
    lost, first = clock.boot, machine.boottime_ms()
    earliest = machine.true_ms - first
    machine.pass_(10 * MINUTE)
    last = machine.boottime_ms()
    machine.boot(5 * MINUTE, wall_ms=60_000)
    clock = opened(held=[(lost, last)])
    begins = machine.booted_ms

    clock.told(machine.true_ms, half_ms=20)

    dated = clock.dated(lost)
    assert dated.estimated
    assert dated.offset_ms + last == begins
    assert dated.earliest_ms <= earliest <= dated.offset_ms


def test_boots_without_a_known_time_follow_one_another(opened, machine):
    held = []
    for _ in range(3):
        machine.set(60_000)
        clock = opened(held=held)
        machine.pass_(MINUTE)
        held = [*held, (clock.boot, machine.boottime_ms())]
        machine.boot(wall_ms=60_000)
    clock = opened(held=held)
    clock.told(machine.true_ms, half_ms=20)

    found = [(clock.dated(boot).offset_ms, clock.dated(boot).offset_ms + last) for boot, last in held]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(found))


def test_a_damaged_file_is_said_and_messages_that_wait_are_dated_all_the_same(opened, machine, caplog):
    machine.set(60_000)
    before = opened().boot
    machine.boot(wall_ms=60_000)
    (opened.path / FILE).write_bytes(b"{")

    clock = opened(held=[(before, 7_000)])
    clock.told(machine.true_ms, half_ms=20)

    assert "cannot be read" in caplog.text
    assert clock.dated(before).estimated
    assert clock.dated(before).offset_ms + 7_000 == machine.booted_ms
