"""Between bytes or plain data and the model: strict JSON and CBOR, times, units and the forms of readings."""
