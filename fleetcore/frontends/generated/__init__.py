"""Written by ``make generate`` from the table of calls: never change it by hand."""
