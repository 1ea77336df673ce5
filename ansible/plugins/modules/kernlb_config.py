#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Brings a configuration file and the kernel to what is wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernlb_config
short_description: Bring kernlb's configuration file, and the kernel, to what is wanted
version_added: 0.1.0
description:
  - Has kernlb validate the configuration and plan it against the kernel, then writes the file and applies it, through
    the daemon where one runs.
  - The kernel is always looked at. Where somebody changed it, that is repaired although the file is as it was.
  - Nothing is written where the configuration has a mistake or cannot be carried out here. Where applying it fails, the
    file is what it was before.
author: kernlb (@kernlb)
extends_documentation_fragment: kernlb.kernlb.program
options:
  content:
    description:
      - What is to be in O(path), in kernlb's own TOML or in another format that it reads (haproxy.cfg, keepalived.conf,
        ipvsadm).
      - Without O(content) and O(src), the file is taken as it is.
    type: str
  src:
    description: A file of the managed host whose content is to be in O(path).
    type: path
  path:
    description: The configuration file.
    type: path
    default: /etc/kernlb/kernlb.toml
  apply:
    description: Whether the kernel is brought to what the file says. Without, only the file is written, once validated.
    type: bool
    default: true
  deadline:
    description: How long a leaving server keeps its live connections, as C(30s). A daemon has its own.
    type: str
  accept_loss:
    description: Go on without the lines of a foreign file that cannot be carried out.
    type: bool
    default: false
  adopt:
    description: Take over virtual services that kernlb did not make. A daemon has been told so when it was started.
    type: bool
    default: false
  shared_settings:
    description: Set timers of the whole namespace although foreign services share them. As O(adopt).
    type: bool
    default: false
  take_port:
    description: Take a wildcard's port although a local process listens there. As O(adopt).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Bring the gateway to what the template says
  kernlb.kernlb.kernlb_config:
    content: "{{ lookup('ansible.builtin.template', 'kernlb.toml.j2') }}"

# With --check --diff: shows what differs, and changes nothing.
- name: Repair whatever somebody changed in the kernel
  kernlb.kernlb.kernlb_config:

- name: Balance what HAProxy balanced
  kernlb.kernlb.kernlb_config:
    src: /etc/haproxy/haproxy.cfg
    path: /etc/kernlb/kernlb.toml
    accept_loss: true
"""

RETURN = r"""
path:
  description: The configuration file.
  returned: success
  type: str
  sample: /etc/kernlb/kernlb.toml
operations:
  description: What was, or would be, done to the kernel, in order.
  returned: success
  type: list
  elements: dict
  contains:
    verb:
      description: One of add, change, quiesce and remove.
      type: str
      returned: always
    object:
      description: What it is done to.
      type: str
      returned: always
    text:
      description: The operation in one line.
      type: str
      returned: always
    breaks:
      description: The live connections that a removal breaks unless they end; null where the kernel cannot know.
      type: int
      returned: always
    before:
      description: What was in the kernel; null where nothing was.
      type: str
      returned: always
    after:
      description: What is in the kernel now; null where it is gone.
      type: str
      returned: always
  sample:
    - verb: change
      object: "real server 10.0.0.1:80 of tcp 203.0.113.10:80 (web/web1)"
      text: "~ real server 10.0.0.1:80 of tcp 203.0.113.10:80 (web/web1) weight 1 -> 2"
      breaks: 0
      before: "real server 10.0.0.1:80 of tcp 203.0.113.10:80 (web/web1) nat weight 1"
      after: "real server 10.0.0.1:80 of tcp 203.0.113.10:80 (web/web1) nat weight 2"
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible_collections.kernlb.kernlb.plugins.module_utils.program import ARGUMENTS, Program, Refused, mistakes

CONSENT = ("accept_loss", "adopt", "shared_settings", "take_port")
CHANGES = 2


def main():
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            content={"type": "str"},
            src={"type": "path"},
            path={"type": "path", "default": "/etc/kernlb/kernlb.toml"},
            apply={"type": "bool", "default": True},
            deadline={"type": "str"},
            **{name: {"type": "bool", "default": False} for name in CONSENT},
        ),
        mutually_exclusive=[("content", "src")],
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    try:
        before = path.read_bytes() if path.exists() else None
        wanted = wanted_content(module, before)
        program = Program(module)
        operations = foresee(module, program, wanted)
        result = {
            "path": str(path),
            "changed": before != wanted or bool(operations),
            "operations": operations,
            "diff": differences(path, before, wanted, operations),
        }
        if result["changed"] and not module.check_mode:
            carry_out(module, program, before, wanted)
    except Refused as refused:
        refused.tell(module)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or path}: {error.strerror}")
    module.exit_json(**result)


def wanted_content(module, before):
    if module.params["content"] is not None:
        return to_bytes(module.params["content"])
    if module.params["src"] is not None:
        return Path(module.params["src"]).read_bytes()
    if before is None:
        module.fail_json(msg=f"there is no {module.params['path']}: give content or src")
    return before


def foresee(module, program, wanted):
    """What applying would do to the kernel. Raises Refused where it cannot be done."""
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, prefix="kernlb-") as candidate:
        candidate.write(wanted)
        candidate.flush()
        found = program.ask("validate", candidate.name, allowed=(0, 1))
        if not found["valid"]:
            where = module.params["src"] or module.params["path"]
            lines = [f"{where} is not valid; nothing was changed", *mistakes(found["mistakes"])]
            raise Refused("\n".join(lines), 1, {"kind": "config", "mistakes": found["mistakes"]})
        if not module.params["apply"]:
            return []
        return program.ask("plan", candidate.name, *consent(module), allowed=(0, CHANGES))["operations"]


def carry_out(module, program, before, wanted):
    """The file first, because a daemon takes only its own; as it was where it is refused."""
    path = Path(module.params["path"])
    if before != wanted:
        write(module, path, wanted)
    if not module.params["apply"]:
        return
    deadline = ["--deadline", module.params["deadline"]] if module.params["deadline"] else []
    try:
        program.ask("apply", str(path), *deadline, *consent(module))
    except Refused:
        if before is None:
            path.unlink()
        elif before != wanted:
            write(module, path, before)
        raise


def consent(module):
    return [f"--{name.replace('_', '-')}" for name in CONSENT if module.params[name]]


def write(module, path, content):
    """As a whole: a reader sees the old file or the new one. A new one is readable by all, as far as umask allows."""
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    module.atomic_move(temporary, str(path))


def differences(path, before, wanted, operations):
    """The file's, and the kernel's: the lines of what is there, and of what is to be there."""
    found = []
    if before != wanted:
        had, has = (to_text(content or b"", errors="replace") for content in (before, wanted))
        found.append(difference(str(path), str(path), had, has))
    if operations:
        had, has = (lines(operations, side) for side in ("before", "after"))
        found.append(difference("kernel", f"kernel as {path} says", had, has))
    return found


def difference(before_header, after_header, before, after):
    return {"before_header": before_header, "after_header": after_header, "before": before, "after": after}


def lines(operations, side):
    return "".join(f"{each[side]}\n" for each in operations if each[side] is not None)


if __name__ == "__main__":
    main()
