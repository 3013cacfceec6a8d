"""What safety rests on, as state machines without I/O: an event and the time go in, actions come out.

Nothing here reads a clock, a socket or a file, and nothing here waits. What acts on these machines is thin; the
simulation in tests/protocol drives the same code through faults by the million of steps.

All times are seconds of the acting host's own CLOCK_BOOTTIME: CLOCK_MONOTONIC stands still while a host is suspended.
"""
