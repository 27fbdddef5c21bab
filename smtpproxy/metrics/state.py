"""What is read at the moment that somebody asks: how things stand, and what others count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproxy.explain import WORDS
from smtpproxy.metrics import families
from smtpproxy.metrics.snapshot import Sheet, Snapshot

if TYPE_CHECKING:
    from smtpproxy.generation import Generation
    from smtpproxy.lasting import Lasting
    from smtpproxy.succession import Succession


class State:
    """Everything that there is to tell of a process that serves."""

    def __init__(self, lasting: Lasting, succession: Succession) -> None:
        self._lasting = lasting
        self._succession = succession

    def snapshot(self) -> Snapshot:
        """All metrics, now."""
        sheet = Sheet()
        generation = self._succession.now
        listeners = [str(each.listen) for each in generation.config.listeners]
        self._lasting.counts.tell(sheet, listeners)
        self._sessions(sheet)
        self._upstreams(sheet, generation)
        self._guard(sheet)
        self._lookups(sheet, generation)
        self._dns(sheet, generation)
        for each in dict.fromkeys(filter(None, generation.parts.certificates)):
            sheet.add(families.CERTIFICATE_UNTIL, each.until.timestamp(), str(each))
        sheet.add(families.WORKERS, 1)
        sheet.add(families.GENERATIONS, len(self._succession))
        return self._lasting.process.snapshot(sheet)

    def _sessions(self, sheet: Sheet) -> None:
        visitors = self._lasting.sessions.visitors
        sheet.add(families.SESSIONS_MOST, visitors.limits.total)
        sheet.add(families.SESSIONS_WAITING, visitors.waiting)
        sheet.add(families.DOUBTS, len(self._lasting.doubts))

    def _upstreams(self, sheet: Sheet, generation: Generation) -> None:
        upkeep, name = self._lasting.upkeep, self._lasting.counts.names.of
        for trouble in upkeep.health:
            if trouble.down:
                sheet.add(families.UPSTREAM_DOWN, 1, name(str(trouble.server)))
        for server, standing in upkeep.standings.said.items():
            sheet.put(families.UPSTREAM_STANDING, 1, name(server), standing.value)
        for upstream, taken, waiting in upkeep.slots.of_all():
            sheet.add(families.UPSTREAM_CONNECTIONS, taken, name(str(upstream)))
            sheet.add(families.UPSTREAM_WAITING, waiting, name(str(upstream)))
        sheet.add(families.POOL_KEPT, generation.kept)
        sheet.add(families.POOL_GIVEN, upkeep.slots.made, "made")
        sheet.add(families.POOL_GIVEN, upkeep.slots.reused, "reused")
        for each in self._lasting.shadow_counts.counts():
            shadow = name(each["shadow"])
            same = each["asked"] - each["differed"]
            sheet.add(families.SHADOWED, same, shadow, "the same")
            sheet.add(families.SHADOWED, each["differed"], shadow, "otherwise")
            sheet.add(families.SHADOWED, each["not_asked"], shadow, "not asked")

    def _guard(self, sheet: Sheet) -> None:
        guard, name = self._lasting.guard, self._lasting.counts.names.of
        for what, watch in (("recipients", guard.recipients), ("messages", guard.messages)):
            sheet.add(families.GUARD_TRIPS, watch.trips, what)
            sheet.add(families.GUARD_TURNED, watch.turned, what)
            for upstream in watch.tripped:
                sheet.put(families.GUARD_TRIPPED, 1, name(str(upstream)), what)

    def _lookups(self, sheet: Sheet, generation: Generation) -> None:
        chain = generation.parts.chain
        for (mapping, answer), number in chain.router.counts.items():
            sheet.add(families.LOOKUPS, number, mapping, WORDS[answer])
        for each in chain.opened:
            mapping = each.mapping.name
            for outcome in WORDS.values():
                sheet.add(families.LOOKUPS, 0, mapping, outcome)
            if each.cache is not None:
                sheet.add(families.CACHE_KEYS, len(each.cache), mapping)
                sheet.add(families.CACHE_LOOKUPS, each.cache.hits, mapping, "hit")
                sheet.add(families.CACHE_LOOKUPS, each.cache.misses, mapping, "miss")
            if each.file is not None:
                sheet.add(families.ROWS, len(each.mapping.table), mapping)
            if each.database is not None:
                sheet.put(families.DATABASE_UP, int(each.place not in chain.failing), mapping)

    def _dns(self, sheet: Sheet, generation: Generation) -> None:
        dns = generation.dns
        for kind, memory in (
            ("addresses", self._lasting.addresses.memory),
            ("mail_hosts", dns.mail_hosts.memory),
            ("reverse", dns.reverse_names.memory),
        ):
            if memory is not None:
                sheet.add(families.DNS_NAMES, len(memory), kind)
                sheet.add(families.DNS_LOOKUPS, memory.hits, kind, "hit")
                sheet.add(families.DNS_LOOKUPS, memory.misses, kind, "miss")
