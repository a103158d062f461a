"""Settings of a server: none of them changes an answer."""

from pydantic import Field

from bbqrec.config import Config


class ServeConfig(Config):
    """How much a server takes on, and whom it listens to."""

    max_beam: int = Field(100, ge=1)
    """The widest beam that a request may ask for."""
    max_batch: int = Field(32, ge=1)
    """Histories answered by one model call."""
    max_waiting: int = Field(256, ge=1)
    """Histories waiting for the model; beyond them requests are refused with 503."""
    max_in_flight: int = Field(512, ge=1)
    """Requests being handled at once, whatever they ask."""
    max_cached: int = Field(1_000_000, ge=0)
    """Items in remembered answers and the histories they follow, and as many of users' histories:
    about 100 bytes each."""
    max_connections: int = Field(800, ge=1)
    """Connections open at once; below the usual limit of 1,024 files per process."""
    receive_s: float = Field(10.0, gt=0)
    """Within which a request's head, and then its body, must have arrived."""
    answer_s: float = Field(30.0, gt=0)
    """Within which a request is answered, or refused with 504."""
    max_body_bytes: int = Field(2**20, ge=1)
    max_item_bytes: int = Field(8 * 2**20, ge=1)
    """Of a request that brings a picture along."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names in the Host header that are answered; "*" answers all."""
    token: str | None = None
    """What `Authorization: Bearer ...` must hold; None asks for nothing."""
    admin_token: str | None = None
    """The same for swapping the run; without it that is only possible by signal."""
    kserve: bool = False
    """Also speak the Open Inference Protocol under /v2."""
