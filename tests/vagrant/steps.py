"""What a run did, step by step: how long each took and what went wrong; as a table, and as JUnit XML."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree


@dataclass(slots=True)
class Step:
    """`figures` is what it measured; `failure` why it did not succeed."""

    name: str
    seconds: float = 0.0
    figures: str = ""
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """Written to the directory after each step, so that a run that is cut off has left what it knew."""

    directory: Path
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        step = Step(name)
        self.done.append(step)
        print(f"vagrant-test: {name}", flush=True)
        began = time.monotonic()
        try:
            yield step
        except BaseException as error:
            step.failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            step.seconds = time.monotonic() - began
            self._write()

    def table(self) -> str:
        width = max(len(step.name) for step in self.done)
        lines = [
            f"{'FAIL' if step.failure else 'ok':<5}{step.name:<{width}}{step.seconds:>8.1f} s  {step.figures}".rstrip()
            for step in self.done
        ]
        total = sum(step.seconds for step in self.done)
        return "\n".join([*lines, f"{'':5}{'in all':<{width}}{total:>8.1f} s", ""])

    def _write(self) -> None:
        (self.directory / "times.txt").write_text(self.table())
        suite = ElementTree.Element("testsuite", name="vagrant", tests=str(len(self.done)))
        suite.set("failures", str(sum(step.failure is not None for step in self.done)))
        for step in self.done:
            case = ElementTree.SubElement(
                suite, "testcase", classname="vagrant", name=step.name, time=f"{step.seconds:.1f}"
            )
            if step.figures:
                ElementTree.SubElement(case, "system-out").text = step.figures
            if step.failure is not None:
                ElementTree.SubElement(case, "failure", message=step.failure.partition("\n")[0]).text = step.failure
        ElementTree.ElementTree(suite).write(self.directory / "steps.xml", encoding="utf-8", xml_declaration=True)
