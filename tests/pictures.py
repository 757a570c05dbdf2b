"""The README's two pictures, from a real run over its example: `poe pictures`.

A project with the orders of `supabase/examples/orders` is started. The page is what Chromium shows
of `show --html`. The terminal is what tmux holds after the commands have been typed into it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.text import Text

import backfill
from backfill.local import sample, stack
from backfill.local.keys import mint_user_token
from backfill.targets import migrations
from backfill.targets.declaration import declared
from tests.kit.browser import running_browser

ROOT = Path(__file__).parents[1]
INTO = ROOT / ".github"
EXAMPLE = ROOT / "supabase" / "examples" / "orders"
COLUMNS, LINES = 104, 120
# Links of the SVG's own fonts, which no page that shows a picture would fetch.
FONT_FACES = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)
# What the terminal shows at its end.
UNDO = "would restore: "
PLAN = "backfill plan --since 2026-10-01 --environment staging --throttle 600 | head -25"


def main() -> None:
    """Make both pictures, of one run."""
    INTO.mkdir(exist_ok=True)
    with TemporaryDirectory() as name, stack.running(sample="none") as project:
        folder = Path(name)
        fill(project)
        with backfill.connect(project.url, project.service_role_key) as bf:
            wait_until_seen(bf)
            run = bf.plan(since="2026-10-01", environment="staging", throttle_per_minute=600)
            page = folder / "plan.html"
            page.write_text(bf.page(run.run_id))
            bf.cancel(run.run_id, reason="a picture")
        photograph(page, INTO / "plan.png")
        (INTO / "terminal.svg").write_text(as_svg(recorded(folder, project)))
    for made in (INTO / "plan.png", INTO / "terminal.svg"):
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1000:.0f} kB")


def fill(project: stack.Stack) -> None:
    """The example's tables, our core, and the example's target."""
    with psycopg.connect(project.database_url, autocommit=True) as db:
        db.execute((EXAMPLE / "schema.sql").read_bytes())
        [core] = (file for file in migrations.our_files() if "core" in file.name)
        db.execute(core.read_text().encode())
        db.execute(b"update public.backfill_settings set environment = 'staging'")
    sample.declare(project.database_url, declared(str(EXAMPLE / "orders.toml")))


def wait_until_seen(bf: backfill.Backfill) -> None:
    """PostgREST hears of new functions a moment after they are there."""
    while any(check.status == "fail" for check in bf.check()):
        pass


def photograph(page: Path, picture: Path) -> None:
    """The top of a page, as a reader at a desk sees it."""
    with running_browser() as browser:
        tab = browser.new_page(viewport={"width": 1000, "height": 760})
        tab.goto(page.as_uri())
        tab.screenshot(path=picture)


def token_of_an_approver(project: stack.Stack) -> str:
    """An Auth user's, since the secret key approves nothing."""
    user, email, meta = str(uuid4()), "ada@example.org", {"backfill_role": "approver"}
    with psycopg.connect(project.database_url, autocommit=True) as db:
        db.execute(
            "insert into auth.users (id, email, raw_app_meta_data) values (%s, %s, %s)",
            (user, email, Jsonb(meta)),
        )
    return mint_user_token(project.jwt_secret, user, email, meta)


def recorded(folder: Path, project: stack.Stack) -> str:
    """What a terminal shows of the way from a plan to the preview of an undo, with its colours."""
    script = folder / "way.sh"
    find = "import json, sys; run = json.load(sys.stdin)[0]; print(run['run_id'])"
    digest = "import json, sys; print(json.load(sys.stdin)['digest'])"
    script.write_text(f"""
        set -e
        trap 'tmux wait-for -S done' EXIT
        say() {{ printf '\\e[1;32m$\\e[0m %s\\n' "$*"; eval "$*"; echo; }}
        say '{PLAN}'
        run=$(backfill runs --json | {shlex.join([sys.executable, "-c", find])})
        digest=$(backfill show "$run" --json | {shlex.join([sys.executable, "-c", digest])})
        say "backfill approve ${{run:0:8}} --digest $digest"
        say "backfill apply ${{run:0:8}}"
        say "backfill verify ${{run:0:8}}"
        say "backfill rollback ${{run:0:8}} --until 2026-10-05"
    """)
    environment = {
        **{k: os.environ[k] for k in ("HOME", "LANG", "XDG_CACHE_HOME") if k in os.environ},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm-256color",
        "TMUX_TMPDIR": str(folder),
        "SUPABASE_URL": project.url,
        "SUPABASE_SECRET_KEY": project.service_role_key,
        "BACKFILL_ACCESS_TOKEN": token_of_an_approver(project),
    }

    def tmux(*words: str) -> str:
        return subprocess.run(
            ["tmux", "-f", "/dev/null", *words],  # noqa: S607 - the developer's own
            cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=100,
        ).stdout  # fmt: skip

    size: Sequence[str] = ("-x", str(COLUMNS), "-y", str(LINES))
    tmux("new-session", "-d", *size, f"bash {script}; cat")
    try:
        tmux("wait-for", "done")
        shown = tmux("capture-pane", "-p", "-e").rstrip()
    finally:
        tmux("kill-server")
    if UNDO not in shown:
        raise SystemExit(f"the way was not gone to its end:\n{shown}")
    return shown


def as_svg(shown: str) -> str:
    """A terminal's text with its colours as a picture that asks for nothing from outside."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=COLUMNS, record=True, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(shown))
        svg = console.export_svg(title="orders without an invoice", unique_id="terminal")
    return FONT_FACES.sub("\n", svg)


if __name__ == "__main__":
    main()
