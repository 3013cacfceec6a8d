"""The peer libvirt, started by hand in namespaces of its own: nothing of it is left, or touches the machine's."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench import measure
from bocage.model import vm as model

_BOUND = 90.0  # seconds until its daemon answers; at the first start it tries every QEMU that is installed
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
_SETUP = """
set -e
hide_kvm() {
    mkdir "$1"
    mount -t tmpfs -o mode=755 none "$1"
    cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx "$1"
    mkdir "$1/pts" "$1/shm"
    mount --bind /dev/pts "$1/pts"
    ln -s /proc/self/fd "$1/fd"
    umount --recursive --lazy /dev || true
    mount --move "$1" /dev
}
mount --make-rprivate /
cp -a /etc/libvirt "$1/etc"
for place in lib log/qemu cache; do mkdir -p "$1/$place"; done
mount --bind "$1/etc" /etc/libvirt
rm -rf /etc/libvirt/qemu/networks/autostart
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount -t tmpfs none /run
[ "$2" = kvm ] || hide_kvm "$1/dev"
ip link set lo up
echo ready
while read -r line; do eval "$line"; done
"""


class Unavailable(Exception):
    """It cannot be had on this machine, and why."""


class Failed(Exception):
    """virsh could not do it, and why."""


class Libvirt:
    """libvirtd and virtlogd; they die with us, since they live in a PID namespace whose init waits for our word."""

    def __init__(self, at: pathlib.Path, accelerator: str) -> None:
        self.at = at
        self._accelerator = accelerator
        self._init: subprocess.Popen[str] | None = None
        self._groups = _groups()

    def start(self) -> None:
        """Raises Unavailable."""
        missing = [name for name in ("libvirtd", "virtlogd", "virsh", "unshare") if not shutil.which(name)]
        if missing or os.geteuid() != 0:
            raise Unavailable(f"not installed: {', '.join(missing)}" if missing else "it needs root")
        self.at.mkdir()
        self.at.chmod(0o711)
        self._init = subprocess.Popen(
            [
                *["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c"],
                _SETUP,
                "init",
                self.at,
                self._accelerator,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.at / "init.log").open("w"),
            text=True,
        )
        assert self._init.stdout
        if self._init.stdout.readline() != "ready\n":
            raise Unavailable((self.at / "init.log").read_text().strip() or "no namespaces can be made")
        self._say("virtlogd --daemon")
        self.start_daemon()
        self.answers()

    def start_daemon(self) -> float:
        """Start libvirtd; the monotonic time just before."""
        begun = time.monotonic()
        self._say("libvirtd --daemon")
        return begun

    def stop_daemon(self) -> None:
        """End libvirtd as a restart of its service does; the domains run on."""
        (pid,) = self.pids("libvirtd")
        self._say(f"kill {self._within(pid)}")
        measure.until(lambda: not self.pids("libvirtd"), what="end of libvirtd", within=_BOUND)

    def answers(self) -> None:
        """Wait until it answers. Raises Unavailable."""
        deadline = time.monotonic() + _BOUND
        while time.monotonic() < deadline:
            with contextlib.suppress(Failed, subprocess.TimeoutExpired):
                self.virsh("list", within=_BOUND)
                return
            time.sleep(0.05)
        raise Unavailable(f"libvirtd does not answer within {_BOUND:g} s; {self._log()}")

    def virsh(self, *arguments: str, script: Sequence[str] = (), within: float = 120.0) -> str:
        """What virsh prints; `script` are commands for one virsh that runs them all. Raises Failed."""
        done = subprocess.run(
            self.virsh_command(*arguments),
            input="\n".join(script) + "\n" if script else "",
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        if done.returncode != 0 or (script and done.stderr):
            raise Failed(f"virsh {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def define(self, *names: str, machine: dict[str, Any], disk: pathlib.Path) -> None:
        """Define domains equal to one of our VMs (its document as the API gives it)."""
        script = []
        for name in names:
            path = self.at / f"{name}.xml"
            path.write_text(domain(name, machine, disk=disk, accelerator=self._accelerator))
            script.append(f"define {path}")
        self.virsh(script=script)

    def forget_all(self) -> None:
        """Pull the plug of all domains and undefine them."""
        names = self.virsh("list", "--all", "--name").split()
        up = self.virsh("list", "--name").split()
        if names:
            self.virsh(script=[*(f"destroy {name}" for name in up), *(f"undefine {name}" for name in names)])

    def serial(self, name: str) -> pathlib.Path:
        """What a domain's serial line said."""
        return self.at / "log" / "qemu" / f"{name}-serial.log"

    def virsh_command(self, *arguments: str) -> list[str]:
        """The command, run in libvirt's mount namespace."""
        assert self._init
        return ["nsenter", f"--mount=/proc/{self._inside()}/ns/mnt", "virsh", "-q", "-c", "qemu:///system", *arguments]

    def pids(self, *names: str) -> list[int]:
        """The processes of these names in its PID namespace, numbered as outside."""
        inside = os.readlink(f"/proc/{self._inside()}/ns/pid")
        return [pid for pid in _processes() if _is(pid, names, inside)]

    def close(self) -> None:
        """End all of it."""
        if self._init:
            assert self._init.stdin
            self._init.stdin.close()
            try:
                self._init.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._init.kill()
                self._init.wait()
        for group in sorted(_groups() - self._groups, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()

    def _inside(self) -> int:
        """Its init, numbered as outside: the one child of `unshare`."""
        assert self._init
        return int(pathlib.Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()[0])

    def _within(self, pid: int) -> int:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])

    def _say(self, line: str) -> None:
        assert self._init
        assert self._init.stdin
        self._init.stdin.write(line + "\n")
        self._init.stdin.flush()

    def _log(self) -> str:
        return " / ".join((self.at / "init.log").read_text().strip().splitlines()[-3:])


