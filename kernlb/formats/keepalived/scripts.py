"""The programs that keepalived.conf names: what is run, and as whom. Runs nothing."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kernlb.checks.spec import CommandProbe, Exit
from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import seconds
from kernlb.formats.report import EXACT, Ledger, Refused, Remark, approximated, exact

_GROUP = approximated("the group is the user's own")
_SCRIPTS = "keepalived_script"


@dataclass(frozen=True, slots=True)
class Account:
    """Whom scripts run as that name nobody; None: as the daemon does. `remark` says so where the file does not."""

    user: str | None
    remark: Remark = EXACT


def script_account(statements: Iterable[Statement], known: Callable[[str], bool]) -> Account:
    """Of a whole file: the one its `script_user` names, else keepalived's default where that is a `known` user."""
    for statement in statements:
        for inner in statement.body if statement.keyword == "global_defs" else ():
            if inner.keyword == "script_user" and len(inner.words) > 1:
                return Account(inner.words[1])
    if known(_SCRIPTS):
        return Account(_SCRIPTS, exact(f"runs as {_SCRIPTS}: no `script_user` says otherwise"))
    return Account(None, exact(f"runs as the daemon does: there is neither a `script_user` nor a user {_SCRIPTS}"))


def grouped(statement: Statement) -> Remark:
    """`script_user NAME [GROUP]`, and `user` likewise."""
    return _GROUP if len(statement.words) > 2 else EXACT


def command(words: Mapping[str, Statement], account: Account, ledger: Ledger) -> tuple[CommandProbe, float | None]:
    if "misc_path" not in words:
        raise Refused("MISC_CHECK expects misc_path")
    try:
        argv = tuple(shlex.split(" ".join(words["misc_path"].words[1:])))
    except ValueError as error:
        raise Refused(f"cannot read misc_path: {error}") from None
    if not argv:
        raise Refused("misc_path names no program")
    said = words.get("user")
    if said is None:
        ledger.say(words["misc_path"].line, account.remark)
    else:
        ledger.say(said.line, grouped(said))
    probe = CommandProbe(
        argv=argv,
        exit=Exit.WEIGHT if "misc_dynamic" in words else Exit.STATUS,
        user=account.user if said is None else said.argument(),
    )
    return probe, seconds(words["misc_timeout"]) if "misc_timeout" in words else None
