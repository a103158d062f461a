"""A server on a real socket, in this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from bbqrec.serving import Service, create_app


@contextmanager
def on_socket(service: Service) -> Iterator[str]:
    """Its address, while it answers."""
    config = uvicorn.Config(create_app(service), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
