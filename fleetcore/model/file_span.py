"""A part of an artifact in a file; protocols import it, so it needs nothing else."""

from attrs import frozen


@frozen
class FileSpan:
    """A part of an artifact in an open file, whose content was just checked: the kernel can send it (sendfile).

    Attributes:
        file: the descriptor, open until the next span is asked for.
        offset, size_bytes: where it is in the file, and how long it is.
    """

    file: int
    offset: int
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes
