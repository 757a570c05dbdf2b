"""A folder of Edge Functions as the platform reads it: which there are, and how each is set up.

The settings stand in `config.toml` beside the folder, in each function's `deno.json`, and in import
maps.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from backfill.errors import BadRequest

ENTRYPOINTS = tuple(f"index.{kind}" for kind in ("ts", "tsx", "js", "jsx", "mjs"))
DENO_FILES = ("deno.json", "deno.jsonc")
IMPORT_MAP = "import_map.json"
SOURCES = {".ts", ".tsx", ".mts", ".js", ".jsx", ".mjs", ".json", ".jsonc"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
NOTHING = "data:text/javascript,"
# Modules that we have ourselves or that npm has, by how sources name them. So a function loads
# without any other registry.
_STD_SERVE = re.compile(r"https://deno\.land/std(?:@[\w.-]+)?/http/server\.ts")
_SUPABASE_JS = re.compile(
    r"(?:https://esm\.sh/(?:v\d+/)?|jsr:/?)@supabase/supabase-js(@[\w.^~-]+)?(?:\?[^\"'\s]*)?"
)
_EDGE_TYPES = re.compile(
    r"(?:https://esm\.sh/(?:jsr/)?|jsr:/?)@supabase/functions-js[^\"'\s]*edge-runtime\.d\.ts"
)
_QUOTED = re.compile(r"""["']((?:https://|jsr:)[^"'\s]+)["']""")
_STD = "https://deno.land/std"
_JSON_TOKENS = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)

Json = dict[str, Any]


@dataclass(frozen=True)
class EdgeFunction:
    """A function of the folder.

    verify_jwt: whether callers need a JWT of the project. settings: its deno.json or import map.
    """

    name: str
    entrypoint: Path
    verify_jwt: bool = True
    settings: Path | None = None

    @property
    def deno_file(self) -> Path | None:
        """Its `deno.json`, if it has one."""
        is_one = self.settings is not None and self.settings.name in DENO_FILES
        return self.settings if is_one else None


def functions_in(folder: Path) -> list[EdgeFunction]:
    """The functions of a folder by name, without those that `config.toml` switches off.

    Raises BadRequest if `config.toml` cannot be read.
    """
    settings = _configured(folder.parent / "config.toml")
    names = {place.name for place in folder.iterdir() if place.is_dir()} | settings.keys()
    found = (_function(folder, name, settings.get(name, {})) for name in sorted(names))
    return [function for function in found if function is not None]


def imported_addresses(folder: Path) -> frozenset[str]:
    """The addresses that stand in quotes in the sources of a folder."""
    files = (place for place in folder.rglob("*") if place.suffix in SOURCES)
    texts = (
        file.read_text(encoding="utf-8", errors="replace")
        for file in files
        if "node_modules" not in file.parts and file.is_file()
    )
    return frozenset(address for text in texts for address in _QUOTED.findall(text))


def import_map(function: EdgeFunction, addresses: Iterable[str], std_serve: Path) -> Json:
    """What the function's imports stand for, with addresses as URLs.

    addresses: which its sources may import. std_serve: the module that stands for std's `serve`.
    Raises OSError, ValueError.
    """
    read = _read_map(function.settings) if function.settings else {}
    served = _Served(std_serve.as_uri())
    imports = {name: served.instead_of(to) or to for name, to in read.get("imports", {}).items()}
    for name, to in read.get("imports", {}).items():
        imports |= served.below(name, to)
    ours = {name: to for name in addresses if (to := served.instead_of(name))}
    scopes = {
        where: {name: served.instead_of(to) or to for name, to in those.items()}
        for where, those in read.get("scopes", {}).items()
    }
    return {"imports": ours | imports, "scopes": scopes}


def _configured(file: Path) -> dict[str, Json]:
    """The section `functions` of `config.toml`, name by name."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as failure:
        raise BadRequest(f"{file} cannot be read: {failure}", f"correct {file}") from failure
    named = settings.get("functions", {})
    return {name: of for name, of in named.items() if isinstance(of, dict)}


