"""The chain of mappings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from smtpproxy.mail import Client
from smtpproxy.routing.answers import Answer, Found, Mapping, NoRoute, Question, Row
from smtpproxy.routing.servers import Upstream
from smtpproxy.smtp.paths import Path
from smtpproxy.values import value

Counts = Counter[tuple[str, type[Answer]]]  # by mapping, how often it gave which answer


@value
class Step:
    """What one mapping was asked, key by key up to the one that matched, and its answer."""

    mapping: str
    keys: tuple[str, ...]
    answer: Answer


@value
class Explanation:
    """How an answer came about; `steps` are the mappings asked, in order."""

    question: Question
    steps: tuple[Step, ...]
    answer: Answer


@value
class Listing:
    """The upstreams that mail may go to, as far as mappings can list them; no shadows.

    `unlisted` are the names of the mappings that may have others.
    """

    upstreams: tuple[Upstream, ...] = ()
    unlisted: tuple[str, ...] = ()


class Router:
    """Asks the mappings in order, each with all keys of the recipient.

    The first answer other than `NoRoute` counts.  So a mapping that fails ends the
    look-up: asking a later one could send mail to the wrong server.
    """

    def __init__(
        self,
        mappings: Sequence[Mapping],
        recipient_delimiter: str,
        domain: str,
        before: Router | None = None,
    ) -> None:
        """`before` is the one that this one takes the place of: it counts on from there."""
        self.counts: Counts = before.counts if before else Counter()
        self._mappings = tuple(mappings)
        self._delimiter = recipient_delimiter
        self._domain = domain

    async def route(
        self, recipient: Path, sender: Path | None = None, client: Client | None = None
    ) -> Answer:
        """Where the mail of `recipient` goes."""
        question = Question(recipient, self._delimiter, self._domain, sender, client)
        return _last(await self._ask(question))

    async def explain(
        self, recipient: Path, sender: Path | None = None, client: Client | None = None
    ) -> Explanation:
        """The same, with the way that led there."""
        question = Question(recipient, self._delimiter, self._domain, sender, client)
        answers = await self._ask(question)
        steps = tuple(
            Step(mapping.name, _tried(mapping.keys(question), answer), answer)
            for mapping, answer in zip(self._mappings, answers, strict=False)
        )
        return Explanation(question, steps, _last(answers))

    async def _ask(self, question: Question) -> list[Answer]:
        """What each mapping says, up to the one whose answer counts."""
        answers: list[Answer] = []
        for mapping in self._mappings:
            answer = await mapping.lookup(question)
            answers.append(answer)
            self.counts[mapping.name, type(answer)] += 1
            if not isinstance(answer, NoRoute):
                break
        return answers

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """The chain, in order."""
        return self._mappings

    def listing(self) -> Listing:
        """The upstreams that get mail, each once, in the order of the mappings."""
        rows = (row for mapping in self._mappings for row in mapping.listed())
        return Listing(
            tuple(dict.fromkeys(row.upstream for row in rows)),
            tuple(mapping.name for mapping in self._mappings if not mapping.lists_all),
        )

    def upstreams(self) -> tuple[Upstream, ...]:
        """Each upstream that the mappings can list, once, shadows too."""
        return upstreams_in(row for mapping in self._mappings for row in mapping.listed())


def upstreams_in(rows: Iterable[Row]) -> tuple[Upstream, ...]:
    """Each upstream that is named, once, shadows too."""
    named = (each for row in rows for each in (row.upstream, row.shadow) if each is not None)
    return tuple(dict.fromkeys(named))


def _last(answers: list[Answer]) -> Answer:
    return answers[-1] if answers else NoRoute()


def _tried(keys: tuple[str, ...], answer: Answer) -> tuple[str, ...]:
    if isinstance(answer, Found) and answer.route.key in keys:
        return keys[: keys.index(answer.route.key) + 1]
    return keys
