"""scikit-learn's conventions for what is configured by a `Config` and trained into an `Alignment`.

Parameters by keyword, `get_params` and `set_params` down to each setting (`brain__encoder`), `clone`, a line and a
table that say what it is, and pickles that hold what was learnt and load the rest again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from hvf import presets
from hvf.alignment.checkpoint import Alignment
from hvf.config import Config, HvfError, flatten, with_settings
from hvf.data.html import facts


class NotFitted(HvfError, NotFittedError):
    """The HvfError of an estimator that was not fitted yet, by which scikit-learn knows it too."""


class ConfiguredEstimator(BaseEstimator):
    """An estimator with the parameters `config` (None: `default`) and `device`."""

    default: ClassVar[Config] = presets.mini()
    loaded: ClassVar[tuple[str, ...]] = ()  # attributes that are loaded on first use: no pickle holds them
    of_prior: ClassVar[tuple[str, ...]] = ()  # attributes that were learnt for what config.prior names
    alignment: Alignment | None = None

    def __init__(self, config: Config | None = None, device: str = "cpu") -> None:
        self.config = config
        self.device = device

    @property
    def config(self) -> Config:
        """The settings; kept as given, so that None stays None, and read as those that it stands for."""
        given = self.__dict__["config"]
        return self.default if given is None else given

    @config.setter
    def config(self, config: Config | None) -> None:
        self.__dict__["config"] = config

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters as given; `deep` also every setting, as `brain__encoder`.

        >>> ConfiguredEstimator().get_params(deep=False)
        {'config': None, 'device': 'cpu'}
        >>> ConfiguredEstimator().get_params()["brain__encoder"]
        'mbp'
        """
        given = {"config": self.__dict__["config"], "device": self.device}
        if not (deep and isinstance(self.config, Config)):
            return given
        return given | {name.replace(".", "__"): value for name, value in flatten(self.config)}

    def set_params(self, **params: Any) -> ConfiguredEstimator:
        """Set parameters, and settings as `brain__encoder` or `brain.encoder`; what was learnt stays until `fit`.

        Raises HvfError for a setting that does not exist, naming the nearest, or a value that it cannot have.

        >>> ConfiguredEstimator().set_params(brain__width=64, fusion__width=64).config.brain.width
        64
        """
        own = {name: params[name] for name in ("config", "device") if name in params}
        settings = {name.replace("__", "."): value for name, value in params.items() if name not in own}
        config = own.get("config", self.__dict__["config"])
        if settings:
            config = with_settings(self.default if config is None else config, settings)
        prior, device = getattr(self.config, "prior", None), self.device
        self.config, self.device = config, own.get("device", device)
        another = getattr(self.config, "prior", None) != prior
        stale = self.loaded if another or str(self.device) != str(device) else ()
        for name in (*stale, *(self.of_prior if another else ())):
            self.__dict__.pop(name, None)
        return self

    def fitted(self) -> Alignment:
        """The trained part, on the estimator's device; HvfError before `fit` or `load`."""
        if self.alignment is None:
            raise NotFitted("this decoder is not fitted: call fit(trials, images) first")
        self.alignment = self.alignment.on(self.checked_device())
        return self.alignment

    def check_params(self) -> None:
        """Raise HvfError for a config that is none, or a device that is not there."""
        if not isinstance(self.config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]  (anything may be set)
            raise HvfError(f"config must be a Config, such as hvf.presets.mini(), not {type(self.config).__name__}")
        self.checked_device()

    def checked_device(self) -> torch.device:
        """The device. Raises HvfError if torch does not know it, or this machine has none."""
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise HvfError(f"device {self.device!r} cannot be used here ({reason}): set device to 'cpu'") from error
        return device

    def __sklearn_is_fitted__(self) -> bool:
        return self.alignment is not None

    def __getstate__(self) -> dict[str, Any]:
        """What was given and learnt, on the CPU, so that a machine without this device can read it."""
        state = {name: value for name, value in self.__dict__.items() if name not in self.loaded}
        return state | ({} if self.alignment is None else {"alignment": self.alignment.on(torch.device("cpu"))})

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:  # noqa: N803  (scikit-learn's name)
        words = [value if name == "state" else f"{name} {value}" for name, value in self.described().items()]
        return f"<{type(self).__name__}: {', '.join(words)}>"

    def _html_repr(self) -> str:
        changed = {}
        if isinstance(self.config, Config):
            usual = dict(flatten(self.default))
            changed = {name: value for name, value in flatten(self.config) if value != usual[name]}
        return facts(type(self).__name__, self.described() | changed)

    def described(self) -> dict[str, str]:
        """What the estimator is and was fitted to, in words."""
        config = self.config
        if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
            return {"config": repr(config), "device": str(self.device)}
        about = {
            "preset": config.name,
            "for": config.align.mode,
            "brain encoder": config.brain.encoder,
            "targets": f"those of the prior {config.prior.path}"
            if config.align.mode == "reconstruction"
            else " + ".join(config.targets.specs),
            "device": str(self.device),
        }
        if self.alignment is None:
            return about | {"state": "not fitted"}
        recording, best = self.alignment.recording, self.alignment.best
        how = f"penalty {best['penalty']:g}" if "penalty" in best else f"epoch {best['epoch']}"
        how = f"{len(self.alignment.members)} members" if self.alignment.members else how
        return about | {
            "state": f"fitted to {len(recording.ch_names)} {recording.kind} channels x {recording.n_times} samples at "
            f"{recording.sfreq:g} Hz from {recording.tmin:g} s",
            "validation": f"top-1 {100 * best['validation_top1']:.1f} % of {best['validation_n']} images ({how})",
        }
