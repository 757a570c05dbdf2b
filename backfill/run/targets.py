"""The verbs about targets: what is missing and installed, check a file, draft a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.queries import load_history, load_missing
from backfill.api.rows import installed_of
from backfill.errors import BadRequest
from backfill.request import Day, as_text
from backfill.results.coverage import Missing
from backfill.results.history import History
from backfill.results.target import FileFault, InstalledTarget, TargetCheck, TargetDraft

FUNCTIONS = Path("supabase/functions")


class TargetVerbs:
    """What a connection can do about targets."""

    _gateway: Gateway

    async def targets(self) -> tuple[InstalledTarget, ...]:
        """The installed targets, by name, each with its coverage of all dates."""
        found = await self._gateway.call("backfill_installed", {}, answers.ROWS)
        return tuple([installed_of(row, await self._coverage(str(row["target"]))) for row in found])

    async def _coverage(self, target: str) -> float | None:
        try:
            return (await self.missing(target=target)).coverage
        except BadRequest:
            return None  # a key that no longer holds: `check` names it

    async def missing(
        self, *, since: Day | None = None, until: Day | None = None, target: str | None = None
    ) -> Missing:
        """What is missing per UTC day, from `since` to `until`, both included.

        target: needed if several are installed. Raises BadRequest.
        """
        since, until = as_text("since", since), as_text("until", until)
        return await load_missing(self._gateway, since=since, until=until, target=target)

    async def history(self, versions: Sequence[str]) -> History:
        """Which of these migrations are applied: the timestamps with which their names begin."""
        return await load_history(self._gateway, versions)

    async def check_target(
        self, file: str | Path, *, functions_dir: str | Path = FUNCTIONS
    ) -> TargetCheck:
        """Hold a file that declares a target against this project, before any migration of it.

        file: its path. functions_dir: the project's Edge Functions. A folder that is not there
        says nothing. Every fault is told at once, of form and of names, each with its line.
        Raises BadRequest if the file cannot be read.
        """
        # Reading SQL takes a while to import, and few verbs need it.
        from backfill.targets.declaration import text_of
        from backfill.targets.edge_sources import edge_functions
        from backfill.targets.file_check import form_of, in_order
        from backfill.targets.views import declaration_of

        form = form_of(text_of(str(file)))
        errors = [*form.errors, *form.with_folder([*edge_functions(Path(functions_dir))])]
        warnings: Sequence[FileFault] = ()
        if form.made is not None:
            asked = {"p_declaration": declaration_of(form.made)}
            told = await self._gateway.call("backfill_check_target", asked, answers.ROWS)
            errors += form.found([a for a in told if not a.get("warns")])
            warnings = form.found([a for a in told if a.get("warns")])
        name = "" if form.made is None else form.made.target
        return TargetCheck(name, in_order(errors), in_order(warnings))

    async def catalog(self) -> Mapping[str, object]:
        """What a target may name, {relations, functions}, read from the catalogs alone."""
        return await self._gateway.call("backfill_catalog", {}, answers.CATALOG)

    async def draft_target(
        self,
        name: str,
        *,
        source: str | None = None,
        derived: Sequence[str] = (),
        functions: Sequence[str] = (),
        functions_dir: str | Path = FUNCTIONS,
    ) -> TargetDraft:
        """A file that declares a target, from what this project has. Writes nothing.

        source: the table or view of the rows that may lack something. derived: the tables that
        hold what they lack. functions: which write it, by name. What is not given is the likeliest,
        and the file's comments say what is undecided.
        Raises BadRequest for a name that the project does not have.
        """
        from backfill.targets.catalog import catalog_of
        from backfill.targets.draft import draft_of
        from backfill.targets.draft_parts import Wanted
        from backfill.targets.edge_sources import edge_functions

        wanted = Wanted(name, source, tuple(derived), tuple(functions))
        catalog = catalog_of(await self.catalog())
        return draft_of(wanted, catalog, edge_functions(Path(functions_dir)))
