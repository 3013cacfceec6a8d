"""Where one VM's things lie: what it keeps in its directory, and what its runtime directory holds until a reboot."""

from __future__ import annotations

import dataclasses
import pathlib

OVMF_CODE = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
OVMF_SECURE = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
OVMF_MICROSOFT = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
"""Variables with Microsoft's keys enrolled and Secure Boot on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Paths:
    """The names below a VM's two directories.

    QEMU can write `io` alone in the runtime directory: what we believe about the process lies outside
    of it. Names there are short, since a socket's path has 107 bytes.
    """

    directory: pathlib.Path
    runtime: pathlib.Path

    @property
    def serial_log(self) -> pathlib.Path:
        """All that the serial line said."""
        return self.directory / "serial.log"

    @property
    def qemu_log(self) -> pathlib.Path:
        """QEMU's standard error."""
        return self.directory / "qemu.log"

    @property
    def firmware_vars(self) -> pathlib.Path:
        """The UEFI firmware's variables."""
        return self.directory / "firmware-vars.fd"

    @property
    def record(self) -> pathlib.Path:
        """What we know of the process: see `record`."""
        return self.runtime / "process.json"

    @property
    def kept_record(self) -> pathlib.Path:
        """The same as it was at the start, where nobody clears up: so that a lost runtime directory hides nothing."""
        return self.directory / "process.json"

    @property
    def status(self) -> pathlib.Path:
        """How the process ended, written by its keeper."""
        return self.runtime / "status"

    @property
    def io(self) -> pathlib.Path:
        """The directory of the sockets, which the process may write."""
        return self.runtime / "io"

    @property
    def qmp(self) -> pathlib.Path:
        """The monitor for programs."""
        return self.io / "qmp"

    @property
    def hmp(self) -> pathlib.Path:
        """The monitor for people: `socat - UNIX-CONNECT:…/io/hmp`."""
        return self.io / "hmp"

    @property
    def tty(self) -> pathlib.Path:
        """The serial line, as QEMU is told it: the names of its two ways without their endings."""
        return self.io / "tty"

    @property
    def keys(self) -> pathlib.Path:
        """The pipe into the serial line: `printf 'ls\\r' >…/io/tty.in`."""
        return self.io / "tty.in"

    @property
    def said(self) -> pathlib.Path:
        """The way out of the serial line, a link to where nothing is kept: all is in the log."""
        return self.io / "tty.out"

    @property
    def by_hand_start(self) -> pathlib.Path:
        """The serial log's length when the VM was last started by hand."""
        return self.runtime / "by-hand-start"

    @property
    def vnc(self) -> pathlib.Path:
        """The screen."""
        return self.io / "vnc"

    @property
    def agent(self) -> pathlib.Path:
        """The guest agent's channel."""
        return self.io / "qga"

    @property
    def tpm_state(self) -> pathlib.Path:
        """What the TPM keeps."""
        return self.directory / "tpm.state"

    @property
    def tpm(self) -> pathlib.Path:
        """The socket of the TPM."""
        return self.io / "tpm"

    @property
    def tpm_log(self) -> pathlib.Path:
        """What that says."""
        return self.runtime / "tpm.log"

    @property
    def tpm_status(self) -> pathlib.Path:
        """How it ended, written by its keeper."""
        return self.runtime / "tpm.status"

    @property
    def chap(self) -> pathlib.Path:
        """The password for a LUN that its disks are on."""
        return self.io / "chap"

    def port(self, name: str) -> pathlib.Path:
        """Where a port leads that leads to a file."""
        return self.directory / f"{name}.out"

    def port_socket(self, name: str) -> pathlib.Path:
        """The socket of what serves a port on the network."""
        return self.io / f"{name}.port"

    def nic(self, name: str) -> pathlib.Path:
        """The socket of what carries a NIC."""
        return self.io / f"{name}.nic"

    def nic_ready(self, name: str) -> pathlib.Path:
        """Where what carries a NIC writes its pid when it does."""
        return self.io / f"{name}.pid"

    def nic_log(self, name: str) -> pathlib.Path:
        """What that says, or what serves the port of this name."""
        return self.runtime / f"{name}.log"

    def nic_status(self, name: str) -> pathlib.Path:
        """How it ended, written by its keeper."""
        return self.runtime / f"{name}.status"
