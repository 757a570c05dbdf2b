"""Watching: look whether the sessions of each target have their rows in time."""

from __future__ import annotations

from collections.abc import Mapping

from backfill.api import answers
from backfill.api.gateway import Gateway
from backfill.api.rows import watch_of
from backfill.results.event import Event, EventKind, OnEvent
from backfill.results.run import Json
from backfill.results.watch import TargetWatch, Watch
from backfill.run.clock import Clock
from backfill.run.listeners import Listeners

Told = Mapping[str, Json]
RESTORED = ("target", "coverage", "min_coverage", "within_s", "wanted", "missing")
BREACHED = (*RESTORED, "short_by", "oldest_missing_at", "alert_id")


class WatchVerbs:
    """What a connection can do about service levels."""

    _gateway: Gateway
    _clock: Clock
    _on_event: OnEvent

    async def watch(self, target: str | None = None, *, full: bool = False) -> Watch:
        """Look at a target, or at all, and judge it by its service level.

        By itself it counts the days whose sessions can still change. All days are counted the first
        time, after a new declaration, and with `full`, in several calls: each goes on where the
        last one stopped, even one of another process.
        The connection's on_event hears coverage_breached of each target that breaches its level,
        and coverage_restored when that is over.
        Raises BadRequest for a target that is not installed.
        """
        looked = [await self._ended(told) for told in await self._look(target, full=full)]
        listeners = Listeners([self._on_event])
        for told in looked:
            self._tell_level(watch_of(told), told["change"], listeners)
        listeners.raise_what_they_raised("the look is over, and its alerts are kept")
        return Watch(tuple(map(watch_of, looked)))

    async def _ended(self, told: Told) -> Told:
        """What is said of a target once its look is over. The first call may have been a part."""
        while not told["is_over"]:
            # Not full: that would begin anew if the answer to the last part was lost.
            (told,) = await self._look(str(told["target"]), full=False)
        return told

    async def _look(self, target: str | None, *, full: bool) -> list[Told]:
        asked = {"target": target, "full_count": full}
        answer = await self._gateway.call("backfill_watch", asked, answers.WATCHED)
        return list(answer["targets"])

    def _tell_level(self, found: TargetWatch, change: Json, listeners: Listeners) -> None:
        kind: EventKind = "coverage_breached"
        more: dict[str, Json] = {"is_new": change == "opened"}
        keys: tuple[str, ...] = BREACHED
        if found.status != "breached":
            if change != "closed":
                return
            kind, keys, more = "coverage_restored", RESTORED, {}
        told = found.as_dict()
        details = {**{key: told[key] for key in keys}, **more}
        listeners.tell(Event(kind, "", self._clock.now(), details))
