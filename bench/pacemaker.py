"""The peer that fails over: Pacemaker on Corosync, on hosts like ours, with BMCs like ours, and a QEMU as its resource.

Whatever it keeps lies in memory of its hosts' own; the machine's files are not touched.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence

from tests.ground import bmc, ground, machine

from bench import ground as bench_ground
from bench import measure

_BOUND = 180.0  # seconds
_AGENTS = "/usr/lib/ocf/resource.d"
BOX = "/run/box"
"""Where the sockets of its QEMU are."""

_COROSYNC = """
totem {{
  version: 2
  cluster_name: bench
  transport: knet
  crypto_cipher: none
  crypto_hash: none
  {token}
}}
nodelist {{
{nodes}
}}
quorum {{
  provider: corosync_votequorum
}}
logging {{
  to_logfile: yes
  logfile: /var/log/corosync.log
  to_syslog: no
}}
"""
_TOKENS = {"default": "", "1 s": "token: 1000\n  token_coefficient: 0"}

_FENCE = """#!/bin/sh
# Switches a host off at its BMC, and has read there that it is off.
action= plug=
if [ $# -gt 0 ]; then
  while [ $# -gt 0 ]; do case $1 in -o) action=$2; shift ;; -n) plug=$2; shift ;; esac; shift; done
else
  while IFS='=' read -r name value; do
    case $name in action) action=$value ;; port | plug | nodename) plug=$value ;; esac
  done
fi
case $action in
metadata)
  cat <<END
<?xml version="1.0"?>
<resource-agent name="fence_bench" shortdesc="BMC">
<longdesc>BMC</longdesc>
<parameters>
<parameter name="action" unique="0" required="1">
<content type="string" default="off"/><shortdesc lang="en">-</shortdesc>
</parameter>
<parameter name="port" unique="0" required="0"><content type="string"/><shortdesc lang="en">-</shortdesc></parameter>
</parameters>
<actions>
<action name="on"/><action name="off"/><action name="status"/><action name="monitor"/><action name="metadata"/>
</actions>
</resource-agent>
END
  ;;
monitor | status | list | start | stop) exit 0 ;;
off | reboot)
  case $plug in
{systems}
  *) exit 1 ;;
  esac
  curl -sf -m 20 -u "$who" -H 'Content-Type: application/json' -d '{{"ResetType": "ForceOff"}}' \\
    "$at/Actions/ComputerSystem.Reset" || exit 1
  while :; do
    case $(curl -sf -m 20 -u "$who" "$at") in *'"PowerState": "Off"'* | *'"PowerState":"Off"'*) exit 0 ;; esac
    sleep 0.05
  done
  ;;
on) exit 0 ;;
esac
"""
_AGENT = """#!/bin/sh
# The VM as a resource.
box=/run/box
alive() {{ [ -s $box/pid ] && kill -0 "$(cat $box/pid)" 2>/dev/null; }}
case $1 in
meta-data)
  cat <<END
<?xml version="1.0"?>
<resource-agent name="box" version="1.0">
<version>1.0</version><longdesc lang="en">VM</longdesc><shortdesc lang="en">VM</shortdesc><parameters/>
<actions>
<action name="start" timeout="60s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s"/><action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
END
  ;;
start)
  alive && exit 0
  mkdir -p $box
  [ -p $box/tty.in ] || mkfifo $box/tty.in
  ln -sfn /dev/null $box/tty.out
  rm -f $box/hmp
  setsid {line} >$box/log 2>&1 </dev/null &
  echo $! >$box/pid
  until [ -S $box/hmp ]; do alive || exit 1; sleep 0.01; done
  ;;
stop)
  alive && kill -9 "$(cat $box/pid)"
  while alive; do sleep 0.05; done
  ;;
