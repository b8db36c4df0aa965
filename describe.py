"""What a config would train, in words and figures."""

from __future__ import annotations

from ml_collections import ConfigDict

import data
import gan as gans


def describe(config: ConfigDict, gan: gans.Gan, dataset: data.Dataset) -> str:
    return repr(gan)
