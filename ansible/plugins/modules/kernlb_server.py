#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Gives operators' orders of one real server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernlb_server
short_description: Drain, disable, enable or weigh a real server
version_added: 0.1.0
description:
  - Gives a director an operator's order of one real server, through its daemon or, where none runs, on the kernel.
  - Delegate it to each director in turn. Orders outlive restarts and reloads.
author: kernlb (@kernlb)
extends_documentation_fragment: kernlb.kernlb.program
options:
  service:
    description: The service, by name.
    type: str
    required: true
  server:
    description: The real server, by its name in the service.
    type: str
    required: true
  state:
    description:
      - V(enabled) ends a drain or a disablement. The server takes connections again as soon as it is up.
      - V(disabled) gives it no new connections. It stays in the kernel with weight 0, with the connections it has.
      - V(drained) gives it no new connections, and takes it out of the kernel when the last one has ended or
        O(deadline) has passed.
      - Left as it is where it is not given.
    type: str
    choices: [enabled, disabled, drained]
  weight:
    description:
      - Another weight, 0 to 65535, in the units of the configuration; V(configured) for what the file says.
      - Left as it is where it is not given.
    type: str
  deadline:
    description: How long the live connections of a drain may last, as C(5m) or C(30s).
    type: str
    default: 5m
  wait:
    description:
      - With O(state=drained), whether to wait until the server is out.
      - With O(state=enabled), whether to wait until the daemon finds it up, for O(timeout) at most. A server without a
        check is not waited for, nor is any where no daemon runs.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for an enabled server to be up before the task fails.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Drain this server on every director
  kernlb.kernlb.kernlb_server:
    service: web
    server: "{{ inventory_hostname }}"
    state: drained
    deadline: 2m
  delegate_to: "{{ item }}"
  loop: "{{ groups['directors'] }}"

- name: Let it take connections again, and wait until it is up
  kernlb.kernlb.kernlb_server:
    service: web
    server: "{{ inventory_hostname }}"
    state: enabled
  delegate_to: "{{ item }}"
  loop: "{{ groups['directors'] }}"

- name: Let a new server begin with little
  kernlb.kernlb.kernlb_server:
    service: web
    server: web3
    weight: 1
"""

RETURN = r"""
through:
  description: What took the order, the daemon or the kernel.
  returned: success
  type: str
  sample: daemon
hold:
  description: The order in force, drain or disable; null where there is none.
  returned: success
  type: str
  sample: drain
drained:
  description: Whether the server of a drain is out.
  returned: success
  type: bool
  sample: true
weight:
  description: The weight that was ordered; null where the configured one holds.
  returned: success
  type: int
  sample: null
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kernlb.kernlb.plugins.module_utils.program import ARGUMENTS, Program, Refused

VERBS = {"enabled": "enable", "disabled": "disable", "drained": "drain"}
LACKS_QUORUM = 3
PAUSE = 0.5


def main():
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            service={"type": "str", "required": True},
            server={"type": "str", "required": True},
            state={"type": "str", "choices": sorted(VERBS)},
            weight={"type": "str"},
            deadline={"type": "str", "default": "5m"},
            wait={"type": "bool", "default": True},
            timeout={"type": "int", "default": 60},
        ),
        required_one_of=[("state", "weight")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**order(module, Program(module)))
    except Refused as refused:
        refused.tell(module)


def order(module, program):
    name = [module.params["service"], module.params["server"]]
    state, wait = module.params["state"], module.params["wait"]
    check = ["--check"] if module.check_mode else []
    given = []
    # The weight first: a server that returns should return with it.
    if module.params["weight"] is not None:
        given.append(program.ask("weight", *name, module.params["weight"], *check))
    if state == "drained":
        patience = ["--deadline", module.params["deadline"], *([] if wait else ["--no-wait"])]
        given.append(program.ask("drain", *name, *patience, *check))
    elif state is not None:
        given.append(program.ask(VERBS[state], *name, *check))
    if state == "enabled" and wait and not module.check_mode:
        await_up(module, program, name)
    before, after = given[0]["before"], given[-1]
    if module.check_mode:
        # Each was asked about by itself: the second knows nothing of the first.
        after = dict(after, weight=given[0]["weight"])
    return {
        "changed": any(said["changed"] for said in given),
        **{key: after[key] for key in ("through", "hold", "drained", "weight")},
        "diff": {
            "before_header": "/".join(name),
            "after_header": "/".join(name),
            "before": line(name, before),
            "after": line(name, after),
        },
    }


def line(name, orders):
    weight = "as configured" if orders["weight"] is None else orders["weight"]
    return f"{'/'.join(name)}: {orders['hold'] or 'no order'}, weight {weight}\n"


def await_up(module, program, name):
    end = time.time() + module.params["timeout"]
    while True:
        found = status(program, name)
        if found is None or found["status"] in ("up", "unknown"):
            return
        if time.time() > end:
            took = f"after {module.params['timeout']} s"
            raise Refused(f"{'/'.join(name)} is {found['status']} {took}: {found['reason']}", 1)
        time.sleep(PAUSE)


def status(program, name):
    """The server as the daemon sees it; None where no daemon runs."""
    try:
        document = program.ask("status", allowed=(0, LACKS_QUORUM))
    except Refused as refused:
        if refused.kind == "no-daemon":
            return None
        raise
    for service in document["services"]:
        for server in service["servers"]:
            if [service["name"], server["name"]] == name:
                return server
    raise Refused(f"{'/'.join(name)} is not among the daemon's servers", 1)


if __name__ == "__main__":
    main()
