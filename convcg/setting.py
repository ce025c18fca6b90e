"""`Settings`, the base of every part's configuration: frozen, and closed to keys that it does not know."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One part's settings. A part defines its own subclass beside itself; `convcg.config` composes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
