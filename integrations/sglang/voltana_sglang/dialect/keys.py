"""What SGLang calls its keys.

``--api-key`` guards everything but health and metrics; ``--admin-api-key`` guards what changes a
server for everybody, of which voltana needs ``/abort_request`` and ``/flush_cache``.
"""

from __future__ import annotations

from voltana.serving.router.keys import KeyNames

API_KEY_VARIABLE = "VOLTANA_SGLANG_API_KEY"
ADMIN_API_KEY_VARIABLE = "VOLTANA_SGLANG_ADMIN_API_KEY"

KEY_NAMES = KeyNames(api_variable=API_KEY_VARIABLE, admin_variable=ADMIN_API_KEY_VARIABLE)
