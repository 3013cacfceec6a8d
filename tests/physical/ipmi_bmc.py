"""An IPMI BMC in a process of its own: `python -m tests.physical.ipmi_bmc PORT UUID PASSWORD` prints its orders."""

from __future__ import annotations

import sys
import uuid

from pyghmi.ipmi import bmc


class Bmc(bmc.Bmc):  # type: ignore[misc]
    """A machine that is nothing but its power."""

    state = "on"
    guid: uuid.UUID

    def get_system_guid(self) -> uuid.UUID:
        return self.guid

    def get_power_state(self) -> str:
        return self.state

    def power_off(self) -> None:
        self._turn("off")

    def power_on(self) -> None:
        self._turn("on")

    def _turn(self, state: str) -> None:
        self.state = state
        print(state, flush=True)


def main() -> None:
    port, guid, password = sys.argv[1:]
    made = Bmc({"admin": password}, port=int(port), address="::ffff:127.0.0.1")
    made.guid = uuid.UUID(guid)
    print("listens", flush=True)
    made.listen()


if __name__ == "__main__":
    main()
