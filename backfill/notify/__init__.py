"""Telling a webhook what happens to runs: in Slack's form, or as signed JSON."""

from __future__ import annotations

from backfill.notify.message import KINDS, Form
from backfill.notify.webhook import Delivered, Webhook

__all__ = ["KINDS", "Delivered", "Form", "Webhook"]
