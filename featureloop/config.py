"""Settings, read once: command-line flag, then environment, then featureloop.toml, then default."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from featureloop.core.errors import FeatureloopError


class Settings(BaseSettings):
    """What can be set by `FEATURELOOP_*` or in `featureloop.toml`.

    Attributes
    ----------
    device_state
        The device's directory: identity, site key, outbox, packages.
    learner_data
        The learner's directory: stores, registry, keys.
    policy
        The site's `policy.toml`; None for the default policy.
    threads
        Threads of ONNX Runtime for one frame; as many frames are recognized at
        once as then find a core. 0 takes all cores for one frame: the least delay
        of a single frame, at fewer frames per second.
    """

    model_config = SettingsConfigDict(
        env_prefix="FEATURELOOP_", toml_file="featureloop.toml", extra="forbid", frozen=True
    )

    device_state: Path = Path.home() / ".featureloop" / "device"
    learner_data: Path = Path.home() / ".featureloop" / "learner"
    policy: Path | None = None
    threads: int = Field(default=1, ge=0, le=1024)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file; flags are given at construction."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process.

    Raises
    ------
    FeatureloopError
        A setting in the environment or in featureloop.toml is invalid.
    """
    try:
        return Settings()
    except (ValidationError, ValueError) as error:
        raise FeatureloopError(f"a setting (FEATURELOOP_* or featureloop.toml) is invalid: {error}") from error
