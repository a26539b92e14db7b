"""Between bytes or plain data and the model: the strict JSON gate, times, units and the forms of readings."""
