"""The built-in plugins: codecs, detectors, the store, a notifier and a protocol. They use the public interfaces."""
