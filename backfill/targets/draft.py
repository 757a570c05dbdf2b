"""Draft a target's file from what the project has: the likeliest answer to each question.

Whoever asks may be answered by a person. If nobody answers, the likeliest holds, and a comment says
what else fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill.errors import BadRequest
from backfill.results.target import TargetDraft
from backfill.targets import likely
from backfill.targets.catalog import Argument, Catalog, Relation
from backfill.targets.declaration_faults import nearest
from backfill.targets.declaration_values import NAME
from backfill.targets.draft_calls import in_order, is_called, share_calls, writers_of
from backfill.targets.draft_parts import (
    ALL,
    UNKNOWN,
    Ask,
    Need,
    Part,
    Plan,
    Question,
    Wanted,
    Writer,
    likeliest,
)
from backfill.targets.draft_text import text_of_draft
from backfill.targets.edge_sources import EdgeFunction
from backfill.targets.words import called, plural, singular, split


def draft_of(
    wanted: Wanted,
    catalog: Catalog,
    edge: Mapping[str, EdgeFunction],
    ask: Ask = likeliest,
) -> TargetDraft:
    """A target's file. Raises BadRequest for a name that the project does not have."""
    if not NAME.fullmatch(wanted.target):
        raise BadRequest(
            f"{wanted.target[:40]} is no name of a target",
            f"backfill target new {likely.slug(wanted.target)}, of small letters, digits and _",
        )
    plan = _Drafter(wanted, catalog, edge, ask).drafted()
    notes = [f"source.{key}: {note}" for key, note in plan.notes.items()]
    notes += [
        f"{part.name}.{key}: {note}" for part in plan.parts for key, note in part.notes.items()
    ]
    return TargetDraft(plan.target, text_of_draft(plan), tuple(notes))


