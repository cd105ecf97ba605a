"""Page keys, page pool, prefix index, leases and sharing policies, without any tensor."""