def _function(folder: Path, name: str, settings: Json) -> EdgeFunction | None:
    """The function of this name. None if there is none, or if it is switched off."""
    if not NAME.fullmatch(name) or settings.get("enabled") is False:
        return None
    places: list[Path] = [folder / name / entry for entry in ENTRYPOINTS]
    if isinstance(settings.get("entrypoint"), str):
        places = [folder.parent / settings["entrypoint"]]
    entrypoint = next((place for place in places if place.is_file()), None)
    if entrypoint is None:
        return None
    own, common = entrypoint.parent, folder
    maps = [own / file for file in (*DENO_FILES, IMPORT_MAP)]
    maps += [common / file for file in (*DENO_FILES, IMPORT_MAP)]
    if isinstance(settings.get("import_map"), str):
        maps = [folder.parent / settings["import_map"]]
    found = next((place.resolve() for place in maps if place.is_file()), None)
    verify_jwt = settings.get("verify_jwt") is not False
    return EdgeFunction(name, entrypoint.resolve(), verify_jwt, found)


def _read_map(file: Path) -> Json:
    """The imports and scopes of an import map or of a deno.json, with addresses as URLs."""
    read = _read_json(file)
    if file.name in DENO_FILES and isinstance(read.get("importMap"), str):
        return _read_map((file.parent / read["importMap"]).resolve())
    imports = _absolute(read.get("imports"), file)
    if file.name in DENO_FILES:
        # There a package stands for what lies below it, too.
        imports = {**_packages(imports), **imports}
    scopes = read.get("scopes") or {}
    base = file.as_uri()
    return {
        "imports": imports,
        "scopes": {urljoin(base, where): _absolute(of, file) for where, of in scopes.items()},
    }


def _read_json(file: Path) -> Json:
    """A JSON object that may have comments and commas at the end, else {}. Raises ValueError."""
    text = _JSON_TOKENS.sub(lambda token: token[1] or "", file.read_text(encoding="utf-8"))
    read = json.loads(text or "{}")
    return read if isinstance(read, dict) else {}


def _absolute(imports: Any, file: Path) -> dict[str, str]:
    """Imports whose relative names and addresses are made URLs."""
    if not isinstance(imports, Mapping):
        return {}
    base = file.as_uri()
    return {_url(name, base): _url(to, base) for name, to in imports.items() if isinstance(to, str)}


def _url(address: str, base: str) -> str:
    return urljoin(base, address) if address.startswith(("./", "../", "/")) else address


def _packages(imports: Mapping[str, str]) -> dict[str, str]:
    """name/ for each name that stands for a package."""
    return {
        f"{name}/": f"{kind}:/{package.lstrip('/')}/"
        for name, to in imports.items()
        if (kind := to.partition(":")[0]) in ("npm", "jsr") and not name.endswith("/")
        if (package := to.partition(":")[2])
    }


@dataclass(frozen=True)
class _Served:
    """What is served instead of modules of other registries."""

    std_serve: str

    def instead_of(self, address: str) -> str | None:
        """The address that an import of this one gets. None if it keeps its own."""
        if _STD_SERVE.fullmatch(address):
            return self.std_serve
        if _EDGE_TYPES.fullmatch(address):
            return NOTHING
        client = _SUPABASE_JS.fullmatch(address)
        return f"npm:@supabase/supabase-js{client[1] or '@2'}" if client else None

    def below(self, name: str, address: str) -> dict[str, str]:
        """The same for std's `serve` below an imported folder of std."""
        if not (name.endswith("/") and address.startswith(_STD)):
            return {}
        version = re.match(r"https://deno\.land/std(?:@[\w.-]+)?/", address)
        whole = f"{version[0]}http/server.ts" if version else ""
        rest = whole.removeprefix(address)
        return {name + rest: self.std_serve} if version and rest != whole else {}