class _Drafter:
    """The decisions, in the order of the file."""

    def __init__(
        self, wanted: Wanted, catalog: Catalog, edge: Mapping[str, EdgeFunction], ask: Ask
    ) -> None:
        self._wanted = wanted
        self._catalog = catalog
        self._ask = ask
        self._writers = writers_of(catalog, edge)
        self._check_functions()

    def drafted(self) -> Plan:
        notes: dict[str, str] = {}
        source = self._source(notes)
        plan = Plan(self._wanted.target, source, "", "", notes=notes)
        text = f"Which column is the key of {source.sql}?"
        plan.key = self._one(text, likely.keys(source), plan.notes, "key")
        text = f"Which column dates a row of {source.sql}?"
        plan.date = self._one(text, likely.dates(source), plan.notes, "date")
        self._choose_rows(plan)
        for relation in self._derived(plan):
            plan.parts.append(self._part(plan, relation))
        for part in plan.parts:
            self._choose_writer(plan, part)
        plan.parts = in_order(plan.parts)
        share_calls(plan.parts)
        self._look_for_needs(plan)
        self._choose_words(plan)
        plan.index = _index(plan)
        _drop_unused(plan)
        return plan

    # What it is about ---------------------------------------------------------------------------

    def _source(self, notes: dict[str, str]) -> Relation:
        if self._wanted.source is not None:
            return self._catalog.relation(self._wanted.source)
        options = [r.sql for r in likely.sources(self._catalog)]
        if not options:
            raise BadRequest("this project has no table with a key and a date", "--source TABLE")
        text = "Which table has the rows that may lack something?"
        return self._catalog.relation(self._one(text, options, notes, "table"))

    def _derived(self, plan: Plan) -> list[Relation]:
        if self._wanted.derived:
            return [self._catalog.relation(name) for name in self._wanted.derived]
        written = {r for w in self._writers for r in w.touches.writes}
        fit = [
            r
            for r in self._catalog.relations
            if r != plan.source
            and r.kind == "table"
            and likely.key_columns(r, next(iter(likely.sessions(r, plan.source, plan.key)), ""))
        ]
        ranked = sorted(fit, key=lambda r: r not in written)
        if not ranked:
            raise BadRequest(f"no table has rows of {plan.source.sql}", "--derived TABLE")
        text = f"Which tables hold what is derived of {plan.source.sql}?"
        answers = self._ask(Question(text, tuple(r.sql for r in ranked), takes_many=True))
        if self._ask is likeliest:
            answers = [r.sql for r in ranked if r in written] or answers
        self._note(plan.notes, "derived", "are these the components, and all of them?")
        return [self._catalog.relation(name) for name in answers]

    def _choose_rows(self, plan: Plan) -> None:
        for column, values in likely.states(plan.source)[:1]:
            text = f"Which values of {column} select a row of {plan.source.sql}?"
            options = (ALL, *values)
            answers = self._ask(Question(text, options, takes_many=True, takes_any=not values))
            if ALL in answers or not answers:
                self._note(plan.notes, "where", f"which rows count? All, whatever their {column}")
            else:
                plan.where[column] = [likely.bare_value(column, answer) for answer in answers]

    def _choose_words(self, plan: Plan) -> None:
        words = called(plan.source.name, [part.session for part in plan.parts])
        if words is None:
            return
        plan.called = words.one, words.several
        if not words.is_sure and self._ask is likeliest:
            plan.notes["called"] = "how are one row and several called? Else session and sessions"
        elif not words.is_sure:
            one = self._word(f"How is one row of {plan.source.sql} called?", words.one)
            plan.called = one, self._word("And several?", plural(one))

    def _word(self, text: str, guess: str) -> str:
        answer = " ".join(self._ask(Question(text, (guess,), takes_any=True)))
        return " ".join(split(answer)) or guess

    # A component --------------------------------------------------------------------------------

    def _part(self, plan: Plan, relation: Relation) -> Part:
        name = likely.slug(singular(relation.name))
        name = likely.free(name, [p.name for p in plan.parts])
        notes: dict[str, str] = {}
        session = self._one(
            f"Which column of {relation.sql} names the row of {plan.source.sql}?",
            likely.sessions(relation, plan.source, plan.key), notes, "session",
        )  # fmt: skip
        keys = likely.key_columns(relation, session)
        key = keys[0] if keys else (session,)
        if not keys:
            notes["key"] = f"no unique index of {relation.sql} names one row of a session"
        part = Part(relation, name, session, key, notes=notes)
        self._choose_version(part)
        for column in key:
            if column not in (session, part.version_column):
                part.matches[column] = self._kind(plan, part, column)
        return part

    def _choose_version(self, part: Part) -> None:
        options = likely.versions(part.relation, part.key, part.session)
        if not options:
            return
        must = options[0] in part.key
        text = f"Which column of {part.relation.sql} says which version wrote the row?"
        answer = self._answer(text, options if must else [*options, "none"])
        part.version_column = None if answer == "none" else answer

    def _kind(self, plan: Plan, part: Part, column: str) -> str:
        """A parameter for a further column of a key."""
        found = part.relation.column(column)
        parameter = likely.free(likely.slug(column), [*plan.parameters, *_versions(plan)])
        values = [] if found is None else list(likely.values_of(found, part.relation))
        default = None if found is None else likely.literal_of(found.default)
        plan.parameters[parameter] = default or next(iter(values), UNKNOWN)
        part.notes["matches"] = f"rows of which {column}? See [parameters]"
        return parameter

    # Its function -------------------------------------------------------------------------------

    def _choose_writer(self, plan: Plan, part: Part) -> None:
        names = self._session_names(plan, part)
        kind = _kind_of_key(plan)
        named = self._named_writers()
        fit = [w for w in named if part.relation in w.touches.writes]
        if not fit and self._wanted.functions:
            fit = named
        ranked = sorted(
            fit,
            key=lambda w: (
                w.session_argument(names, kind) is None,
                w.unknown_arguments(part.relation),
                w.edge is not None,
                len(w.touches.writes),
                w.name,
            ),
        )
        if ranked:
            text = f"Which function writes {part.relation.sql}?"
            answer = self._one(text, [w.name for w in ranked], part.notes, "function")
            part.writer = next(w for w in ranked if w.name == answer)
            if part.version_column is None:
                part.version_column = likely.given_version(
                    part.writer.arguments, part.relation, part.session
                )
            part.arguments = self._arguments(plan, part, part.writer, names, kind)
        else:
            part.notes["function"] = f"no function that the API calls writes {part.relation.sql}"
            part.arguments = {part.session: "session_id"}
        self._value_version(plan, part)

    def _named_writers(self) -> list[Writer]:
        if not self._wanted.functions:
            return self._writers
        return [w for w in self._writers if is_called(w, self._wanted.functions)]

    def _arguments(
        self, plan: Plan, part: Part, writer: Writer, names: Sequence[str], kind: str
    ) -> dict[str, str]:
        filled = [p for p in plan.parts if p is not part and p.writer == writer and p.arguments]
        for other in filled:
            part.matches |= {c: p for c, p in other.matches.items() if c in part.matches}
        if filled and (filled[0].version_column or not part.version_column):
            # One call fills all, so all have to give it the same.
            return dict(filled[0].arguments)
        given = self._own_arguments(plan, part, writer, names, kind)
        for other in filled:
            other.arguments = dict(given)
        return given

    def _own_arguments(
        self, plan: Plan, part: Part, writer: Writer, names: Sequence[str], kind: str
    ) -> dict[str, str]:
        session = writer.session_argument(names, kind)
        given = {} if session is None else {session: "session_id"}
        if writer.edge is not None and session is None:
            given = {part.session: "session_id"}
            part.notes["arguments"] = f"what does the body of {writer.name} take?"
        for argument in writer.arguments:
            if argument.name not in given:
                given |= self._argument(plan, part, argument)
        return given

    def _argument(self, plan: Plan, part: Part, argument: Argument) -> dict[str, str]:
        name = likely.bare(argument.name)
        matched = {likely.bare(column): p for column, p in part.matches.items()}
        if name in matched:
            return {argument.name: matched[name]}
        if part.version_column and likely.is_version(argument.name, part.version_column):
            return {argument.name: part.version_parameter}
        if argument.default is not None:
            return {}
        parameter = likely.free(likely.slug(name), [*plan.parameters, *_versions(plan)])
        is_number = likely.kind_of(argument.type) == "number"
        plan.parameters[parameter] = 1 if is_number else UNKNOWN
        part.notes["arguments"] = f"which {argument.name}? See [parameters]"
        return {argument.name: parameter}

    def _value_version(self, plan: Plan, part: Part) -> None:
        column = part.relation.column(part.version_column or "")
        if column is None:
            return
        known: list[str | None] = []
        if part.writer is not None:
            of_its_call = (p for p in plan.parts if p is not part and p.writer == part.writer)
            known = [
                *(p.version for p in of_its_call),
                *(
                    likely.literal_of(a.default)
                    for a in part.writer.arguments
                    if part.arguments.get(a.name) == part.version_parameter
                ),
            ]
            if part.writer.edge is not None:
                known.append(part.writer.edge.literal_of(column.name))
        value = likely.version_value(column, part.relation, known)
        known_values = (value, *likely.values_of(column, part.relation))
        options = tuple(dict.fromkeys(v for v in known_values if v is not None))
        text = f"Which {column.name} of {part.relation.sql} is wanted?"
        guess = likely.any_value(column)
        (part.version,) = self._ask(Question(text, options, takes_any=True, guess=guess))
        self._note(part.notes, "version", "the version that is wanted: is it this one?")

    def _session_names(self, plan: Plan, part: Part) -> list[str]:
        own = singular(plan.source.name)
        return [part.session, "session_id", f"{own}_id", f"{own}_{plan.key}", plan.key, own, "id"]

    # One against another ------------------------------------------------------------------------

    def _look_for_needs(self, plan: Plan) -> None:
        derived = [part.relation for part in plan.parts]
        for part in plan.parts:
            reads = () if part.writer is None else part.writer.touches.reads
            for relation in reads:
                column = next(iter(likely.sessions(relation, plan.source, plan.key)), None)
                is_other = relation in derived or relation == plan.source
                if column is None or is_other or relation.kind != "table":
                    continue
                name = part.writer.name if part.writer else ""
                text = f"{name} reads {relation.sql}: leave out a row that has none there?"
                if self._answer(text, ["yes", "no"]) == "yes":
                    parameter = f"min_{likely.slug(relation.name)}"
                    plan.parameters[parameter] = 1
                    part.needs.append(Need(relation, column, parameter))
                    self._note(part.notes, "needs", f"{name} reads this. Can it do without?")

    # Asking -------------------------------------------------------------------------------------

    def _answer(self, text: str, options: Sequence[str]) -> str:
        if len(options) == 1:
            return options[0]
        return next(iter(self._ask(Question(text, tuple(options)))), options[0])

    def _note(self, notes: dict[str, str], key: str, note: str) -> None:
        """What a person has to look at, unless one has answered."""
        if self._ask is likeliest:
            notes[key] = note

    def _one(self, text: str, options: Sequence[str], notes: dict[str, str], key: str) -> str:
        """One of several. A note says which others fit, or that none does."""
        if not options:
            notes[key] = "nothing here fits"
            return UNKNOWN
        answer = self._answer(text, options)
        others = [option for option in options if option != answer]
        if others:
            self._note(notes, key, f"or {', '.join(others[:4])}")
        return answer

    def _check_functions(self) -> None:
        for given in self._wanted.functions:
            if not any(is_called(w, [given]) for w in self._writers):
                known = [w.name.partition("(")[0].rpartition(".")[2] for w in self._writers]
                raise BadRequest(
                    f"there is no function {given} that the API calls{nearest(given, known)}",
                    "a function in SQL in public, or a folder of supabase/functions",
                )


def _index(plan: Plan) -> str | None:
    """The name of an index on the dates, if none is there and one can be built."""
    is_missing = plan.source.indexed is not None and plan.date not in plan.source.indexed
    return f"backfill_{plan.target}_sessions" if is_missing else None


def _drop_unused(plan: Plan) -> None:
    """Leave out the parameters that only a call had which another one stands for."""
    given = [p for part in plan.parts for p in (*part.arguments.values(), *part.matches.values())]
    used = {*given, *(need.parameter for part in plan.parts for need in part.needs)}
    plan.parameters = {name: value for name, value in plan.parameters.items() if name in used}


def _versions(plan: Plan) -> list[str]:
    return [part.version_parameter for part in plan.parts]


def _kind_of_key(plan: Plan) -> str:
    column = plan.source.column(plan.key)
    return (column.key_kind if column else None) or ""
