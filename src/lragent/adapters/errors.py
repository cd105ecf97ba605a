"""The one error of this package."""


class AdapterError(ValueError):
    """An adapter, or a group of adapters, that the scheme cannot hold.

    The message names the tensor or the config field at fault and says what to do about it.
    """
