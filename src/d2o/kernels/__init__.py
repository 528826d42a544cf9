"""The same numbers, sooner: convolutions that do not train, and networks that are only looked through."""
