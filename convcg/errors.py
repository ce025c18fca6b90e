"""What a user can cause, as one tree of exceptions.

    ConvcgError
    ├── ConfigError     a setting, a recipe or an override
    ├── DataError       events, pins, users or prepared data that break the contract
    ├── StorageError    a path or bucket that cannot be read or written
    ├── TrainingError   a run that cannot go on (a loss that is not finite, a stale checkpoint)
    ├── BundleError     a bundle that is missing, incomplete, corrupt or of another version
    ├── RequestError    a candidate request that cannot be answered
    └── GateError       a bundle below its configured quality gate

Every message names the value, the rule and the remedy. Our own broken invariants are `assert`s, never these.
"""


class ConvcgError(Exception):
    """Base of everything that a user can cause and can mend."""


class ConfigError(ConvcgError):
    """A setting, a recipe or an override that cannot be used."""


class DataError(ConvcgError):
    """Events, pins, users or prepared data that break the contract."""


class StorageError(ConvcgError):
    """A path or bucket that cannot be read or written."""


class TrainingError(ConvcgError):
    """A training run that cannot go on."""


class BundleError(ConvcgError):
    """A bundle that is missing, incomplete, corrupt or of another version."""


class RequestError(ConvcgError):
    """A candidate request that cannot be answered; the service replies with a 4xx status."""


class GateError(ConvcgError):
    """A bundle whose measured recall is below the configured gate."""
