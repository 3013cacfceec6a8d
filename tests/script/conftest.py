"""A checkout of its own for the scripts, whose environment is the tests' own: nothing is fetched for it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 61_843  # a uid that no user has


@dataclasses.dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Checkout:
    path: pathlib.Path
    home: pathlib.Path
    listen: str
    uid: int

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL") if key in os.environ}
        return kept | {
            "PATH": f"{self.path}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.path),
            "TERM": "xterm",
            "BOCAGE_HOME": str(self.home),
            "BOCAGE_LISTEN": self.listen,
            "BOCAGE_DEFAULT_NETWORK": "user",
        }

    def command(self, *arguments: str) -> list[str]:
        """The command as the checkout's user runs it."""
        if self.uid == os.getuid():
            return list(arguments)
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *arguments]

    def run(self, script: str, *arguments: str, within: float = 300, **environment: str) -> Ended:
        """A script of the checkout, or with `bocage` the command, to its end."""
        program = self.path / (".venv/bin/bocage" if script == "bocage" else f"script/{script}")
        ended = subprocess.run(
            self.command(str(program), *arguments),
            env=self.environment | environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def beside(self, home: str) -> Checkout:
        """The same checkout with another home and port."""
        path = self.path / home
        return dataclasses.replace(self, home=path, listen=f"127.0.0.1:{free_port()}")

    def end(self) -> None:
        """Leave no process behind."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("bocage", "daemon", "start", within=60)
            names = self.run("bocage", "vm", "list", "--quiet", within=30).out.split()
            if names:
                self.run("bocage", "vm", "delete", "--force", "--purge", *names, within=60)
        self.run("bocage", "daemon", "stop", within=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make(where: pathlib.Path, *, uid: int, packages: pathlib.Path | None) -> Checkout:
    """A checkout in `where` that `uid` owns, with the packages of images that were fetched already."""
    for part in ("script", "src"):
        shutil.copytree(TOP / part, where / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "pyproject.toml", where)
    environment(where)
    checkout = Checkout(where, where / "home", f"127.0.0.1:{free_port()}", uid)
    if packages and packages.is_dir():
        for package in packages.glob("*.deb"):
            (checkout.home / "cache" / "packages").mkdir(parents=True, exist_ok=True)
            shutil.copy(package, checkout.home / "cache" / "packages")
    if uid != os.getuid():
        for path in (where, *where.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)
    return checkout


def environment(where: pathlib.Path) -> None:
    """A virtual environment as script/up leaves one, which finds the dependencies where these tests find them."""
    # the machine's own Python where it is of this version: this one may lie where no other user can reach it
    python = pathlib.Path(sys.executable)
    system = pathlib.Path("/usr/bin") / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if system.exists():
        python = system
    venv = where / ".venv"
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    ours = sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}, scheme="venv")
    theirs = [path for path in (*site.getsitepackages(), sysconfig.get_path("purelib")) if pathlib.Path(path).is_dir()]
    pathlib.Path(ours, "bocage-tests.pth").write_text("\n".join([str(where / "src"), *dict.fromkeys(theirs)]) + "\n")
    command = venv / "bin" / "bocage"
    command.write_text(f"#!{venv}/bin/python\nimport sys\nfrom bocage.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    wanted = hashlib.sha256((where / "pyproject.toml").read_bytes()).hexdigest()
    (venv / "bocage-installed").write_text(f"{wanted} run \n")


@contextlib.contextmanager
def place() -> Iterator[pathlib.Path]:
    """A directory that every user may reach."""
    with tempfile.TemporaryDirectory(prefix="bocage-script-") as where:
        path = pathlib.Path(where)
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def made(*, uid: int, packages: pathlib.Path | None) -> Iterator[Checkout]:
    with place() as where:
        checkout = make(where, uid=uid, packages=packages)
        try:
            yield checkout
        finally:
            checkout.end()


@pytest.fixture
def fresh(packages_cache: pathlib.Path) -> Iterator[Checkout]:
    """A checkout in which nothing was run yet."""
    with made(uid=os.getuid(), packages=packages_cache) as checkout:
        yield checkout


@pytest.fixture
def bare() -> Iterator[Checkout]:
    """A checkout for what ends before a daemon is started."""
    with place() as where:
        yield make(where, uid=os.getuid(), packages=None)


@pytest.fixture(scope="module")
def used(tiny_image: pathlib.Path) -> Iterator[Checkout]:
    """A checkout that has its image and its VM already; each test sees to the state that it needs."""
    with made(uid=os.getuid(), packages=None) as checkout:
        assert checkout.run("bocage", "daemon", "start", within=60).code == 0
        added = checkout.run("bocage", "image", "add", str(tiny_image), "--name", "tiny", "--format", "raw", within=60)
        assert added.code == 0, added.err
        yield checkout


@pytest.fixture
def visitor(packages_cache: pathlib.Path) -> Iterator[Checkout]:
    """A checkout of an ordinary user."""
    if os.getuid() != 0:
        pytest.skip("an ordinary user runs these tests: 'fresh' is theirs")
    with made(uid=NOBODY, packages=packages_cache) as checkout:
        if checkout.run("bocage", "daemon", "status", within=30).code != 6:
            pytest.skip("the tests' own Python environment lies where no other user can read it")
        yield checkout
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(f"/tmp/bocage-{NOBODY}")
