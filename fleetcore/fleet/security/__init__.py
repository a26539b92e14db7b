"""Who a device is, by which certificate or token, and how it came by it."""
