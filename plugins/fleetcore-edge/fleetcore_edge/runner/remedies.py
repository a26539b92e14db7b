"""What to do about each way in which a function is stopped."""

from collections.abc import Mapping
from types import MappingProxyType

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "out_of_fuel": "Do less for a batch, hand over fewer readings, or give the function more fuel",
        "out_of_time": "Do less for a batch, hand over fewer readings, or give the function more time_ms",
        "out_of_memory": "Keep less state, hand over fewer readings, or give the function more memory_mib",
        "stack": "Recurse less deep, or give the function more stack_kib",
        "trapped": "Look for the fault in the function; an allocation that fails ends as unreachable",
        "failed": "Look at what the function logs",
        "rubbish": "Build outputs with the SDK, and keep within the input's series",
        "output_too_large": "Put out less for a batch",
        "over_budget": "Hand the batch over later, or give the function more cpu_percent",
        "crashed": "Report the module: WebAssembly must not be able to end its process",
        "config_refused": "Change the function's configuration",
        "abi_unsupported": "Build the function with the SDK of this release",
        "resources": "Give the function more memory_mib, or let its module ask for less",
        "module_invalid": "Build the module again",
    }
)
