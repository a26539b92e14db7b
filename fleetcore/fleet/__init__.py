"""What people do with devices: one module per capability, each over the Storage interface."""
