"""A trained run behind HTTP."""

from bbqrec.serving.app import create_app
from bbqrec.serving.config import ServeConfig
from bbqrec.serving.server import serve, tokens
from bbqrec.serving.service import Service
from bbqrec.serving.store import Event, EventStore, PostedItem
from bbqrec.serving.version import Options, Version

__all__ = [
    "Event",
    "EventStore",
    "Options",
    "PostedItem",
    "ServeConfig",
    "Service",
    "Version",
    "create_app",
    "serve",
    "tokens",
]