def domain(name: str, machine: dict[str, Any], *, disk: pathlib.Path, accelerator: str) -> str:
    """The definition of a domain equal to one of our VMs, on a disk of its own; without NIC where that has none."""
    spec = machine["spec"]
    hardware, nic = spec["hardware"], next(iter(spec["nics"]), None)
    cpus = model.Cpus.model_validate(spec["cpus"])
    board = cpus.board(hardware["max_cpus"])  # a place for a vCPU takes memory of the guest's
    mac = f"<mac address='{nic['mac']}'/>" if nic else ""
    card = f"<interface type='user'>{mac}<model type='virtio'/></interface>" if nic else ""
    ports = "".join(f"<controller type='pci' model='pcie-root-port' index='{n}'/>" for n in range(1, 17))
    return f"""<domain type='{"kvm" if accelerator == "kvm" else "qemu"}'>
  <name>{name}</name>
  <memory unit='MiB'>{spec["memory"].removesuffix("M")}</memory>
  <vcpu current='{cpus.count}'>{board.count}</vcpu>
  <os><type arch='x86_64' machine='{hardware["machine"]}'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Westmere</model>
    <topology sockets='{board.sockets}' dies='1' cores='{board.cores}' threads='{board.threads}'/></cpu>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' model='pcie-root' index='0'/>{ports}
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='virtio-serial'/>
    <controller type='usb' model='qemu-xhci'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    {card}
    <serial type='pty'><log file='/var/log/libvirt/qemu/{name}-serial.log' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/><input type='keyboard' bus='usb'/>
    <graphics type='vnc' autoport='yes'/>
    <video><model type='vga'/></video>
    <memballoon model='virtio' freePageReporting='on'/>
    <rng model='virtio'><backend model='builtin'/></rng>
    <panic model='isa'/>
  </devices>
</domain>
"""


@contextlib.contextmanager
def running(at: pathlib.Path, accelerator: str) -> Iterator[Libvirt]:
    """libvirt, up and answering; nothing of it is left afterwards. Raises Unavailable.

    Where we run under TCG it does not see /dev/kvm: one that opens and does not work makes it try all of
    QEMU's abilities anew at each start, which takes it a second.
    """
    made = Libvirt(at, accelerator)
    try:
        made.start()
        yield made
    finally:
        made.close()


def _is(pid: int, names: Sequence[str], namespace: str) -> bool:
    try:
        comm = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        return comm in names and os.readlink(f"/proc/{pid}/ns/pid") == namespace
    except OSError:
        return False


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _groups() -> set[pathlib.Path]:
    """The control groups that libvirt makes for its domains where there is no systemd."""
    tops = [*pathlib.Path("/sys/fs/cgroup").glob("*/machine"), pathlib.Path("/sys/fs/cgroup/machine")]
    return {path for top in tops if top.is_dir() for path in (top, *top.rglob("*")) if path.is_dir()}
