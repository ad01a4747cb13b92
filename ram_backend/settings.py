"""Settings from the environment, built once and passed in."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ram_backend.errors import SettingsError

Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["fp32", "bf16", "fp16", "auto", "force-bf16", "force-fp16"]
Tuning = Literal["auto", "off", "whole", "low-rank"]


def _either(name: str) -> AliasChoices:
    return AliasChoices(f"RAM_{name}", name)


class Settings(BaseSettings):
    """All settings, each from the variable `RAM_<NAME>`; `docs/settings.md` has a table.

    Sizes are bytes, image limits are pixels (width x height); `threads` None:
    all cores that the process may run on.
    """

    model_config = SettingsConfigDict(env_prefix="RAM_", extra="ignore", frozen=True, populate_by_name=True)

    data_dir: Path = Field(default_factory=lambda: user_data_path("ram_backend"))
    bundle: str = "starter"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    batch_size: int = Field(default=4, ge=1, le=1024)
    max_image_pixels: int = Field(default=100_000_000, ge=1)
    max_image_bytes: int = Field(default=100_000_000, ge=1)
    text_cache_bytes: int = Field(default=512_000_000, ge=0)
    token_cache_bytes: int = Field(default=2_000_000_000, ge=0)
    fetch_seconds: float = Field(default=20, gt=0)
    fetch_threads: int = Field(default=16, ge=1, le=256)
    allowed_image_hosts: str = ""
    clip_weights: Path | None = None
    redis_url: str | None = None
    database_url: str | None = Field(default=None, repr=False)
    label_studio_url: str | None = Field(None, validation_alias=_either("LABEL_STUDIO_URL"))
    label_studio_api_key: str | None = Field(None, repr=False, validation_alias=_either("LABEL_STUDIO_API_KEY"))
    host: str = "127.0.0.1"
    port: int = Field(default=9090, ge=0, le=65535)
    allowed_hosts: str = ""
    basic_auth_user: str | None = Field(None, validation_alias=_either("BASIC_AUTH_USER"))
    basic_auth_pass: str | None = Field(None, repr=False, validation_alias=_either("BASIC_AUTH_PASS"))
    webhook_secret: str | None = Field(default=None, repr=False)
    max_body_bytes: int = Field(default=32_000_000, ge=1)
    request_seconds: float = Field(default=60, gt=0)
    predict_seconds: float = Field(default=90, gt=0)
    drain_seconds: float = Field(default=95, ge=0)
    batch_wait_seconds: float = Field(default=0.005, ge=0, le=1)
    max_snapshots: int = Field(default=32, ge=1)
    max_projects: int = Field(default=1000, ge=1)
    max_new_tags: int = Field(default=10_000, ge=0)
    keep_versions: int = Field(default=20, ge=1, le=100_000)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    worker: bool = False
    train_after: int = Field(default=30, ge=0)
    train_debounce_seconds: float = Field(default=5, ge=0)
    job_timeout_seconds: int = Field(default=21_600, ge=1)
    job_attempts: int = Field(default=3, ge=1)
    lease_seconds: float = Field(default=15, gt=0)
    tuning: Tuning = "auto"
    refresh_tasks: int = Field(default=2000, ge=0)
    refresh_portion: int = Field(default=50, ge=1, le=1000)

    @property
    def bundles_dir(self) -> Path:
        """Where bundles live: one directory each."""
        return self.data_dir / "bundles"

    @property
    def versions_dir(self) -> Path:
        """Where versions live: one directory per project, in it one per version."""
        return self.data_dir / "versions"

    @property
    def cache_dir(self) -> Path:
        """What can be recomputed: text embeddings, image tokens."""
        return self.data_dir / "cache"

    @property
    def photos_dir(self) -> Path:
        """Images of tasks, fetched for `label` and `finetune`: one directory per project."""
        return self.cache_dir / "photos"

    def basic_auth(self) -> tuple[str, str] | None:
        """User and password that the server asks for; None: it asks for none."""
        user, password = self.basic_auth_user, self.basic_auth_pass
        return (user, password) if user and password else None

    def webhook_headers(self) -> dict[str, str]:
        """What a webhook sends to be let in: the secret, else the login."""
        if self.webhook_secret:
            return {"X-RAM-Webhook-Secret": self.webhook_secret}
        login = self.basic_auth()
        return {"Authorization": f"Basic {b64encode(':'.join(login).encode()).decode()}"} if login else {}

    def environment(self) -> dict[str, str]:
        """The variables that give these settings to a process that we start."""
        return {f"RAM_{name.upper()}": str(value) for name, value in self if value is not None}

    def cpu_threads(self) -> int:
        """CPU threads for inference: the setting, or the cores that this process may use."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_settings(**overrides: object) -> Settings:
    """Reads the environment; `overrides` that are not None win.

    Raises:
        SettingsError: a variable has a value that can't be used; names it.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        variable = name if name.isupper() else f"RAM_{name.upper()}"
        message = f"{variable}={first.get('input')!r}: {first['msg']}. Set or unset it and try again."
        raise SettingsError(message) from None
