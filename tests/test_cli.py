"""The command line as its user meets it: exit codes, streams, errors. No kernel is changed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
HAPROXY = str(DATA / "haproxy.cfg")
TOUR = str(DATA / "tour.toml")


def kernlb(*arguments: str, text: str | bytes | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    given = text.encode() if isinstance(text, str) else text
    done = subprocess.run(
        [sys.executable, "-m", "kernlb", *arguments], input=given, capture_output=True, timeout=timeout
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-flag"],
        ["aply"],
        ["plan", "--no-such-flag"],
        ["apply", "--deadline", "soon"],
        ["convert", HAPROXY],
        [],
    ],
)
def test_wrong_usage_exits_64_and_never_2(arguments: list[str]) -> None:
    done = kernlb(*arguments)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr


def test_a_misspelt_verb_is_answered_with_the_nearest() -> None:
    assert "'apply'" in kernlb("aply").stderr


def test_the_haproxy_file_is_valid_and_nothing_is_dropped() -> None:
    document = json.loads(kernlb("validate", HAPROXY, "--json").stdout)
    assert document["valid"]
    assert document["format"] == "haproxy"
    assert {line["verdict"] for line in document["lines"]} == {"exact", "approximated"}
    assert kernlb("validate", "--strict", HAPROXY).returncode == 0


def test_common_options_stand_before_or_after_the_verb() -> None:
    assert kernlb("--json", "validate", TOUR).stdout == kernlb("validate", TOUR, "--json").stdout


def test_standard_input_is_a_file_too() -> None:
    done = kernlb("validate", "-", text=Path(TOUR).read_text())
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)


def test_a_mistake_is_told_with_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(
        '[service.api]\nbind = ["203.0.113.10:80"]\nshceduler = "wrr"\n[service.api.servers]\na = "10.0.0.1:80"\n'
    )
    done = kernlb("validate", str(file))
    assert done.returncode == 1
    assert f"{file}:3:" in done.stderr
    assert "scheduler" in done.stderr
    assert done.stdout == ""
    document = json.loads(kernlb("validate", str(file), "--json").stdout)
    assert not document["valid"]
    assert document["mistakes"][0]["line"] == 3


def test_errors_are_json_where_asked(tmp_path: Path) -> None:
    done = kernlb("plan", str(tmp_path / "none"), "--json")
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 1
    assert {"kind", "message", "where", "hint"} <= error.keys()


BROKEN = {
    "truncated": b'[service.api]\nbind = ["203.0.1',
    "wrong types": b'[service.api]\nbind = 80\nservers = "x"\nprotocol = 3\n',
    "duplicate VIPs": b'[service.a]\nbind=["192.0.2.1:80"]\n[service.a.servers]\nx="10.0.0.1:80"\n'
    b'[service.b]\nbind=["192.0.2.1:80"]\n[service.b.servers]\nx="10.0.0.1:80"\n',
    "binary": bytes(range(256)) * 64,
    "nul": b"\0" * 4096,
    "garbage": os.urandom(1 << 16) + b"=" * (10 << 20),
    "deep": b"x = " + b"[" * 100_000,
    "half a haproxy.cfg": b"frontend x\n  bind *:99999\n  default_backend nowhere\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_an_error_of_ours_never_a_traceback(name: str, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(BROKEN[name])
    for verb in (["validate"], ["plan", "--state-dir", str(tmp_path), "--run-dir", str(tmp_path)]):
        done = kernlb(*verb, str(file))
        assert done.returncode == 1, done.stdout[:500]
        assert "Traceback" not in done.stderr
        assert done.stderr


@pytest.mark.parametrize("path", ["/nonexistent/kernlb.toml", "/", "/proc/self/mem"])
def test_unreadable_files_are_named(path: str) -> None:
    done = kernlb("validate", path)
    assert done.returncode == 1
    assert path in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    done = subprocess.run(
        f"{sys.executable} -m kernlb schema | head -1", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "{"
    assert done.stderr == ""


def test_no_colours_in_a_pipe() -> None:
    assert "\x1b" not in kernlb("validate", HAPROXY).stdout


@pytest.mark.parametrize("target", ["toml", "haproxy", "ipvsadm", "keepalived"])
def test_the_haproxy_file_converts_and_the_result_is_valid(target: str, tmp_path: Path) -> None:
    done = kernlb("convert", HAPROXY, "--to", target)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "converted"
    result.write_text(done.stdout)
    assert kernlb("validate", str(result), "--format", target).returncode == 0


def test_every_verb_has_help_with_its_exit_status() -> None:
    from kernlb.cli import VERBS

    for verb in VERBS:
        done = kernlb(verb, "--help")
        assert done.returncode == 0
        assert "Usage: kernlb" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str) -> None:
    done = kernlb("completion", shell)
    assert done.returncode == 0
    assert "_KERNLB_COMPLETE" in done.stdout


def test_an_unknown_namespace_is_named(tmp_path: Path) -> None:
    done = kernlb("--netns", "no-such-namespace", "show")
    assert done.returncode == 1
    assert "no-such-namespace" in done.stderr


@pytest.mark.parametrize(("hard", "expected"), [(4096, 4096), (64, 64)])
def test_the_daemon_claims_the_descriptors_that_it_may_have(hard: int, expected: int) -> None:
    script = (
        "import resource as r; from kernlb.cli.run import claim_descriptors as claim; "
        f"r.setrlimit(r.RLIMIT_NOFILE, (64, {hard})); claim(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert done.stdout.decode().split() == [str(expected), str(hard)]
