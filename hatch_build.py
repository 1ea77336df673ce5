"""What a wheel holds beside its source: the eBPF object, the manual page, the completions, made as it is built."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPLETIONS = {
    "bash": "share/bash-completion/completions/kernlb",
    "zsh": "share/zsh/site-functions/_kernlb",
    "fish": "share/fish/vendor_completions.d/kernlb.fish",
}


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable installation works from the source tree, whose object `make -C bpf` makes.
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        made = Path(self.directory) / "made"
        made.mkdir(parents=True, exist_ok=True)
        build_object(root)
        for name, text in texts(root).items():
            (made / name).write_text(text)
        for shell, target in COMPLETIONS.items():
            build_data["shared_data"][str(made / f"completion.{shell}")] = target
        build_data["shared_data"][str(made / "kernlb.8")] = "share/man/man8/kernlb.8"


def build_object(root: Path) -> None:
    try:
        subprocess.run(["make", "--no-print-directory", "-C", str(root / "bpf")], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the eBPF program was not built ({error}); Debian: apt install make clang llvm libbpf-dev libc6-dev"
        ) from error


def texts(root: Path) -> dict[str, str]:
    """The manual page and the completion of each shell, by file name, from the commands themselves."""
    sys.path.insert(0, str(root))
    from click.shell_completion import get_completion_class

    from kernlb.cli.manual import manual
    from kernlb.cli.root import root as commands

    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "1577836800"))
    made = {"kernlb.8": manual(commands, epoch=epoch)}
    for shell in COMPLETIONS:
        kind = get_completion_class(shell)
        assert kind is not None
        made[f"completion.{shell}"] = kind(commands, {}, "kernlb", "_KERNLB_COMPLETE").source()
    return made
