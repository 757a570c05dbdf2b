"""Make the target's SQL from its declaration, and `supabase/migrations` from `sql/`.

`poe migrations`; a test holds them equal.
"""

from __future__ import annotations

from pathlib import Path

from backfill.declaring import PRISM, declared
from backfill.generating import index_sql, target_sql
from backfill.migrations import RELOAD

TOP = Path(__file__).parent.parent
MIGRATIONS = TOP / "supabase" / "migrations"
# Which numbered files of sql/ make which migration. An index is one of its own: it cannot share
# a transaction.
PARTS = {
    "20251101000000_backfill_core.sql": range(1, 50),
    "20251101000100_backfill_prism.sql": range(50, 51),
    "20251101000200_backfill_prism_index_sessions.sql": range(60, 61),
}


def numbered_files() -> list[Path]:
    """The declared state, in load order."""
    return sorted((TOP / "sql").glob("[0-9][0-9]_*.sql"))


def generated() -> dict[Path, str]:
    """Path -> text of what is made from PRISM's declaration."""
    prism = declared(PRISM)
    return {
        TOP / "sql" / "50_prism.sql": target_sql(prism),
        TOP / "sql" / "60_prism_index_sessions.sql": index_sql(prism),
    }


def built() -> dict[str, str]:
    """Name -> text of every migration, as `sql/` says now."""
    return {
        name: "\n".join(
            [_part(f) for f in numbered_files() if int(f.name[:2]) in numbers] + [RELOAD]
        )
        for name, numbers in PARTS.items()
    }


def _part(file: Path) -> str:
    # What is made from a declaration is the same in every project.
    return (
        file.read_text() if file in generated() else f"-- from sql/{file.name}\n{file.read_text()}"
    )


def main() -> None:
    """Write what differs and say so."""
    _write(generated())
    _write({MIGRATIONS / name: text for name, text in built().items()})


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.relative_to(TOP)}")


if __name__ == "__main__":
    main()
