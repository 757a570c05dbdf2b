"""Make `supabase/migrations` from `sql/`: `poe migrations`. A test holds the two equal."""

from __future__ import annotations

from pathlib import Path

TOP = Path(__file__).parent.parent
MIGRATIONS = TOP / "supabase" / "migrations"
# Which numbered files of sql/ make which migration. An index is one of its own: it cannot share
# a transaction.
PARTS = {
    "20251101000000_backfill_core.sql": range(1, 30),
    "20251101000100_backfill_prism.sql": range(30, 40),
    "20251101000200_backfill_prism_index_sessions.sql": range(40, 41),
}
RELOAD = "notify pgrst, 'reload schema';\n"


def numbered_files() -> list[Path]:
    """The declared state, in load order."""
    return sorted((TOP / "sql").glob("[0-9][0-9]_*.sql"))


def built() -> dict[str, str]:
    """Name -> text of every migration, as `sql/` says now."""
    return {
        name: "\n".join(
            [
                f"-- from sql/{f.name}\n{f.read_text()}"
                for f in numbered_files()
                if int(f.name[:2]) in numbers
            ]
            + [RELOAD]
        )
        for name, numbers in PARTS.items()
    }


def main() -> None:
    """Write what differs and say so."""
    for name, text in built().items():
        path = MIGRATIONS / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.relative_to(TOP)}")


if __name__ == "__main__":
    main()
