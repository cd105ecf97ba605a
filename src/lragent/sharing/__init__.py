"""Who shares which pages: policies, sharing groups over time, LR slots, bindings, counts.

Both engines use it, and it knows neither of them.
"""

from lragent.sharing.bindings import Binding, Fill, alone
from lragent.sharing.counts import TokenCounts
from lragent.sharing.declared import SharingGroup
from lragent.sharing.groups import Groups
from lragent.sharing.policies import Policy

__all__ = ["Binding", "Fill", "Groups", "Policy", "SharingGroup", "TokenCounts", "alone"]
