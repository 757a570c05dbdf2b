"""The server's disk is full: a tablespace of a few megabytes in memory, filled on purpose."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from backfill.local.parts import server_account
from backfill.local.servers import PostgresServer
from tests.faults.proxy import SCORING, Nth, Strike, meanwhile
from tests.faults.scenario import MIDWAY, Scene, wait_until
from tests.faults.subjects import IN_SQL
from tests.kit.folders import server_folder

SIZE = "8m"
ON_IT = ("fc_scores", "profiles", "backfill_receipts", "backfill_events")


@dataclass(frozen=True)
class Disk:
    """A small disk with a tablespace of the same name on it."""

    name: str
    folder: Path

    def fill(self) -> None:
        """Take every free byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                while self._takes(file.fileno(), size):
                    pass

    def free(self) -> None:
        """Give them back."""
        (self.folder / "filler").unlink()

    def _takes(self, file: int, size: int) -> bool:
        try:
            return os.write(file, b"\0" * size) == size
        except OSError:
            return False


@pytest.fixture
def disk(postgres_server: PostgresServer) -> Iterator[Disk]:
    """A disk of a few megabytes, which the test's database may use."""
    account = server_account()
    if account is None:
        pytest.skip("only root mounts a disk of a few megabytes")
    folder = server_folder()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("this machine lets nobody mount a disk of a few megabytes")
    (folder / "data").mkdir()
    os.chown(folder / "data", account.user_id, account.group_id)
    name = folder.name.replace("-", "_")
    try:
        with psycopg.connect(postgres_server.superuser_dsn(), autocommit=True) as admin:
            admin.execute(f"create tablespace {name} location '{folder / 'data'}'".encode())
            admin.execute(f"grant create on tablespace {name} to postgres".encode())
            yield Disk(name, folder)
            # Its database was dropped: a table of it had moved.
            admin.execute(f"drop tablespace {name}".encode())
    finally:
        unmount = ["umount", str(folder)]
        subprocess.run(unmount, check=True)
        folder.rmdir()


@IN_SQL
def test_a_run_goes_on_once_a_full_disk_has_room(disk: Disk, scene: Scene) -> None:
    """Neither rows nor receipts nor events can be written for a while; then the run goes on."""
    for table in ON_IT:
        for statement in ("set (fillfactor = 10)", f"set tablespace {disk.name}"):
            scene.project.db.execute(f"alter table public.{table} {statement}".encode())

    def fill() -> None:
        disk.fill()
        scene.struck()

    scene.proxy.strikes = [Strike(meanwhile(fill), Nth(SCORING, MIDWAY))]
    run_id = scene.planned()
    with scene.beside(run_id) as applied:
        # A call of ours has met it, too: the batch cannot be settled.
        wait_until(lambda: [e for e in scene.events if "53100" in str(e.details.get("why"))])
        disk.free()
        assert applied.result().is_complete
    assert scene.codes().keys() == {"53100"}
    assert scene.outcomes()["session"] == 0
    found = scene.recorded("the server's disk full")
    assert (found.lost, found.twice) == (0, 0)
    assert scene.content() == scene.after
    with scene.project.connect() as bf:
        assert bf.verify(run_id).verdict == "pass"
