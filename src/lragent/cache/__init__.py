"""Page keys, page pool, prefix index and leases, without any tensor."""

from lragent.cache.client import CacheClient
from lragent.cache.errors import IntegrityError, LeaseError, OutOfPages
from lragent.cache.keys import KeyScope, page_key, root_key
from lragent.cache.layout import PageLayout
from lragent.cache.lease import Lease
from lragent.cache.manager import CacheManager, Freed
from lragent.cache.page import CachedPage
from lragent.cache.sharing_reasons import REASONS, public_reason
from lragent.cache.stats import CacheStats

__all__ = [
    "REASONS",
    "CacheClient",
    "CacheManager",
    "CacheStats",
    "CachedPage",
    "Freed",
    "IntegrityError",
    "KeyScope",
    "Lease",
    "LeaseError",
    "OutOfPages",
    "PageLayout",
    "page_key",
    "public_reason",
    "root_key",
]