monitor) alive || exit 7 ;;
validate-all) exit 0 ;;
esac
exit 0
"""
_SETTINGS = """<cib><configuration>
<crm_config><cluster_property_set id="options">
<nvpair id="o1" name="stonith-enabled" value="true"/><nvpair id="o2" name="no-quorum-policy" value="stop"/>
<nvpair id="o3" name="stonith-action" value="off"/>
</cluster_property_set></crm_config>
<resources>
<primitive id="fence" class="stonith" type="fence_bench">
<instance_attributes id="fence-is">
<nvpair id="f1" name="pcmk_host_check" value="static-list"/><nvpair id="f2" name="pcmk_host_list" value="{hosts}"/>
</instance_attributes>
</primitive>
<primitive id="box" class="ocf" provider="bench" type="box">
<operations><op id="box-monitor" name="monitor" interval="10s"/></operations>
</primitive>
</resources>
<rsc_defaults><meta_attributes id="stays">
<nvpair id="s1" name="resource-stickiness" value="1000"/>
</meta_attributes></rsc_defaults>
</configuration></cib>"""


class Pacemaker:
    """Three hosts that it runs on. `token` is one of `default` and `1 s`."""

    def __init__(self, here: ground.Ground, line: Sequence[str], disk: pathlib.Path, image: pathlib.Path) -> None:
        self.here = here
        self._line, self._disk, self._image = line, disk, image

    def make(self) -> None:
        """The hosts, with nothing on them yet."""
        self.here.make(3, central=True, bare=True)
        self.here.start_bmcs()
        array = self.here.root / "array"
        shutil.copy(self._image, array / "base.raw")
        shutil.copy(self._disk, array / "disk.qcow2")

    def start(self, token: str) -> None:
        """Boot all hosts anew, and have the resource run."""
        for one in self.here.machines():
            one.off()
        for one in self.here.machines():
            self._join(one, token)
        self.wait(len(self.here.machines()))
        settings = _SETTINGS.format(hosts=" ".join(one.name for one in self.here.machines()))
        self._run("cibadmin", "--modify", "--allow-create", "--xml-pipe", stdin=settings)
        measure.until(lambda: bool(self.owner()), what="Pacemaker's resource", within=_BOUND, every=0.2)

    def heal(self, one: machine.Machine, token: str) -> None:
        """Give a host power again, and wait until it is one of all."""
        self._join(one, token)
        self.wait(len(self.here.machines()))

    def wait(self, online: int) -> None:
        """Until so many hosts are there, and nothing is under way."""

        def whole() -> bool:
            said = self._run("crm_mon", "-1", "--output-as=xml", check=False)
            return len(re.findall(r'<node name="[^"]*" id="[^"]*" online="true"', said)) == online and self._idle()

        measure.until(whole, what="Pacemaker", within=_BOUND, every=0.2)

    def owner(self) -> str:
        """The host that its QEMU runs on; empty: none."""
        for one in self.here.machines():
            if one.power() == "On" and one.pids(program="qemu-system-x86_64"):
                return one.name
        return ""

    def leader(self) -> str:
        """The host that decides: its designated controller."""
        said = self._run("crmadmin", "-D", "-q")
        return next((one.name for one in self.here.machines() if one.name in said), "")

    def move(self, to: str) -> None:
        """Have the resource run on a host."""
        self._run("crm_resource", "--move", "--resource", "box", "--node", to)
        measure.until(lambda: self.owner() == to, what="the move", within=_BOUND, every=0.1)
        self._run("crm_resource", "--clear", "--resource", "box")
        measure.until(self._idle, what="rest of Pacemaker", within=_BOUND, every=0.2)

    def runs(self, *, but: str) -> float:
        """The monotonic time at which its vCPUs run on another host than that. Raises measure.Late."""
        others = [one for one in self.here.machines() if one.name != but]
        return bench_ground.runs_on([one.inside(f"{BOX}/hmp") for one in others])

    @property
    def serial(self) -> pathlib.Path:
        return self.here.root / "array" / "serial.log"

    def _idle(self) -> bool:
        said = self._run("crmadmin", "-S", self.leader() or "host1", check=False)
        return "S_IDLE" in said

    def _join(self, one: machine.Machine, token: str) -> None:
        nodes = "\n".join(
            f"  node {{\n    ring0_addr: {each.address}\n    nodeid: {each.number}\n    name: {each.name}\n  }}"
            for each in self.here.machines()
        )
        systems = "\n".join(
            f"  {each.name}) who={bmc.USER}:{each.bmc_password}"
            f" at=http://{machine.SWITCH_ADDRESS}:{each.bmc_port}/redfish/v1/Systems/{each.uuid} ;;"
            for each in self.here.machines()
        )
        one.on()
        files = {
            "/etc/corosync/corosync.conf": _COROSYNC.format(token=_TOKENS[token], nodes=nodes),
            "/usr/sbin/fence_bench": _FENCE.format(systems=systems),
            f"{_AGENTS}/bench/box": _AGENT.format(line=shlex.join(self._line)),
        }
        _done(one, "sh", "-ec", _FURNISH)
        for path, content in files.items():
            _done(one, "sh", "-ec", f"mkdir -p {path.rpartition('/')[0]}; cat >{path}; chmod 755 {path}", stdin=content)
        _done(one, "sh", "-ec", "setsid corosync -f >/run/corosync.log 2>&1 </dev/null &")
        measure.until(
            lambda: one.run("corosync-quorumtool", "-s").returncode in (0, 2), what="Corosync", within=_BOUND, every=0.1
        )
        _done(one, "sh", "-ec", "setsid pacemakerd >/run/pacemakerd.log 2>&1 </dev/null &")

    def _run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """On any host that has power."""
        one = next(one for one in self.here.machines() if one.power() == "On")
        done = one.run(*command, stdin=stdin, within=_BOUND)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} on {one.name}: {done.stderr.strip()} {done.stdout.strip()}")
        return done.stdout


_FURNISH = f"""
for at in /var/lib/corosync /var/lib/pacemaker /var/log /etc/corosync {_AGENTS}; do mount -t tmpfs tmpfs $at; done
mkdir -p /run/sbin/upper /run/sbin/work /run/crm /var/lib/pacemaker/blackbox /var/lib/pacemaker/cib
mkdir -p /var/lib/pacemaker/cores /var/lib/pacemaker/pengine /var/log/pacemaker /var/log/cluster
chmod 1777 /dev/shm
chown hacluster:haclient /run/crm /var/lib/pacemaker /var/lib/pacemaker/* /var/log/pacemaker
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=/run/sbin/upper,workdir=/run/sbin/work /usr/sbin
"""


def _done(one: machine.Machine, *command: str, stdin: str = "") -> None:
    done = one.run(*command, stdin=stdin, within=_BOUND)
    if done.returncode:
        raise RuntimeError(f"{command[-1][:60]} on {one.name}: {done.stderr.strip()}")


def line_of(command: Sequence[str], uid: str) -> list[str]:
    """The line of `bocage vm command` for its own QEMU: the same machine on its own disk and sockets."""
    theirs = re.compile(rf"/[^\",]*/vms/{uid}")
    found = []
    for part in command:
        part = re.sub(rf"/run/[^\",]*/vms/{uid}/io/", f"{BOX}/", part)
        part = re.sub(r'"filename":"[^"]*\.raw"', '"filename":"/srv/array/base.raw"', part)
        part = re.sub(r'"filename":"[^"]*\.qcow2"', '"filename":"/srv/array/disk.qcow2"', part)
        found.append(theirs.sub("/srv/array", part))
    return found


@contextlib.contextmanager
def hosts(at: pathlib.Path, line: Sequence[str], disk: pathlib.Path, image: pathlib.Path) -> Iterator[Pacemaker]:
    """Its hosts; nothing of them is left afterwards."""
    made = Pacemaker(ground.Ground(at), line, disk, image)
    try:
        made.make()
        yield made
    finally:
        made.here.down()
