# SPDX-License-Identifier: Apache-2.0
"""Runs kernlb and takes its JSON."""

from __future__ import annotations

import json

ARGUMENTS = {
    "program": {"type": "str", "default": "kernlb"},
    "netns": {"type": "str"},
    "run_dir": {"type": "path"},
    "state_dir": {"type": "path"},
}


class Refused(Exception):
    """kernlb said no. `error` is its own account, None where it gave none."""

    def __init__(self, message, code, error=None):
        super().__init__(message)
        self.code = code
        self.error = error

    @property
    def kind(self):
        return (self.error or {}).get("kind")

    def tell(self, module):
        """Fails the task with all that kernlb said."""
        module.fail_json(msg=str(self), rc=self.code, error=self.error)


class Program:
    def __init__(self, module):
        self._module = module
        program = module.get_bin_path(module.params["program"], required=True)
        places = (("--netns", "netns"), ("--run-dir", "run_dir"), ("--state-dir", "state_dir"))
        options = [word for option, name in places if module.params[name] for word in (option, module.params[name])]
        self._command = [program, "--json", *options]

    def ask(self, *words, allowed=(0,)):
        """The document that a verb prints; its notes become warnings. Raises Refused on exit codes not allowed."""
        code, out, errors = self._module.run_command([*self._command, *words])
        lines = errors.splitlines()
        if code not in allowed:
            raise _refusal(words, code, lines or out.splitlines())
        for line in lines:
            self._module.warn(line)
        return json.loads(out)


def _refusal(words, code, lines):
    for line in lines:
        if line.startswith('{"error"'):
            error = json.loads(line)["error"]
            return Refused(_sentence(error), code, error)
    return Refused("\n".join([f"kernlb {' '.join(words)} exited {code}", *lines]), code)


def _sentence(error):
    said = [error["message"]]
    if error.get("where"):
        said.append(f"where: {error['where']}")
    said += mistakes(error.get("mistakes") or [])
    if error.get("hint"):
        said.append(f"hint: {error['hint']}")
    return "\n".join(said)


def mistakes(found):
    """A line for each mistake of a file."""
    return [_mistake(**each) for each in found]


def _mistake(path, line, message, hint):
    where = ": ".join([*([f"line {line}"] if line else []), *([path] if path else []), message])
    return f"{where} ({hint})" if hint else where
