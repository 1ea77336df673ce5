"""The command line as its user meets it: exit codes, streams, errors. No kernel is changed here."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread

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
        ["weight", "web", "s1", "²"],
        ["weight", "web", "s1", "9" * 5000],
        ["--netns", "", "show"],
        ["plan", "--state-dir", ""],
    ],
)
def test_wrong_usage_exits_64_and_never_2(arguments: list[str]) -> None:
    done = kernlb(*arguments)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr


class _Ending(BaseHTTPRequestHandler):
    """A daemon that ends over the first order that it gets; the next one has its place."""

    heard = 0

    def do_POST(self) -> None:
        type(self).heard += 1
        ending = {"error": {"kind": "ending", "message": "the daemon is ending"}}
        said = json.dumps(ending if self.heard == 1 else {"through": "daemon", "changed": False}).encode()
        self.send_response(409 if self.heard == 1 else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def address_string(self) -> str:
        return "cli"


def test_an_order_over_which_a_daemon_ends_is_given_again(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    with UnixStreamServer(str(tmp_path / "default" / "control.sock"), _Ending) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            done = kernlb("weight", "web", "s1", "5", "--json", "--run-dir", str(tmp_path))
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"through": "daemon", "changed": False}


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


def test_a_comment_is_a_file_without_services() -> None:
    assert "0 service(s)" in kernlb("validate", "-", text="# none yet\n").stdout


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


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [(["plan", "/nonexistent"], 1, "config"), (["plan", "--no-such-flag"], 64, "usage"), (["aply"], 64, "usage")],
)
def test_errors_are_json_where_asked(arguments: list[str], code: int, kind: str) -> None:
    done = kernlb("--json", *arguments)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout, error["kind"]) == (code, "", kind)
    assert {"kind", "message", "where", "hint"} <= error.keys()


BROKEN = {
    "truncated": b'[service.api]\nbind = ["203.0.1',
    "wrong types": b'[service.api]\nbind = 80\nservers = "x"\nprotocol = 3\n',
    "duplicate VIPs": b'[service.a]\nbind=["192.0.2.1:80"]\n[service.a.servers]\nx="10.0.0.1:80"\n'
    b'[service.b]\nbind=["192.0.2.1:80"]\n[service.b.servers]\nx="10.0.0.1:80"\n',
    "binary": bytes(range(256)) * 64,
    "nul": b"\0" * 4096,
    "empty": b"",
    "blank": b"\n \r\n",
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


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("schema >/dev/full", 1, b"No space left on device"),
        (f"validate {HAPROXY} >/dev/full", 1, b"No space left on device"),
        ("validate - <&-", 1, b"standard input: cannot read"),
        ("validate /nonexistent 2>&-", 1, b""),
        (f"validate {HAPROXY} >&-", 0, b""),
        ("demo --no-such-flag <&- >&- 2>&-", 64, b""),
    ],
)
def test_streams_that_take_or_give_nothing_are_no_defect(redirection: str, code: int, said: bytes) -> None:
    done = subprocess.run(
        f"{sys.executable} -m kernlb {redirection}", shell=True, input=b"", capture_output=True, timeout=60
    )
    assert done.returncode == code
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_what_is_opened_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None\n"
        "import os; [os.close(n) for n in range(3)]\n"
        "from kernlb import cli; cli._open_streams()\n"
        f"assert os.open({str(tmp_path)!r}, os.O_RDONLY) > 2"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.toml")
    file.write_text(Path(TOUR).read_text())
    for options in ([], ["--json"]):
        done = kernlb("validate", str(file), *options)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_no_colours_in_a_pipe() -> None:
    assert "\x1b" not in kernlb("validate", HAPROXY).stdout


@pytest.mark.parametrize("variable", ["NO_COLOR=1", "TERM=dumb", "TERM=xterm"])
def test_colours_are_for_terminals_that_want_them(variable: str) -> None:
    shown = [[], []]
    for outputs, verb in zip(shown, ("validate " + HAPROXY, "plan /nonexistent"), strict=True):
        command = f"env -u NO_COLOR {variable} {sys.executable} -m kernlb {verb}"
        done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, timeout=60)
        outputs.append(b"\x1b[3" in done.stdout)
    assert shown == [[variable == "TERM=xterm"]] * 2


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


@pytest.mark.parametrize("name", ["no-such-namespace", "../netns/no-such-namespace", "..", "."])
def test_an_unknown_namespace_is_named(name: str) -> None:
    done = kernlb("--netns", name, "show")
    assert done.returncode == 1
    assert f"no network namespace {name!r}" in done.stderr


def test_a_script_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"\xff\xfe")
    done = kernlb("simulate", TOUR, "--script", str(script))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{script}: not UTF-8 text" in done.stderr


@pytest.mark.parametrize(("hard", "expected"), [(4096, 4096), (64, 64)])
def test_the_daemon_claims_the_descriptors_that_it_may_have(hard: int, expected: int) -> None:
    script = (
        "import resource as r; from kernlb.cli.run import claim_descriptors as claim; "
        f"r.setrlimit(r.RLIMIT_NOFILE, (64, {hard})); claim(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert done.stdout.decode().split() == [str(expected), str(hard)]
