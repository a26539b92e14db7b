"""What parent and worker say to each other on their socket: little-endian frames, each with its length before it.

A request is ``HEAD`` with a JSON document and parts behind it, or to run a function ``HEAD``, ``NOW`` and a block. The
worker answers each request before it reads the next, so answers come in the order of the requests: an ``ANSWER``, then
a JSON document if there is anything to say beside numbers, then the columns of the readings that a function put out.
"""

import struct

LOAD, UNLOAD, RUN = b"l", b"u", b"r"

#: length of what follows, operation, and the length of the document or, to run it, a function's number
HEAD = struct.Struct("<Ic3xI")
#: time of handing over in ms
NOW = struct.Struct("<q")
#: length of what follows, outcome, whether the output's series are the input's, fuel, processor time in us, memory in
#: KiB, length of the document, readings; then the document, and index, time and value of the readings
ANSWER = struct.Struct("<IB?2xQQIII")
DONE, STOPPED = 0, 1
#: Of a document that stands before other bytes.
LENGTH = struct.Struct("<I")
