"""What the control socket may ask of the daemon, and what it answers."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from os.path import realpath
from typing import Any

from kernlb import operator
from kernlb.checks.stream import forget_authorities
from kernlb.control import error_document
from kernlb.daemon import telling
from kernlb.daemon.daemon import Daemon
from kernlb.daemon.options import Machine, same_engines
from kernlb.daemon.probation import Probation
from kernlb.daemon.unhurried import Answer, unhurried
from kernlb.errors import KernlbError
from kernlb.http_server import encoded
from kernlb.journal import Journal, Level
from kernlb.pool import ServerName
from kernlb.showing import operations_document
from kernlb.source import Source, refuse_loss
from kernlb.status import Snapshot, service_documents
from kernlb.systemd import Notifier
from kernlb.threads import beside

READING = 60.0
"""Seconds for a file to be read and understood."""


class NotOurs(KernlbError):
    """A file that is not the daemon's."""

    kind = "file"


class Unread(KernlbError):
    """A file that does not come."""

    kind = "file"


@dataclass(frozen=True, slots=True)
class Documents:
    """What `status` says, before it is written in any format."""

    head: Mapping[str, Any]
    services: list[dict[str, Any]]


class Orders:
    def __init__(
        self, daemon: Daemon, *, machine: Machine, journal: Journal, notifier: Notifier, accept_loss: bool
    ) -> None:
        self._daemon = daemon
        self._machine = machine
        self._journal = journal
        self._notifier = notifier
        self._accept_loss = accept_loss
        self._file = daemon.source.file
        self._temporary: str | None = None
        self._one = asyncio.Lock()
        self._probation = Probation()
        self._documents = Answer(self._looked, version=self._version)
        self._status = Answer(self._in_json, version=self._version)
        self._metrics = Answer(self._exposed)

    # --- what there is

    async def status(self) -> bytes:
        return await self._status.get()

    async def standing(self, service: str, server: str) -> dict[str, Any]:
        """What `status` says of one server, in each virtual service that it is in."""
        await self._daemon.recount()
        self._known(service, server)
        (one,) = (each for each in self._daemon.assessment.config.services if each.name == service)
        found = service_documents(self._snapshot(), [one])
        return {"services": [each | {"servers": [s for s in each["servers"] if s["name"] == server]} for each in found]}

    async def changed(self) -> None:
        await self._daemon.changed()

    async def metrics(self) -> bytes:
        return await self._metrics.get()

    async def plan(self, *, file: str, format: str | None, content: str) -> dict[str, Any]:
        """What `apply` of this content would do, by the health that is known of its servers."""
        daemon, machine = self._daemon, self._machine
        source = await beside(partial(self._understood, content, file, format))
        if not self._accept_loss:
            refuse_loss(source)
        pools = daemon.assessment.trial(source.config, now=daemon.now())
        wanted = partial(machine.meaning(source.config).desired, pools)
        same = same_engines(source.config, daemon.source.config)
        plan = await daemon.plan(wanted, None if same else partial(machine.open, source.config))
        return {
            "through": "daemon",
            **operations_document(plan.operations, plan.names, plan.breaks),
            "warnings": list(plan.warnings),
        }

    # --- what is to be

    async def drain(self, service: str, server: str, *, deadline: float, check: bool) -> dict[str, Any]:
        name, now = self._known(service, server), self._daemon.now()
        ordered = operator.drain(self._daemon.overrides, name, now=now, deadline=now + deadline)
        return await self._order("drain", name, ordered, check=check)

    async def resume(self, service: str, server: str, *, check: bool) -> dict[str, Any]:
        name = self._known(service, server)
        return await self._order("resume", name, operator.resume(self._daemon.overrides, name), check=check)

    async def disable(self, service: str, server: str, *, check: bool) -> dict[str, Any]:
        name = self._known(service, server)
        ordered = operator.disable(self._daemon.overrides, name, now=self._daemon.now())
        return await self._order("disable", name, ordered, check=check)

    async def weigh(self, service: str, server: str, *, weight: int | None, check: bool) -> dict[str, Any]:
        name = self._known(service, server)
        return await self._order("weight", name, operator.weigh(self._daemon.overrides, name, weight), check=check)

    async def reload(self) -> dict[str, Any]:
        """The daemon's own file again; a temporary one ends."""
        return await self._adopt(self._machine.read, None)

    async def confirm(self, *, keep: bool) -> dict[str, Any]:
        """The end of a probation: what is in force stays, or what was before comes back."""
        return {"pending": self._probation.passed() if keep else await self._probation.failed()}

    async def apply(
        self, *, file: str, format: str | None, content: str, temporary: bool, confirm: float | None
    ) -> dict[str, Any]:
        if realpath(file) != realpath(self._file) and not temporary:
            raise NotOurs(
                f"the daemon runs {self._file}, not {file}",
                where=file,
                hint=f"change {self._file} and reload, or use this file until the next reload with --temporary",
            )
        return await self._adopt(
            lambda: self._understood(content, file, format), file if temporary else None, confirm=confirm
        )

    # --- inside

    async def _read(self, read: Callable[[], Source]) -> Source:
        """A file on a dead mount holds up neither the next order nor the end of the daemon."""
        try:
            async with asyncio.timeout(READING):
                return await beside(read)
        except TimeoutError:
            raise Unread(f"the file could not be read within {READING:g} s", where=self._file) from None

    def _version(self) -> object:
        """Another one where people have reason to look again."""
        daemon = self._daemon
        return daemon.view.steps, daemon.overrides, daemon.error, daemon.unwritten, self._temporary

    async def _looked(self) -> Documents:
        daemon = self._daemon
        await daemon.recount()
        head = {
            "daemon": {
                "pid": os.getpid(),
                "since": round(daemon.started, 3),
                "reconciled": daemon.error is None,
                "writes": daemon.writes,
                "drift_repaired": daemon.drift,
                "file": self._file,
                "temporary": self._temporary,
                "checks": telling.checks(daemon.checker.statistics()),
                "error": error_document(daemon.error) if daemon.error else None,
                "unwritten": error_document(daemon.unwritten) if daemon.unwritten else None,
            },
            "program": asdict(program) if (program := daemon.view.program) else None,
        }
        return Documents(head, await unhurried(service_documents(self._snapshot())))

    def _snapshot(self) -> Snapshot:
        """Nothing in it changes while it is told bit by bit."""
        assessment, view = self._daemon.assessment, self._daemon.view
        return Snapshot(
            config=assessment.config,
            pools=dict(assessment.pools),
            states=dict(assessment.states),
            overrides=assessment.overrides,
            table=view.table,
            places=view.places,
            counters=view.totals.of,
            response_time=self._daemon.checker.response_time,
            hindered=self._daemon.checker.hindered(),
            transits=view.transits,
        )

    async def _in_json(self) -> bytes:
        documents = await self._documents.get()
        head = json.dumps(documents.head, ensure_ascii=False).removesuffix("}")
        services = await unhurried(json.dumps(each, ensure_ascii=False) for each in documents.services)
        return encoded(f'{head}, "services": [{", ".join(services)}]}}\n')

    async def _exposed(self) -> bytes:
        # Loaded when first asked for: most daemons are never scraped.
        from kernlb.metrics import exposition

        documents = await self._documents.get()
        return b"".join(await unhurried(exposition(documents.head["daemon"], documents.services)))

    def _understood(self, content: str, file: str, format: str | None) -> Source:
        return self._machine.understand(content.encode(errors="surrogateescape"), file, format)

    def _known(self, service: str, server: str) -> ServerName:
        return operator.known(self._daemon.assessment.config, service, server)

    async def _order(self, verb: str, name: ServerName, ordered: operator.Overrides, *, check: bool) -> dict[str, Any]:
        answer = operator.answer(self._daemon.overrides, ordered, name)
        if not check:
            self._daemon.order(ordered)
            told = operator.told(ordered.get(name))
            self._journal.say("order", level=Level.NOTICE, verb=verb, service=name[0], server=name[1], **told)
            await self._daemon.settled(name[0])
        unwritten = None if check or self._daemon.unwritten is None else self._daemon.unwritten.message
        disabled = operator.disabled(self._daemon.assessment.config, name)
        return {"through": "daemon", **answer, "disabled_by_file": disabled, "unwritten": unwritten}

    async def _put_back(self, source: Source, temporary: str | None) -> None:
        self._journal.say("not-confirmed", level=Level.WARNING, file=self._daemon.source.file)
        with suppress(KernlbError):  # told in the journal
            await self._adopt(lambda: source, temporary or f"{source.file} as it was before")

    async def _adopt(
        self, read: Callable[[], Source], temporary: str | None, *, confirm: float | None = None
    ) -> dict[str, Any]:
        """Whatever was on probation has passed with it; `confirm` puts this on probation, for so many seconds."""
        async with self._one:
            before = self._daemon.source, self._temporary
            self._notifier.reloading()
            try:
                source = await self._read(read)
                if not self._accept_loss:
                    refuse_loss(source)
                forget_authorities()
                work = await self._daemon.swap(source)
            except KernlbError as error:
                self._journal.say(
                    "reload-refused", level=Level.ERROR, kind=error.kind, message=error.message, where=error.where
                )
                raise
            finally:
                self._notifier.reloaded()
            self._temporary = temporary
            self._probation.passed()
            step = work.step
            if confirm is not None and step.done:
                self._probation.begin(confirm, partial(self._put_back, *before))
            self._journal.say(
                "reload",
                level=Level.NOTICE,
                file=source.file,
                operations=len(step.done),
                temporary=temporary is not None,
            )
            return {
                "through": "daemon",
                "file": source.file,
                "temporary": temporary is not None,
                **operations_document(step.done, step.plan.names, {}),
                "leaving": len(step.waiting),
                "warnings": list(step.plan.warnings),
                "refused": {owner: error_document(error) for owner, error in step.refused.items()},
            }
