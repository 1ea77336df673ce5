"""`python -m tests.vagrant [DIRECTORY]`: the whole lab of vagrant/ from nothing. Six machines start, Ansible makes two
directors, three real servers and a client of them, again, and the second time nothing changes; the smoke play proves
the lab. Then all of it goes away. KERNLB_NODES chooses machines: a director without the others is proven alone.

Needs root, but neither KVM nor a box server: the box is built here, libvirt runs in namespaces of its own. Writes to
the new directory, build/vagrant/ unless given: steps.xml and those of the plays (JUnit), times.txt, suffered.json,
and a log of each step.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.vagrant.box import box
from tests.vagrant.lab import Lab, LabError, lab
from tests.vagrant.steps import Step, Steps
from tests.vm import guest
from tests.vm.errors import GuestError
from tests.vm.initramfs import initramfs
from tests.vm.kernel import cache_directory, kernel

REPOSITORY = Path(__file__).parents[2]
VAGRANT = REPOSITORY / "vagrant"
BUILD = REPOSITORY / "build" / "vagrant"
BOXES = cache_directory() / "boxes"
BOX = "kernlb/bookworm"
DIRECTORS = {"lb1", "lb2"}
SMOKING = {*DIRECTORS, "rs1", "rs2", "client"}
PROGRESS = re.compile(r"[^\n]*\r|\x1b\[[0-9;]*[A-Za-z]")
RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+)", re.MULTILINE)
LAST_WORDS = 3000
UP, CONVERGE, SMOKE = 2700, 3600, 1800
KVM_DEADLINE = 20


class RunError(Exception):
    """A command failed; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Run:
    """Commands inside a lab, each with its log in the directory."""

    lab: Lab
    directory: Path
    environment: Mapping[str, str]

    def call(self, log: str, *command: str, timeout: float) -> str:
        file = self.directory / f"{log}.log"
        with file.open("wb") as output:
            process = subprocess.Popen(
                self.lab.inside(*command, directory=VAGRANT),
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                process.kill()
        said = PROGRESS.sub("", file.read_text(errors="replace"))
        file.write_text(said)
        if status:
            raise RunError(f"{' '.join(command)}: exit status {status}\n{said[-LAST_WORDS:]}")
        if status is None:
            raise RunError(f"{' '.join(command)}: not done after {timeout:g} s\n{said[-LAST_WORDS:]}")
        return said


def main(directory: Path) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if os.geteuid() != 0:
        print("vagrant-test: needs root, for libvirt in namespaces of its own", file=sys.stderr)
        return 1
    if directory == BUILD:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    steps = Steps(directory)
    try:
        with tempfile.TemporaryDirectory(prefix="kernlb-vagrant-") as work:
            _everything(steps, Path(work))
    except (RunError, LabError, subprocess.SubprocessError, AssertionError) as error:
        print(f"vagrant-test: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        print(steps.table() if steps.done else "", end="")
    return 0


def _everything(steps: Steps, work: Path) -> None:
    environment = _environment(work, steps.directory)
    with steps.step("the box"):
        file = None if "KERNLB_BOX" in os.environ else box()
    with steps.step("the package"):
        given = os.environ.get("KERNLB_PACKAGE")
        package = Path(given).absolute() if given else _package(work)
    with steps.step("the driver") as step:
        driver = step.figures = os.environ.get("KERNLB_LIBVIRT_DRIVER") or ("kvm" if _kvm_works() else "qemu")
    environment |= {"KERNLB_LIBVIRT_DRIVER": driver, "KERNLB_PACKAGE": str(package)}
    (work / "lab").mkdir()
    with lab(work / "lab") as built:
        run = Run(built, steps.directory, environment)
        if file:
            with steps.step("vagrant box add"):
                _add(run, file)
            environment["KERNLB_BOX"] = BOX
        with steps.step("vagrant up"):
            run.call("up", "vagrant", "up", timeout=UP)
        environment["KERNLB_PROVISION"] = "1"
        with steps.step("converge") as step:
            machines = set(_converge(run, "converge", step))
        with steps.step("converge again: nothing changes") as step:
            if any(_converge(run, "converge-again", step).values()):
                raise RunError(f"the second run changed something: {steps.directory}/converge-again.log")
        if machines >= SMOKING:
            with steps.step("smoke") as step:
                _smoke(run, work, step)
        elif len(machines & DIRECTORS) == 1:
            with steps.step("a director alone balances"):
                _play(run, work, "alone")
        with steps.step("vagrant destroy"):
            run.call("destroy", "vagrant", "destroy", "--force", timeout=UP)


def _package(work: Path) -> Path:
    subprocess.run([str(REPOSITORY / "debian" / "build"), str(work)], check=True, stdout=subprocess.DEVNULL)
    (package,) = work.glob("*.deb")
    return package


def _environment(work: Path, directory: Path) -> dict[str, str]:
    """Nothing of it lies in the tree or at home; the cache keeps the unpacked box for the next run."""
    BOXES.mkdir(parents=True, exist_ok=True)
    (work / "vagrant").mkdir()
    (work / "vagrant" / "boxes").symlink_to(BOXES)
    return {
        "HOME": str(work),
        "ANSIBLE_HOME": str(work / "ansible"),
        "VAGRANT_HOME": str(work / "vagrant"),
        "VAGRANT_DOTFILE_PATH": str(work / "machines"),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "KERNLB_ANSIBLE": str(_ansible()),
        "KERNLB_PROVISION": "0",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
        "JUNIT_OUTPUT_DIR": str(directory),
    }


def _ansible() -> Path:
    return Path(os.environ.get("KERNLB_ANSIBLE") or Path(sys.executable).with_name("ansible-playbook"))


def _kvm_works() -> bool:
    """Whether a guest really runs: a /dev/kvm that exists may hang its guests."""
    if not Path("/dev/kvm").exists():
        return False
    chosen = kernel(guest.best_filesystem())
    job = guest.Job(command=["true"], directory=Path("/"), timeout=KVM_DEADLINE, kvm=True)
    try:
        status = guest.run(job, kernel=chosen, initramfs=initramfs(chosen), stdout=io.BytesIO(), stderr=io.BytesIO())
    except GuestError:
        return False
    return status == 0


def _add(run: Run, file: Path) -> None:
    """The cache holds one box of this name, unpacked: that of the last run, if nothing changed."""
    added = BOXES / "added"
    if added.exists() and added.read_text() == file.name:
        return
    run.call("box", "vagrant", "box", "add", "--force", "--name", BOX, "--provider", "libvirt", str(file), timeout=UP)
    added.write_text(file.name)


def _converge(run: Run, log: str, step: Step) -> dict[str, int]:
    """How many tasks changed something, by machine."""
    said = run.call(log, "vagrant", "provision", timeout=CONVERGE)
    changed = {host: int(count) for host, _, count in RECAP.findall(said)}
    step.figures = "changed: " + ", ".join(f"{host} {count}" for host, count in changed.items())
    if not changed:
        raise RunError(f"no recap in {run.directory}/{log}.log")
    return changed


def _smoke(run: Run, work: Path, step: Step) -> None:
    report = run.directory / "suffered.json"
    _play(run, work, "smoke", "--extra-vars", f"report={report}")
    step.figures = "; ".join(
        f"{event}, {name}: {sum(found['failed'].values())} of {found['requests']} requests lost, {found['late']} late, "
        f"{sum(found['broken'].values())} of {found['held']} connections broken"
        for event, services in json.loads(report.read_text()).items()
        for name, found in services.items()
    )


def _play(run: Run, work: Path, play: str, *options: str) -> None:
    inventory = work / "machines" / "provisioners" / "ansible" / "inventory"
    run.call(play, str(_ansible()), "--inventory", str(inventory), *options, f"{play}.yml", timeout=SMOKE)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    # An exception, not the default death, so that the lab is taken down.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute() if sys.argv[1:] else BUILD))
