"""Every verb of the command line, in the order of ``prerank --help``."""

from __future__ import annotations

from prerank.commands.log_verbs import LOG_VERBS
from prerank.commands.model_verbs import MODEL_VERBS

VERBS = (*LOG_VERBS, *MODEL_VERBS)
