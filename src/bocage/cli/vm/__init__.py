"""`bocage vm`: virtual machines."""

from __future__ import annotations

from bocage.cli import lazy

NOUN = lazy.Group(
    "vm",
    help="Virtual machines.",
    verbs={
        "Look": {
            "list": "vm.look:list_vms",
            "show": "vm.look:show",
            "log": "vm.console:log",
            "console": "vm.console:console",
            "screenshot": "vm.console:screenshot",
            "sendkey": "vm.console:sendkey",
            "command": "vm.look:command",
            "top": "vm.usage:top",
            "stats": "vm.usage:stats",
            "isolation": "vm.isolation:isolation",
        },
        "Run": {
            "start": "vm.power:start",
            "stop": "vm.power:stop",
            "kill": "vm.power:kill",
            "reboot": "vm.power:reboot",
            "reset": "vm.power:reset",
            "pause": "vm.power:pause",
            "resume": "vm.power:resume",
            "save": "vm.power:save",
        },
        "Inside the guest": {
            "exec": "vm.inside:execute",
            "cp": "vm.inside:copy",
            "passwd": "vm.inside:passwd",
            "rescue": "vm.power:rescue",
        },
        "Make and remove": {
            "create": "vm.create:create",
            "clone": "vm.life:clone",
            "rename": "vm.life:rename",
            "delete": "vm.life:delete",
            "undelete": "vm.life:undelete",
            "export": "vm.carry:export",
            "import": "vm.carry:import_",
            "migrate": "vm.life:migrate",
            "flatten": "vm.life:flatten",
            "snapshot": "vm.snapshot:SNAPSHOT",
        },
        "Change": {
            "set": "vm.change:set_",
            "upgrade-hardware": "vm.change:upgrade_hardware",
            "edit": "vm.change:edit",
            "apply": "vm.change:apply",
            "diff": "vm.change:diff",
            "disk": "vm.devices:DISK",
            "nic": "vm.nics:NIC",
            "usb": "vm.usb:USB",
            "cd": "vm.devices:CD",
            "floppy": "vm.devices:FLOPPY",
        },
    },
    examples="""
    bocage vm create web1 --image tiny --cpus 2 --memory 512M --disk 4G --start
    bocage vm list
    bocage vm console web1
    bocage vm stop web1
    """,
)
