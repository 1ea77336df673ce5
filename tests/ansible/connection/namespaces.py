"""Reaches a machine that is a process's namespaces and root directory, by nsenter. `ansible_host` is the process."""

import subprocess
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: namespaces
short_description: enter a process's namespaces
description: Runs commands among the namespaces of a process of this machine, under its root.
options:
  process:
    description: The process.
    type: str
    vars:
      - name: ansible_host
"""


class Connection(ConnectionBase):
    transport = "namespaces"

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run([*self._enter(), "/bin/sh", "-c", cmd], input=in_data or b"", capture_output=True)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        self._copy(["dd", f"of={out_path}", "bs=64k"], Path(in_path).read_bytes())

    def fetch_file(self, in_path, out_path):
        Path(out_path).write_bytes(self._copy(["cat", in_path], b""))

    def close(self):
        self._connected = False

    def _copy(self, command, data):
        done = subprocess.run([*self._enter(), *command], input=data, capture_output=True)
        if done.returncode:
            raise AnsibleError(done.stderr.decode(errors="replace"))
        return done.stdout

    def _enter(self):
        environment = ["env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        spaces = ["--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--root", "--wd"]
        return ["nsenter", "--target", self.get_option("process"), *spaces, *environment]
